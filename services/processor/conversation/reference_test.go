package conversation

import (
	"cmp"
	"slices"

	eventv1 "github.com/earshot/earshot/gen/earshot/event/v1"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// message is what a test sends. Its number makes its id: of two at the same moment the larger comes later.
type message struct {
	conversation, sender string
	created              int64 // ms
	number               uint64
}

// reference computes every record the slow way: sort everything, then look at each step. It also answers for windows that have no record.
type reference struct {
	cfg  Config
	logs map[string][]message
}

func newReference(cfg Config, all []message) reference {
	r := reference{cfg: cfg, logs: map[string][]message{}}
	type identity struct {
		conversation string
		created      int64
		number       uint64
	}
	seen := map[identity]bool{}
	for _, m := range all {
		id := identity{m.conversation, m.created, m.number}
		if !seen[id] {
			seen[id] = true
			r.logs[m.conversation] = append(r.logs[m.conversation], m)
		}
	}
	for _, l := range r.logs {
		slices.SortFunc(l, func(a, b message) int {
			return cmp.Or(cmp.Compare(a.created, b.created), cmp.Compare(a.number, b.number))
		})
	}
	return r
}

type key struct {
	conversation string
	end          int64 // ms
}

// record returns the closed numbers of one window.
func (r reference) record(k key) *eventv1.ConversationMetrics {
	window, step := r.cfg.Window.Milliseconds(), r.cfg.Step.Milliseconds()
	var in []message
	for _, m := range r.logs[k.conversation] {
		if m.created > k.end-window && m.created <= k.end {
			in = append(in, m)
		}
	}
	senders := map[string]bool{}
	peaks := map[int64]uint32{}
	out := &eventv1.ConversationMetrics{
		ConversationId: k.conversation,
		WindowStart:    timestamppb.New(at(k.end - window)),
		WindowEnd:      timestamppb.New(at(k.end)),
		MessageCount:   uint32(len(in)),
		Rate:           float64(len(in)) / r.cfg.Window.Seconds(),
		State:          eventv1.WindowState_WINDOW_STATE_CLOSED,
		Revision:       uint32(2*len(in) + 1),
	}
	var waited int64
	for i, m := range in {
		senders[m.sender] = true
		bucket := (k.end - m.created) / step
		peaks[bucket]++
		out.Peak = max(out.Peak, peaks[bucket])
		if i > 0 && in[i-1].sender != m.sender {
			out.Replies++
			waited += m.created - in[i-1].created
		}
	}
	out.ParticipantCount = uint32(len(senders))
	if out.Replies > 0 {
		out.ReplySeconds = float64(waited) / 1000 / float64(out.Replies)
	}
	return out
}

// keys returns the windows that have a record: steps with messages, and the first whose window is empty again.
func (r reference) keys() []key {
	window, step := r.cfg.Window.Milliseconds(), r.cfg.Step.Milliseconds()
	set := map[key]bool{}
	for name, log := range r.logs {
		for i, m := range log {
			end := (m.created + step - 1) / step * step
			set[key{name, end}] = true
			if i == len(log)-1 || log[i+1].created > end+window {
				set[key{name, end + window}] = true
			}
		}
	}
	var out []key
	for k := range set {
		out = append(out, k)
	}
	return out
}
