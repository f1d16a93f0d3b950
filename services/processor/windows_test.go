package processor

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	eventv1 "github.com/earshot/earshot/gen/earshot/event/v1"
	"github.com/earshot/earshot/services/internal/kafka"
	"github.com/earshot/earshot/services/processor/activity"
	"github.com/earshot/earshot/services/processor/conversation"
	"github.com/earshot/earshot/services/processor/trend"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
)

// window names a window of a user, a conversation or a word by its key and a time.
type window struct {
	key string
	at  int64
}

// best returns the record with the largest revision for each window.
func best[T interface {
	proto.Message
	GetRevision() uint32
}](t *testing.T, parts [][]kafka.Record, of func() T, name func(T) window) map[window]T {
	t.Helper()
	out := map[window]T{}
	values(t, parts, of, func(v T) {
		if old, ok := out[name(v)]; !ok || v.GetRevision() > old.GetRevision() {
			out[name(v)] = v
		}
	})
	return out
}

// The slow references: for each window, look at all messages.

func wantActivity(msgs []sim) map[window]string {
	type minute struct {
		n, last       int64
		conversations map[string]bool
	}
	all := map[window]*minute{}
	for _, s := range msgs {
		k := window{s.m.SenderId, s.id.Millis() / 60_000 * 60_000}
		if all[k] == nil {
			all[k] = &minute{conversations: map[string]bool{}}
		}
		all[k].n++
		all[k].last = max(all[k].last, s.id.Millis())
		all[k].conversations[s.m.ConversationId] = true
	}
	want := map[window]string{}
	for k, m := range all {
		want[k] = fmt.Sprint(m.n, len(m.conversations), m.last, eventv1.WindowState_WINDOW_STATE_CLOSED)
	}
	return want
}

// wantConversations returns the numbers of every window that anyone might tell of, and the windows that must be told of.
func wantConversations(msgs []sim) (numbers func(window) string, must []window) {
	steps := map[window]bool{}
	by := map[string][]sim{}
	for _, s := range msgs {
		by[s.m.ConversationId] = append(by[s.m.ConversationId], s)
		steps[window{s.m.ConversationId, (s.id.Millis() + 4999) / 5000 * 5000}] = true
	}
	for k := range steps {
		must = append(must, k)
		silent := true
		for later := int64(5000); later <= 30_000; later += 5000 {
			silent = silent && !steps[window{k.key, k.at + later}]
		}
		if silent {
			must = append(must, window{k.key, k.at + 30_000})
		}
	}
	return func(k window) string {
		var in []sim
		perStep, senders, replies, waited := map[int64]int{}, map[string]bool{}, 0, int64(0)
		for _, s := range by[k.key] {
			if t := s.id.Millis(); t > k.at-30_000 && t <= k.at {
				in = append(in, s)
			}
		}
		slices.SortFunc(in, func(a, b sim) int { return bytes.Compare(a.id[:], b.id[:]) })
		peak := 0
		for i, s := range in {
			senders[s.m.SenderId] = true
			step := (s.id.Millis() + 4999) / 5000
			perStep[step]++
			peak = max(peak, perStep[step])
			if i > 0 && in[i-1].m.SenderId != s.m.SenderId {
				replies++
				waited += s.id.Millis() - in[i-1].id.Millis()
			}
		}
		mean := 0.0
		if replies > 0 {
			mean = float64(waited) / 1000 / float64(replies)
		}
		return fmt.Sprintf("%d %d %d %.6f %d %v", len(in), len(senders), peak, mean, replies, eventv1.WindowState_WINDOW_STATE_CLOSED)
	}, must
}

func wantTrends(msgs []sim) map[window]string {
	type use struct {
		n       int
		senders map[string]bool
	}
	all := map[window]*use{}
	for _, s := range msgs {
		pane := s.id.Millis() / 30_000 * 30_000
		for start := pane - 90_000; start <= pane; start += 30_000 {
			for _, word := range strings.Fields(s.m.Content) {
				k := window{word, start}
				if all[k] == nil {
					all[k] = &use{senders: map[string]bool{}}
				}
				all[k].n++
				all[k].senders[s.m.SenderId] = true
			}
		}
	}
	want := map[window]string{}
	for k, u := range all {
		if u.n >= 3 {
			want[k] = fmt.Sprint(u.n, len(u.senders), eventv1.WindowState_WINDOW_STATE_CLOSED)
		}
	}
	return want
}

func everything(kcfg kafka.Topics, threshold int) factories {
	return factories{
		byConversation: []ConversationFactory{
			{"conversation", func(int32) ByConversation { return conversation.New(conversation.DefaultConfig()) }},
			{"trend", func(p int32) ByConversation {
				return trend.NewCounter(trend.DefaultConfig(), p, kcfg.TermTotals.Partitions)
			}},
		},
		bySender: []SenderFactory{
			detector(threshold),
			{"activity", func(int32) BySender { return activity.New() }},
		},
		byTerm: []TermFactory{{"trend", func(int32) ByTerm { return trend.NewRanker(trend.DefaultConfig()) }}},
	}
}

func heardActivity(t *testing.T, parts [][]kafka.Record) map[window]string {
	t.Helper()
	users := map[window]string{}
	for k, v := range best(t, parts, func() *eventv1.UserActivity { return &eventv1.UserActivity{} },
		func(v *eventv1.UserActivity) window { return window{v.UserId, v.WindowStart.AsTime().UnixMilli()} }) {
		users[k] = fmt.Sprint(v.MessageCount, v.ActiveConversations, v.LastActive.AsTime().UnixMilli(), v.State)
	}
	return users
}

// wrongWindows compares all windows that hosts have written with the slow references, and returns what is wrong. Words are compared when the
// messages hold nothing but words that count, parted by spaces.
func wrongWindows(t *testing.T, topic func(kafka.Topic) [][]kafka.Record, reg kafka.Topics, msgs []sim, plainWords bool) string {
	t.Helper()
	var wrong strings.Builder
	users := heardActivity(t, topic(reg.UserActivity))
	if diff := cmp.Diff(wantActivity(msgs), users, cmp.AllowUnexported(window{})); diff != "" {
		fmt.Fprintf(&wrong, "activity (-want +got):\n%s\n", diff)
	}

	numbers, must := wantConversations(msgs)
	conversations := best(t, topic(reg.ConversationMetrics), func() *eventv1.ConversationMetrics { return &eventv1.ConversationMetrics{} },
		func(v *eventv1.ConversationMetrics) window {
			return window{v.ConversationId, v.WindowEnd.AsTime().UnixMilli()}
		})
	for k, v := range conversations {
		got := fmt.Sprintf("%d %d %d %.6f %d %v", v.MessageCount, v.ParticipantCount, v.Peak, v.ReplySeconds, v.Replies, v.State)
		if want := numbers(k); got != want {
			fmt.Fprintf(&wrong, "conversation %v: got %s, want %s\n", k, got, want)
		}
	}
	for _, k := range must {
		if conversations[k] == nil {
			fmt.Fprintf(&wrong, "conversation %v: not told, want %s\n", k, numbers(k))
		}
	}

	if !plainWords {
		return wrong.String()
	}
	words := map[window]string{}
	for k, v := range best(t, topic(reg.Trends), func() *eventv1.Trend { return &eventv1.Trend{} },
		func(v *eventv1.Trend) window { return window{v.Term, v.WindowStart.AsTime().UnixMilli()} }) {
		words[k] = fmt.Sprint(v.Count, v.Senders, v.State)
	}
	if diff := cmp.Diff(wantTrends(msgs), words, cmp.AllowUnexported(window{})); diff != "" {
		fmt.Fprintf(&wrong, "trends (-want +got):\n%s\n", diff)
	}
	return wrong.String()
}

func TestWindowsEqualTheReference(t *testing.T) {
	seeds(t, 30, func(t *testing.T, seed uint64) {
		rnd := rand.New(rand.NewPCG(seed, 4))
		w := newWorld(seed, 1+int(seed%3), DefaultConfig(), factories{})
		w.factories = everything(w.reg, 5)
		w = newWorld(seed, 1+int(seed%3), DefaultConfig(), w.factories)
		// Skewed within the margin of idleness only. Beyond it, what counts stays right, but one thing may not: a host that was killed may have told of a
		// silence that a record long under way, or the clock of another reader, proves wrong to the next host, which does not know of the telling.
		all := skewed(rnd, w.clock, 300, 1500+rnd.IntN(4000), idleMargin, 1)
		w.run(all, int(seed%5)*10)
		if wrong := wrongWindows(t, func(topic kafka.Topic) [][]kafka.Record { return w.broker.topics[topic.Name] }, w.reg, kept(all), true); wrong != "" {
			t.Error(wrong)
		}
		if diff := cmp.Diff(wantAlerts(kept(all), 5), heardAlerts(t, w.broker.topics[w.reg.Alerts.Name])); diff != "" {
			t.Errorf("alerts (-want +got):\n%s", diff)
		}
	})
}
