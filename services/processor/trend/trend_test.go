package trend

import (
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// start is a moment well past the epoch, on a pane's edge.
var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC).UnixMilli()

// drawLog draws messages and the order in which they are accepted: live, with up to a minute of delay, or old chat as fast as it is read. Copies may
// come while the first is remembered; and everything may come again, soon or when it is forgotten in part or in whole.
func drawLog(t *rapid.T) []logged {
	live := rapid.Bool().Draw(t, "live")
	names := rapid.SampledFrom([]string{"a", "b", "c", "d", "e"})
	vocabulary := rapid.SampledFrom([]string{"deadline", "Deadline,", "macros", "café", "with", "ok", "東京"})
	moment := rapid.Custom(func(t *rapid.T) int64 {
		edge := rapid.Int64Range(0, 8).Draw(t, "pane") * 30_000
		return start + edge + rapid.SampledFrom([]int64{-1, 0, 1, 15_000, 29_999}).Draw(t, "beside")
	})
	var log []logged
	for i := range rapid.IntRange(1, 60).Draw(t, "messages") {
		text := strings.Join(rapid.SliceOfN(vocabulary, 1, 4).Draw(t, "content"), " ")
		m := message{names.Draw(t, "conversation"), names.Draw(t, "sender"), text, moment.Draw(t, "created"), uint64(i)}
		delay := rapid.Int64Range(0, 60_000).Draw(t, "delay")
		accepted := start + 365*24*3600_000 + delay
		if live {
			accepted = m.created + delay
		}
		log = append(log, logged{m, accepted})
		if rapid.IntRange(0, 3).Draw(t, "copied") == 0 {
			log = append(log, logged{m, accepted + rapid.Int64Range(0, 170_000).Draw(t, "copy")})
		}
	}
	if again := rapid.SampledFrom([]int64{0, 100, 60_000, 185_000, 200_000, 400_000, 3_000_000}).Draw(t, "all again after"); again > 0 {
		for _, r := range log {
			log = append(log, logged{r.message, r.accepted + again})
		}
	}
	slices.SortStableFunc(log, func(a, b logged) int { return int(a.accepted - b.accepted) })
	return log
}

func TestSameAsReference(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cfg := DefaultConfig()
		if rapid.Bool().Draw(t, "other window") {
			cfg.Window, cfg.Advance, cfg.MinCount = time.Minute, 20*time.Second, 1
		}
		m := newMesh(t, cfg, drawLog(t), rapid.IntRange(1, 3).Draw(t, "sources"), rapid.IntRange(1, 2).Draw(t, "terms"))
		m.drive(t)
		m.check()
	})
}

// drive reads the logs at any pace, with idle times, commits and crashes between.
func (m *mesh) drive(t *rapid.T) {
	for range rapid.IntRange(0, 60).Draw(t, "steps") {
		s := m.sources[rapid.IntRange(0, len(m.sources)-1).Draw(t, "source")]
		r := m.terms[rapid.IntRange(0, len(m.terms)-1).Draw(t, "term partition")]
		switch rapid.IntRange(0, 9).Draw(t, "do") {
		case 0:
			s.idle(rapid.Int64Range(0, 20_000).Draw(t, "idle"))
		case 1:
			s.commit()
		case 2:
			s.crash(rapid.IntRange(1, 20).Draw(t, "rebuilt by"))
		case 3:
			r.commit()
		case 4:
			r.crash(rapid.IntRange(1, 20).Draw(t, "rebuilt by"))
		case 5, 6:
			r.read(rapid.IntRange(1, 20).Draw(t, "batch"))
		default:
			s.read(rapid.IntRange(1, 20).Draw(t, "batch"))
		}
	}
}
