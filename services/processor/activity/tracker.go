// Package activity counts what each user sends in a calendar minute (UTC).
//
//	messages by sender --> Tracker --> user-activity-metrics
//
// The package is pure: its clock is the watermark it is given, and all times are milliseconds since the epoch. A Tracker is not safe for concurrent use.
package activity

import (
	"container/heap"
	"time"
	"unique"

	"google.golang.org/protobuf/types/known/timestamppb"

	eventv1 "github.com/earshot/earshot/gen/earshot/event/v1"
	"github.com/earshot/earshot/services/processor/recent"
)

const (
	minute = 60_000 // length of a window
	grace  = 10_000 // how long after the last change a window is settled
	pace   = 5_000  // the least time between two provisional results of a window
	keep   = minute + 60_000
)

// Tracker follows the minutes of all senders whose messages it sees. It must see the messages of a recent.Memory keyed by sender that keeps them for at
// least two minutes; the first copies suffice.
type Tracker struct {
	windows map[window]*state
	queue   queue
	clock   int64 // the watermark; 0 until it is known
}

// window is a user's minute. The user's log stands for the user: it lives as long as any of its messages.
type window struct {
	log   *recent.Log
	start int64 // created_at at which it begins, included
}

// state is what is known of a window.
type state struct {
	window
	user      string
	changedAt int64 // log time of the last message in it
	saidAt    int64 // clock of the last result
	due       int64 // clock at which there is something to do; it has its place in the queue
	index     int

	numbers
	said  uint32 // revision of the last result
	fresh bool   // true when messages came since the numbers were counted
}

type numbers struct {
	messages, conversations uint32
	last                    int64 // created_at of the last message
}

// New returns an empty Tracker.
func New() *Tracker { return &Tracker{windows: map[window]*state{}} }

// Observe takes in a new message. It emits nothing: Advance does.
func (t *Tracker) Observe(at recent.Seen, _ recent.Emit) {
	if !at.First {
		return
	}
	created := at.Log.Entries[at.Index].Millis()
	key := window{at.Log, created - created%minute}
	s := t.windows[key]
	if s == nil {
		s = &state{window: key, user: at.Log.Key, saidAt: t.clock - pace}
		t.windows[key] = s
		heap.Push(&t.queue, s)
	}
	s.fresh = true
	s.changedAt = max(s.changedAt, at.LogTime)
	t.schedule(s)
}

// Advance emits what the watermark makes due: a provisional result of each window that changed, at most every 5 s of the clock, and the closed one
// when it is settled. A straggler has it closed again, with a higher revision. It costs nothing when nothing is due. Messages must not be forgotten for
// this watermark before.
func (t *Tracker) Advance(watermark int64, emit recent.Emit) {
	if watermark <= t.clock {
		return
	}
	t.clock = watermark
	for len(t.queue) > 0 && t.queue[0].due <= watermark {
		s := t.queue[0]
		closed := watermark >= s.settles()
		if s.fresh || closed {
			s.count()
			t.emit(s, closed, emit)
		}
		if watermark >= s.expires() {
			heap.Remove(&t.queue, s.index)
			delete(t.windows, s.window)
			continue
		}
		t.schedule(s)
	}
}

func (s *state) settles() int64 { return max(s.start+minute, s.changedAt) + grace }

// expires is never before settles: what lies ahead of the clock is closed before it is forgotten.
func (s *state) expires() int64 { return max(s.changedAt+keep, s.settles()) }

// closed tells whether the last result was a closed one.
func (s *state) closed() bool { return s.said&1 == 1 }

// count takes the numbers from the log. What has been forgotten since takes nothing away.
func (s *state) count() {
	if !s.fresh {
		return
	}
	s.fresh = false
	lo, hi := s.log.Range(s.start, s.start+minute)
	if hi-lo <= int(s.messages) {
		return
	}
	in := s.log.Entries[lo:hi]
	s.numbers = numbers{uint32(len(in)), distinct(in), in[len(in)-1].Millis()} //nolint:gosec // a log is far smaller
}

// distinct counts conversations. Nearly every user has a few: they are searched in an array before a map is made.
func distinct(in []recent.Entry) uint32 {
	var few [8]unique.Handle[string]
	n := 0
next:
	for i := range in {
		for _, have := range few[:n] {
			if have == in[i].Other {
				continue next
			}
		}
		if n == len(few) {
			all := make(map[unique.Handle[string]]struct{}, 2*len(few))
			for j := range in {
				all[in[j].Other] = struct{}{}
			}
			return uint32(len(all)) //nolint:gosec // a log is far smaller
		}
		few[n] = in[i].Other
		n++
	}
	return uint32(n) //nolint:gosec // at most 8
}

// emit says the numbers, unless the world has heard as much or more.
func (t *Tracker) emit(s *state, closed bool, emit recent.Emit) {
	revision, word := 2*s.messages, eventv1.WindowState_WINDOW_STATE_PROVISIONAL
	if closed {
		revision, word = revision+1, eventv1.WindowState_WINDOW_STATE_CLOSED
	}
	if revision <= s.said {
		return
	}
	s.said, s.saidAt = revision, t.clock
	emit(s.user, &eventv1.UserActivity{
		UserId:              s.user,
		WindowStart:         stamp(s.start),
		WindowEnd:           stamp(s.start + minute),
		MessageCount:        s.messages,
		ActiveConversations: s.conversations,
		LastActive:          stamp(s.last),
		State:               word,
		Revision:            revision,
	})
}

// schedule puts a window where the queue will find it. A straggler of a closed one waits until it is settled again.
func (t *Tracker) schedule(s *state) {
	due := s.expires()
	if s.fresh || !s.closed() {
		due = s.settles()
	}
	if s.fresh && !s.closed() {
		due = min(due, s.saidAt+pace)
	}
	if due = max(due, t.clock+1); due != s.due {
		s.due = due
		heap.Fix(&t.queue, s.index)
	}
}

func stamp(ms int64) *timestamppb.Timestamp { return timestamppb.New(time.UnixMilli(ms)) }

// queue is a heap of windows by due, for container/heap.
type queue []*state

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].due < q[j].due }
func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}

// Push implements heap.Interface.
func (q *queue) Push(x any) {
	s := x.(*state)
	s.index = len(*q)
	*q = append(*q, s)
}

// Pop implements heap.Interface.
func (q *queue) Pop() any {
	last := len(*q) - 1
	s := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	return s
}
