package conversation

import (
	"unique"

	eventv1 "github.com/earshot/earshot/gen/earshot/event/v1"
	"github.com/earshot/earshot/services/processor/recent"
	"google.golang.org/protobuf/types/known/timestamppb"
)

type sender = unique.Handle[string]

// numbers are what a window holds.
type numbers struct {
	messages     uint32
	participants uint32
	own          uint32 // messages in the window's last step
	peak         uint32 // most messages in one of its steps
	replies      uint32
	waited       int64 // milliseconds, all replies together
}

// entries returns the bounds of the messages in the steps that end with one: log.Entries[lo:hi].
func (t *Tracker) entries(log *recent.Log, end, steps int32) (lo, hi int) {
	return log.Range(t.seconds(end-steps)*1000+1, t.seconds(end)*1000+1)
}

// measure counts a window. A reply is a message that follows directly upon one by somebody else, both in the window; whoever goes on talking is not
// replying again.
func (t *Tracker) measure(log *recent.Log, end int32) numbers {
	var n numbers
	clear(t.senders)
	var before *recent.Entry
	var step int32
	var inStep uint32
	lo, hi := t.entries(log, end, t.steps)
	for i := lo; i < hi; i++ {
		if log == t.arriving.Log && i == t.arriving.Index {
			continue
		}
		e := &log.Entries[i]
		n.messages++
		if before == nil || e.Other != before.Other {
			t.senders[e.Other] = struct{}{}
			if before != nil {
				n.replies++
				n.waited += e.Millis() - before.Millis()
			}
		}
		if s := t.stepOf(e.Millis()); before == nil || s != step {
			step, inStep = s, 0
		}
		inStep++
		n.peak = max(n.peak, inStep)
		if step == end {
			n.own = inStep
		}
		before = e
	}
	n.participants = uint32(len(t.senders)) //nolint:gosec // at most messages
	return n
}

// record returns the numbers as they are written to the topic.
func (t *Tracker) record(key string, end int32, n numbers, closed bool) *eventv1.ConversationMetrics {
	length := int64(t.steps) * t.step
	m := &eventv1.ConversationMetrics{
		ConversationId:   key,
		WindowStart:      &timestamppb.Timestamp{Seconds: t.seconds(end) - length},
		WindowEnd:        &timestamppb.Timestamp{Seconds: t.seconds(end)},
		MessageCount:     n.messages,
		ParticipantCount: n.participants,
		Rate:             float64(n.messages) / float64(length),
		Peak:             n.peak,
		Replies:          n.replies,
		State:            eventv1.WindowState_WINDOW_STATE_PROVISIONAL,
		Revision:         2 * n.messages,
	}
	if n.replies > 0 {
		m.ReplySeconds = float64(n.waited) / 1000 / float64(n.replies)
	}
	if closed {
		m.State = eventv1.WindowState_WINDOW_STATE_CLOSED
		m.Revision++
	}
	return m
}
