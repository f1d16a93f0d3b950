package processor

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
)

// stats counts what a partition's state machine did.
type stats struct {
	handled, copies, unreadable, late, gaps int64
	emitted                                 map[string]int64 // by processor
}

// take returns what was counted since it was last taken.
func (s *stats) take() stats {
	t := *s
	*s = stats{}
	return t
}

// report is what a partition tells once a second.
type report struct {
	stats
	next       int64 // offset of its next record
	clock      int64 // log time or watermark, in milliseconds since the epoch; 0: unknown
	remembered int   // messages
	waiting    int   // messages beyond the watermark
	rebuilding bool
}

// metrics are what Prometheus shows as earshot_processor_…, earshot_kafka_lag_records and earshot_freshness_seconds.
type metrics struct {
	records, late, gaps  metric.Int64Counter
	watermark, freshness metric.Float64Gauge
	lag, outstanding     metric.Int64Gauge
	remembered, waiting  metric.Int64Gauge
	rebuild              metric.Float64Histogram
}

func newMetrics(m metric.Meter) *metrics {
	// An instrument that can not be made is a no-op one; its error would be a bug in the names below, which a test reads back.
	counter := func(name, unit, what string) metric.Int64Counter {
		c, _ := m.Int64Counter(name, metric.WithUnit(unit), metric.WithDescription(what))
		return c
	}
	gauge := func(name, unit, what string) metric.Int64Gauge {
		g, _ := m.Int64Gauge(name, metric.WithUnit(unit), metric.WithDescription(what))
		return g
	}
	seconds := func(name, what string) metric.Float64Gauge {
		g, _ := m.Float64Gauge(name, metric.WithUnit("s"), metric.WithDescription(what))
		return g
	}
	rebuild, _ := m.Float64Histogram("earshot.processor.rebuild.duration", metric.WithUnit("s"), metric.WithDescription("Time from taking a partition over to speaking for it."),
		metric.WithExplicitBucketBoundaries(0.01, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300))
	return &metrics{
		records:     counter("earshot.processor.records", "{record}", "Records handled, by processor and outcome. host and rekeyed are the reading, before and after the re-keying."),
		late:        counter("earshot.processor.late", "{record}", "Messages accepted more than 60 s after they were written, in no window."),
		gaps:        counter("earshot.processor.gaps", "{record}", "Batches dropped since one before them is missing; their writer sends again."),
		watermark:   seconds("earshot.processor.watermark", "Watermark as a Unix time, by partition of sender-events or term-totals."),
		freshness:   seconds("earshot.freshness", "Age of what a service handled last in a partition, or of what waits for it."),
		lag:         gauge("earshot.kafka.lag.records", "{record}", "Records of a partition that a group has not handled."),
		outstanding: gauge("earshot.processor.outstanding", "{record}", "Records written and not yet acknowledged."),
		remembered:  gauge("earshot.processor.remembered", "{message}", "Messages remembered."),
		waiting:     gauge("earshot.processor.waiting", "{message}", "Messages that wait for the slowest partition."),
		rebuild:     rebuild,
	}
}

// report hands on what a loop's partitions counted.
func (m *metrics) report(ctx context.Context, l *loop, now int64) {
	group := attribute.String("group", l.group)
	remembered, waiting := 0, 0
	reader := "host" // of messages; of what hosts send each other:
	if l.group == GroupRekeyed {
		reader = "rekeyed"
	}
	for tp, p := range l.parts {
		r := p.report()
		remembered += r.remembered
		waiting += r.waiting
		m.count(ctx, reader, "handled", r.handled-r.copies)
		m.count(ctx, reader, "copy", r.copies)
		m.count(ctx, reader, "unreadable", r.unreadable)
		m.count(ctx, reader, "late", r.late)
		m.count(ctx, reader, "gap", r.gaps)
		if r.late > 0 {
			m.late.Add(ctx, r.late)
		}
		if r.gaps > 0 {
			m.gaps.Add(ctx, r.gaps)
		}
		for processor, n := range r.emitted {
			m.count(ctx, processor, "emitted", n)
		}
		if p.rebuilding && !r.rebuilding {
			p.rebuilding = false
			m.rebuild.Record(ctx, float64(now-p.opened)/1000, metric.WithAttributes(group))
		}
		place := metric.WithAttributes(attribute.String("service", "processor"), attribute.String("topic", tp.Topic), attribute.Int("partition", int(tp.Partition)))
		if r.clock > 0 {
			m.freshness.Record(ctx, float64(now-r.clock)/1000, place)
			if l.group == GroupRekeyed {
				m.watermark.Record(ctx, float64(r.clock)/1000, metric.WithAttributes(attribute.String("topic", tp.Topic), attribute.Int("partition", int(tp.Partition))))
			}
		}
		if end, ok := l.host.end(tp); ok {
			m.lag.Record(ctx, max(end-r.next, 0), metric.WithAttributes(group, attribute.String("topic", tp.Topic), attribute.Int("partition", int(tp.Partition))))
		}
	}
	m.outstanding.Record(ctx, int64(l.ledger.outstanding()), metric.WithAttributes(group))
	m.remembered.Record(ctx, int64(remembered), metric.WithAttributes(group))
	if l.group == GroupRekeyed {
		m.waiting.Record(ctx, int64(waiting))
	}
}

func (m *metrics) count(ctx context.Context, processor, outcome string, n int64) {
	if n > 0 {
		m.records.Add(ctx, n, metric.WithAttributes(attribute.String("processor", processor), attribute.String("outcome", outcome)))
	}
}

func (m *metrics) refused(o output) { m.count(context.Background(), o.processor, "refused", 1) }

// processAttributes describe the span of a message that led to a result.
func processAttributes(l *loop, o output) []attribute.KeyValue {
	return []attribute.KeyValue{
		semconv.MessagingSystemKafka, semconv.MessagingOperationName("process"), semconv.MessagingOperationTypeProcess,
		semconv.MessagingDestinationName(l.host.kafka.Topics.Messages.Name), semconv.MessagingConsumerGroupName(l.group),
		attribute.String("earshot.processor", o.processor),
	}
}
