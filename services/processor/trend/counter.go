package trend

import (
	"cmp"
	"container/list"
	"encoding/binary"
	"math/bits"
	"slices"

	"github.com/cespare/xxhash/v2"
	eventv1 "github.com/earshot/earshot/gen/earshot/event/v1"
	"github.com/earshot/earshot/services/processor/recent"
)

// Counter counts the words of one partition of chat.messages by pane. It is not safe for concurrent use.
//
// It remembers a pane until log time is Config.Keep past the last record that touched it, copies included. A word used in a pane costs about 120 bytes,
// plus 8 for each distinct sender after the first; a message costs 8.
type Counter struct {
	cfg       Config
	source    int32
	pane      int64 // length in ms
	keep      int64 // ms
	tokenizer *tokenizer

	words   map[string]*word
	panes   map[int64]*pane
	touched list.List // of *pane, longest untouched first
	uses    int       // of all words in all panes

	clock   int64   // furthest log time seen
	flushed int64   // log time of the last totals
	unsent  int     // uses that changed since they were sent
	renewed []int64 // panes that copies touched since that was told
	outs    []*out  // by internal partition

	current *pane // what count counts into; set while a message is observed
	sender  uint64
}

// word is a word that is used in a remembered pane, or a stop word.
type word struct {
	text string
	part int32 // internal partition that ranks it
	stop bool
	uses []use // by pane
}

// use is a word's use in one pane.
type use struct {
	pane   int64 // number: start / length
	count  uint32
	unsent bool
	first  uint64   // hash of a sender
	others []uint64 // hashes of the other senders, at most 63
}

// pane is one stretch of event time.
type pane struct {
	number  int64
	words   []*word  // used in it
	since   int64    // log time of its first message
	touched int64    // log time of its last record
	ids     []uint64 // hashes of the messages counted
	seen    map[uint64]struct{}
	renewed bool // stands in Counter.renewed
	rough   bool // words were dropped to bound memory
	place   *list.Element
}

// NewCounter returns a Counter of one partition of chat.messages for a number of internal partitions. cfg must be valid.
func NewCounter(cfg Config, sourcePartition int32, termPartitions int) *Counter {
	c := &Counter{
		cfg:       cfg,
		source:    sourcePartition,
		pane:      cfg.Advance.Milliseconds(),
		keep:      remembered(cfg),
		tokenizer: newTokenizer(cfg.MinChars),
		words:     map[string]*word{},
		panes:     map[int64]*pane{},
		outs:      make([]*out, termPartitions),
	}
	for i := range c.outs {
		c.outs[i] = &out{}
	}
	for w := range stopWords() {
		c.words[w] = &word{stop: true}
	}
	return c
}

// Observe takes a message that is not late, in log order.
func (c *Counter) Observe(m *eventv1.Message, at recent.Seen, emit recent.Emit) {
	e := &at.Log.Entries[at.Index]
	number := e.Millis() / c.pane
	p := c.panes[number]
	if p != nil && p.touched+c.keep <= at.LogTime {
		c.Flush(emit)
		c.forget(p)
		p = nil
	}
	c.clock = max(c.clock, at.LogTime)
	if !at.First {
		if p != nil {
			c.touch(p, at.LogTime)
			if !p.renewed {
				p.renewed = true
				c.renewed = append(c.renewed, number)
			}
		}
		return
	}
	if p == nil {
		p = &pane{number: number, since: at.LogTime}
		p.place = c.touched.PushBack(p)
		c.panes[number] = p
	}
	c.touch(p, at.LogTime)
	if !c.counted(p, identity(m.ConversationId, e), at.LogTime) {
		c.count(p, m)
	}
	if c.uses > c.cfg.CounterTerms {
		c.Flush(emit)
		c.shrink()
	}
}

func (c *Counter) touch(p *pane, logTime int64) {
	p.touched = max(p.touched, logTime)
	c.touched.MoveToBack(p.place)
}

// counted tells whether a pane counts a message already, and notes it. Copies do not come here as long as the host remembers the message; but a pane is
// renewed by every record in it and may outlive the memory of its oldest messages.
func (c *Counter) counted(p *pane, id uint64, logTime int64) bool {
	if p.seen == nil && p.since+c.keep <= logTime {
		p.seen = make(map[uint64]struct{}, len(p.ids))
		for _, id := range p.ids {
			p.seen[id] = struct{}{}
		}
	}
	if p.seen != nil {
		if _, ok := p.seen[id]; ok {
			return true
		}
		p.seen[id] = struct{}{}
		return false
	}
	p.ids = append(p.ids, id)
	return false
}

// identity hashes what makes a message: its conversation and its id.
func identity(conversation string, e *recent.Entry) uint64 {
	const odd = 0x9e3779b97f4a7c15 // spreads the bits of the id, whose upper half hardly varies
	h := xxhash.Sum64String(conversation)
	h = (h ^ binary.BigEndian.Uint64(e.ID[:8])) * odd
	return (bits.RotateLeft64(h, 32) ^ binary.BigEndian.Uint64(e.ID[8:])) * odd
}

// count adds the words of a message to a pane.
func (c *Counter) count(p *pane, m *eventv1.Message) {
	c.current, c.sender = p, xxhash.Sum64String(m.SenderId)
	c.tokenizer.words(m.Content, c.add)
	if len(p.words) > c.cfg.PaneTerms {
		c.dropRarest(p)
	}
}

// add counts one use of a word in the current pane.
func (c *Counter) add(text []byte) {
	w := c.words[string(text)]
	if w == nil {
		s := string(text)
		w = &word{text: s, part: int32(xxhash.Sum64String(s) % uint64(len(c.outs)))} //nolint:gosec // a partition number
		c.words[s] = w
	} else if w.stop {
		return
	}
	i, found := w.find(c.current.number)
	if !found {
		w.uses = slices.Insert(w.uses, i, use{pane: c.current.number, first: c.sender})
		c.current.words = append(c.current.words, w)
		c.uses++
	}
	u := &w.uses[i]
	u.count++
	if found && u.first != c.sender && len(u.others) < maxSenders-1 && !slices.Contains(u.others, c.sender) {
		u.others = append(u.others, c.sender)
	}
	if !u.unsent {
		u.unsent = true
		o := c.outs[w.part]
		o.words = append(o.words, changed{w, c.current.number})
		c.unsent++
	}
}

// find returns where the use in a pane is or belongs. Mostly it is the last.
func (w *word) find(pane int64) (int, bool) {
	if n := len(w.uses); n == 0 || w.uses[n-1].pane < pane {
		return n, false
	} else if w.uses[n-1].pane == pane {
		return n - 1, true
	}
	return slices.BinarySearchFunc(w.uses, pane, func(a use, pane int64) int { return cmp.Compare(a.pane, pane) })
}

// remove takes out an element. Mostly it is the first: what is oldest is forgotten first.
func remove[T any](s []T, i int) []T {
	if i > 0 {
		return slices.Delete(s, i, i+1)
	}
	clear(s[:1]) // it may hold on to others
	return s[1:]
}

// drop takes a pane out of a word's uses, and the word out of memory when it has no other.
func (c *Counter) drop(w *word, pane int64) {
	if i, ok := w.find(pane); ok {
		w.uses = remove(w.uses, i)
		c.uses--
	}
	if len(w.uses) == 0 {
		delete(c.words, w.text)
	}
}

// dropRarest halves a pane: the words used least go, of equals those that came last.
func (c *Counter) dropRarest(p *pane) {
	counts := make([]uint32, len(p.words))
	for i, w := range p.words {
		at, _ := w.find(p.number)
		counts[i] = w.uses[at].count
	}
	sorted := slices.Clone(counts)
	slices.Sort(sorted)
	half := len(counts) / 2
	least := sorted[half]                             // that stays
	equals, _ := slices.BinarySearch(sorted, least+1) // end of those used as often
	room := equals - half                             // for them
	kept := p.words[:0]
	for i, w := range p.words {
		if counts[i] == least {
			room--
		}
		if counts[i] < least || counts[i] == least && room < 0 {
			c.drop(w, p.number)
			continue
		}
		kept = append(kept, w)
	}
	clear(p.words[len(kept):])
	p.words = kept
	p.rough = true
}

// shrink forgets the words of the panes that were not touched for longest, until a quarter of what is allowed is free. Their totals have been sent; what
// is lost is that a straggler adds to them, and therefore such a pane is approximate if it is used again.
func (c *Counter) shrink() {
	for at := c.touched.Front(); at != nil && c.uses > c.cfg.CounterTerms/4*3; at = at.Next() {
		p := at.Value.(*pane) // the list holds nothing else
		c.empty(p)
		p.rough = true
	}
}

func (c *Counter) empty(p *pane) {
	for _, w := range p.words {
		c.drop(w, p.number)
	}
	p.words = nil
}

func (c *Counter) forget(p *pane) {
	c.empty(p)
	c.touched.Remove(p.place)
	delete(c.panes, p.number)
}

// Advance tells how far log time is, in milliseconds since the epoch. It sends totals that are due, or a sign of life, and forgets old panes.
func (c *Counter) Advance(logTime int64, emit recent.Emit) {
	c.clock = max(c.clock, logTime)
	if c.pending() && c.clock >= c.flushed+every.Milliseconds() {
		c.Flush(emit)
	}
	for i, o := range c.outs {
		if len(o.words) == 0 && c.clock >= o.told+heartbeat.Milliseconds() {
			o.told = c.clock
			emit("", c.totals(i, c.clock))
		}
	}
	for at := c.touched.Front(); at != nil; at = c.touched.Front() {
		p := at.Value.(*pane) // the list holds nothing else
		if p.touched+c.keep > c.clock {
			return
		}
		if c.pending() {
			c.Flush(emit)
		}
		c.forget(p)
	}
}

func (c *Counter) pending() bool { return c.unsent > 0 || len(c.renewed) > 0 }
