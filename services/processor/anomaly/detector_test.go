package anomaly_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/earshot/earshot/services/internal/ident"
	"github.com/earshot/earshot/services/processor/anomaly"
)

const epoch = 1_530_000_000_000 // a day in 2018

// drawMessages draws bursts whose gaps and distances lie around the rule's edges.
func drawMessages(t *rapid.T, cfg anomaly.Config) []message {
	span := cfg.Span.Milliseconds()
	n := int64(cfg.Threshold)
	gaps := []int64{0, 1, span / 20, span / n, (span - 1) / (n - 1), span/(n-1) + 1, span - 1, span, span + 1}
	var out []message
	at := int64(epoch)
	for b := range rapid.IntRange(1, 5).Draw(t, "bursts") {
		at += rapid.SampledFrom([]int64{0, 1, span / 2, span - 1, span, span + 1, 2 * span, 3 * span}).Draw(t, "distance")
		gap := rapid.SampledFrom(gaps).Draw(t, "gap")
		user := fmt.Sprintf("user-%d", rapid.IntRange(0, 1).Draw(t, "user"))
		count := rapid.IntRange(1, int(n)+2).Draw(t, "messages")
		if gap < span/n && rapid.IntRange(0, 9).Draw(t, "long") == 0 {
			gap, count = span/n, 8*int(n) // an episode far longer than any memory
		}
		for k := range count {
			c := fmt.Sprintf("conv-%d", rapid.IntRange(0, 3).Draw(t, "conversation"))
			out = append(out, message{user, c, ident.Hashed(time.UnixMilli(at), user, fmt.Sprint(b, k))})
			at += gap
		}
	}
	return out
}

// drawArrivals keeps the promise: a replay is accepted within a minute, however shuffled; life is accepted at most 60 s late, less
// the second or two in which a crash can take a count along that is about to be announced.
func drawArrivals(t *rapid.T, rnd *rand.Rand, messages []message) []arrival {
	var out []arrival
	if rapid.Bool().Draw(t, "live") {
		for _, m := range messages {
			for range 1 + rnd.IntN(5)/4 { // now and then a copy
				out = append(out, arrival{m, m.id.Millis() + rnd.Int64N(58_000)})
			}
		}
	} else {
		at := int64(epoch) + 86_400_000_000
		for range rapid.IntRange(1, 3).Draw(t, "replays") {
			order := slices.Clone(messages)
			switch rapid.SampledFrom([]string{"in order", "nearly", "shuffled", "reversed"}).Draw(t, "order") {
			case "nearly":
				for i := range order {
					j := min(len(order)-1, i+rnd.IntN(4))
					order[i], order[j] = order[j], order[i]
				}
			case "shuffled":
				rnd.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
			case "reversed":
				slices.Reverse(order)
			}
			for _, m := range order {
				out = append(out, arrival{m, at})
				at += rnd.Int64N(60_000 / int64(len(order)))
			}
			at += rapid.SampledFrom([]int64{0, 3_000, 3_600_000, 86_400_000}).Draw(t, "pause")
		}
	}
	slices.SortStableFunc(out, func(a, b arrival) int { return int(a.at - b.at) })
	return out
}

func TestDetectorEqualsReference(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cfg := anomaly.Config{
			Threshold: rapid.SampledFrom([]int{2, 3, 8}).Draw(t, "threshold"),
			Span:      rapid.SampledFrom([]time.Duration{10 * time.Second, time.Minute, 2 * time.Minute}).Draw(t, "span"),
		}
		messages := drawMessages(t, cfg)
		rnd := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "schedule"), 1))
		w := &world{cfg: cfg, rnd: rnd, crashes: rapid.Bool().Draw(t, "crashes")}
		w.log = rekey(rnd, drawArrivals(t, rnd, messages), rapid.IntRange(1, 4).Draw(t, "partitions"))
		topic := w.run()
		if err := checkWire(topic, w.crashes || w.pauses()); err != nil {
			t.Fatalf("%v\n%s", err, wire(topic))
		}
		tab := table{}
		for _, s := range topic {
			tab.add(s.Alert)
		}
		got, unresolved := tab.episodes()
		if diff := cmp.Diff(reference(cfg, messages), got); diff != "" {
			t.Fatalf("episodes (-reference +detector):\n%s\non the wire:\n%s", diff, wire(topic))
		}
		if unresolved > 0 {
			t.Fatalf("%d episodes were never resolved:\n%s", unresolved, wire(topic))
		}
	})
}

func wire(topic []said) (out string) {
	for _, s := range topic {
		out += fmt.Sprintf("%d %s %v count %d, %d to %d, revision %d, by %s\n", s.at, s.GetAlertId(), s.GetState(), s.GetCount(),
			s.GetTriggeredAt().AsTime().UnixMilli(), s.GetWindowEnd().AsTime().UnixMilli(), s.GetRevision(), s.GetSupersededBy())
	}
	return out
}
