package kafka

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	ck "github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"github.com/earshot/earshot/services/internal/telemetry"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
)

// Producer writes records: idempotent, acknowledged by all in-sync replicas, in order per partition. Safe for concurrent use.
type Producer struct {
	cfg    Config
	tel    telemetry.T
	client atomic.Pointer[ck.Producer]

	mu     sync.Mutex // guards replacing client
	wg     sync.WaitGroup
	closed atomic.Bool
}

// NewProducer returns a producer. It does not wait for brokers: records wait for them, up to Config.MessageTimeout.
func NewProducer(cfg Config, tel telemetry.T) (*Producer, error) {
	p := &Producer{cfg: cfg, tel: tel}
	if err := p.start(); err != nil {
		return nil, err
	}
	return p, nil
}

// eventsAhead is how many acknowledgements wait for the goroutine that hands them out. The client's own channels, for a million each, would be 24 MiB of
// pointers that every garbage collection reads.
const eventsAhead = 4096

func (p *Producer) start() error {
	c, err := ck.NewProducer(with(p.cfg.client(), ck.ConfigMap{
		"acks":                         "all",
		"enable.idempotence":           true,
		"partitioner":                  "murmur2_random", // as Java clients do, so that all writers agree on a key's partition
		"linger.ms":                    strconv.FormatFloat(p.cfg.Linger.Seconds()*1000, 'f', 3, 64),
		"compression.type":             p.cfg.Compression,
		"message.timeout.ms":           int(p.cfg.MessageTimeout / time.Millisecond),
		"queue.buffering.max.messages": p.cfg.BufferRecords,
		"queue.buffering.max.kbytes":   p.cfg.BufferBytes >> 10,
		"message.max.bytes":            8 << 20,
		"batch.size":                   1 << 20,
		"go.delivery.report.fields":    "none", // key and value are the caller's already
		"go.events.channel.size":       eventsAhead,
		"go.produce.channel.size":      1, // not used
	}))
	if err != nil {
		return fmt.Errorf("create producer: %w", err)
	}
	p.client.Store(c)
	p.wg.Add(1)
	go p.serve(c)
	return nil
}

// serve hands out acknowledgements of one client until it is closed.
func (p *Producer) serve(c *ck.Producer) {
	defer p.wg.Done()
	done := make(chan struct{})
	var logs sync.WaitGroup
	logs.Add(1)
	go func() { defer logs.Done(); relay(p.tel.Log, c.Logs(), done) }()
	for e := range c.Events() {
		switch e := e.(type) {
		case *ck.Message:
			e.Opaque.(*delivery).report(e)
		case ck.Error:
			if e.IsFatal() {
				go p.replace(c, e)
			}
		}
	}
	close(done)
	logs.Wait()
}

// replace starts a new client after a fatal error of the idempotent producer; what the old one held is reported as unacknowledged.
func (p *Producer) replace(old *ck.Producer, why error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed.Load() || p.client.Load() != old {
		return
	}
	p.tel.Log.Error("kafka producer is replaced after a fatal error", "err", why)
	if err := p.start(); err != nil {
		p.tel.Log.Error("kafka producer could not be replaced", "err", err)
		return
	}
	_ = old.Purge(ck.PurgeQueue | ck.PurgeInFlight)
	old.Flush(1000)
	old.Close()
}

// delivery is one record under way.
type delivery struct {
	topic string
	span  trace.Span // nil when not traced
	done  func(Record, error)
}

func (d *delivery) report(m *ck.Message) {
	r := Record{Topic: d.topic, Partition: m.TopicPartition.Partition, Offset: int64(m.TopicPartition.Offset), Timestamp: m.Timestamp}
	var err error
	if m.TopicPartition.Error != nil {
		err = fmt.Errorf("produce to %s: %w", d.topic, produceError(m.TopicPartition.Error))
	}
	d.finish(r, err)
}

func (d *delivery) finish(r Record, err error) {
	if d.span != nil {
		if err != nil {
			d.span.SetStatus(codes.Error, err.Error())
		} else {
			d.span.SetAttributes(semconv.MessagingDestinationPartitionID(fmt.Sprint(r.Partition)), semconv.MessagingKafkaOffset(int(r.Offset)))
		}
		d.span.End()
	}
	d.done(r, err)
}

// Send writes r and returns at once. done is called exactly once, with partition, offset and timestamp set when err is nil: from one goroutine that
// must not be blocked, or before Send returns when the record can not even be queued (ErrBufferFull, ErrClosed). ctx gives the trace only.
// Acknowledgements of one partition come in order.
func (p *Producer) Send(ctx context.Context, r Record, done func(Record, error)) {
	d := &delivery{topic: r.Topic, done: done}
	if p.closed.Load() {
		done(r, fmt.Errorf("produce to %s: %w", r.Topic, ErrClosed))
		return
	}
	if trace.SpanContextFromContext(ctx).IsValid() {
		if trace.SpanContextFromContext(ctx).IsSampled() {
			ctx, d.span = p.tel.Tracer.Start(ctx, "send "+r.Topic, trace.WithSpanKind(trace.SpanKindProducer), trace.WithAttributes(
				semconv.MessagingSystemKafka, semconv.MessagingOperationName("send"), semconv.MessagingOperationTypeSend,
				semconv.MessagingDestinationName(r.Topic), semconv.MessagingClientID(p.cfg.ClientID), attribute.Int("messaging.message.body.size", len(r.Value))))
		}
		propagator.Inject(ctx, carrier{&r.Headers})
	}
	m := &ck.Message{
		TopicPartition: ck.TopicPartition{Topic: &r.Topic, Partition: r.Partition},
		Key:            r.Key, Value: r.Value, Timestamp: r.Timestamp, Opaque: d,
	}
	if len(r.Headers) > 0 {
		m.Headers = make([]ck.Header, len(r.Headers))
		for i, h := range r.Headers {
			m.Headers[i] = ck.Header{Key: h.Key, Value: h.Value}
		}
	}
	if err := p.client.Load().Produce(m, nil); err != nil {
		d.finish(r, fmt.Errorf("produce to %s: %w", r.Topic, produceError(err)))
	}
}

// Produce writes all records and returns once every one is acknowledged, or with the first error. When ctx ends first the outcome is unknown
// (ErrUnacknowledged): the records may still be written later.
func (p *Producer) Produce(ctx context.Context, recs ...Record) error {
	if len(recs) == 0 {
		return nil
	}
	results := make(chan error, len(recs)) // never blocks the goroutine that reports
	for _, r := range recs {
		p.Send(ctx, r, func(_ Record, err error) { results <- err })
	}
	var first error
	for range recs {
		select {
		case err := <-results:
			if err != nil && first == nil {
				first = err
			}
		case <-ctx.Done():
			return fmt.Errorf("produce %d records to %s: %w: %w", len(recs), recs[0].Topic, ErrUnacknowledged, context.Cause(ctx))
		}
	}
	return first
}

// Outstanding returns the records and events not yet acknowledged.
func (p *Producer) Outstanding() int { return p.client.Load().Len() }

// Flush returns once everything sent so far is acknowledged or has failed, or when ctx ends.
func (p *Producer) Flush(ctx context.Context) error {
	for {
		if left := p.client.Load().Flush(50); left == 0 {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("flush %d records: %w", p.client.Load().Len(), ctx.Err())
		}
	}
}

// Close ends the producer. What is not acknowledged by then is reported as such: call Flush first.
func (p *Producer) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed.Swap(true) {
		return
	}
	c := p.client.Load()
	if c.Len() > 0 {
		_ = c.Purge(ck.PurgeQueue | ck.PurgeInFlight)
		c.Flush(1000)
	}
	c.Close()
	p.wg.Wait()
}
