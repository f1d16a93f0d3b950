package processor

import (
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/earshot/earshot/services/internal/kafka"
	"github.com/earshot/earshot/services/internal/record"
	"google.golang.org/protobuf/proto"
)

// The simulation: a log in memory, a clock that the test moves, and hosts that are polled, delayed, killed, cut off and replaced at random. It drives the
// same state machines as the loops do.

// simBroker is Kafka as far as hosts can tell.
type simBroker struct {
	topics map[string][][]kafka.Record
	groups map[kafka.TopicPartition]kafka.Commit
	owner  map[kafka.TopicPartition]*simHost
}

func newSimBroker(reg kafka.Topics) *simBroker {
	b := &simBroker{topics: map[string][][]kafka.Record{}, groups: map[kafka.TopicPartition]kafka.Commit{}, owner: map[kafka.TopicPartition]*simHost{}}
	for _, t := range reg.Sources() {
		b.topics[t.Name] = make([][]kafka.Record, t.Partitions)
	}
	return b
}

func (b *simBroker) append(r kafka.Record) {
	parts := b.topics[r.Topic]
	if r.Partition == kafka.AnyPartition {
		r.Partition = partitionOf(string(r.Key), len(parts))
	}
	r.Offset = int64(len(parts[r.Partition]))
	parts[r.Partition] = append(parts[r.Partition], r)
}

func (b *simBroker) log(tp kafka.TopicPartition) []kafka.Record {
	return b.topics[tp.Topic][tp.Partition]
}

// simHost is one process.
type simHost struct {
	w       *world
	common  *common
	parts   map[kafka.TopicPartition]partition
	ends    *ends
	queue   []kafka.Record // written, not yet in the log
	sent    int            // written so far
	landed  int            // of those, in the log
	pending map[kafka.TopicPartition]kafka.Commit
	upTo    int  // pending may be committed once so many landed
	failed  bool // a delivery failed: it will notice
}

// world is one run.
type world struct {
	rnd       *rand.Rand
	clock     int64
	cfg       Config
	reg       kafka.Topics
	broker    *simBroker
	hosts     []*simHost
	ghosts    []*simHost // lost their partitions and have not noticed
	factories factories
	gaps      int64
	growAt    int // number of the message before which chat.messages gets twice its partitions; 0: never
}

type factories struct {
	byConversation []ConversationFactory
	bySender       []SenderFactory
	byTerm         []TermFactory
}

func newWorld(seed uint64, hosts int, cfg Config, f factories) *world {
	reg := kafka.DefaultTopics()
	reg.Messages.Partitions, reg.SenderEvents.Partitions, reg.TermTotals.Partitions = 4, 3, 2
	w := &world{rnd: rand.New(rand.NewPCG(seed, 1)), clock: 1_900_000_000_000, cfg: cfg, reg: reg, broker: newSimBroker(reg), factories: f}
	for range hosts {
		w.hosts = append(w.hosts, w.newHost())
	}
	w.rebalance(func(*simHost) bool { return true })
	return w
}

func (w *world) newHost() *simHost {
	h := &simHost{w: w, parts: map[kafka.TopicPartition]partition{}}
	t := w.reg
	r, err := newRoutes([]kafka.Topic{t.ConversationMetrics, t.Trends, t.UserActivity, t.Alerts, t.TermTotals})
	if err != nil {
		panic(err)
	}
	h.common = &common{
		cfg: w.cfg, routes: r, senderTopic: t.SenderEvents.Name, senderPartitions: t.SenderEvents.Partitions,
		problem: func(err error) { panic(err) },
		write: func(o output) {
			o.record.Timestamp = time.UnixMilli(w.clock)
			h.queue = append(h.queue, o.record)
			h.sent++
		},
	}
	return h
}

func (w *world) read() []kafka.Topic {
	return []kafka.Topic{w.reg.Messages, w.reg.SenderEvents, w.reg.TermTotals}
}

// rebalance deals all partitions anew. Of a host for which clean is true they are given up as they should be, of another they are just taken away.
func (w *world) rebalance(clean func(*simHost) bool) {
	for _, t := range w.read() {
		for p := range t.Partitions {
			tp := kafka.TopicPartition{Topic: t.Name, Partition: int32(p)}
			to := w.hosts[w.rnd.IntN(len(w.hosts))]
			from := w.broker.owner[tp]
			if from == to {
				continue
			}
			if from != nil && clean(from) {
				from.giveUp(tp)
			}
			w.broker.owner[tp] = to
			to.open(tp)
		}
	}
}

// open is what the stages' open does.
func (h *simHost) open(tp kafka.TopicPartition) {
	c, ok := h.w.broker.groups[tp]
	committed, snap := int64(-1), snapshot{}
	if ok {
		var err error
		if snap, err = decodeSnapshot(c.Metadata); err != nil {
			panic(err)
		}
		committed = c.Next
	}
	switch tp.Topic {
	case h.w.reg.Messages.Name:
		h.parts[tp] = newSource(h.common, tp.Partition, h.w.factories.byConversation, 0, committed, snap)
	case h.w.reg.TermTotals.Name:
		h.parts[tp] = newTerms(h.common, tp.Partition, h.w.factories.byTerm, 0, committed, snap)
	default:
		s := newSenders(h.common, tp.Partition, h.w.factories.bySender, 0, committed, snap)
		h.parts[tp] = s
		since := alertsSince(h.w.cfg, committed, snap)
		for _, part := range h.w.broker.topics[h.w.reg.Alerts.Name] {
			for _, r := range part {
				a, err := record.Alert(r.Value)
				if err != nil {
					panic(err)
				}
				if at := r.Timestamp.UnixMilli(); at >= since && partitionOf(a.UserId, h.w.reg.SenderEvents.Partitions) == tp.Partition {
					s.restore(a, at)
				}
			}
		}
	}
}

// giveUp is what Revoked does.
func (h *simHost) giveUp(tp kafka.TopicPartition) {
	p := h.parts[tp]
	delete(h.parts, tp)
	if h.failed || p == nil {
		return
	}
	c, ok := p.commit(h.w.clock)
	if !ok {
		c, ok = h.pending[tp]
	}
	h.deliver(len(h.queue))
	if ok && !h.failed {
		h.w.broker.groups[tp] = c
	}
	delete(h.pending, tp)
}

// poll hands some records to one partition.
func (h *simHost) poll(tp kafka.TopicPartition, limit int) {
	p := h.parts[tp]
	log := h.w.broker.log(tp)
	from := int(p.start())
	for i := from; i < min(from+limit, len(log)); i++ {
		r := log[i]
		p.observe(&r, h.w.clock)
	}
	switch p := p.(type) {
	case *source:
		p.advance(h.w.clock, h.ends.idle(p.partition, p.next))
	case *senders:
		p.advance(h.ends.sources())
		h.w.gaps += p.stats.gaps
		p.stats.gaps = 0
	case *terms:
		p.advance(h.ends.sources())
	}
}

func (h *simHost) ask() {
	e := &ends{asked: h.w.clock, offsets: map[int32]int64{}}
	for p, log := range h.w.broker.topics[h.w.reg.Messages.Name] {
		e.offsets[int32(p)] = int64(len(log))
	}
	h.ends = e
}

// deliver lets up to n records land, each partition's in order.
func (h *simHost) deliver(n int) {
	for _, r := range h.queue[:n] {
		h.w.broker.append(r)
	}
	h.queue = h.queue[n:]
	h.landed += n
	if h.pending != nil && h.landed >= h.upTo && !h.failed {
		for tp, c := range h.pending {
			if h.w.broker.owner[tp] == h && h.parts[tp] != nil {
				h.w.broker.groups[tp] = c
			}
		}
		h.pending = nil
	}
}

// lose makes one record fail for good while later ones land: a gap for its readers.
func (h *simHost) lose() {
	if len(h.queue) > 0 {
		i := h.w.rnd.IntN(len(h.queue))
		h.queue = slices.Delete(h.queue, i, i+1)
		h.failed = true
	}
}

func (h *simHost) commit() {
	if h.pending != nil || h.failed {
		return
	}
	h.pending = map[kafka.TopicPartition]kafka.Commit{}
	for _, tp := range sorted(h.parts) {
		if c, ok := h.parts[tp].commit(h.w.clock); ok {
			h.pending[tp] = c
		}
	}
	h.upTo = h.sent
	h.deliver(0)
}

func sorted(parts map[kafka.TopicPartition]partition) []kafka.TopicPartition {
	return slices.SortedFunc(maps.Keys(parts), func(a, b kafka.TopicPartition) int {
		if a.Topic != b.Topic {
			return compare(a.Topic, b.Topic)
		}
		return int(a.Partition - b.Partition)
	})
}

func compare(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// restart replaces a host: killed (or failed), its partitions go to whoever; some of what it wrote may still land. A ghost goes on for a while.
func (w *world) restart(i int, ghost bool) {
	old := w.hosts[i]
	w.hosts[i] = w.newHost()
	if ghost && !old.failed {
		w.ghosts = append(w.ghosts, old)
	} else {
		old.deliver(w.rnd.IntN(len(old.queue) + 1))
		if w.rnd.IntN(2) == 0 { // what lands comes from within, too: requests are under way to several partitions
			for range w.rnd.IntN(3) {
				old.lose()
			}
			old.failed = true
			old.deliver(w.rnd.IntN(len(old.queue) + 1))
		}
	}
	for tp, h := range w.broker.owner {
		if h == old {
			w.broker.owner[tp] = nil
		}
	}
	for _, tp := range w.orphans() {
		to := w.hosts[w.rnd.IntN(len(w.hosts))]
		w.broker.owner[tp] = to
		to.open(tp)
	}
}

func (w *world) orphans() []kafka.TopicPartition {
	var tps []kafka.TopicPartition
	for _, t := range w.read() {
		for p := range t.Partitions {
			if tp := (kafka.TopicPartition{Topic: t.Name, Partition: int32(p)}); w.broker.owner[tp] == nil {
				tps = append(tps, tp)
			}
		}
	}
	return tps
}

// run sends msgs, each at its own time, while hosts do as chance has it, with about so many troubles; then it lets everything settle.
func (w *world) run(msgs []sim, troubles int) {
	trouble := 0 // one step in so many has some
	if troubles > 0 {
		trouble = 1 + len(msgs)/troubles
	}
	for i := 0; i < len(msgs); {
		if w.growAt > 0 && i >= w.growAt {
			w.growAt = 0
			w.grow(2 * w.reg.Messages.Partitions)
		}
		for n := w.rnd.IntN(30); n > 0 && i < len(msgs) && msgs[i].accepted <= w.clock; n-- {
			w.send(msgs[i])
			i++
		}
		if i < len(msgs) && msgs[i].accepted > w.clock {
			gap := msgs[i].accepted - w.clock
			w.clock += min(1+w.rnd.Int64N(max(4_000, gap/20)), gap) // long silences pass faster
		}
		w.step(trouble)
	}
	// Everything is read, then time passes until nothing is left to say.
	w.ghosts = nil
	for i, h := range w.hosts {
		if h.failed {
			w.restart(i, false)
		}
	}
	for end := w.clock + 400_000; w.clock < end; w.clock += 1500 {
		for _, h := range w.hosts {
			h.ask()
			for _, tp := range sorted(h.parts) {
				h.poll(tp, 1<<30)
			}
			h.deliver(len(h.queue))
			h.commit()
		}
	}
}

func (w *world) step(trouble int) {
	for _, h := range append(slices.Clone(w.hosts), w.ghosts...) {
		if w.rnd.IntN(4) == 0 {
			h.ask()
		}
		for _, tp := range sorted(h.parts) {
			if w.rnd.IntN(3) > 0 {
				h.poll(tp, []int{1, 5, 500}[w.rnd.IntN(3)])
			}
		}
		h.deliver(w.rnd.IntN(len(h.queue) + 1))
		if w.rnd.IntN(8) == 0 {
			h.commit()
		}
	}
	if trouble == 0 || w.rnd.IntN(trouble) > 0 {
		return
	}
	i := w.rnd.IntN(len(w.hosts))
	switch w.rnd.IntN(6) {
	case 0:
		w.restart(i, false)
	case 1:
		w.restart(i, true)
	case 2:
		w.rebalance(func(*simHost) bool { return true })
	case 3:
		w.hosts[i].lose()
		w.hosts[i].deliver(w.rnd.IntN(len(w.hosts[i].queue) + 1))
	case 4:
		for i, h := range w.hosts {
			if h.failed {
				w.restart(i, false)
			}
		}
	case 5:
		w.ghosts = nil
	}
	if len(w.ghosts) > 1 {
		w.ghosts = w.ghosts[1:]
	}
}

// grow adds partitions to chat.messages, as an operator does; hosts are told by a rebalance, and see it themselves when they ask for ends.
func (w *world) grow(to int) {
	parts := w.broker.topics[w.reg.Messages.Name]
	for len(parts) < to {
		parts = append(parts, nil)
	}
	w.broker.topics[w.reg.Messages.Name] = parts
	w.reg.Messages.Partitions = to
	for _, tp := range w.orphans() {
		h := w.hosts[w.rnd.IntN(len(w.hosts))]
		w.broker.owner[tp] = h
		h.open(tp)
	}
}

func (w *world) send(s sim) {
	value, err := proto.Marshal(s.m)
	if err != nil {
		panic(err)
	}
	w.broker.append(kafka.Record{
		Topic: w.reg.Messages.Name, Partition: partitionOf(s.m.ConversationId, w.reg.Messages.Partitions), Key: []byte(s.m.ConversationId), Value: value,
		Timestamp: time.UnixMilli(s.stamp()),
	})
}
