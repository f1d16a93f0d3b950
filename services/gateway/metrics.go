package gateway

import (
	"context"
	"net/http"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	metricembedded "go.opentelemetry.io/otel/metric/embedded"
	"go.opentelemetry.io/otel/trace"
	traceembedded "go.opentelemetry.io/otel/trace/embedded"

	"github.com/earshot/earshot/services/internal/apierror"
	"github.com/earshot/earshot/services/internal/telemetry"
)

// metrics are the gateway's own. Rate, errors and duration by route and status are otelhttp's http.server.request.duration, streams left out.
type metrics struct {
	refusals metric.Int64Counter
	open     metric.Int64UpDownCounter
	frames   metric.Int64Counter
	broken   metric.Int64Counter
}

func newMetrics(tel telemetry.T) metrics {
	var m metrics
	var err error
	note := func(name string) {
		if err != nil {
			tel.Log.Error("metric is not counted", "metric", name, "err", err)
		}
	}
	m.refusals, err = tel.Meter.Int64Counter("earshot.gateway.refusals", metric.WithUnit("{request}"),
		metric.WithDescription("Requests refused before any service saw them, by route and reason."))
	note("earshot.gateway.refusals")
	m.open, err = tel.Meter.Int64UpDownCounter("earshot.gateway.streams", metric.WithUnit("{stream}"),
		metric.WithDescription("Streams that are open, by route and format."))
	note("earshot.gateway.streams")
	m.frames, err = tel.Meter.Int64Counter("earshot.gateway.frames", metric.WithUnit("{frame}"),
		metric.WithDescription("Frames written to streams, by route."))
	note("earshot.gateway.frames")
	m.broken, err = tel.Meter.Int64Counter("earshot.gateway.stream_ends", metric.WithUnit("{stream}"),
		metric.WithDescription("Streams that ended, by route and reason."))
	note("earshot.gateway.stream_ends")
	return m
}

func (m metrics) refused(r *http.Request, reason apierror.Reason) {
	if m.refusals != nil {
		m.refusals.Add(context.WithoutCancel(r.Context()), 1, metric.WithAttributes(routeOf(r), attribute.String("reason", string(reason))))
	}
}

// streaming counts a stream from its first frame on, and returns what to call for each frame and at its end.
func (m metrics) streaming(r *http.Request, format string) (frame func(), end func(reason string)) {
	ctx := context.WithoutCancel(r.Context())
	route := metric.WithAttributeSet(attribute.NewSet(routeOf(r)))
	both := metric.WithAttributes(routeOf(r), attribute.String("format", format))
	if m.open == nil || m.frames == nil || m.broken == nil {
		return func() {}, func(string) {}
	}
	m.open.Add(ctx, 1, both)
	return func() { m.frames.Add(ctx, 1, route) }, func(reason string) {
		m.open.Add(ctx, -1, both)
		m.broken.Add(ctx, 1, metric.WithAttributes(routeOf(r), attribute.String("reason", reason)))
	}
}

// routeOf never holds what a client made up: a route, or "none".
func routeOf(r *http.Request) attribute.KeyValue {
	if r.Pattern == "" {
		return attribute.String("http.route", "none")
	}
	return attribute.String("http.route", r.Pattern)
}

// tracers and meters give libraries that ask for providers the ones this service was handed.
type tracers struct {
	traceembedded.TracerProvider
	tracer trace.Tracer
}

func (t tracers) Tracer(string, ...trace.TracerOption) trace.Tracer { return t.tracer }

type meters struct {
	metricembedded.MeterProvider
	meter metric.Meter
}

func (m meters) Meter(string, ...metric.MeterOption) metric.Meter { return m.meter }
