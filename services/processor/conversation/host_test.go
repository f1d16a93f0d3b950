package conversation

import (
	"encoding/binary"
	"time"
	"unique"

	eventv1 "github.com/earshot/earshot/gen/earshot/event/v1"
	"github.com/earshot/earshot/services/processor/recent"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
)

const memory = 3 * time.Minute

func at(ms int64) time.Time { return time.UnixMilli(ms).UTC() }

// tester is a *testing.T or a *rapid.T.
type tester interface {
	Helper()
	Fatalf(format string, args ...any)
}

// logged is a message in the log, in order of acceptance.
type logged struct {
	message
	accepted int64
}

// host drives a Tracker as the processor's host does: one partition, read in order, rebuilt silently after a crash.
type host struct {
	t       tester
	cfg     Config
	log     []logged
	results map[key]*eventv1.ConversationMetrics

	// exact says that the memory forgets before each record, not only between batches: then what is a copy does not depend on where batches end. It
	// matters when messages come again after they were forgotten.
	exact bool
	hear  func(string, proto.Message) // what is announced, when set

	tracker   *Tracker
	memory    *recent.Memory
	next      int
	clock     int64
	silent    bool
	committed int   // next offset
	limit     int64 // clock at the commit
}

func newHost(t tester, cfg Config, log []logged) *host {
	h := &host{t: t, cfg: cfg, log: log, results: map[key]*eventv1.ConversationMetrics{}}
	h.start(0)
	return h
}

func (h *host) start(offset int) {
	h.tracker, h.memory, h.next, h.clock = New(h.cfg), recent.New(memory), offset, 0
}

func (h *host) emit(k string, v proto.Message) {
	if h.silent {
		return
	}
	if h.hear != nil {
		h.hear(k, v)
	}
	m := v.(*eventv1.ConversationMetrics)
	if k != m.ConversationId {
		h.t.Fatalf("key %q of a record of %q", k, m.ConversationId)
	}
	id := key{k, m.WindowEnd.AsTime().UnixMilli()}
	if old := h.results[id]; old == nil || old.Revision <= m.Revision {
		h.results[id] = m
	}
}

// read observes up to n records.
func (h *host) read(n int) {
	for ; n > 0 && h.next < len(h.log); n-- {
		r := h.log[h.next]
		h.next++
		if h.exact && r.accepted/1000 > h.clock/1000 {
			h.advance(r.accepted)
		}
		e := recent.Entry{ID: id(r.created, r.number), Other: unique.Make(r.sender)}
		h.tracker.Observe(&eventv1.Message{}, h.memory.Observe(r.conversation, e, h.logTimeAt(h.next)), h.emit)
	}
	h.advance(h.logTimeAt(h.next))
}

// logTimeAt returns the log time before an offset.
func (h *host) logTimeAt(offset int) int64 {
	if offset == 0 {
		return 0
	}
	return h.log[offset-1].accepted
}

func (h *host) advance(clock int64) {
	h.clock = max(h.clock, clock)
	h.tracker.Advance(h.clock, h.emit)
	h.memory.Advance(h.clock)
}

// idle lets the clock run while nothing arrives, up to the next record.
func (h *host) idle(ms int64) {
	clock := max(h.clock, h.logTimeAt(h.next)) + ms
	if h.next < len(h.log) {
		clock = min(clock, h.log[h.next].accepted)
	}
	h.advance(clock)
}

func (h *host) commit() { h.committed, h.limit = h.next, h.clock }

// crash loses everything and reads again from the lowest offset that is still remembered, batch by batch and silently up to the commit.
func (h *host) crash(batch int) {
	low := 0
	for low < h.committed && h.log[low].accepted <= h.limit-memory.Milliseconds() {
		low++
	}
	h.start(low)
	h.silent = true
	for h.next < h.committed {
		h.read(min(batch, h.committed-h.next))
	}
	h.silent = false
}

func id(created int64, number uint64) (u [16]byte) {
	binary.BigEndian.PutUint64(u[:8], uint64(created)<<16|0x7000)
	binary.BigEndian.PutUint64(u[8:], 1<<63|number)
	return u
}

// check compares with the slow reference. A window that was called empty too early has numbers beyond it; they must be right, too.
func (h *host) check() {
	h.t.Helper()
	h.read(len(h.log))
	h.idle(time.Hour.Milliseconds())
	if n := len(h.tracker.conversations); n > 0 {
		h.t.Fatalf("%d conversations still held after an hour of silence", n)
	}
	var all []message
	for _, r := range h.log {
		all = append(all, r.message)
	}
	ref := newReference(h.cfg, all)
	for _, k := range ref.keys() {
		if h.results[k] == nil {
			h.t.Fatalf("no record of %s at %v", k.conversation, at(k.end))
		}
	}
	for k, got := range h.results {
		if diff := cmp.Diff(ref.record(k), got, protocmp.Transform()); diff != "" {
			h.t.Fatalf("%s at %v (-want +got):\n%s", k.conversation, at(k.end), diff)
		}
	}
}
