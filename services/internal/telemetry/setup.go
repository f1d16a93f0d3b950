package telemetry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/pprof"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/otlptranslator"
	"go.opentelemetry.io/contrib/exporters/autoexport"
	"go.opentelemetry.io/otel"
	otelprom "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
)

// Config says how much is told. Start from DefaultConfig.
type Config struct {
	LogLevel  string // debug, info, warn or error
	LogFormat string // text, json, or auto: text on a terminal, else JSON
}

// DefaultConfig logs from info on.
func DefaultConfig() Config { return Config{LogLevel: "info", LogFormat: "auto"} }

// Validate returns every fault at once.
func (c Config) Validate() error {
	var errs []error
	var l slog.Level
	if err := l.UnmarshalText([]byte(c.LogLevel)); err != nil {
		errs = append(errs, fmt.Errorf("log.level: got %q, want debug, info, warn or error", c.LogLevel))
	}
	switch c.LogFormat {
	case "text", "json", "auto":
	default:
		errs = append(errs, fmt.Errorf("log.format: got %q, want text, json or auto", c.LogFormat))
	}
	return errors.Join(errs...)
}

// Process is the telemetry of one process, which may run several services.
type Process struct {
	log      *slog.Logger
	version  string
	registry *prometheus.Registry
	meters   *metric.MeterProvider
	spans    sdktrace.SpanProcessor // nil: tracing is off

	mu      sync.Mutex
	tracers []*sdktrace.TracerProvider
}

// Start sets telemetry up. Traces are exported when one of the OTEL_* variables of the OpenTelemetry specification names a place; otherwise they are
// off. Metrics wait to be scraped from Handler. The process's name in traces is main unless a service says its own.
func Start(ctx context.Context, cfg Config, main, version string, logs io.Writer, terminal bool) (*Process, error) {
	p := &Process{version: version, registry: prometheus.NewRegistry()}
	p.log = slog.New(traced{handler(cfg, logs, terminal)})
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { p.log.WarnContext(context.Background(), "telemetry", "err", err) }))
	otel.SetTextMapPropagator(propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{}))
	p.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	reader, err := otelprom.New(otelprom.WithRegisterer(p.registry), otelprom.WithoutScopeInfo(),
		otelprom.WithTranslationStrategy(otlptranslator.UnderscoreEscapingWithSuffixes)) // dashboards depend on these names; the default is to change
	if err != nil {
		return nil, fmt.Errorf("start metrics: %w", err)
	}
	res, err := p.resource(ctx, main)
	if err != nil {
		return nil, err
	}
	p.meters = metric.NewMeterProvider(metric.WithReader(reader), metric.WithResource(res))
	otel.SetMeterProvider(p.meters)
	if traceWanted() {
		exporter, err := autoexport.NewSpanExporter(ctx)
		if err != nil {
			return nil, fmt.Errorf("start traces: %w", err)
		}
		if !autoexport.IsNoneSpanExporter(exporter) {
			p.spans = sdktrace.NewBatchSpanProcessor(exporter)
		}
	}
	otel.SetTracerProvider(p.tracerProvider(ctx, main))
	return p, nil
}

// traceWanted follows the specification, but for its default: without an endpoint nothing is exported.
func traceWanted() bool {
	if strings.EqualFold(os.Getenv("OTEL_SDK_DISABLED"), "true") {
		return false
	}
	for _, v := range []string{"OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_TRACES_EXPORTER"} {
		if os.Getenv(v) != "" {
			return true
		}
	}
	return false
}

// resource describes a service; OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME win.
func (p *Process) resource(ctx context.Context, service string) (*resource.Resource, error) {
	r, err := resource.New(ctx,
		resource.WithAttributes(semconv.ServiceName(service), semconv.ServiceVersion(p.version), semconv.ServiceNamespace("messaging-analytics")),
		resource.WithProcessPID(), resource.WithHost(), resource.WithTelemetrySDK(), resource.WithFromEnv())
	if err != nil && !errors.Is(err, resource.ErrPartialResource) {
		return nil, fmt.Errorf("describe service %s: %w", service, err)
	}
	return r, nil
}

func (p *Process) tracerProvider(ctx context.Context, service string) *sdktrace.TracerProvider {
	opts := []sdktrace.TracerProviderOption{}
	if p.spans != nil {
		opts = append(opts, sdktrace.WithSpanProcessor(p.spans))
	} else {
		opts = append(opts, sdktrace.WithSampler(sdktrace.NeverSample()))
	}
	if res, err := p.resource(ctx, service); err == nil {
		opts = append(opts, sdktrace.WithResource(res))
	}
	tp := sdktrace.NewTracerProvider(opts...)
	p.mu.Lock()
	p.tracers = append(p.tracers, tp)
	p.mu.Unlock()
	return tp
}

// Service returns what the service of that name is handed. Its spans carry its own service.name even when services share a process. The meter is the
// same for all of them: two services count the same thing (failures of calls) into one counter, where two of one name would spoil the whole scrape.
func (p *Process) Service(ctx context.Context, name string) T {
	return T{
		Log:    p.log.With("service", name),
		Meter:  p.meters.Meter("github.com/earshot/earshot"),
		Tracer: p.tracerProvider(ctx, name).Tracer("github.com/earshot/earshot/services/" + name),
	}
}

// Log returns the process's own log.
func (p *Process) Log() *slog.Logger { return p.log }

// Tracing says whether spans are exported.
func (p *Process) Tracing() bool { return p.spans != nil }

// Handler serves /metrics (Prometheus and OpenMetrics) and /debug/pprof. It belongs on a loopback listener of its own.
func (p *Process) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(p.registry, promhttp.HandlerOpts{EnableOpenMetrics: true, ErrorLog: slog.NewLogLogger(p.log.Handler(), slog.LevelWarn)}))
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return mux
}

// Stop exports what is left, for at most 5 s.
func (p *Process) Stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	var errs []error
	if p.spans != nil {
		errs = append(errs, p.spans.ForceFlush(ctx))
	}
	for _, tp := range p.tracers {
		errs = append(errs, tp.Shutdown(ctx))
	}
	errs = append(errs, p.meters.Shutdown(ctx))
	return errors.Join(errs...)
}

func handler(cfg Config, w io.Writer, terminal bool) slog.Handler {
	var level slog.Level
	_ = level.UnmarshalText([]byte(cfg.LogLevel)) // Validate has seen it
	opts := &slog.HandlerOptions{Level: level}
	if cfg.LogFormat == "text" || cfg.LogFormat == "auto" && terminal {
		return slog.NewTextHandler(w, opts)
	}
	return slog.NewJSONHandler(w, opts)
}

// traced adds trace_id and span_id to lines logged with a span's context.
type traced struct{ slog.Handler }

func (t traced) Handle(ctx context.Context, r slog.Record) error {
	if sc := trace.SpanContextFromContext(ctx); sc.IsValid() {
		r.AddAttrs(slog.String("trace_id", sc.TraceID().String()), slog.String("span_id", sc.SpanID().String()))
	}
	return t.Handler.Handle(ctx, r)
}

func (t traced) WithAttrs(as []slog.Attr) slog.Handler { return traced{t.Handler.WithAttrs(as)} }
func (t traced) WithGroup(name string) slog.Handler    { return traced{t.Handler.WithGroup(name)} }
