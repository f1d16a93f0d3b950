package processor

import (
	"unique"

	eventv1 "github.com/earshot/earshot/gen/earshot/event/v1"
	"github.com/earshot/earshot/services/internal/kafka"
	"github.com/earshot/earshot/services/internal/record"
	"github.com/earshot/earshot/services/processor/recent"
	"google.golang.org/protobuf/proto"
)

// source is the state of one partition of chat.messages: its log time, the messages it remembers by conversation, its processors, and for each
// partition of sender-events the batch under way. Times are milliseconds since the epoch. It is not safe for concurrent use.
type source struct {
	speaker
	partition int32
	memory    *recent.Memory
	procs     []conversationProc
	low       marks[int64] // with the log time before

	next      int64 // offset of the next record
	committed int64 // where the silent rebuild ends
	limit     int64 // while silent, no log time is above this: it was the clock at the commit
	logTime   int64 // largest record timestamp so far
	clock     int64 // log time of the partition: logTime, or later when it is known to be read to its end

	batches []batch      // by partition of sender-events
	said    kafka.Commit // what was last handed out
	saidLow int64
}

type conversationProc struct {
	ByConversation
	flush func(recent.Emit) // nil when it holds nothing back
	emit  recent.Emit
}

// batch is what is under way to one partition of sender-events.
type batch struct {
	from   int64 // what comes next answers for offsets from here on
	sentAt int64 // when that partition last heard from this one
	events []*eventv1.SenderEvent
	times  []int64 // log times of events
	traces []byte
	bytes  int // about what events take
}

// batchBytes bounds a batch, well below what brokers take (1 MiB by default): a batch that is refused would hold its partition for ever.
const batchBytes = 512 << 10

// heartbeat is how often, in milliseconds, each internal partition hears from each source partition, events or not.
const heartbeat = 1000

// newSource returns the state of a partition whose records from first on are kept and which the group committed as given (-1: never). The next record
// to hand in is at start().
func newSource(c *common, partition int32, factories []ConversationFactory, first, committed int64, snap snapshot) *source {
	s := &source{
		speaker: speaker{common: c}, partition: partition, memory: recent.New(c.cfg.ConversationKeep),
		next: first, committed: first, batches: make([]batch, c.senderPartitions), said: kafka.Commit{Next: -1},
	}
	if committed >= 0 {
		s.committed = committed
		s.next = min(max(snap.low, first), committed)
		s.limit, s.logTime = snap.clock, snap.logTime
		s.silent = s.next < s.committed
	}
	for i := range s.batches {
		s.batches[i].from = s.committed
	}
	for _, f := range factories {
		p := conversationProc{ByConversation: f.New(partition), emit: s.emit(f.Name)}
		if fl, ok := p.ByConversation.(Flusher); ok {
			p.flush = fl.Flush
		}
		s.procs = append(s.procs, p)
	}
	return s
}

func (s *source) start() int64 { return s.next }

// observe takes the next record. now is the reader's clock.
func (s *source) observe(r *kafka.Record, now int64) {
	if r.Offset < s.next {
		return
	}
	if s.silent && r.Offset >= s.committed {
		s.speak()
	}
	accepted := r.Timestamp.UnixMilli()
	limit := now
	if s.silent {
		limit = min(now, s.limit)
	}
	before := s.logTime
	s.logTime = max(s.logTime, min(accepted, limit))
	s.next = r.Offset + 1
	if s.logTime/1000 > before/1000 { // what is due or forgotten at this record must not depend on where batches end
		s.advanceTo(s.logTime)
	}

	m, id, err := record.Message(r.Value)
	if err == nil {
		err = record.Key(r.Key, m.ConversationId)
	}
	if err == nil {
		err = record.Ahead("created_at", id.Time(), r.Timestamp)
	}
	if err != nil { // poison: the sink makes it a dead letter, by the same rules
		s.stats.unreadable++
		return
	}
	if !m.Backfill && accepted-id.Millis() > grace.Milliseconds() {
		s.stats.late++
		return
	}
	at := s.memory.Observe(m.ConversationId, recent.Entry{ID: id, Other: unique.Make(m.SenderId), Offset: r.Offset, Partition: s.partition}, s.logTime)
	s.low.add(r.Offset, s.logTime, func() int64 { return before })
	s.stats.handled++
	if !at.First {
		s.stats.copies++
	}
	for i := range s.procs {
		s.procs[i].Observe(m, at, s.procs[i].emit)
	}
	if !s.silent {
		s.forward(r, m, id[:], at)
	}
}

// forward puts a message into the batch for the owner of its sender. Copies go too, since they renew there as well: to the sender of the first copy.
func (s *source) forward(r *kafka.Record, m *eventv1.Message, id []byte, at recent.Seen) {
	sender := at.Log.Entries[at.Index].Other.Value()
	to := partitionOf(sender, len(s.batches))
	b := &s.batches[to]
	if sc, ok := sampled(r); ok {
		b.traces = appendTrace(b.traces, len(b.events), sc)
	}
	b.events = append(b.events, &eventv1.SenderEvent{UserId: sender, ConversationId: m.ConversationId, Uuid: id, Offset: r.Offset})
	b.times = append(b.times, s.logTime)
	b.bytes += len(sender) + len(m.ConversationId) + 48
	if len(b.events) >= s.cfg.BatchEvents || b.bytes >= batchBytes {
		s.send(to, max(s.clock, s.logTime), b.sentAt)
	}
}

// speak ends the silent rebuild.
func (s *source) speak() {
	s.advanceTo(s.logTime)
	s.flush()
	s.silent = false
}

// advance is called after each batch of records, and about every 50 ms without. idle is a log time that the partition has for having been read to its
// end, or 0.
func (s *source) advance(now, idle int64) {
	if s.silent && s.next >= s.committed {
		s.speak()
	}
	s.advanceTo(max(s.logTime, idle))
	if s.silent {
		return
	}
	for to := range s.batches {
		if b := &s.batches[to]; len(b.events) > 0 || now-b.sentAt >= heartbeat {
			s.send(int32(to), s.clock, now) //nolint:gosec // a partition number
		}
	}
}

func (s *source) advanceTo(clock int64) {
	if s.silent {
		clock = min(clock, s.limit)
	}
	s.clock = max(s.clock, clock)
	for i := range s.procs {
		s.procs[i].Advance(s.clock, s.procs[i].emit)
	}
	s.memory.Advance(s.clock)
	s.low.forget(s.clock - s.cfg.ConversationKeep.Milliseconds())
}

// send writes the batch under way to one partition of sender-events, empty or not.
func (s *source) send(to int32, logTime, now int64) {
	b := &s.batches[to]
	for i, e := range b.events {
		e.LogAgeMs = logTime - b.times[i]
	}
	v := &eventv1.SenderEvents{SourcePartition: s.partition, FromOffset: b.from, ToOffset: s.next, LogTimeMs: logTime, Events: b.events}
	bytes, err := proto.Marshal(v)
	if err != nil {
		s.problem(err) // can not be: ids were checked to be UTF-8
		return
	}
	o := output{record: kafka.Record{Topic: s.senderTopic, Partition: to, Value: bytes}, processor: "host", final: true}
	if len(b.traces) > 0 {
		o.record.Headers = []kafka.Header{{Key: tracesHeader, Value: b.traces}}
	}
	s.write(o)
	clear(b.events)
	b.from, b.sentAt, b.events, b.times, b.traces, b.bytes = s.next, now, b.events[:0], b.times[:0], nil, 0
}

func (s *source) flush() {
	for i := range s.procs {
		if s.procs[i].flush != nil {
			s.procs[i].flush(s.procs[i].emit)
		}
	}
}

// commit writes what was held back and returns what may be committed once all that was written is acknowledged. ok is false when that would say nothing
// new. Every internal partition hears how far this one is, for whoever goes on from here will claim to begin here.
func (s *source) commit(now int64) (c kafka.Commit, ok bool) {
	if s.silent {
		return c, false // nothing was done that was not done before
	}
	snap := snapshot{low: s.next, clock: s.clock, logTime: s.logTime}
	if low, before, any := s.low.low(); any {
		snap.low, snap.logTime = low, before
	}
	c = kafka.Commit{Next: s.next, Metadata: snap.encode()}
	if c.Next == s.said.Next && snap.low == s.saidLow {
		return c, false
	}
	s.flush()
	for to := range s.batches {
		if s.batches[to].from < s.next || len(s.batches[to].events) > 0 {
			s.send(int32(to), s.clock, now) //nolint:gosec // a partition number
		}
	}
	s.said, s.saidLow = c, snap.low
	return c, true
}

func (s *source) uncommitted() { s.said.Next = -1 }

func (s *source) report() report {
	return report{stats: s.stats.take(), next: s.next, clock: s.clock, remembered: s.memory.Len(), rebuilding: s.silent}
}
