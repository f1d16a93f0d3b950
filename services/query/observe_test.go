package query_test

import (
	"context"
	"strings"
	"sync"
	"testing"

	apiv1 "github.com/earshot/earshot/gen/earshot/api/v1"
	"github.com/earshot/earshot/services/internal/kafka"
	"github.com/earshot/earshot/services/internal/kafka/kafkatest"
	"github.com/earshot/earshot/services/internal/telemetry"
	"github.com/earshot/earshot/services/query"
	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"google.golang.org/grpc/codes"
)

// value returns a metric's sum over the points that have all of the attributes.
func value(t *testing.T, reader sdkmetric.Reader, name string, want ...attribute.KeyValue) int64 {
	t.Helper()
	var all metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &all); err != nil {
		t.Fatal(err)
	}
	var sum int64
	add := func(set attribute.Set, n int64) {
		for _, kv := range want {
			if v, ok := set.Value(kv.Key); !ok || v != kv.Value {
				return
			}
		}
		sum += n
	}
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			if m.Name != name {
				continue
			}
			switch data := m.Data.(type) {
			case metricdata.Sum[int64]:
				for _, p := range data.DataPoints {
					add(p.Attributes, p.Value)
				}
			case metricdata.Gauge[int64]:
				for _, p := range data.DataPoints {
					add(p.Attributes, p.Value)
				}
			case metricdata.Histogram[float64]:
				for _, p := range data.DataPoints {
					add(p.Attributes, int64(p.Count)) //nolint:gosec // small
				}
			}
		}
	}
	return sum
}

func TestMetricsCountStreams(t *testing.T) {
	reader := sdkmetric.NewManualReader()
	tel := telemetry.Nop()
	tel.Meter = sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)).Meter("test")
	kcfg := kafkatest.Start(t)
	p := newProducer(t, kcfg)
	cfg := testConfig()
	cfg.Buffer, cfg.MaxStreams = 64, 2
	s := serveWith(t, query.New(cfg, kcfg, nil, tel))
	conn := dial(t, s)
	alerts := attribute.String("stream", "alerts")

	healthy := listen(t, conn, &apiv1.StreamAlertsRequest{})
	slow := listen(t, conn, &apiv1.StreamAlertsRequest{})
	wantError(t, refused(t, conn, &apiv1.StreamAlertsRequest{}), codes.ResourceExhausted, "TOO_MANY_STREAMS")
	if n := value(t, reader, "earshot.query.subscribers", alerts); n != 2 {
		t.Errorf("%d subscribers, want 2", n)
	}
	if n := value(t, reader, "earshot.query.refused_streams", alerts, attribute.String("limit", "max_streams")); n != 1 {
		t.Errorf("%d refused, want 1", n)
	}
	n := 0
	for ; value(t, reader, "earshot.query.slow_subscribers", alerts) == 0; n++ {
		produceAlerts(t, p, kcfg, 10, n, n+1)
		healthy.hear(10 * (n + 1))
	}
	wantError(t, slow.end(), codes.ResourceExhausted, "SLOW_SUBSCRIBER")
	eventually(t, "one subscriber is left", func() bool { return value(t, reader, "earshot.query.subscribers", alerts) == 1 })
	eventually(t, "frames are counted", func() bool { // the slow one was sent at most one that it did not get
		sent := value(t, reader, "earshot.query.frames", alerts, attribute.String("kind", "result")) - int64(10*n+len(slow.seen))
		return sent == 0 || sent == 1
	})
	eventually(t, "no lag", func() bool { return value(t, reader, "earshot.query.lag", alerts) == 0 })
	if n := value(t, reader, "earshot.query.slow_subscribers"); n != 1 {
		t.Errorf("%d slow subscribers, want 1", n)
	}
}

// spans keeps what was traced.
type spans struct {
	mu  sync.Mutex
	all []sdktrace.ReadOnlySpan
}

func (s *spans) ExportSpans(_ context.Context, in []sdktrace.ReadOnlySpan) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, in...)
	return nil
}

func (*spans) Shutdown(context.Context) error { return nil }

func TestHistoryIsTracedWithoutValues(t *testing.T) {
	db := database(t)
	got := &spans{}
	reader := sdkmetric.NewManualReader()
	tel := telemetry.Nop()
	tel.Tracer = sdktrace.NewTracerProvider(sdktrace.WithSyncer(got)).Tracer("test")
	tel.Meter = sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)).Meter("test")
	s := query.New(query.DefaultConfig(), kafka.DefaultConfig(), db, tel)
	if _, err := s.ListConversationMessages(t.Context(), &apiv1.ListConversationMessagesRequest{ConversationId: "canary"}); err != nil {
		t.Fatal(err)
	}
	if n := value(t, reader, "earshot.query.duration", attribute.String("operation", "ListConversationMessages"), attribute.String("outcome", "ok")); n != 1 {
		t.Errorf("%d measured, want 1", n)
	}
	if len(got.all) != 1 {
		t.Fatalf("%d spans, want 1", len(got.all))
	}
	span := got.all[0]
	attrs := attribute.NewSet(span.Attributes()...)
	for key, want := range map[attribute.Key]string{
		"db.system.name": "clickhouse", "db.namespace": "message_db", "db.collection.name": "messages", "db.operation.name": "SELECT", "db.query.summary": "SELECT messages",
	} {
		if v, _ := attrs.Value(key); v.AsString() != want {
			t.Errorf("%s is %q, want %q", key, v.AsString(), want)
		}
	}
	if span.Name() != "SELECT messages" || strings.Contains(attrs.Encoded(attribute.DefaultEncoder()), "canary") {
		t.Errorf("span %s: %v", span.Name(), span.Attributes())
	}
}
