package kafka_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/earshot/earshot/services/internal/kafka"
	"github.com/earshot/earshot/services/internal/kafka/kafkatest"
	"github.com/earshot/earshot/services/internal/telemetry"
	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kmsg"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func producer(t *testing.T, cfg kafka.Config) *kafka.Producer {
	t.Helper()
	p, err := kafka.NewProducer(cfg, telemetry.Nop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

func admin(t *testing.T, cfg kafka.Config) *kafka.Admin {
	t.Helper()
	a, err := kafka.NewAdmin(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	return a
}

// read polls until it has n records.
func read(t *testing.T, poll func(context.Context, int, time.Duration) ([]kafka.Record, error), n int) []kafka.Record {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var all []kafka.Record
	for len(all) < n {
		recs, err := poll(ctx, 100, time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if ctx.Err() != nil {
			t.Fatalf("read %d records, want %d", len(all), n)
		}
		all = append(all, recs...)
	}
	return all
}

func TestRecordComesBackAsItWasSent(t *testing.T) {
	cfg := kafkatest.Start(t)
	sent := kafka.Record{
		Topic: cfg.Topics.Alerts.Name, Partition: 1, Timestamp: time.UnixMilli(1_700_000_000_123).UTC(), Key: []byte("k"), Value: []byte("v"),
		Headers: []kafka.Header{{Key: "content-type", Value: []byte("application/protobuf")}},
	}
	if err := producer(t, cfg).Produce(t.Context(), sent); err != nil {
		t.Fatal(err)
	}
	r, err := kafka.NewReader(cfg, telemetry.Nop())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := r.Assign(map[kafka.TopicPartition]int64{{Topic: sent.Topic, Partition: 1}: kafka.FirstOffset}); err != nil {
		t.Fatal(err)
	}
	got := read(t, r.Poll, 1)[0]
	got.Timestamp = got.Timestamp.UTC()
	if diff := cmp.Diff(sent, got); diff != "" {
		t.Errorf("record changed on its way (-sent +read):\n%s", diff)
	}
}

// The partition of a key is part of the format: other writers, Java ones among them, must agree.
func TestKeyChoosesThePartitionAsJavaClientsDo(t *testing.T) {
	cfg := kafkatest.Start(t)
	got := map[string]int32{}
	for _, key := range []string{"conv-1", "conv-2", "racket", "é"} {
		done := make(chan kafka.Record, 1)
		producer(t, cfg).Send(t.Context(), kafka.Record{Topic: cfg.Topics.Messages.Name, Partition: kafka.AnyPartition, Key: []byte(key), Value: []byte("v")},
			func(r kafka.Record, err error) {
				if err != nil {
					t.Error(err)
				}
				done <- r
			})
		got[key] = (<-done).Partition
	}
	for key, p := range got {
		if want := int32((murmur2([]byte(key)) & 0x7fffffff) % 6); p != want { //nolint:gosec // fits
			t.Errorf("key %q went to partition %d, Java clients put it into %d", key, p, want)
		}
	}
}

// murmur2 as in Kafka's Java client, written from the algorithm's description (Appleby, 2008).
func murmur2(data []byte) uint32 {
	const m, seed = 0x5bd1e995, 0x9747b28c
	h := uint32(seed) ^ uint32(len(data)) //nolint:gosec // short
	for len(data) >= 4 {
		k := uint32(data[0]) | uint32(data[1])<<8 | uint32(data[2])<<16 | uint32(data[3])<<24
		k *= m
		k ^= k >> 24
		h = h*m ^ k*m
		data = data[4:]
	}
	switch len(data) {
	case 3:
		h ^= uint32(data[2]) << 16
		fallthrough
	case 2:
		h ^= uint32(data[1]) << 8
		fallthrough
	case 1:
		h = (h ^ uint32(data[0])) * m
	}
	h = (h ^ h>>13) * m
	return h ^ h>>15
}

type group struct {
	given   chan kafka.Assignment
	start   func(kafka.Assignment) (int64, bool)
	revoked chan kafka.TopicPartition
}

func (g group) Assigned(as []kafka.Assignment) (map[kafka.TopicPartition]int64, error) {
	at := map[kafka.TopicPartition]int64{}
	for _, a := range as {
		g.given <- a
		if g.start != nil {
			if o, ok := g.start(a); ok {
				at[a.TopicPartition] = o
			}
		}
	}
	return at, nil
}

func (g group) Revoked(tps []kafka.TopicPartition) {
	for _, tp := range tps {
		g.revoked <- tp
	}
}
func (g group) Lost(tps []kafka.TopicPartition) { g.Revoked(tps) }

func newGroup() group {
	return group{given: make(chan kafka.Assignment, 100), revoked: make(chan kafka.TopicPartition, 100)}
}

func TestGroupGoesOnWithItsMetadata(t *testing.T) {
	cfg := kafkatest.Start(t)
	topic := cfg.Topics.Alerts
	p := producer(t, cfg)
	for i := range 10 {
		if err := p.Produce(t.Context(), kafka.Record{Topic: topic.Name, Partition: 0, Value: fmt.Append(nil, i)}); err != nil {
			t.Fatal(err)
		}
	}
	metadata := strings.Repeat("m", 3500)
	g := newGroup()
	c, err := kafka.NewConsumer(cfg, "g", []kafka.Topic{topic}, g, telemetry.Nop())
	if err != nil {
		t.Fatal(err)
	}
	if recs := read(t, c.Poll, 10); string(recs[0].Value) != "0" {
		t.Errorf("a new group started at %s, want the first record", recs[0].Value)
	}
	if err := c.Commit(map[kafka.TopicPartition]kafka.Commit{{Topic: topic.Name, Partition: 0}: {Next: 7, Metadata: metadata}}); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if len(g.revoked) != topic.Partitions {
		t.Errorf("Close revoked %d partitions, want %d", len(g.revoked), topic.Partitions)
	}

	g = newGroup()
	g.start = func(a kafka.Assignment) (int64, bool) { return 5, a.Partition == 0 }
	if c, err = kafka.NewConsumer(cfg, "g", []kafka.Topic{topic}, g, telemetry.Nop()); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if recs := read(t, c.Poll, 5); string(recs[0].Value) != "5" {
		t.Errorf("started at record %s, want 5 as Assigned said", recs[0].Value)
	}
	for range topic.Partitions {
		a := <-g.given
		want := kafka.Assignment{TopicPartition: a.TopicPartition, Committed: -1}
		if a.Partition == 0 {
			want.Committed, want.Metadata = 7, metadata
		}
		if diff := cmp.Diff(want, a); diff != "" {
			t.Errorf("assignment (-want +got):\n%s", diff)
		}
	}
	a := admin(t, cfg)
	got, err := a.Committed(t.Context(), "g", topic.Name)
	if diff := cmp.Diff(map[int32]int64{0: 7}, got); err != nil || diff != "" {
		t.Errorf("Committed: %v (-want +got):\n%s", err, diff)
	}
}

func TestPartitionsAreHandedOver(t *testing.T) {
	cfg := kafkatest.Start(t)
	topic := cfg.Topics.Messages
	one := newGroup()
	a, err := kafka.NewConsumer(cfg, "g", []kafka.Topic{topic}, one, telemetry.Nop())
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	until := func(what string, ok func() bool, poll ...*kafka.Consumer) {
		t.Helper()
		for deadline := time.Now().Add(30 * time.Second); !ok(); {
			if time.Now().After(deadline) {
				t.Fatalf("waited 30 s for %s", what)
			}
			for _, c := range poll {
				if _, err := c.Poll(t.Context(), 10, 20*time.Millisecond); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	until("all partitions", func() bool { return len(one.given) == 6 }, a)
	two := newGroup()
	b, err := kafka.NewConsumer(cfg, "g", []kafka.Topic{topic}, two, telemetry.Nop())
	if err != nil {
		t.Fatal(err)
	}
	until("half of them", func() bool { return len(one.revoked) == 3 && len(two.given) == 3 }, a, b)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	until("all of them again", func() bool { return len(one.given) == 9 }, a)
}

// A broker that never answers a commit must not hold its caller for ever.
func TestCommitIsBounded(t *testing.T) {
	cfg, broker := kafkatest.StartBroker(t)
	topic := cfg.Topics.Alerts
	g := newGroup()
	c, err := kafka.NewConsumer(cfg, "g", []kafka.Topic{topic}, g, telemetry.Nop())
	if err != nil {
		t.Fatal(err)
	}
	for len(g.given) < topic.Partitions {
		if _, err := c.Poll(t.Context(), 1, 100*time.Millisecond); err != nil {
			t.Fatal(err)
		}
	}
	silent := make(chan struct{})
	broker.ControlKey(int16(kmsg.OffsetCommit), func(kmsg.Request) (kmsg.Response, error, bool) {
		broker.KeepControl()
		broker.SleepControl(func() { <-silent })
		return nil, nil, false
	})
	err = c.Commit(map[kafka.TopicPartition]kafka.Commit{{Topic: topic.Name, Partition: 0}: {Next: 1}})
	if !errors.Is(err, kafka.ErrUnanswered) {
		t.Errorf("Commit: %v, want ErrUnanswered", err)
	}
	close(silent)
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

func TestWaitingIsCheap(t *testing.T) {
	r, err := kafka.NewReader(kafkatest.Start(t), telemetry.Nop())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	wait := func() {
		if _, err := r.Poll(t.Context(), 10, 10*time.Millisecond); err != nil {
			t.Fatal(err)
		}
	}
	// Each look at the client's queue allocates.
	if n := testing.AllocsPerRun(20, wait); n > 100 {
		t.Errorf("waiting 10 ms for nothing: %v allocations, want a few", n)
	}
}

func TestWhatRetentionPassedIsAnError(t *testing.T) {
	cfg := kafkatest.Start(t)
	topic := cfg.Topics.Alerts
	g := newGroup()
	g.start = func(kafka.Assignment) (int64, bool) { return 1000, true } // beyond the end, as before the start, is out of range
	c, err := kafka.NewConsumer(cfg, "g", []kafka.Topic{topic}, g, telemetry.Nop())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for deadline := time.Now().Add(20 * time.Second); ; {
		_, err := c.Poll(t.Context(), 10, time.Second)
		if errors.Is(err, kafka.ErrOutOfRange) {
			return
		}
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("Poll: %v, want ErrOutOfRange", err)
		}
	}
}

func TestProduceErrors(t *testing.T) {
	cfg := kafkatest.Start(t)
	p := producer(t, cfg)
	err := p.Produce(t.Context(), kafka.Record{Topic: cfg.Topics.Alerts.Name, Partition: 0, Value: make([]byte, 9<<20)})
	if !errors.Is(err, kafka.ErrRefused) {
		t.Errorf("9 MiB: %v, want ErrRefused", err)
	}
	// Nobody listens: the outcome is unknown when the caller's time is up, well before the message timeout.
	away := cfg
	away.Brokers = []string{"127.0.0.1:1"}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	err = producer(t, away).Produce(ctx, kafka.Record{Topic: "t", Partition: 0, Value: []byte("v")})
	if !errors.Is(err, kafka.ErrUnacknowledged) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("no broker: %v, want ErrUnacknowledged and DeadlineExceeded", err)
	}
	full := away
	full.BufferRecords = 1000
	q := producer(t, full)
	refused := 0
	for range 1500 {
		q.Send(t.Context(), kafka.Record{Topic: "t", Partition: 0, Value: []byte("v")}, func(_ kafka.Record, err error) {
			if errors.Is(err, kafka.ErrBufferFull) {
				refused++
			}
		})
	}
	if refused != 500 {
		t.Errorf("1,500 records into a buffer of 1,000: %d refused, want 500", refused)
	}
}

func TestTraceGoesThroughTheLog(t *testing.T) {
	cfg := kafkatest.Start(t)
	spans := tracetest.NewInMemoryExporter()
	tp := sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans))
	tel := telemetry.Nop()
	tel.Tracer = tp.Tracer("test")
	p, err := kafka.NewProducer(cfg, tel)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	ctx, root := tel.Tracer.Start(t.Context(), "root")
	sent := make(chan error, 1)
	p.Send(ctx, kafka.Record{Topic: cfg.Topics.Alerts.Name, Partition: 0, Value: []byte("v")}, func(_ kafka.Record, err error) { sent <- err })
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	r, err := kafka.NewReader(cfg, telemetry.Nop())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := r.Assign(map[kafka.TopicPartition]int64{{Topic: cfg.Topics.Alerts.Name, Partition: 0}: 0}); err != nil {
		t.Fatal(err)
	}
	rec := read(t, r.Poll, 1)[0]
	carried := trace.SpanContextFromContext(kafka.Context(t.Context(), &rec))
	got := spans.GetSpans()
	if len(got) != 1 || got[0].Name != "send anomaly-alerts" || got[0].SpanKind != trace.SpanKindProducer {
		t.Fatalf("spans: %v", got)
	}
	if carried.TraceID() != root.SpanContext().TraceID() || carried.SpanID() != got[0].SpanContext.SpanID() {
		t.Errorf("the record carries %v, want the send span of the root's trace", carried)
	}
}

func TestApply(t *testing.T) {
	cfg := kafkatest.Start(t)
	a := admin(t, cfg)
	again, err := a.Apply(t.Context(), cfg.Topics.All())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range again {
		if c.Did != "unchanged" {
			t.Errorf("a second Apply: %s %s", c.Topic, c.Did)
		}
	}
	more := cfg.Topics.Messages
	more.Partitions, more.Retention = 12, time.Hour
	got, err := a.Apply(t.Context(), []kafka.Topic{more})
	if err != nil || got[0].Did != "partitions 6 -> 12, retention 168h0m0s -> 1h0m0s" {
		t.Errorf("Apply: %v, %v", got, err)
	}
	inner := cfg.Topics.SenderEvents
	inner.Partitions = 12
	if _, err := a.Apply(t.Context(), []kafka.Topic{inner}); err == nil {
		t.Error("the partitions of an internal topic were changed")
	}
	info, err := a.Describe(t.Context(), more.Name)
	if err != nil || !info.Exists || info.Partitions != 12 || info.ID == "" {
		t.Errorf("Describe: %+v, %v", info, err)
	}
	missing, err := a.Missing(t.Context(), []kafka.Topic{more, {Name: "no-such-topic"}})
	if diff := cmp.Diff([]string{"no-such-topic"}, missing); err != nil || diff != "" {
		t.Errorf("Missing: %v (-want +got):\n%s", err, diff)
	}
	if info, err := a.Describe(t.Context(), "no-such-topic"); err != nil || info.Exists {
		t.Errorf("Describe of a missing topic: %+v, %v", info, err)
	}
}

func TestOffsets(t *testing.T) {
	cfg := kafkatest.Start(t)
	topic := cfg.Topics.Alerts.Name
	p := producer(t, cfg)
	start := time.UnixMilli(1_700_000_000_000)
	for i := range 5 {
		if err := p.Produce(t.Context(), kafka.Record{Topic: topic, Partition: 1, Timestamp: start.Add(time.Duration(i) * time.Second), Value: []byte("v")}); err != nil {
			t.Fatal(err)
		}
	}
	a := admin(t, cfg)
	for name, c := range map[string]struct {
		got  func() (map[int32]int64, error)
		want map[int32]int64
	}{
		"first": {func() (map[int32]int64, error) { return a.FirstOffsets(t.Context(), topic) }, map[int32]int64{0: 0, 1: 0}},
		"end":   {func() (map[int32]int64, error) { return a.EndOffsets(t.Context(), topic) }, map[int32]int64{0: 0, 1: 5}},
		"in time": {func() (map[int32]int64, error) {
			return a.OffsetsAt(t.Context(), topic, start.Add(2500*time.Millisecond))
		}, map[int32]int64{0: 0, 1: 3}},
		"after all": {func() (map[int32]int64, error) { return a.OffsetsAt(t.Context(), topic, start.Add(time.Hour)) }, map[int32]int64{0: 0, 1: 5}},
	} {
		got, err := c.got()
		if diff := cmp.Diff(c.want, got); err != nil || diff != "" {
			t.Errorf("%s: %v (-want +got):\n%s", name, err, diff)
		}
	}
	if got, err := a.Committed(t.Context(), "no-such-group", topic); err != nil || len(got) > 0 {
		t.Errorf("a missing group committed %v, %v", got, err)
	}
	if _, err := a.EndOffsets(t.Context(), "no-such-topic"); err == nil || !strings.Contains(err.Error(), "earshot topics apply") {
		t.Errorf("a missing topic: %v, want a hint at topics apply", err)
	}
}

// The client closes its log channel when it ends; what relays it once span on that, and logged empty lines by the thousand.
func TestClosingLogsNothing(t *testing.T) {
	cfg := kafkatest.Start(t)
	var logs bytes.Buffer
	tel := telemetry.Nop()
	tel.Log = slog.New(slog.NewTextHandler(&logs, nil))
	p, err := kafka.NewProducer(cfg, tel)
	if err != nil {
		t.Fatal(err)
	}
	p.Close()
	r, err := kafka.NewReader(cfg, tel)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(logs.String(), `err=""`) {
		t.Errorf("closing logged:\n%.500s", logs.String())
	}
}

func TestRegistry(t *testing.T) {
	topics := kafka.DefaultTopics()
	if err := topics.Validate(); err != nil {
		t.Error(err)
	}
	topics.Alerts.Name, topics.Views.Partitions, topics.Trends.Retention = "bad name", 0, 0
	err := topics.Validate()
	for _, want := range []string{`"bad name"`, "message-views: 0 partitions", "trending-words: retention 0s"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Validate: %v, want %q in it", err, want)
		}
	}
}
