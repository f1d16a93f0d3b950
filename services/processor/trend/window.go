package trend

import (
	"cmp"
	"math"
	"slices"

	eventv1 "github.com/earshot/earshot/gen/earshot/event/v1"
	"github.com/earshot/earshot/services/processor/recent"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// window is a window in which a term reached MinCount, or may.
type window struct {
	first  int64               // pane it begins with
	terms  map[*term]announced // used at least MinCount times, with what was said of them
	told   int64               // watermark of the last ranking
	fresh  bool                // changed since
	open   bool                // not yet closed, or changed since
	closed bool                // has been closed at least once: from then on it is only closed again
	rough  bool                // lost a pane to bound memory
}

// announced is what was last said of a term in a window.
type announced struct {
	count, senders uint32
	closed, rough  bool
}

// ranked is a term in a window.
type ranked struct {
	term            *term
	count           uint32
	score, baseline float64
}

// better orders by score, then count, then the word.
func better(a, b ranked) int {
	return cmp.Or(cmp.Compare(b.score, a.score), cmp.Compare(b.count, a.count), cmp.Compare(a.term.text, b.term.text))
}

// offer puts a term that changed in a pane among those of each window where it is used enough.
func (r *Ranker) offer(t *term, pane int64) {
	for first := pane - r.panes + 1; first <= pane; first++ {
		if int(t.sum(first, first+r.panes)) < r.cfg.MinCount {
			continue
		}
		w := r.windows[first]
		if w == nil {
			w = &window{first: first, terms: map[*term]announced{}, told: math.MinInt64}
			r.windows[first] = w
		}
		if _, ok := w.terms[t]; !ok {
			w.terms[t] = announced{}
		}
	}
}

// wake notes that a pane changed.
func (r *Ranker) wake(pane int64) {
	for first := pane - r.panes + 1; first <= pane; first++ {
		if w := r.windows[first]; w != nil {
			w.fresh, w.open = true, true
		}
	}
}

// announceDue announces the windows that are due, the oldest first, and forgets those that can change no more.
func (r *Ranker) announceDue(emit recent.Emit) {
	type ranking struct {
		*window
		close bool
	}
	var due []ranking
	for first, w := range r.windows {
		changed, touched := r.times(w)
		end := (first + r.panes) * r.pane
		switch settled := max(end, changed) + settle.Milliseconds(); {
		case w.open && r.clock >= settled:
			due = append(due, ranking{w, true})
		case w.fresh && !w.closed && (w.told == math.MinInt64 || r.clock >= w.told+every.Milliseconds()):
			due = append(due, ranking{w, false})
		case !w.open && r.clock >= touched+r.keep:
			delete(r.windows, first)
		}
	}
	slices.SortFunc(due, func(a, b ranking) int { return cmp.Compare(a.first, b.first) })
	for _, w := range due {
		r.announce(w.window, w.close, emit)
		w.told, w.fresh = r.clock, false
		if w.close {
			w.open, w.closed = false, true
		}
	}
}

// times returns the log times at which a window was last changed and last touched.
func (r *Ranker) times(w *window) (changed, touched int64) {
	for number := w.first; number < w.first+r.panes; number++ {
		if s := r.stretch[number]; s != nil {
			changed, touched = max(changed, s.changed), max(touched, s.touched)
		}
	}
	return changed, touched
}

// announce emits the best terms of a window, as far as they changed; when it is closed, also those announced before that are no longer among the best.
func (r *Ranker) announce(w *window, closed bool, emit recent.Emit) {
	rough := w.rough
	for number := w.first; number < w.first+r.panes; number++ {
		if s := r.stretch[number]; s != nil && s.rough {
			rough = true
		}
	}
	best := make([]ranked, 0, r.cfg.Top+1) // sorted
	var behind []ranked
	for t, said := range w.terms {
		c := r.rank(w, t)
		if c.count < said.count {
			continue // a pane was lost; what was said is better
		}
		i, _ := slices.BinarySearchFunc(best, c, better)
		if i < r.cfg.Top {
			best = slices.Insert(best, i, c)
			if len(best) <= r.cfg.Top {
				continue
			}
			c, best = best[r.cfg.Top], best[:r.cfg.Top]
		}
		if closed && w.terms[c.term].count > 0 {
			behind = append(behind, c)
		}
	}
	slices.SortFunc(behind, better)
	for _, c := range append(best, behind...) {
		now := announced{count: c.count, senders: r.senders(w, c.term), closed: closed, rough: rough}
		if now == w.terms[c.term] {
			continue
		}
		w.terms[c.term] = now
		emit(c.term.text, r.trend(w, c, now))
	}
}

// rank scores a term: how far its count is from the usual one, in standard deviations of a Poisson process with that mean.
func (r *Ranker) rank(w *window, t *term) ranked {
	before := t.sum(w.first-baselines*r.panes, w.first)
	c := ranked{term: t, count: t.sum(w.first, w.first+r.panes), baseline: float64(before) / baselines}
	c.score = (float64(c.count) - c.baseline) / math.Sqrt(max(c.baseline, 1))
	return c
}

// senders returns the number of distinct senders of a term in a window; 64 says 64 or more.
func (r *Ranker) senders(w *window, t *term) uint32 {
	r.hashes = r.hashes[:0]
	for number := w.first; number < w.first+r.panes; number++ {
		if s := r.stretch[number]; s != nil && s.details[t] != nil {
			r.hashes = append(r.hashes, s.details[t].senders...)
		}
	}
	slices.Sort(r.hashes)
	return uint32(min(len(slices.Compact(r.hashes)), maxSenders)) //nolint:gosec // at most 64
}

// trend returns the record of a term in a window.
func (r *Ranker) trend(w *window, c ranked, said announced) *eventv1.Trend {
	t := &eventv1.Trend{
		Term:        c.term.text,
		WindowStart: timestamp(w.first * r.pane),
		WindowEnd:   timestamp((w.first + r.panes) * r.pane),
		Count:       said.count,
		Senders:     said.senders,
		Score:       c.score,
		State:       eventv1.WindowState_WINDOW_STATE_PROVISIONAL,
		Approximate: said.rough,
		Baseline:    c.baseline,
		Revision:    2 * said.count,
	}
	if said.closed {
		t.State = eventv1.WindowState_WINDOW_STATE_CLOSED
		t.Revision++
	}
	return t
}

func timestamp(ms int64) *timestamppb.Timestamp {
	return &timestamppb.Timestamp{Seconds: ms / 1000, Nanos: int32(ms % 1000 * 1e6)} //nolint:gosec // below 1e9
}
