package processor

import (
	"bytes"
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	eventv1 "github.com/earshot/earshot/gen/earshot/event/v1"
	"github.com/earshot/earshot/services/internal/kafka"
	"github.com/earshot/earshot/services/processor/anomaly"
	"google.golang.org/protobuf/proto"

	gocmp "github.com/google/go-cmp/cmp"
)

// episode is what must be true of an alert, whatever happened on the way.
type episode struct {
	State       eventv1.AlertState
	Count       uint32
	TriggeredAt int64
	WindowEnd   int64
	MessageIDs  string
}

// wantAlerts is the slow reference: sort, then count.
func wantAlerts(msgs []sim, threshold int) map[string]episode {
	const span = 60_000
	bySender := map[string][]sim{}
	for _, s := range msgs {
		bySender[s.m.SenderId] = append(bySender[s.m.SenderId], s)
	}
	want := map[string]episode{}
	for sender, list := range bySender {
		slices.SortFunc(list, func(a, b sim) int {
			return cmp.Or(bytes.Compare(a.id[:], b.id[:]), cmp.Compare(a.m.ConversationId, b.m.ConversationId))
		})
		name, lo := "", 0
		for i, s := range list {
			t := s.id.Millis()
			for list[lo].id.Millis() <= t-span {
				lo++
			}
			n := i - lo + 1
			if n < threshold {
				continue
			}
			e, ok := want[name]
			if !ok || t-e.WindowEnd > span {
				name = sender + " " + s.m.MessageId
				e = episode{State: eventv1.AlertState_ALERT_STATE_RESOLVED, TriggeredAt: t}
				for _, m := range list[i-threshold+1 : i+1] {
					e.MessageIDs += m.m.MessageId + " "
				}
			}
			e.Count, e.WindowEnd = max(e.Count, uint32(n)), t //nolint:gosec // few
			want[name] = e
		}
	}
	return want
}

// heardAlerts returns what is left of all alerts in a topic, as the table of alerts does it: the furthest state, the largest count.
func heardAlerts(t *testing.T, parts [][]kafka.Record) map[string]episode {
	t.Helper()
	byID := map[string]*eventv1.Alert{}
	values(t, parts, func() *eventv1.Alert { return &eventv1.Alert{} }, func(a *eventv1.Alert) {
		old := byID[a.AlertId]
		if old == nil {
			byID[a.AlertId] = a
			return
		}
		n := proto.CloneOf(a)
		n.State = max(n.State, old.State) // in order of their numbers
		n.Count = max(n.Count, old.Count)
		if old.WindowEnd.AsTime().After(n.WindowEnd.AsTime()) {
			n.WindowEnd = old.WindowEnd
		}
		byID[a.AlertId] = n
	})
	heard := map[string]episode{}
	for _, a := range byID {
		if a.State == eventv1.AlertState_ALERT_STATE_RETRACTED {
			continue
		}
		e := episode{State: a.State, Count: a.Count, TriggeredAt: a.TriggeredAt.AsTime().UnixMilli(), WindowEnd: a.WindowEnd.AsTime().UnixMilli()}
		for _, id := range a.MessageIds {
			e.MessageIDs += id + " "
		}
		heard[a.UserId+" "+a.MessageIds[len(a.MessageIds)-1]] = e
	}
	return heard
}

func detector(threshold int) SenderFactory {
	return SenderFactory{"anomaly", func(int32) BySender { return anomaly.New(anomaly.Config{Threshold: threshold, Span: time.Minute}) }}
}

func TestAlertsEqualTheReference(t *testing.T) {
	seeds(t, 60, func(t *testing.T, seed uint64) {
		rnd := rand.New(rand.NewPCG(seed, 3))
		threshold := 3 + rnd.IntN(5)
		w := newWorld(seed, 1+int(seed%3), DefaultConfig(), factories{bySender: []SenderFactory{detector(threshold)}})
		all := traffic(rnd, w.clock, 400, 1500+rnd.IntN(6000))
		if seed%2 == 0 { // what is old is replayed: at once, or a day later
			again := len(all)
			later := all[len(all)-1].accepted - all[0].accepted + []int64{1000, 24 * 3600 * 1000}[rnd.IntN(2)]
			for _, s := range all[:again] {
				if s.m.Backfill {
					s.accepted += later
					all = append(all, s)
				}
			}
		}
		w.run(all, int(seed%5)*10)
		want, got := wantAlerts(kept(all), threshold), heardAlerts(t, w.broker.topics[w.reg.Alerts.Name])
		if diff := gocmp.Diff(want, got); diff != "" {
			t.Errorf("threshold %d, %d messages (-want +got):\n%s", threshold, len(all), diff)
		}
		t.Log(fmt.Sprint(len(want), " alerts, ", w.gaps, " gaps"))
	})
}

// New partitions move keys: copies of a message may lie in two of them, and a conversation's windows may be split. By sender everything stays exact.
func TestPartitionsAreAddedUnderWay(t *testing.T) {
	seeds(t, 20, func(t *testing.T, seed uint64) {
		rnd := rand.New(rand.NewPCG(seed, 5))
		w := newWorld(seed, 1+int(seed%3), DefaultConfig(), factories{bySender: everything(kafka.DefaultTopics(), 5).bySender})
		all := traffic(rnd, w.clock, 300, 3000)
		w.growAt = 50 + rnd.IntN(200)
		w.run(all, int(seed%5)*10)
		if diff := gocmp.Diff(wantAlerts(kept(all), 5), heardAlerts(t, w.broker.topics[w.reg.Alerts.Name])); diff != "" {
			t.Errorf("alerts (-want +got):\n%s", diff)
		}
		users := heardActivity(t, w.broker.topics[w.reg.UserActivity.Name])
		if diff := gocmp.Diff(wantActivity(kept(all)), users, gocmp.AllowUnexported(window{})); diff != "" {
			t.Errorf("activity (-want +got):\n%s", diff)
		}
		for _, h := range w.hosts {
			for tp, p := range h.parts {
				if s, ok := p.(*senders); ok && (len(s.sources) != 8 || s.watermark < w.clock-10_000) {
					t.Errorf("%v knows %d partitions, watermark %d s behind", tp, len(s.sources), (w.clock-s.watermark)/1000)
				}
			}
		}
	})
}
