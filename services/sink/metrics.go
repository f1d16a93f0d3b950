package sink

import (
	"context"
	"sync"
	"time"

	"github.com/earshot/earshot/services/internal/kafka"
	"github.com/earshot/earshot/services/internal/telemetry"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// metrics count what the sink does. Safe for concurrent use.
type metrics struct {
	rows    metric.Int64Counter
	letters metric.Int64Counter
	retries metric.Int64Counter
	insert  metric.Float64Histogram
	delay   metric.Float64Histogram

	mu    sync.Mutex
	parts map[kafka.TopicPartition]*partStats
}

// partStats is what is known of a partition that this sink holds.
type partStats struct {
	delay   time.Duration // from acceptance to being stored, of the oldest record stored last
	waiting time.Time     // timestamp of the oldest record being stored; zero for none
	next    int64         // offset after the last record stored
	lag     int64         // records behind the end; -1 while unknown
}

func newMetrics(tel telemetry.T) *metrics {
	m := &metrics{parts: map[kafka.TopicPartition]*partStats{}}
	report := func(err error) {
		if err != nil {
			tel.Log.Error("sink metric is missing", "err", err) // a programming mistake: a name or unit that OpenTelemetry refuses
		}
	}
	var err error
	m.rows, err = tel.Meter.Int64Counter("earshot.sink.rows", metric.WithUnit("{row}"), metric.WithDescription("Rows inserted, repeated ones included, by table."))
	report(err)
	m.letters, err = tel.Meter.Int64Counter("earshot.dead_letters", metric.WithUnit("{record}"), metric.WithDescription("Records that could not be read, by topic and reason."))
	report(err)
	m.retries, err = tel.Meter.Int64Counter("earshot.sink.retries", metric.WithUnit("{try}"), metric.WithDescription("Failed INSERTs and dead letters, each tried again."))
	report(err)
	m.retries.Add(context.Background(), 0) // there from the start, for those who watch its rate
	m.insert, err = tel.Meter.Float64Histogram("earshot.sink.insert.duration", metric.WithUnit("s"), metric.WithDescription("Time one INSERT took, by table and outcome."),
		metric.WithExplicitBucketBoundaries(.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30))
	report(err)
	m.delay, err = tel.Meter.Float64Histogram("earshot.sink.delay", metric.WithUnit("s"), metric.WithDescription("Time from acceptance until the oldest record of a partition's batch could be queried, by topic."),
		metric.WithExplicitBucketBoundaries(.05, .1, .25, .5, .75, 1, 2.5, 5, 10, 30, 60, 300, 3600))
	report(err)
	fresh, err := tel.Meter.Float64ObservableGauge("earshot.freshness", metric.WithUnit("s"), metric.WithDescription("Age of what a service handled last in a partition, or of what waits for it."))
	report(err)
	lag, err := tel.Meter.Int64ObservableGauge("earshot.kafka.lag.records", metric.WithUnit("{record}"), metric.WithDescription("Records of a partition that a group has not handled."))
	report(err)
	_, err = tel.Meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		m.mu.Lock()
		defer m.mu.Unlock()
		for tp, p := range m.parts {
			where := metric.WithAttributes(attribute.String("topic", tp.Topic), attribute.Int("partition", int(tp.Partition)))
			delay := p.delay
			if !p.waiting.IsZero() {
				delay = max(delay, time.Since(p.waiting))
			}
			o.ObserveFloat64(fresh, delay.Seconds(), where, metric.WithAttributes(attribute.String("service", Group)))
			if p.lag >= 0 {
				o.ObserveInt64(lag, p.lag, where, metric.WithAttributes(attribute.String("group", Group)))
			}
		}
		return nil
	}, fresh, lag)
	report(err)
	return m
}

func (m *metrics) inserted(ctx context.Context, j job, took time.Duration, err error) {
	outcome := "ok"
	if err != nil {
		outcome = "error"
	} else {
		m.rows.Add(ctx, int64(len(j.rows)), metric.WithAttributes(attribute.String("table", j.table.name)))
	}
	m.insert.Record(ctx, took.Seconds(), metric.WithAttributes(attribute.String("table", j.table.name), attribute.String("outcome", outcome)))
}

func (m *metrics) buried(ctx context.Context, topic, reason string) {
	m.letters.Add(ctx, 1, metric.WithAttributes(attribute.String("topic", topic), attribute.String("reason", reason)))
}

// assigned notes a new partition and where it goes on.
func (m *metrics) assigned(tp kafka.TopicPartition, committed int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.part(tp).next = max(0, committed)
}

// waiting notes that a batch is being stored.
func (m *metrics) waiting(b *batch) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for tp, c := range b.chunks {
		m.part(tp).waiting = c.oldest
	}
}

// stored notes that it is.
func (m *metrics) stored(b *batch, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for tp, c := range b.chunks {
		p := m.part(tp)
		p.waiting, p.delay, p.next = time.Time{}, now.Sub(c.oldest), c.next
		m.delay.Record(context.Background(), p.delay.Seconds(), metric.WithAttributes(attribute.String("topic", tp.Topic)))
	}
}

// part is called with mu held.
func (m *metrics) part(tp kafka.TopicPartition) *partStats {
	p := m.parts[tp]
	if p == nil {
		p = &partStats{lag: -1}
		m.parts[tp] = p
	}
	return p
}

func (m *metrics) forget(tps ...kafka.TopicPartition) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, tp := range tps {
		delete(m.parts, tp)
	}
}

// topics returns the topics of the partitions held.
func (m *metrics) topics() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	seen := map[string]bool{}
	var topics []string
	for tp := range m.parts {
		if !seen[tp.Topic] {
			seen[tp.Topic] = true
			topics = append(topics, tp.Topic)
		}
	}
	return topics
}

func (m *metrics) ends(topic string, end map[int32]int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for partition, n := range end {
		if p := m.parts[kafka.TopicPartition{Topic: topic, Partition: partition}]; p != nil {
			p.lag = max(0, n-p.next)
		}
	}
}

const lagEvery = 5 * time.Second

// watchLag keeps the lag of held partitions up to date until the function it returns is called.
func (s *Service) watchLag(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		admin, err := kafka.NewAdmin(s.kafka)
		if err != nil {
			s.tel.Log.WarnContext(ctx, "lag is not measured", "err", err)
			return
		}
		defer admin.Close()
		for {
			select {
			case <-time.After(lagEvery):
			case <-ctx.Done():
				return
			}
			for _, topic := range s.m.topics() {
				if end, err := admin.EndOffsets(ctx, topic); err == nil {
					s.m.ends(topic, end)
				}
			}
		}
	}()
	return func() { cancel(); <-done }
}
