package trend

import (
	"encoding/binary"
	"hash/fnv"
	"math"
	"time"
	"unique"

	eventv1 "github.com/earshot/earshot/gen/earshot/event/v1"
	"github.com/earshot/earshot/services/processor/recent"
	"google.golang.org/protobuf/proto"
)

// tester is a *testing.T or a *rapid.T.
type tester interface {
	Helper()
	Fatalf(format string, args ...any)
}

// logged is a message in its partition's log, in order of acceptance.
type logged struct {
	message
	accepted int64
}

// mesh drives Counters and Rankers as hosts do: some source partitions, read at any pace, and some internal ones; each can crash and be rebuilt.
type mesh struct {
	t       tester
	cfg     Config
	sources []*sourceHost
	terms   []*termHost
	results map[key]*eventv1.Trend
	hear    func(*eventv1.Trend) // what is announced, when set
}

func newMesh(t tester, cfg Config, log []logged, sources, terms int) *mesh {
	m := &mesh{t: t, cfg: cfg, results: map[key]*eventv1.Trend{}}
	for i := range sources {
		m.sources = append(m.sources, &sourceHost{mesh: m, partition: int32(i)})
	}
	for _, r := range log {
		h := fnv.New32a()
		_, _ = h.Write([]byte(r.conversation))
		s := m.sources[h.Sum32()%uint32(sources)]
		s.log = append(s.log, r)
	}
	for range terms {
		m.terms = append(m.terms, &termHost{mesh: m})
	}
	for _, s := range m.sources {
		s.start(0)
	}
	for _, s := range m.terms {
		s.start(0)
	}
	return m
}

type sourceHost struct {
	*mesh
	partition int32
	log       []logged
	counter   *Counter
	memory    *recent.Memory
	next      int
	clock     int64
	silent    bool
	committed int
	limit     int64
}

func (s *sourceHost) start(offset int) {
	s.counter = NewCounter(s.cfg, s.partition, len(s.terms))
	s.memory, s.next, s.clock = recent.New(s.cfg.Keep()), offset, 0
}

func (s *sourceHost) emit(k string, v proto.Message) {
	if s.silent {
		return
	}
	t := v.(*eventv1.TermTotals)
	if n := proto.Size(t); n > 256<<10 || k != "" || t.SourcePartition != s.partition {
		s.t.Fatalf("record of %d bytes, key %q, source %d", n, k, t.SourcePartition)
	}
	p := s.terms[t.TermPartition]
	p.log = append(p.log, proto.Clone(t).(*eventv1.TermTotals))
}

// read observes up to n records.
func (s *sourceHost) read(n int) {
	for ; n > 0 && s.next < len(s.log); n-- {
		r := s.log[s.next]
		s.next++
		e := recent.Entry{ID: id(r.created, r.number), Other: unique.Make(r.sender)}
		at := s.memory.Observe(r.conversation, e, r.accepted)
		s.counter.Observe(&eventv1.Message{ConversationId: r.conversation, SenderId: r.sender, Content: r.content}, at, s.emit)
		s.clock = max(s.clock, r.accepted)
	}
	s.advance(s.clock)
}

func (s *sourceHost) advance(clock int64) {
	s.clock = max(s.clock, clock)
	s.counter.Advance(s.clock, s.emit)
	s.memory.Advance(s.clock)
}

// idle lets the clock run, up to the next record.
func (s *sourceHost) idle(ms int64) {
	clock := s.clock + ms
	if s.next < len(s.log) {
		clock = min(clock, s.log[s.next].accepted)
	}
	s.advance(clock)
}

func (s *sourceHost) commit() {
	s.counter.Flush(s.emit)
	s.committed, s.limit = s.next, s.clock
}

func (s *sourceHost) crash(batch int) {
	low := 0
	for low < s.committed && s.log[low].accepted <= s.limit-s.cfg.Keep().Milliseconds() {
		low++
	}
	s.start(low)
	s.silent = true
	for s.next < s.committed {
		s.read(min(batch, s.committed-s.next))
	}
	s.counter.Flush(s.emit)
	s.silent = false
}

type termHost struct {
	*mesh
	log       []*eventv1.TermTotals
	ranker    *Ranker
	heard     map[int32]int64
	next      int
	silent    bool
	committed int
}

func (s *termHost) start(offset int) {
	s.ranker, s.heard, s.next = NewRanker(s.cfg), map[int32]int64{}, offset
}

func (s *termHost) emit(k string, v proto.Message) {
	if s.silent {
		return
	}
	t := v.(*eventv1.Trend)
	if k != t.Term {
		s.t.Fatalf("key %q of a record of %q", k, t.Term)
	}
	if s.hear != nil {
		s.hear(t)
	}
	id := key{k, t.WindowStart.AsTime().UnixMilli()}
	if old := s.results[id]; old == nil || old.Revision <= t.Revision {
		s.results[id] = t
	}
}

func (s *termHost) read(n int) {
	for ; n > 0 && s.next < len(s.log); n-- {
		t := s.log[s.next]
		s.next++
		s.ranker.Merge(t)
		s.heard[t.SourcePartition] = max(s.heard[t.SourcePartition], t.LogTimeMs)
	}
	if w, ok := s.watermark(); ok {
		s.ranker.Advance(w, s.emit)
	}
}

func (s *termHost) watermark() (int64, bool) {
	least := int64(math.MaxInt64)
	for _, t := range s.heard {
		least = min(least, t)
	}
	return least, len(s.heard) == len(s.sources)
}

func (s *termHost) commit() { s.committed = s.next }

// crash reads again from the lowest offset that is still remembered, silently up to the commit.
func (s *termHost) crash(batch int) {
	low := 0
	if w, ok := s.watermark(); ok {
		for low < s.committed && s.log[low].LogTimeMs <= w-s.cfg.KeepTotals().Milliseconds() {
			low++
		}
	}
	s.start(low)
	s.silent = true
	for s.next < s.committed {
		s.read(min(batch, s.committed-s.next))
	}
	s.silent = false
}

func id(created int64, number uint64) (u [16]byte) {
	binary.BigEndian.PutUint64(u[:8], uint64(created)<<16|0x7000)
	binary.BigEndian.PutUint64(u[8:], 1<<63|number)
	return u
}

// finish reads everything and lets an hour pass.
func (m *mesh) finish() {
	end := int64(0)
	for _, s := range m.sources {
		s.read(len(s.log))
		end = max(end, s.clock)
	}
	for i := range 60 * 6 {
		for _, s := range m.sources {
			s.advance(end + int64(i)*10_000)
		}
		for _, s := range m.terms {
			s.read(len(s.log))
		}
	}
}

// check compares with the slow reference: each term, window, count and number of senders, all closed.
func (m *mesh) check() {
	m.t.Helper()
	m.finish()
	var all []message
	for _, s := range m.sources {
		for _, r := range s.log {
			all = append(all, r.message)
		}
	}
	want := reference(m.cfg, all)
	for k, a := range want {
		got := m.results[k]
		if got == nil {
			m.t.Fatalf("no trend %q at %v, want %+v", k.term, time.UnixMilli(k.start).UTC(), a)
		}
		if got.Count != a.count || got.Senders != a.senders || got.State != eventv1.WindowState_WINDOW_STATE_CLOSED {
			m.t.Fatalf("trend %q at %v: %v, want %+v, closed", k.term, time.UnixMilli(k.start).UTC(), got, a)
		}
	}
	for k, got := range m.results {
		if _, ok := want[k]; !ok {
			m.t.Fatalf("trend that should not be: %v", got)
		}
	}
	for _, s := range m.sources {
		if n := len(s.counter.panes) + s.counter.uses + len(s.counter.words) - len(stopWords()); n > 0 {
			m.t.Fatalf("counter still holds %d things after an hour", n)
		}
	}
	for _, s := range m.terms {
		if n := len(s.ranker.stretch) + len(s.ranker.terms) + len(s.ranker.windows) + s.ranker.tallies; n > 0 {
			m.t.Fatalf("ranker still holds %d things after an hour", n)
		}
	}
}
