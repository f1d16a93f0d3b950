package trend

import (
	"fmt"
	"math"
	"slices"
	"testing"

	eventv1 "github.com/earshot/earshot/gen/earshot/event/v1"
	"google.golang.org/protobuf/proto"
)

// total makes a record: the count of one term in the pane that begins at a second.
func total(source int32, logSecond float64, paneSecond float64, term string, count uint32, senders ...uint64) *eventv1.TermTotals {
	return &eventv1.TermTotals{SourcePartition: source, LogTimeMs: sec(logSecond), Panes: []*eventv1.TermPane{{
		StartMs: sec(paneSecond), Terms: []*eventv1.TermTotal{{Term: term, Count: count, Senders: senders}},
	}}}
}

func sec(s float64) int64 { return start + int64(s*1000) }

// ear collects what a Ranker announces.
type ear struct{ got []string }

func (e *ear) emit(_ string, v proto.Message) {
	t := v.(*eventv1.Trend)
	state := "provisional"
	if t.State == eventv1.WindowState_WINDOW_STATE_CLOSED {
		state = "closed"
	}
	e.got = append(e.got, fmt.Sprintf("%s@%d %d by %d %s", t.Term, t.WindowStart.Seconds-start/1000, t.Count, t.Senders, state))
}

func (e *ear) want(t *testing.T, when string, want ...string) {
	t.Helper()
	if !slices.Equal(e.got, want) {
		t.Errorf("%s: announced %q, want %q", when, e.got, want)
	}
	e.got = nil
}

func oneWindow() Config {
	c := DefaultConfig()
	c.Window, c.Advance = 30_000_000_000, 30_000_000_000
	return c
}

func TestAnnouncedWhileItChangesAndWhenSettled(t *testing.T) {
	r, e := NewRanker(oneWindow()), &ear{}
	r.Merge(total(0, 2, 0, "macros", 2, 1, 2))
	r.Advance(sec(2), e.emit)
	e.want(t, "two uses")
	r.Merge(total(0, 4, 0, "macros", 3, 1, 2))
	r.Advance(sec(4), e.emit)
	e.want(t, "three uses", "macros@0 3 by 2 provisional")
	r.Merge(total(1, 6, 0, "macros", 1, 7))
	r.Advance(sec(8), e.emit)
	e.want(t, "changed 4 s later")
	r.Advance(sec(9), e.emit)
	e.want(t, "5 s later", "macros@0 4 by 3 provisional")
	r.Advance(sec(39.999), e.emit)
	e.want(t, "before 10 s past the end")
	r.Advance(sec(40), e.emit)
	e.want(t, "10 s past the end", "macros@0 4 by 3 closed")
	r.Merge(total(0, 50, 0, "macros", 5, 1, 2, 3))
	r.Merge(total(1, 50, 0, "macros", 1, 7)) // again
	r.Advance(sec(59), e.emit)
	e.want(t, "before the straggler settles")
	r.Advance(sec(60), e.emit)
	e.want(t, "10 s after the straggler", "macros@0 6 by 4 closed")
	r.Merge(total(0, 61, 0, "macros", 4, 1, 2))
	r.Advance(sec(100), e.emit)
	e.want(t, "totals of long ago")
}

func TestPartsOfAFlushSettleTogether(t *testing.T) {
	r, e := NewRanker(oneWindow()), &ear{}
	r.Merge(&eventv1.TermTotals{LogTimeMs: sec(50)})
	r.Merge(total(0, 50, 0, "macros", 3, 1)) // the first record of a flush at 55 s
	r.Merge(total(0, 55, 0, "syntax", 3, 1))
	r.Advance(sec(64), e.emit)
	e.got = nil
	r.Merge(&eventv1.TermTotals{LogTimeMs: sec(65)})
	r.Advance(sec(65), e.emit)
	e.want(t, "10 s after the last part", "macros@0 3 by 1 closed", "syntax@0 3 by 1 closed")
}

func TestScoreIsAgainstTheFifteenWindowsBefore(t *testing.T) {
	r := NewRanker(DefaultConfig())
	for pane := -61; pane < 4; pane++ { // one use a pane: four a window; the pane at -61 is too old to count
		count := uint32(1)
		if pane == -61 {
			count = 1000
		}
		r.Merge(total(0, 0, float64(pane)*30, "usual", count, 1))
	}
	r.Merge(total(0, 0, 0, "sudden", 9, 1))
	var usual, sudden *eventv1.Trend
	r.Advance(sec(300), func(_ string, v proto.Message) {
		if tr := v.(*eventv1.Trend); tr.WindowStart.Seconds == start/1000 {
			if tr.Term == "usual" {
				usual = tr
			} else {
				sudden = tr
			}
		}
	})
	if usual.Baseline != 4 || usual.Score != 0 || usual.Count != 4 {
		t.Errorf("usual: %v, want 4 against 4", usual)
	}
	if sudden.Baseline != 0 || sudden.Score != 9 {
		t.Errorf("sudden: %v, want 9 against nothing", sudden)
	}
	r = NewRanker(DefaultConfig())
	r.Merge(total(0, 0, -60, "rising", 30, 1))
	r.Merge(total(0, 0, 0, "rising", 12, 1))
	r.Advance(sec(300), func(_ string, v proto.Message) {
		if tr := v.(*eventv1.Trend); tr.WindowStart.Seconds == start/1000 && (tr.Baseline != 2 || math.Abs(tr.Score-10/math.Sqrt2) > 1e-12) {
			t.Errorf("rising: %v, want (12-2)/√2", tr)
		}
	})
}

func TestTheBestAndWhatWasAnnouncedBefore(t *testing.T) {
	cfg := oneWindow()
	cfg.Top = 2
	r, e := NewRanker(cfg), &ear{}
	for i, term := range []string{"aaaa", "bbbb", "cccc", "dddd"} {
		r.Merge(total(0, 1, 0, term, uint32(5-i), 1))
	}
	r.Advance(sec(1), e.emit)
	e.want(t, "the two best", "aaaa@0 5 by 1 provisional", "bbbb@0 4 by 1 provisional")
	r.Merge(total(0, 2, 0, "dddd", 9, 1))
	r.Advance(sec(6), e.emit)
	e.want(t, "a new one among them", "dddd@0 9 by 1 provisional")
	r.Advance(sec(60), e.emit)
	e.want(t, "closed, the one that fell behind with them", "dddd@0 9 by 1 closed", "aaaa@0 5 by 1 closed", "bbbb@0 4 by 1 closed")
}

func TestSixtyFourSendersOrMore(t *testing.T) {
	r, e := NewRanker(oneWindow()), &ear{}
	var senders []uint64
	for i := range uint64(64) {
		senders = append(senders, i)
	}
	r.Merge(total(0, 1, 0, "macros", 63, senders[:63]...))
	r.Merge(total(1, 1, 0, "macros", 63, senders[:63]...))
	r.Merge(total(0, 1, 0, "syntax", 64, senders...))
	r.Merge(total(1, 1, 0, "syntax", 1, 99))
	r.Advance(sec(60), e.emit)
	e.want(t, "", "macros@0 126 by 63 closed", "syntax@0 65 by 64 closed")
}

func TestForgottenWithinBounds(t *testing.T) {
	cfg := oneWindow()
	cfg.RankerTerms, cfg.PaneTerms = 1_000, 1_000
	r, e := NewRanker(cfg), &ear{}
	for pane := range 50 {
		for i := range 100 {
			r.Merge(total(0, float64(pane), float64(pane)*30-86_400, fmt.Sprintf("term%d", i), 3, 1))
			if r.tallies > cfg.RankerTerms || len(r.terms) > 100 {
				t.Fatalf("%d tallies of %d terms", r.tallies, len(r.terms))
			}
		}
	}
	for _, second := range []float64{50, 4000, 4010, 4020} { // what is announced late is forgotten after that
		r.Advance(sec(second), e.emit)
	}
	if n := len(r.stretch) + len(r.terms) + len(r.windows) + r.tallies; n > 0 {
		t.Errorf("%d things held after an hour", n)
	}
}

func TestApproximateIsSaid(t *testing.T) {
	r := NewRanker(oneWindow())
	tt := total(0, 1, 0, "macros", 3, 1)
	tt.Panes[0].Approximate = true
	r.Merge(tt)
	r.Merge(total(0, 2, 30, "macros", 3, 1))
	said := map[int64]bool{}
	r.Advance(sec(100), func(_ string, v proto.Message) {
		tr := v.(*eventv1.Trend)
		said[tr.WindowStart.Seconds-start/1000] = tr.Approximate
	})
	if !said[0] || said[30] || len(said) != 2 {
		t.Errorf("approximate: %v, want the first window only", said)
	}
}
