package trend

import (
	"fmt"
	"strings"
	"testing"
	"unique"

	eventv1 "github.com/earshot/earshot/gen/earshot/event/v1"
	"github.com/earshot/earshot/services/processor/recent"
	"google.golang.org/protobuf/proto"
)

// bench feeds a Counter and keeps what it sends.
type bench struct {
	*Counter
	memory *recent.Memory
	sent   []*eventv1.TermTotals
	number uint64
}

func newBench(cfg Config, terms int) *bench {
	return &bench{Counter: NewCounter(cfg, 3, terms), memory: recent.New(cfg.Keep())}
}

func (b *bench) emit(_ string, v proto.Message) { b.sent = append(b.sent, v.(*eventv1.TermTotals)) }

// say observes a message created and accepted at seconds.
func (b *bench) say(created, accepted float64, sender, content string) {
	b.number++
	b.again(b.number, created, accepted, sender, content)
}

func (b *bench) again(number uint64, created, accepted float64, sender, content string) {
	e := recent.Entry{ID: id(sec(created), number), Other: unique.Make(sender)}
	at := b.memory.Observe("c", e, sec(accepted))
	b.Observe(&eventv1.Message{ConversationId: "c", SenderId: sender, Content: content}, at, b.emit)
}

// show lists what was sent since it was last asked: log second, then pane and counts.
func (b *bench) show() string {
	var out []string
	for _, t := range b.sent {
		s := fmt.Sprintf("%g:", float64(t.LogTimeMs-start)/1000)
		for _, p := range t.Panes {
			s += fmt.Sprintf(" [%d]", (p.StartMs-start)/1000)
			for _, tt := range p.Terms {
				s += fmt.Sprintf(" %s %d/%d", tt.Term, tt.Count, len(tt.Senders))
			}
		}
		out = append(out, s)
	}
	b.sent = nil
	return strings.Join(out, ", ")
}

func TestTotalsEveryFiveSecondsAndSignsOfLife(t *testing.T) {
	b := newBench(DefaultConfig(), 1)
	for _, step := range []struct {
		do   func()
		want string
	}{
		{func() { b.Advance(sec(0), b.emit) }, "0:"},
		{func() { b.Advance(sec(0.9), b.emit) }, ""},
		{func() { b.Advance(sec(1), b.emit) }, "1:"},
		{func() { b.say(1, 1, "ann", "The deadline, the DEADLINE"); b.Advance(sec(1), b.emit) }, "1: [0] deadline 2/1"},
		{func() { b.say(2, 2, "bob", "deadline"); b.say(31, 2.5, "bob", "deadline"); b.Advance(sec(5.9), b.emit) }, ""},
		{func() { b.Advance(sec(6), b.emit) }, "6: [0] deadline 3/2 [30] deadline 1/1"},
		{func() { b.Advance(sec(6.5), b.emit) }, ""},
		{func() { b.Flush(b.emit) }, ""},
		{func() { b.say(31, 7, "cid", "macros"); b.Flush(b.emit) }, "7: [30] macros 1/1"},
		{func() { b.again(1, 1, 8, "ann", "anything"); b.Advance(sec(12), b.emit) }, "12: [0]"},
	} {
		step.do()
		if got := b.show(); got != step.want {
			t.Errorf("sent %q, want %q", got, step.want)
		}
	}
}

func TestCutByTermAndSize(t *testing.T) {
	const parts, terms = 3, 60_000
	b := newBench(DefaultConfig(), parts)
	for i := range terms / 500 {
		var text strings.Builder
		for j := range 500 {
			fmt.Fprintf(&text, "term%d ", i*500+j)
		}
		b.say(1, 1, "ann", text.String())
	}
	b.Advance(sec(10), b.emit)
	seen := map[string]int32{}
	last := map[int32]int64{}
	for _, s := range b.sent {
		if n := proto.Size(s); n > 256<<10 {
			t.Errorf("record of %d bytes", n)
		}
		if last[s.TermPartition] != 0 {
			t.Errorf("a record follows the one with the new log time")
		}
		if s.LogTimeMs != 0 {
			last[s.TermPartition] = s.LogTimeMs
		}
		for _, p := range s.Panes {
			for _, tt := range p.Terms {
				seen[tt.Term] = s.TermPartition
			}
		}
	}
	if len(seen) != terms || len(last) != parts || len(b.sent) <= parts {
		t.Errorf("%d terms in %d records, %d partitions told the log time; want %d, several for each of %d", len(seen), len(b.sent), len(last), terms, parts)
	}
}

func TestRarestGoWhenThereAreTooMany(t *testing.T) {
	cfg := DefaultConfig()
	cfg.PaneTerms, cfg.CounterTerms = 1_000, 2_000
	b := newBench(cfg, 1)
	for i := range 5_000 {
		b.say(1, 1, "ann", fmt.Sprintf("often%d rare%d", i%100, i))
		if n := len(b.panes[start/30_000].words); n > cfg.PaneTerms+1 {
			t.Fatalf("%d words in a pane", n)
		}
	}
	b.Flush(b.emit)
	found := 0
	for _, s := range b.sent {
		for _, p := range s.Panes {
			for _, tt := range p.Terms {
				if strings.HasPrefix(tt.Term, "often") && tt.Count == 50 {
					found++
				}
			}
			if !p.Approximate {
				t.Error("the pane does not say that it is approximate")
			}
		}
	}
	if found != 100 {
		t.Errorf("%d of the 100 words used often are counted right", found)
	}
	for i := range 100 {
		b.say(float64(i)*30, 2, "ann", strings.Repeat(fmt.Sprintf("word%d ", i), 3)+fmt.Sprintf("more%d other%d", i, i))
	}
	for i := range 3_000 {
		b.say(-float64(i)*30, 3, "ann", "alpha bravo charlie")
		if b.uses > cfg.CounterTerms {
			t.Fatalf("%d words in all panes", b.uses)
		}
	}
	b.Advance(sec(1000), b.emit)
	if n := len(b.panes) + b.uses + len(b.words) - len(stopWords()); n != 0 {
		t.Errorf("%d things held after a quarter of an hour", n)
	}
}

func TestNothingIsAllocatedForKnownWords(t *testing.T) {
	b := newBench(DefaultConfig(), 3)
	m := &eventv1.Message{ConversationId: "c", SenderId: "ann", Content: sample}
	e := recent.Entry{ID: id(sec(1), 1), Other: unique.Make("ann")}
	at := b.memory.Observe("c", e, sec(1))
	b.Observe(m, at, b.emit)
	b.panes[sec(1)/30_000].ids = make([]uint64, 0, 1000)
	if n := testing.AllocsPerRun(200, func() { b.Observe(m, at, b.emit) }); n != 0 {
		t.Errorf("%v allocations a message", n)
	}
}
