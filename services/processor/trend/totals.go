package trend

import (
	"cmp"
	"slices"

	eventv1 "github.com/earshot/earshot/gen/earshot/event/v1"
	"github.com/earshot/earshot/services/processor/recent"
)

// out is what waits to be sent to one internal partition.
type out struct {
	words []changed
	told  int64 // log time of the last record
}

// changed names a use that changed since it was sent.
type changed struct {
	word *word
	pane int64
}

// Flush sends every total that changed since it was sent. Of the records for an internal partition only the last carries the new log time: until then the
// reader must not think that it has heard all.
func (c *Counter) Flush(emit recent.Emit) {
	c.flushed = c.clock
	if !c.pending() {
		return
	}
	for part, o := range c.outs {
		if len(o.words) == 0 && len(c.renewed) == 0 {
			continue
		}
		slices.SortStableFunc(o.words, func(a, b changed) int { return cmp.Compare(a.pane, b.pane) })
		t, size := c.totals(part, o.told), 0
		for _, number := range c.renewed { // without words: the reader is to remember the pane longer, too
			if size >= maxRecord<<10 {
				emit("", t)
				t, size = c.totals(part, o.told), 0
			}
			t.Panes = append(t.Panes, &eventv1.TermPane{StartMs: number * c.pane})
			size += paneSize
		}
		for _, ch := range o.words {
			total := ch.total()
			if total == nil {
				continue // dropped meanwhile
			}
			if size >= maxRecord<<10 {
				emit("", t)
				t, size = c.totals(part, o.told), 0
			}
			n := len(t.Panes)
			if n == 0 || t.Panes[n-1].StartMs != ch.pane*c.pane {
				t.Panes = append(t.Panes, &eventv1.TermPane{StartMs: ch.pane * c.pane, Approximate: c.panes[ch.pane].rough})
				size += paneSize
				n++
			}
			t.Panes[n-1].Terms = append(t.Panes[n-1].Terms, total)
			size += termSize + len(total.Term) + 8*len(total.Senders)
		}
		clear(o.words)
		o.words = o.words[:0]
		t.LogTimeMs, o.told = c.clock, c.clock
		emit("", t)
	}
	for _, number := range c.renewed {
		if p := c.panes[number]; p != nil {
			p.renewed = false
		}
	}
	c.unsent, c.renewed = 0, c.renewed[:0]
}

// Most bytes of a pane and of a word in a record, beside the word itself and its senders.
const (
	paneSize = 24
	termSize = 24
)

func (c *Counter) totals(part int, logTime int64) *eventv1.TermTotals {
	return &eventv1.TermTotals{SourcePartition: c.source, TermPartition: int32(part), LogTimeMs: logTime} //nolint:gosec // a partition number
}

// total returns a use as it is sent, and notes that it was.
func (ch changed) total() *eventv1.TermTotal {
	i, ok := ch.word.find(ch.pane)
	if !ok || !ch.word.uses[i].unsent {
		return nil
	}
	u := &ch.word.uses[i]
	u.unsent = false
	senders := make([]uint64, 1, 1+len(u.others))
	senders[0] = u.first
	return &eventv1.TermTotal{Term: ch.word.text, Count: u.count, Senders: append(senders, u.others...)}
}
