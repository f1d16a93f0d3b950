package processor

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	eventv1 "github.com/earshot/earshot/gen/earshot/event/v1"
	"github.com/earshot/earshot/services/internal/kafka"
	"github.com/earshot/earshot/services/processor/recent"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
)

// A probe says of each message that it saw it, so that a test of the host needs no algorithm: what is said must be what counts, no more and no less.
type probe struct{ partition int32 }

func (p probe) Observe(at recent.Seen, emit recent.Emit) {
	e := &at.Log.Entries[at.Index]
	name := at.Log.Key + " " + e.Other.Value() + " " + e.MessageID()
	emit(at.Log.Key, &eventv1.UserActivity{UserId: name})
}

func (p probe) Advance(int64, recent.Emit) {}

type conversationProbe struct{}

func (conversationProbe) Observe(m *eventv1.Message, at recent.Seen, emit recent.Emit) {
	if at.First {
		emit(m.ConversationId, &eventv1.ConversationMetrics{ConversationId: m.SenderId + " " + m.ConversationId + " " + m.MessageId})
	}
}

func (conversationProbe) Advance(int64, recent.Emit) {}

// values reads all records of a topic.
func values[T proto.Message](t *testing.T, records [][]kafka.Record, of func() T, each func(T)) {
	t.Helper()
	for _, part := range records {
		for _, r := range part {
			v := of()
			if err := proto.Unmarshal(r.Value, v); err != nil {
				t.Fatal(err)
			}
			each(v)
		}
	}
}

func TestEachMessageReachesItsProcessors(t *testing.T) {
	seeds(t, 60, func(t *testing.T, seed uint64) {
		rnd := rand.New(rand.NewPCG(seed, 2))
		w := newWorld(seed, 1+int(seed%3), DefaultConfig(), factories{
			byConversation: []ConversationFactory{{"probe", func(int32) ByConversation { return conversationProbe{} }}},
			bySender:       []SenderFactory{{"probe", func(p int32) BySender { return probe{p} }}},
		})
		w.cfg.BatchEvents = 1 + rnd.IntN(20)
		all := traffic(rnd, w.clock, 300, 1500)
		w.run(all, int(seed%7)*10)

		want := map[string]bool{}
		for _, s := range kept(all) {
			want[s.m.SenderId+" "+s.m.ConversationId+" "+s.m.MessageId] = true
		}
		bySender, byConversation := map[string]bool{}, map[string]bool{}
		values(t, w.broker.topics[w.reg.UserActivity.Name], func() *eventv1.UserActivity { return &eventv1.UserActivity{} }, func(v *eventv1.UserActivity) { bySender[v.UserId] = true })
		values(t, w.broker.topics[w.reg.ConversationMetrics.Name], func() *eventv1.ConversationMetrics { return &eventv1.ConversationMetrics{} },
			func(v *eventv1.ConversationMetrics) { byConversation[v.ConversationId] = true })
		if diff := cmp.Diff(slices.Sorted(maps.Keys(want)), slices.Sorted(maps.Keys(bySender))); diff != "" {
			t.Errorf("by sender (-sent +seen), %d gaps:\n%s", w.gaps, diff)
		}
		if diff := cmp.Diff(slices.Sorted(maps.Keys(want)), slices.Sorted(maps.Keys(byConversation))); diff != "" {
			t.Errorf("by conversation (-sent +seen):\n%s", diff)
		}
		t.Log(fmt.Sprint(len(want), " messages, ", w.gaps, " gaps"))
	})
}
