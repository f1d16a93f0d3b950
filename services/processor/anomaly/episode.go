package anomaly

import (
	"crypto/sha256"
	"encoding/base32"
	"math"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	eventv1 "github.com/earshot/earshot/gen/earshot/event/v1"
	"github.com/earshot/earshot/services/processor/recent"
)

// user is a sender with known episodes; most senders have none.
type user struct {
	name string
	log  *recent.Log // nil until a message came; without entries when all are forgotten
	// episodes are in order of trigger and more than a span apart. retracted ones are kept for their repeats.
	episodes, retracted []*episode
}

// episode is one spell of crossings, from the trigger to the last.
type episode struct {
	user    *user
	id      string
	trigger [16]byte // the trigger's UUID, which orders the episodes of a user
	start   int64    // created_at of the trigger
	end     int64    // created_at of the last crossing
	count   uint32   // most messages in one window, as far as counted: see dirty

	messages      []string // the threshold messages up to the trigger
	positions     []*eventv1.RecordPosition
	conversations []string

	// Windows that end in [dirtyFrom, dirtyTo] have to be counted again; none while dirtyFrom > dirtyTo.
	dirtyFrom, dirtyTo int64
	// changedAt is the log time of the last message that changed the episode. For one that was read back it is the alert's record time, which
	// is never earlier: settling too late repeats an announcement, settling too early swallows one.
	changedAt int64

	said announcement
	// pending: a message changed the episode since it was last announced as settled. What is announced in between does not clear it: in a rebuild, whose
	// batches differ, such an announcement may hold more than the one that was heard.
	pending bool
	repeats int64 // clock at which it is announced again even if nothing changed

	due   int64 // clock at which the detector looks at it again
	index int   // in the detector's queue
}

// announcement is what the world has last heard of an episode.
type announcement struct {
	state        eventv1.AlertState
	count        uint32
	end          int64
	supersededBy string
	revision     uint32
	at           int64 // clock
}

// cleanFrom and cleanTo bound nothing.
const (
	cleanFrom = math.MaxInt64
	cleanTo   = math.MinInt64
)

func (e *episode) retracted() bool { return e.said.state == eventv1.AlertState_ALERT_STATE_RETRACTED }

// dirty tells whether windows have to be counted.
func (e *episode) dirty() bool { return e.dirtyFrom <= e.dirtyTo }

// news tells whether the numbers differ from what was last said.
func (e *episode) news() bool { return e.count != e.said.count || e.end != e.said.end }

// urgent tells whether news should not wait until they are settled. A larger count never should: the messages behind it may soon be forgotten, and after
// a restart nobody could count them again.
func (e *episode) urgent() bool {
	return e.count > e.said.count || e.said.state == eventv1.AlertState_ALERT_STATE_OPEN && e.news()
}

// soil marks windows that end in [from, to] for counting.
func (e *episode) soil(from, to int64) {
	e.dirtyFrom, e.dirtyTo = min(e.dirtyFrom, from), max(e.dirtyTo, to)
}

// refresh counts the windows that end on a dirty message of the episode. Messages that have been forgotten since they were counted take nothing away.
func (e *episode) refresh(span int64) {
	if !e.dirty() {
		return
	}
	from, to := max(e.dirtyFrom, e.start), min(e.dirtyTo, e.end)
	e.dirtyFrom, e.dirtyTo = cleanFrom, cleanTo
	if e.user.log == nil || from > to {
		return
	}
	all := e.user.log.Entries
	i, hi := e.user.log.Range(from, to+1)
	if i == hi {
		return
	}
	lo, _ := e.user.log.Range(all[i].Millis()-span+1, from)
	for ; i < hi; i++ {
		for t := all[i].Millis(); all[lo].Millis() <= t-span; {
			lo++
		}
		e.count = max(e.count, uint32(i-lo+1)) //nolint:gosec // a log is far smaller
	}
}

// remembered tells whether a message is remembered that belongs to the episode, or could join it to another crossing.
func (e *episode) remembered(span int64) bool {
	if e.user.log == nil {
		return false
	}
	lo, hi := e.user.log.Range(e.start-2*span+1, e.end+span+1)
	return lo < hi
}

// absorb takes over what a later episode was, apart from its trigger.
func (e *episode) absorb(loser *episode) {
	e.end, e.count = max(e.end, loser.end), max(e.count, loser.count)
	e.changedAt = max(e.changedAt, loser.changedAt)
	e.pending = true
	e.soil(loser.dirtyFrom, loser.dirtyTo)
}

// cite records the messages up to the trigger, which is the last of them.
func (e *episode) cite(entries []recent.Entry) {
	for i := range entries {
		m := &entries[i]
		e.messages = append(e.messages, m.MessageID())
		e.positions = append(e.positions, &eventv1.RecordPosition{Partition: m.Partition, Offset: m.Offset})
		e.conversations = appendNew(e.conversations, m.Other.Value())
	}
}

func appendNew(list []string, s string) []string {
	for _, have := range list {
		if have == s {
			return list
		}
	}
	return append(list, s)
}

// alert is the episode as last said. The record shares the cited messages, which never change.
func (e *episode) alert(cfg Config, rule string) *eventv1.Alert {
	return &eventv1.Alert{
		AlertId:         e.id,
		UserId:          e.user.name,
		State:           e.said.state,
		TriggeredAt:     stamp(e.start),
		Count:           e.said.count,
		Threshold:       uint32(cfg.Threshold),          //nolint:gosec // at most 1000
		SpanSeconds:     uint32(cfg.Span / time.Second), //nolint:gosec // at most an hour
		WindowStart:     stamp(e.start - cfg.Span.Milliseconds()),
		WindowEnd:       stamp(e.said.end),
		MessageIds:      e.messages,
		Positions:       e.positions,
		ConversationIds: e.conversations,
		SupersededBy:    e.said.supersededBy,
		Revision:        e.said.revision,
		Rule:            rule,
	}
}

func stamp(ms int64) *timestamppb.Timestamp { return timestamppb.New(time.UnixMilli(ms)) }

var lower32 = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// alertID is the same for the same rule, user and trigger. The lengths of rule and message id are known, so that no two triples run together.
func alertID(rule, user, messageID string) string {
	h := sha256.Sum256([]byte(rule + "\x00" + user + messageID))
	return "alert-" + lower32.EncodeToString(h[:15])
}

// queue is a heap of episodes by due, for container/heap.
type queue []*episode

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].due < q[j].due }
func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}

func (q *queue) Push(x any) {
	e := x.(*episode)
	e.index = len(*q)
	*q = append(*q, e)
}

func (q *queue) Pop() any {
	last := len(*q) - 1
	e := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	return e
}
