package processor

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/earshot/earshot/services/internal/kafka"
	"github.com/earshot/earshot/services/internal/telemetry"
)

// Groups of the two loops.
const (
	GroupSource  = "processor"         // on chat.messages
	GroupRekeyed = "processor-rekeyed" // on the internal topics
)

// Host runs processors. New is inert; Run does the work.
type Host struct {
	cfg            Config
	kafka          kafka.Config
	tel            telemetry.T
	byConversation []ConversationFactory
	bySender       []SenderFactory
	byTerm         []TermFactory
	outputs        []kafka.Topic
	metrics        *metrics
	now            func() int64 // milliseconds since the epoch

	admin    *kafka.Admin
	producer *kafka.Producer

	// The loops share these alone.
	ends      atomic.Pointer[ends]                           // of chat.messages
	lag       atomic.Pointer[map[kafka.TopicPartition]int64] // ends of the internal topics, for metrics
	waiting   atomic.Int64                                   // messages beyond the watermark
	watermark atomic.Int64
	pauses    atomic.Int64 // how often a partition was paused

	abandon atomic.Bool // tests: end as if killed, without a commit

	mu    sync.Mutex
	state map[string]error // by loop: nil runs, else why not
}

// New returns a host of the processors given; those by term, and topics for results that the registry does not name, are added by options.
// kafkaCfg's registry must agree with the topics as they are: internal ones never change their number of partitions.
func New(cfg Config, kafkaCfg kafka.Config, tel telemetry.T, byConversation []ConversationFactory, bySender []SenderFactory, more ...Option) *Host {
	h := &Host{
		cfg: cfg, kafka: kafkaCfg, tel: tel, byConversation: byConversation, bySender: bySender, metrics: newMetrics(tel.Meter),
		now:   func() int64 { return time.Now().UnixMilli() },
		state: map[string]error{GroupSource: errStarting, GroupRekeyed: errStarting},
	}
	for _, o := range more {
		o(h)
	}
	return h
}

// Option adds to a host.
type Option func(*Host)

// WithTerms adds processors by term.
func WithTerms(f ...TermFactory) Option { return func(h *Host) { h.byTerm = append(h.byTerm, f...) } }

// WithOutputs adds topics for results beside those of the registry. A result goes to the topic whose Value is of its type.
func WithOutputs(t ...kafka.Topic) Option {
	return func(h *Host) { h.outputs = append(h.outputs, t...) }
}

var errStarting = errors.New("starting")

// errSettings marks errors that no waiting mends.
var errSettings = errors.New("settings")

// Run works until ctx ends; then it writes and commits what it can, for at most Config.DrainWait. Kafka may be away at any time, at the start too: a loop
// that fails goes back to its commits and tries again. It returns an error only when the settings can not be right.
func (h *Host) Run(ctx context.Context) error {
	topics := h.kafka.Topics
	if _, err := newRoutes(h.written()); err != nil {
		return err
	}
	var err error
	if h.admin, err = kafka.NewAdmin(h.kafka); err != nil {
		return err
	}
	defer h.admin.Close()
	if h.producer, err = kafka.NewProducer(h.kafka, h.tel); err != nil {
		return err
	}
	defer h.producer.Close()

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	wg.Go(func() { h.watch(ctx) })
	source := &loop{host: h, group: GroupSource, topics: []kafka.Topic{topics.Messages}, stage: &sourceStage{host: h, paused: map[kafka.TopicPartition]bool{}}}
	rekeyed := &loop{host: h, group: GroupRekeyed, topics: []kafka.Topic{topics.SenderEvents, topics.TermTotals}, stage: &rekeyedStage{host: h}}
	for _, l := range []*loop{source, rekeyed} {
		wg.Go(func() {
			if err := h.keep(ctx, l); err != nil {
				cancel(err)
			}
		})
	}
	wg.Wait()
	if err := context.Cause(ctx); errors.Is(err, errSettings) {
		return err
	}
	return nil
}

// keep runs a loop again and again until ctx ends.
func (h *Host) keep(ctx context.Context, l *loop) error {
	const first, most = 200 * time.Millisecond, 10 * time.Second
	for wait := first; ; {
		began := time.Now()
		err := h.checkTopics(ctx)
		if err == nil {
			err = l.run(ctx)
		}
		if ctx.Err() != nil {
			if err != nil {
				h.tel.Log.WarnContext(ctx, "loop ended with an error", "group", l.group, "err", err)
			}
			return nil
		}
		h.setState(l.group, err)
		if errors.Is(err, errSettings) {
			return err
		}
		if time.Since(began) > time.Minute {
			wait = first
		}
		h.tel.Log.ErrorContext(ctx, "loop goes back to its commits", "group", l.group, "after", wait, "err", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		wait = min(2*wait, most)
	}
}

// written returns the topics that hosts write.
func (h *Host) written() []kafka.Topic {
	t := h.kafka.Topics
	return append([]kafka.Topic{t.ConversationMetrics, t.Trends, t.UserActivity, t.Alerts, t.TermTotals}, h.outputs...)
}

// checkTopics makes sure of what can not be mended later: that all hosts cut by the same number of internal partitions.
func (h *Host) checkTopics(ctx context.Context) error {
	for _, t := range []kafka.Topic{h.kafka.Topics.SenderEvents, h.kafka.Topics.TermTotals} {
		info, err := h.admin.Describe(ctx, t.Name)
		if err != nil {
			return err
		}
		if !info.Exists {
			return fmt.Errorf("topic %s does not exist; create it with: earshot topics apply", t.Name)
		}
		if info.Partitions != t.Partitions {
			return fmt.Errorf("%w: topic %s has %d partitions, the registry says %d: hosts would disagree on who owns what; set the registry to %d",
				errSettings, t.Name, info.Partitions, t.Partitions, info.Partitions)
		}
	}
	return nil
}

// How often ends are asked for.
const (
	endsEvery = 500 * time.Millisecond
	lagEvery  = 10 * time.Second
)

// watch keeps asking where chat.messages ends. It is apart from the loops, which must not wait for an answer.
func (h *Host) watch(ctx context.Context) {
	tick := time.NewTicker(endsEvery)
	defer tick.Stop()
	var lagAt time.Time
	for {
		h.askEnds(ctx)
		if time.Now().After(lagAt) {
			lagAt = time.Now().Add(lagEvery)
			h.askLag(ctx)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (h *Host) askEnds(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	asked := h.now() // before the question: what is accepted later may not be counted in the answer
	offsets, err := h.admin.EndOffsets(ctx, h.kafka.Topics.Messages.Name)
	if err != nil {
		if ctx.Err() == nil {
			h.tel.Log.DebugContext(ctx, "ends of partitions unknown", "err", err)
		}
		return
	}
	h.ends.Store(&ends{asked: asked, offsets: offsets})
}

func (h *Host) askLag(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	all := map[kafka.TopicPartition]int64{}
	for _, t := range []kafka.Topic{h.kafka.Topics.SenderEvents, h.kafka.Topics.TermTotals} {
		offsets, err := h.admin.EndOffsets(ctx, t.Name)
		if err != nil {
			return
		}
		for p, o := range offsets {
			all[kafka.TopicPartition{Topic: t.Name, Partition: p}] = o
		}
	}
	h.lag.Store(&all)
}

// snapshot reads what was committed with a partition. Metadata that is not ours, such as after a group's offsets were set by a tool, costs the memory of
// the last minutes: the partition starts at its commit.
func (h *Host) snapshot(a kafka.Assignment) snapshot {
	if a.Committed < 0 {
		return snapshot{}
	}
	s, err := decodeSnapshot(a.Metadata)
	if err != nil || s.low > a.Committed {
		h.tel.Log.Warn("nothing is known of what came before the commit; windows under way start anew",
			"topic", a.Topic, "partition", a.Partition, "offset", a.Committed, "err", err)
		return snapshot{low: a.Committed}
	}
	return s
}

// common returns what state machines share that write by way of write.
func (h *Host) common(write func(output)) *common {
	r, _ := newRoutes(h.written()) // Run has checked it
	t := h.kafka.Topics.SenderEvents
	return &common{
		cfg: h.cfg, routes: r, senderTopic: t.Name, senderPartitions: t.Partitions, write: write,
		problem: func(err error) { h.tel.Log.Error("result not written", "err", err) },
	}
}

func (h *Host) setState(group string, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.state[group] = err
}

// Ready tells whether both loops work, and if not why. A host that was given no partition, since others have them all, is ready.
func (h *Host) Ready(context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	var errs []error
	for _, g := range []string{GroupSource, GroupRekeyed} {
		if err := h.state[g]; err != nil {
			errs = append(errs, fmt.Errorf("loop %s: %w", g, err))
		}
	}
	return errors.Join(errs...)
}

// end returns the end of a partition as last heard, for metrics.
func (h *Host) end(tp kafka.TopicPartition) (int64, bool) {
	if tp.Topic == h.kafka.Topics.Messages.Name {
		e := h.ends.Load()
		if e == nil {
			return 0, false
		}
		o, ok := e.offsets[tp.Partition]
		return o, ok
	}
	all := h.lag.Load()
	if all == nil {
		return 0, false
	}
	o, ok := (*all)[tp]
	return o, ok
}
