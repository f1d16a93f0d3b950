package simulator

import (
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	apiv1 "github.com/earshot/earshot/gen/earshot/api/v1"
)

// The episodes must be those of the rule as it is written down, computed slowly.
func TestTruthOfAlerts(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	for range 300 {
		tr := &truth{threshold: 2 + r.IntN(4), span: time.Duration(5+r.IntN(20)) * time.Second, senders: map[string]*senderTruth{}}
		at := noon
		var times []time.Time
		var episodes []alertTruth
		for i := range 60 {
			at = at.Add(time.Duration(1+r.IntN(int(12*time.Second/time.Millisecond))) * time.Millisecond)
			times = append(times, at)
			n := 0
			for _, b := range times {
				if b.After(at.Add(-tr.span)) {
					n++
				}
			}
			if n >= tr.threshold {
				if len(episodes) == 0 || at.Sub(episodes[len(episodes)-1].WindowEnd) > tr.span {
					episodes = append(episodes, alertTruth{TriggeredAt: at})
				}
				last := &episodes[len(episodes)-1]
				last.WindowEnd, last.Count = at, max(last.Count, n)
			}
			tr.planned(event{at: at, message: &apiv1.SendMessageRequest{SenderId: "alice", MessageId: strconv.Itoa(i)}})
			if tr.found != len(episodes) {
				t.Fatalf("message %d: %d episodes, want %d", i, tr.found, len(episodes))
			}
			if len(episodes) == 0 {
				continue
			}
			got, want := tr.senders["alice"].episode, episodes[len(episodes)-1]
			if !got.TriggeredAt.Equal(want.TriggeredAt) || !got.WindowEnd.Equal(want.WindowEnd) || got.Count != want.Count || len(got.MessageIDs) != tr.threshold {
				t.Fatalf("message %d: got %+v, want %+v", i, got, want)
			}
		}
	}
}
