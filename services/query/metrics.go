package query

import (
	"context"
	"log/slog"
	"time"

	"github.com/earshot/earshot/services/internal/telemetry"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// metrics are the service's instruments:
//
//	earshot.query.subscribers{stream}              open streams
//	earshot.query.frames{stream,kind}              frames sent; kind is result or heartbeat
//	earshot.query.slow_subscribers{stream}         ended because they read too slowly
//	earshot.query.refused_streams{stream,limit}    refused because a limit was reached
//	earshot.query.unreadable{stream}               records that are no protobuf of their topic
//	earshot.query.lag{stream}                      records of the topic that the feed has not read
//	earshot.query.duration{operation,outcome}      seconds that ClickHouse took
type metrics struct {
	meter                                      metric.Meter
	log                                        *slog.Logger
	subscribers                                metric.Int64UpDownCounter
	frames, slowOnes, refusedOnes, unreadables metric.Int64Counter
	lag                                        metric.Int64ObservableGauge
	duration                                   metric.Float64Histogram
}

func newMetrics(tel telemetry.T) *metrics {
	m := &metrics{meter: tel.Meter, log: tel.Log}
	var errs [7]error
	m.subscribers, errs[0] = tel.Meter.Int64UpDownCounter("earshot.query.subscribers", metric.WithUnit("{subscriber}"), metric.WithDescription("Open streams."))
	m.frames, errs[1] = tel.Meter.Int64Counter("earshot.query.frames", metric.WithUnit("{frame}"), metric.WithDescription("Frames sent to subscribers."))
	m.slowOnes, errs[2] = tel.Meter.Int64Counter("earshot.query.slow_subscribers", metric.WithUnit("{subscriber}"), metric.WithDescription("Subscribers ended because they read too slowly."))
	m.refusedOnes, errs[3] = tel.Meter.Int64Counter("earshot.query.refused_streams", metric.WithUnit("{stream}"), metric.WithDescription("Streams refused because a limit was reached."))
	m.unreadables, errs[4] = tel.Meter.Int64Counter("earshot.query.unreadable", metric.WithUnit("{record}"), metric.WithDescription("Records that can not be decoded, once for each reader."))
	m.lag, errs[5] = tel.Meter.Int64ObservableGauge("earshot.query.lag", metric.WithUnit("{record}"), metric.WithDescription("Records of the topic not yet read by the feed."))
	m.duration, errs[6] = tel.Meter.Float64Histogram("earshot.query.duration", metric.WithUnit("s"), metric.WithDescription("Time ClickHouse took for a question."),
		metric.WithExplicitBucketBoundaries(.001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10))
	for _, err := range errs {
		if err != nil { // the instrument then counts nothing; the service works without
			tel.Log.Error("metric can not be made", "err", err)
		}
	}
	return m
}

// streamMetrics are the instruments of one stream, with their attributes made once.
type streamMetrics struct {
	*metrics
	name                        string
	stream, results, heartbeats metric.MeasurementOption
}

func (m *metrics) stream(name string, lag func() int64) *streamMetrics {
	stream := attribute.String("stream", name)
	with := func(more ...attribute.KeyValue) metric.MeasurementOption {
		return metric.WithAttributeSet(attribute.NewSet(append(more, stream)...))
	}
	s := &streamMetrics{
		metrics: m, name: name, stream: with(),
		results: with(attribute.String("kind", "result")), heartbeats: with(attribute.String("kind", "heartbeat")),
	}
	if _, err := m.meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		o.ObserveInt64(m.lag, lag(), s.stream)
		return nil
	}, m.lag); err != nil {
		m.log.Error("metric can not be made", "err", err)
	}
	return s
}

func (s *streamMetrics) opened(ctx context.Context) { s.subscribers.Add(ctx, 1, s.stream) }
func (s *streamMetrics) closed(ctx context.Context) { s.subscribers.Add(ctx, -1, s.stream) }
func (s *streamMetrics) slow(ctx context.Context)   { s.slowOnes.Add(ctx, 1, s.stream) }

func (s *streamMetrics) refused(ctx context.Context, limit string) {
	s.refusedOnes.Add(ctx, 1, s.stream, metric.WithAttributes(attribute.String("limit", limit)))
}

func (s *streamMetrics) sent(heartbeat bool) {
	kind := s.results
	if heartbeat {
		kind = s.heartbeats
	}
	s.frames.Add(context.Background(), 1, kind)
}

func (s *streamMetrics) unreadable(partition int32, offset int64, err error) {
	s.unreadables.Add(context.Background(), 1, s.stream)
	s.log.Debug("record can not be decoded, passed over", "stream", s.name, "partition", partition, "offset", offset, "err", err)
}

// asked notes how long ClickHouse took.
func (m *metrics) asked(ctx context.Context, operation string, started time.Time, failed bool) {
	outcome := "ok"
	if failed {
		outcome = "error"
	}
	m.duration.Record(ctx, time.Since(started).Seconds(), metric.WithAttributes(attribute.String("operation", operation), attribute.String("outcome", outcome)))
}
