package trend

import (
	"cmp"
	"maps"
	"slices"

	eventv1 "github.com/earshot/earshot/gen/earshot/event/v1"
	"github.com/earshot/earshot/services/processor/recent"
)

// Ranker adds up the totals of all source partitions for the words of one internal partition, and announces the words used unusually much in each window.
// It is not safe for concurrent use.
//
// A window is announced as provisional at most every 5 s of watermark while it changes, and as closed once the watermark is 10 s past its end and past the
// last change; a straggler closes it again. Announced are the Top words by score with at least MinCount uses, as far as they changed since. When a window
// is closed, words that were announced and fell behind are closed with it, so that no provisional number stays behind.
//
// A pane is remembered for half an hour, a window and 60 s of watermark past the last record that touched it. It costs about 40 bytes a word for most
// of that time; its senders, and which source used a word how often, are known until Config.Keep past that record.
type Ranker struct {
	cfg    Config
	pane   int64 // length in ms
	panes  int64 // in a window
	keep   int64 // ms
	totals int64 // ms that totals are kept

	terms   map[string]*term
	stretch map[int64]*stretch
	windows map[int64]*window
	sources map[int32]*source
	tallies int // of all terms

	clock int64 // the furthest watermark, in ms, cut to seconds
	swept int64 // clock of the last look at panes

	hashes []uint64 // scratch
}

// source is one partition of chat.messages.
type source struct {
	logTime int64
	fresh   []*stretch // changed by records that did not move the log time
}

// stretch is a pane as the Ranker sees it.
type stretch struct {
	number  int64
	terms   []*term
	details map[*term]*detail // nil when forgotten: only tallies are left
	changed int64             // log time
	touched int64             // log time
	rough   bool
	lost    bool // details were forgotten
}

// term is a word that was used in the last half hour.
type term struct {
	text    string
	tallies []tally // by pane
}

// tally is a term's use in one pane, over all sources. It never falls.
type tally struct {
	pane  int64
	count uint32
}

// detail is what makes a tally.
type detail struct {
	sources []sourceCount
	senders []uint64 // distinct, of all sources; at most 64
}

type sourceCount struct {
	source int32
	count  uint32
}

// NewRanker returns a Ranker of one internal partition. cfg must be valid.
func NewRanker(cfg Config) *Ranker {
	return &Ranker{
		cfg:     cfg,
		pane:    cfg.Advance.Milliseconds(),
		panes:   cfg.panes(),
		keep:    remembered(cfg),
		totals:  cfg.KeepTotals().Milliseconds(),
		terms:   map[string]*term{},
		stretch: map[int64]*stretch{},
		windows: map[int64]*window{},
		sources: map[int32]*source{},
		clock:   -1,
	}
}

// Merge takes totals: for each source partition, pane and word the largest count stays, and every sender. They may come repeatedly and in any order. t is
// not changed; its strings are kept.
func (r *Ranker) Merge(t *eventv1.TermTotals) {
	src := r.sources[t.SourcePartition]
	if src == nil {
		src = &source{logTime: -1}
		r.sources[t.SourcePartition] = src
	}
	for _, tp := range t.Panes {
		number := tp.StartMs / r.pane
		s := r.stretch[number]
		if s == nil {
			if len(tp.Terms) == 0 {
				continue // renewed, but nothing is known of it
			}
			s = &stretch{number: number}
			r.stretch[number] = s
		}
		s.touched = max(s.touched, t.LogTimeMs)
		changed := tp.Approximate && !s.rough
		s.rough = s.rough || tp.Approximate
		for _, tt := range tp.Terms {
			if r.merge(s, t.SourcePartition, tt) {
				changed = true
			}
		}
		if changed {
			s.changed = max(s.changed, t.LogTimeMs)
			src.fresh = append(src.fresh, s)
			r.wake(number)
		}
	}
	if t.LogTimeMs > src.logTime {
		src.logTime = t.LogTimeMs
		// A flush of several records carries the new log time in the last one: what came in the others changed up to then.
		for _, s := range src.fresh {
			s.changed, s.touched = max(s.changed, t.LogTimeMs), max(s.touched, t.LogTimeMs)
		}
		clear(src.fresh)
		src.fresh = src.fresh[:0]
	}
	if r.tallies > r.cfg.RankerTerms {
		r.shrink()
	}
}

// merge takes the total of one term in one pane and source, and tells whether anything is new.
func (r *Ranker) merge(s *stretch, from int32, total *eventv1.TermTotal) bool {
	t := r.terms[total.Term]
	if t == nil {
		t = &term{text: total.Term}
		r.terms[total.Term] = t
	}
	i, found := t.find(s.number)
	if !found {
		t.tallies = slices.Insert(t.tallies, i, tally{pane: s.number})
		s.terms = append(s.terms, t)
		r.tallies++
	}
	if s.details == nil {
		s.details = map[*term]*detail{}
	}
	d := s.details[t]
	if d == nil {
		d = &detail{}
		s.details[t] = d
	}
	// When details were forgotten, a replay builds them up anew: until its count is larger than the one that is known, its senders say nothing.
	more := d.add(total.Senders) && !s.lost
	if sum := d.set(from, total.Count); sum > t.tallies[i].count {
		t.tallies[i].count = sum
		more = true
	}
	if more {
		r.offer(t, s.number)
	}
	return more
}

// set takes the count of one source, if it is larger than what was known, and returns the sum over all sources.
func (d *detail) set(from int32, count uint32) (sum uint32) {
	i := slices.IndexFunc(d.sources, func(c sourceCount) bool { return c.source == from })
	if i < 0 {
		d.sources = append(d.sources, sourceCount{from, count})
	} else {
		d.sources[i].count = max(d.sources[i].count, count)
	}
	for _, c := range d.sources {
		sum += c.count
	}
	return sum
}

// add takes hashes of senders and tells whether any was new. With 64 it is full: 64 or more.
func (d *detail) add(senders []uint64) (more bool) {
	for _, h := range senders {
		if len(d.senders) >= maxSenders {
			return more
		}
		if !slices.Contains(d.senders, h) {
			d.senders = append(d.senders, h)
			more = true
		}
	}
	return more
}

// find returns where the tally of a pane is or belongs. Mostly it is the last.
func (t *term) find(pane int64) (int, bool) {
	if n := len(t.tallies); n == 0 || t.tallies[n-1].pane < pane {
		return n, false
	}
	return slices.BinarySearchFunc(t.tallies, pane, func(a tally, pane int64) int { return cmp.Compare(a.pane, pane) })
}

// sum adds the counts of the panes from <= number < to.
func (t *term) sum(from, to int64) (sum uint32) {
	i, _ := t.find(to)
	for i--; i >= 0 && t.tallies[i].pane >= from; i-- {
		sum += t.tallies[i].count
	}
	return sum
}

// Advance tells the watermark in milliseconds since the epoch, announces what is due and forgets what is old. Going back does nothing.
//
// It looks once a second, and as of that second: then whatever is closed while records are read again after a restart was closed before, whichever
// way they were cut into batches.
func (r *Ranker) Advance(watermark int64, emit recent.Emit) {
	second := watermark / 1000
	if second*1000 <= r.clock {
		return
	}
	r.clock = second * 1000
	r.announceDue(emit)
	if r.clock < r.swept+sweep.Milliseconds() {
		return
	}
	r.swept = r.clock
	for number, s := range r.stretch {
		switch {
		case r.clock < s.touched+r.keep || r.needed(number):
		case r.clock >= s.touched+r.totals:
			r.forget(s)
		default:
			s.details, s.lost = nil, true
		}
	}
}

// needed tells whether a window that holds a pane still has something to say.
func (r *Ranker) needed(pane int64) bool {
	for first := pane - r.panes + 1; first <= pane; first++ {
		if r.windows[first] != nil {
			return true
		}
	}
	return false
}

// shrink forgets the panes that were not touched for longest, until a quarter of what is allowed is free. Live, that shortens the past that windows are
// measured against; only when old chat is replayed very fast can it reach windows that are not closed, and these are then approximate.
func (r *Ranker) shrink() {
	oldest := slices.SortedFunc(maps.Values(r.stretch), func(a, b *stretch) int {
		return cmp.Or(cmp.Compare(a.touched, b.touched), cmp.Compare(a.number, b.number))
	})
	for _, s := range oldest {
		if r.tallies <= r.cfg.RankerTerms/4*3 {
			return
		}
		for first := s.number - r.panes + 1; first <= s.number; first++ {
			if w := r.windows[first]; w != nil {
				w.rough = true
			}
		}
		r.forget(s)
	}
}

func (r *Ranker) forget(s *stretch) {
	for _, t := range s.terms {
		if i, ok := t.find(s.number); ok {
			t.tallies = remove(t.tallies, i)
			r.tallies--
		}
		if len(t.tallies) == 0 {
			delete(r.terms, t.text)
		}
	}
	delete(r.stretch, s.number)
}
