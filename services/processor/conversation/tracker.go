package conversation

import (
	"math"
	"slices"

	eventv1 "github.com/earshot/earshot/gen/earshot/event/v1"
	"github.com/earshot/earshot/services/processor/recent"
)

// Tracker measures the conversations of one partition of chat.messages. It is not safe for concurrent use. It holds about 20 bytes for each window that
// changed in the last 90 s of log time; the messages themselves are in the host's memory.
type Tracker struct {
	step  int64 // seconds
	steps int32 // in a window
	keep  uint32

	conversations map[string]*conversation
	agenda        agenda
	arriving      recent.Seen         // the message that is being observed: in the log, but not yet part of any window
	senders       map[sender]struct{} // scratch of measure
}

// conversation holds the windows of one conversation that may still have something to say.
type conversation struct {
	log     *recent.Log
	windows []window // by end
}

// window is what is known of one step's window. Seconds are log time since the epoch, rounded up.
type window struct {
	end     int32  // number of its last step, which covers ((end-1)*step, end*step]
	changed uint32 // second of the last message that changed it
	touched uint32 // second of the last message in it, copies included
	told    uint32 // second of the last record; 0: none yet
	due     uint32 // second under which it stands in the agenda
	fresh   bool   // changed since it was last announced
	open    bool   // not yet closed, or changed since
	closed  bool   // has been closed at least once: from then on it is only closed again
}

// New returns a Tracker that has seen nothing. cfg must be valid.
func New(cfg Config) *Tracker {
	return &Tracker{
		step:          int64(cfg.Step.Seconds()),
		steps:         int32(cfg.Window / cfg.Step), //nolint:gosec // at most 120
		keep:          uint32(cfg.Keep().Seconds()),
		conversations: map[string]*conversation{},
		agenda:        agenda{at: map[uint32][]entry{}},
		senders:       map[sender]struct{}{},
	}
}

// Observe takes a message that is not late, in log order. The log in at must be kept by conversation, for at least Config.Keep.
func (t *Tracker) Observe(_ *eventv1.Message, at recent.Seen, emit recent.Emit) {
	// What was due before this record is told before it. So what was told at any record depends on the records alone, and a host that reads them again
	// after a restart knows what the one before it said: above all which windows it called empty.
	if at.First {
		t.arriving = at
	}
	t.Advance(at.LogTime, emit)
	t.arriving = recent.Seen{}
	created := at.Log.Entries[at.Index].Millis()
	if created > at.LogTime+ahead.Milliseconds() {
		return // refused at the door; here it would wait in memory for a window that never ends
	}
	now := ceilSecond(at.LogTime)
	own := t.stepOf(created)
	c := t.conversations[at.Log.Key]
	if !at.First {
		if c != nil {
			c.touch(own, own+t.steps, now)
		}
		return
	}
	if c == nil {
		c = &conversation{}
		t.conversations[at.Log.Key] = c
	}
	c.log = at.Log
	t.change(c, own, now)
	// Of the later windows that hold the message those change that have a record: what was called empty, and steps with messages.
	for i := c.from(own + 1); i < len(c.windows) && c.windows[i].end < own+t.steps; i++ {
		if w := &c.windows[i]; w.told != 0 {
			t.change(c, w.end, now)
		}
	}
	quiet := true
	if at.Index < len(at.Log.Entries)-1 {
		for step := own + 1; step <= own+t.steps; step++ {
			if lo, hi := t.entries(c.log, step, 1); lo == hi {
				continue
			}
			quiet = false
			if step < own+t.steps {
				t.change(c, step, now)
			}
		}
	}
	if silent := own + t.steps; quiet && !c.has(silent) {
		t.change(c, silent, now)
	}
}

// Advance tells how far log time is, in milliseconds since the epoch, and announces what is due. Going back does nothing.
func (t *Tracker) Advance(logTime int64, emit recent.Emit) {
	for {
		e, ok := t.agenda.next(logTime)
		if !ok {
			return
		}
		i, ok := e.conversation.find(e.end)
		if !ok || e.conversation.windows[i].due != e.second {
			continue // forgotten, or due at another time by now
		}
		w := &e.conversation.windows[i]
		if due, keep := t.look(e.conversation, w, t.agenda.now, emit); keep {
			w.due = due
			t.agenda.add(due, entry{conversation: e.conversation, end: w.end})
			continue
		}
		e.conversation.windows = slices.Delete(e.conversation.windows, i, i+1)
		if len(e.conversation.windows) == 0 && e.conversation.log != nil {
			delete(t.conversations, e.conversation.log.Key)
		}
	}
}

// look announces what is due of a window. It returns when to look again, or false when the window can be forgotten.
func (t *Tracker) look(c *conversation, w *window, now uint32, emit recent.Emit) (uint32, bool) {
	end := t.seconds(w.end)
	settled := max(end, int64(w.changed)) + settle
	again := max(end, int64(w.told)+repeat)
	if w.told == 0 {
		again = end
	}
	switch {
	case w.open && int64(now) >= settled:
		if !t.announce(c, w, true, now, emit) {
			return 0, false
		}
		w.open, w.fresh, w.closed = false, false, true
	case w.open && w.fresh && !w.closed && int64(now) >= again:
		if !t.announce(c, w, false, now, emit) {
			return 0, false
		}
		w.fresh = false
		again = max(end, int64(now)+repeat)
	}
	var due int64
	switch {
	case w.open && w.fresh && !w.closed:
		due = min(again, settled)
	case w.open:
		due = settled
	default:
		due = int64(w.touched) + int64(t.keep)
	}
	if due > int64(now) {
		return uint32(min(due, math.MaxUint32)), true //nolint:gosec // not negative: log time is past the epoch
	}
	return 0, false // only the last case can be due already
}

// announce emits a window's numbers. It returns false when there is no such record: a step without messages, in a window that is not empty.
func (t *Tracker) announce(c *conversation, w *window, closed bool, now uint32, emit recent.Emit) bool {
	n := t.measure(c.log, w.end)
	if n.own == 0 && w.told == 0 {
		switch {
		case n.messages > 0:
			return false
		case !closed:
			return true // silence is no news until it is certain
		}
	}
	w.told = now
	emit(c.log.Key, t.record(c.log.Key, w.end, n, closed))
	return true
}

// change notes that a message accepted at now changed the window that ends with a step.
func (t *Tracker) change(c *conversation, end int32, now uint32) {
	i, ok := c.find(end)
	if !ok {
		c.windows = slices.Insert(c.windows, i, window{end: end, due: math.MaxUint32})
	}
	w := &c.windows[i]
	w.changed, w.touched = max(w.changed, now), max(w.touched, now)
	w.fresh, w.open = true, true
	due := max(t.seconds(end), int64(w.told)+repeat)
	if w.told == 0 {
		due = t.seconds(end)
	}
	if w.closed {
		due = int64(w.changed) + settle
	}
	if second := uint32(min(max(due, int64(now)), math.MaxUint32-1)); second < w.due { //nolint:gosec // not negative
		w.due = second
		t.agenda.add(second, entry{conversation: c, end: end})
	}
}

// touch renews the windows from one step to another, both included.
func (c *conversation) touch(from, to int32, now uint32) {
	for i := c.from(from); i < len(c.windows) && c.windows[i].end <= to; i++ {
		c.windows[i].touched = max(c.windows[i].touched, now)
	}
}

func (c *conversation) has(end int32) bool {
	_, ok := c.find(end)
	return ok
}

// find returns where the window that ends with a step is or belongs.
func (c *conversation) find(end int32) (int, bool) {
	i := c.from(end)
	return i, i < len(c.windows) && c.windows[i].end == end
}

// from returns the first window that ends with the step or later. There are few, and the newest are asked for most.
func (c *conversation) from(end int32) int {
	i := len(c.windows)
	for i > 0 && c.windows[i-1].end >= end {
		i--
	}
	return i
}

// stepOf returns the number of the step that holds a moment: the first that ends at or after it.
func (t *Tracker) stepOf(ms int64) int32 {
	length := t.step * 1000
	return int32((ms + length - 1) / length) //nolint:gosec // past the year 2262 only with steps under 5 s, and nothing is written that far ahead
}

// seconds returns when a step ends.
func (t *Tracker) seconds(end int32) int64 { return int64(end) * t.step }

func ceilSecond(ms int64) uint32 {
	return uint32(min(max((ms+999)/1000, 0), math.MaxUint32-1)) //nolint:gosec // bounded
}
