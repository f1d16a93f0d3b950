package processor

import (
	"errors"
	"slices"
	"unique"

	eventv1 "github.com/earshot/earshot/gen/earshot/event/v1"
	"github.com/earshot/earshot/services/internal/kafka"
	"github.com/earshot/earshot/services/processor/recent"
	"google.golang.org/protobuf/proto"
)

// rekeyed is what the partitions of both internal topics have in common: how far each partition of chat.messages is known, the watermark that follows,
// and what has to be read again after a restart. Times are milliseconds since the epoch.
type rekeyed struct {
	speaker
	partition int32
	low       marks[[]heard]
	keep      int64 // how long after its log time a record is remembered

	next      int64
	committed int64 // where the silent rebuild ends
	sources   []heard
	watermark int64        // 0: unknown
	step      func()       // takes the processors to the watermark and forgets
	said      kafka.Commit // what was last handed out
	saidLow   int64
}

func newRekeyed(c *common, partition int32, keep, first, committed int64, snap snapshot) rekeyed {
	p := rekeyed{speaker: speaker{common: c}, partition: partition, keep: keep, next: first, committed: first, said: kafka.Commit{Next: -1}}
	if committed >= 0 {
		p.committed = committed
		p.next = min(max(snap.low, first), committed)
		if p.next == snap.low { // else what was heard before low says nothing of where we start
			p.sources = snap.heard
		}
		p.silent = p.next < p.committed
	}
	return p
}

func (p *rekeyed) start() int64 { return p.next }

// source returns what is known of a source partition, which may be new.
func (p *rekeyed) source(partition int32) *heard {
	for int(partition) >= len(p.sources) {
		p.sources = append(p.sources, heard{})
	}
	return &p.sources[partition]
}

// remember notes that the record at offset has to be read again while its log time is not past.
func (p *rekeyed) remember(offset, logTime int64) {
	p.low.add(offset, logTime, func() []heard { return slices.Clone(p.sources) })
}

// follow raises the watermark: the least log time over all partitions of chat.messages, of which there are sources. It returns false while one of them
// was never heard of.
func (p *rekeyed) follow(sources int) bool {
	if len(p.sources) < sources || sources == 0 {
		return false
	}
	least := int64(0)
	for i, h := range p.sources {
		if !h.known {
			return false
		}
		if i == 0 || h.logTime < least {
			least = h.logTime
		}
	}
	p.watermark = max(p.watermark, least)
	return true
}

// speak ends the silent rebuild.
func (p *rekeyed) speak() {
	if p.watermark > 0 {
		p.step()
	}
	p.silent = false
}

// advance is called after each batch of records, and about every 50 ms without. sources is how many partitions chat.messages has.
func (p *rekeyed) advance(sources int) {
	known := p.follow(sources)
	if p.silent && p.next >= p.committed {
		p.speak()
	}
	if known {
		p.step()
	}
}

// commit returns what may be committed once all that was written is acknowledged. ok is false when that would say nothing new.
func (p *rekeyed) commit(int64) (c kafka.Commit, ok bool) {
	if p.silent {
		return c, false
	}
	snap := snapshot{low: p.next, clock: p.watermark, heard: p.sources}
	if low, before, any := p.low.low(); any {
		snap.low, snap.heard = low, before
	}
	c = kafka.Commit{Next: p.next, Metadata: snap.encode()}
	if c.Next == p.said.Next && snap.low == p.saidLow {
		return c, false
	}
	p.said, p.saidLow = c, snap.low
	return c, true
}

func (p *rekeyed) uncommitted() { p.said.Next = -1 }

func (p *rekeyed) report() report {
	return report{stats: p.stats.take(), next: p.next, clock: p.watermark, rebuilding: p.silent}
}

// senders is the state of one partition of sender-events: the messages it remembers by sender, and its processors.
type senders struct {
	rekeyed
	memory *recent.Memory
	procs  []senderProc
	ahead  ahead
}

type senderProc struct {
	BySender
	emit recent.Emit
}

// newSenders returns the state of a partition whose records from first on are kept and which the group committed as given (-1: never). The next record
// to hand in is at start().
func newSenders(c *common, partition int32, factories []SenderFactory, first, committed int64, snap snapshot) *senders {
	keep := c.cfg.senderKeep()
	p := &senders{rekeyed: newRekeyed(c, partition, keep.Milliseconds(), first, committed, snap), memory: recent.NewBySender(keep), ahead: ahead{counts: map[int64]int{}}}
	for _, f := range factories {
		p.procs = append(p.procs, senderProc{BySender: f.New(partition), emit: p.emit(f.Name)})
	}
	p.step = p.toWatermark
	return p
}

// restore hands an alert back that was found in its topic, in log order and before the first record.
func (p *senders) restore(a *eventv1.Alert, recordTime int64) {
	for i := range p.procs {
		if r, ok := p.procs[i].BySender.(Restorer); ok {
			r.Restore(a, recordTime)
		}
	}
}

// observe takes the next record.
func (p *senders) observe(r *kafka.Record, _ int64) {
	if r.Offset < p.next {
		return
	}
	if p.silent && r.Offset >= p.committed {
		p.speak()
	}
	p.next = r.Offset + 1
	var b eventv1.SenderEvents
	if err := unmarshalFrom(r.Value, &b, &b.SourcePartition); err != nil {
		p.stats.unreadable++
		return
	}
	source := p.source(b.SourcePartition)
	switch {
	case !source.known:
		*source = heard{known: true, applied: b.FromOffset}
	case b.FromOffset > source.applied:
		// What lies between was not acknowledged, so its writer has not committed it: it, or who follows it, sends again from the last commit.
		p.stats.gaps++
		return
	}
	if b.ToOffset > source.applied && len(b.Events) > 0 {
		p.remember(r.Offset, b.LogTimeMs)
	}
	traces := tracesOf(r)
	for i, e := range b.Events {
		if e.Offset < source.applied || len(e.Uuid) != 16 {
			continue // sent again
		}
		logTime := b.LogTimeMs - e.LogAgeMs
		at := p.memory.Observe(e.UserId, recent.Entry{ID: [16]byte(e.Uuid), Other: unique.Make(e.ConversationId), Offset: e.Offset, Partition: b.SourcePartition}, logTime)
		p.stats.handled++
		if !at.First {
			p.stats.copies++
			continue
		}
		p.ahead.add(logTime, p.watermark)
		if len(traces) > 0 {
			p.trace = traces.at(i)
		}
		for j := range p.procs {
			p.procs[j].Observe(at, p.procs[j].emit)
		}
	}
	p.trace = noTrace
	source = p.source(b.SourcePartition)
	source.applied = max(source.applied, b.ToOffset)
	source.logTime = max(source.logTime, b.LogTimeMs)
}

func (p *senders) toWatermark() {
	for i := range p.procs {
		p.procs[i].Advance(p.watermark, p.procs[i].emit)
	}
	p.memory.Advance(p.watermark)
	p.low.forget(p.watermark - p.keep)
	p.ahead.forget(p.watermark)
}

func (p *senders) report() report {
	r := p.rekeyed.report()
	r.remembered, r.waiting = p.memory.Len(), p.ahead.total
	return r
}

// terms is the state of one partition of term-totals.
type terms struct {
	rekeyed
	procs []termProc
}

type termProc struct {
	ByTerm
	emit recent.Emit
}

// newTerms is newSenders for term-totals.
func newTerms(c *common, partition int32, factories []TermFactory, first, committed int64, snap snapshot) *terms {
	p := &terms{rekeyed: newRekeyed(c, partition, c.cfg.TermKeep.Milliseconds(), first, committed, snap)}
	for _, f := range factories {
		p.procs = append(p.procs, termProc{ByTerm: f.New(partition), emit: p.emit(f.Name)})
	}
	p.step = p.toWatermark
	return p
}

// observe takes the next record. Totals replace: they need no offsets, and one that comes twice changes nothing.
func (p *terms) observe(r *kafka.Record, _ int64) {
	if r.Offset < p.next {
		return
	}
	if p.silent && r.Offset >= p.committed {
		p.speak()
	}
	p.next = r.Offset + 1
	var t eventv1.TermTotals
	if err := unmarshalFrom(r.Value, &t, &t.SourcePartition); err != nil {
		p.stats.unreadable++
		return
	}
	if len(t.Panes) > 0 {
		p.remember(r.Offset, t.LogTimeMs)
		p.stats.handled++
		for i := range p.procs {
			p.procs[i].Merge(&t)
		}
	}
	source := p.source(t.SourcePartition)
	source.known = true
	source.logTime = max(source.logTime, t.LogTimeMs)
}

func (p *terms) toWatermark() {
	for i := range p.procs {
		p.procs[i].Advance(p.watermark, p.procs[i].emit)
	}
	p.low.forget(p.watermark - p.keep)
}

// maxSources bounds the source partition that a record may name, so that a foreign one can not make us allocate.
const maxSources = 4096

var errSource = errors.New("names no partition of chat.messages")

// unmarshalFrom reads a record of an internal topic.
func unmarshalFrom(b []byte, m proto.Message, source *int32) error {
	if err := proto.Unmarshal(b, m); err != nil {
		return err
	}
	if *source < 0 || *source >= maxSources {
		return errSource
	}
	return nil
}

// ahead counts messages by the second of their log time, for as long as that lies beyond the watermark: they wait for the slowest partition.
type ahead struct {
	counts map[int64]int
	total  int
	passed int64 // seconds that were forgotten
}

func (a *ahead) add(logTime, watermark int64) {
	if logTime > watermark && logTime/1000 > a.passed {
		a.counts[logTime/1000]++
		a.total++
	}
}

func (a *ahead) forget(watermark int64) {
	second := watermark / 1000
	if second <= a.passed {
		return
	}
	a.passed = second
	for s, n := range a.counts {
		if s <= second {
			a.total -= n
			delete(a.counts, s)
		}
	}
}
