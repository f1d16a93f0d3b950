package activity_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
	"unique"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	eventv1 "github.com/earshot/earshot/gen/earshot/event/v1"
	"github.com/earshot/earshot/services/internal/ident"
	"github.com/earshot/earshot/services/processor/activity"
	"github.com/earshot/earshot/services/processor/recent"
)

const (
	epoch  = 1_530_000_000_000 // the start of a minute
	minute = 60_000
	keep   = 2 * time.Minute
)

type message struct {
	user, conversation string
	id                 ident.UUID
}

type record struct {
	message
	at int64 // log time, and the watermark after it
}

type key struct {
	user  string
	start int64
}

// result is what the table keeps of a user's minute.
type result struct {
	Messages, Conversations uint32
	Last                    int64
	Closed                  bool
}

// reference sorts messages into minutes, then counts.
func reference(messages []message) map[key]result {
	minutes := map[key]map[message]bool{}
	for _, m := range messages {
		k := key{m.user, m.id.Millis() / minute * minute}
		if minutes[k] == nil {
			minutes[k] = map[message]bool{}
		}
		minutes[k][m] = true
	}
	out := map[key]result{}
	for k, in := range minutes {
		r, conversations := result{Messages: uint32(len(in)), Closed: true}, map[string]bool{}
		for m := range in {
			conversations[m.conversation] = true
			r.Last = max(r.Last, m.id.Millis())
		}
		r.Conversations = uint32(len(conversations))
		out[k] = r
	}
	return out
}

// world runs a tracker over a log as the host would: in batches, with commits, crashes and silent rebuilds.
type world struct {
	rnd     *rand.Rand
	log     []record
	wire    []*eventv1.UserActivity
	tracker *activity.Tracker
	memory  *recent.Memory
}

func (w *world) speak(_ string, v proto.Message) { w.wire = append(w.wire, v.(*eventv1.UserActivity)) }

func silent(string, proto.Message) {}

func (w *world) reset() { w.tracker, w.memory = activity.New(), recent.NewBySender(keep) }

func (w *world) step(pos, end, size int, emit recent.Emit) int {
	end = min(end, pos+1+w.rnd.IntN(size))
	for ; pos < end; pos++ {
		r := w.log[pos]
		if seen := w.memory.Observe(r.user, recent.Entry{ID: r.id, Other: unique.Make(r.conversation)}, r.at); seen.First {
			w.tracker.Observe(seen, emit)
		}
	}
	w.advance(w.log[pos-1].at, emit)
	return pos
}

func (w *world) advance(clock int64, emit recent.Emit) {
	w.tracker.Advance(clock, emit)
	w.memory.Advance(clock)
}

func (w *world) run(crashes bool) {
	w.reset()
	size := []int{1, 3, 20, 1000}[w.rnd.IntN(4)]
	committed, acknowledged := 0, 0
	for pos := 0; pos < len(w.log); {
		pos = w.step(pos, len(w.log), size, w.speak)
		switch w.rnd.IntN(4) {
		case 0:
			committed, acknowledged = pos, len(w.wire)
		case 1:
			if crashes {
				w.wire = w.wire[:acknowledged+w.rnd.IntN(len(w.wire)-acknowledged+1)]
				w.reset()
				pos = committed
				low := 0
				for committed > 0 && low < committed && w.log[low].at <= w.log[committed-1].at-keep.Milliseconds() {
					low++
				}
				for low < committed {
					low = w.step(low, committed, size, silent)
				}
			}
		}
	}
	clock := w.log[len(w.log)-1].at
	for end := clock + 400_000; clock < end; {
		clock += 1 + w.rnd.Int64N(10_000)
		w.advance(clock, w.speak)
	}
}

func (w *world) table() map[key]result {
	revisions, out := map[key]uint32{}, map[key]result{}
	for _, a := range w.wire {
		k := key{a.GetUserId(), a.GetWindowStart().AsTime().UnixMilli()}
		if a.GetRevision() <= revisions[k] {
			continue
		}
		revisions[k] = a.GetRevision()
		out[k] = result{a.GetMessageCount(), a.GetActiveConversations(), a.GetLastActive().AsTime().UnixMilli(), a.GetState() == eventv1.WindowState_WINDOW_STATE_CLOSED}
	}
	return out
}

func TestTrackerEqualsReference(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rnd := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "schedule"), 1))
		var messages []message
		at := int64(epoch)
		for i := range rapid.IntRange(1, 40).Draw(t, "messages") {
			at += rapid.SampledFrom([]int64{0, 1, 500, 5_000, 30_000, minute - 1, minute, minute + 1}).Draw(t, "gap")
			user := fmt.Sprint("user-", rapid.IntRange(0, 1).Draw(t, "user"))
			c := fmt.Sprint("conv-", rapid.IntRange(0, 12).Draw(t, "conversation"))
			messages = append(messages, message{user, c, ident.Hashed(time.UnixMilli(at), user, fmt.Sprint(i))})
		}
		w := &world{rnd: rnd}
		if rapid.Bool().Draw(t, "live") {
			for _, m := range messages {
				for range 1 + rnd.IntN(5)/4 { // now and then a copy
					w.log = append(w.log, record{m, m.id.Millis() + rnd.Int64N(58_000)})
				}
			}
		} else { // old chat, in any order, all within a minute; then again
			at := int64(epoch) + 86_400_000
			for range rapid.IntRange(1, 2).Draw(t, "replays") {
				for _, i := range rnd.Perm(len(messages)) {
					w.log = append(w.log, record{messages[i], at})
					at += rnd.Int64N(minute / int64(len(messages)))
				}
				at += rapid.SampledFrom([]int64{0, 3_000, 86_400_000}).Draw(t, "pause")
			}
		}
		slices.SortStableFunc(w.log, func(a, b record) int { return int(a.at - b.at) })
		w.run(rapid.Bool().Draw(t, "crashes"))
		if diff := cmp.Diff(reference(messages), w.table()); diff != "" {
			t.Fatalf("minutes (-reference +tracker):\n%s", diff)
		}
	})
}

func observe(memory *recent.Memory, tracker *activity.Tracker, user string, id ident.UUID, conversation string, at int64, emit recent.Emit) {
	tracker.Observe(memory.Observe(user, recent.Entry{ID: id, Other: unique.Make(conversation)}, at), emit)
}

func TestProvisionalThenClosedThenCorrected(t *testing.T) {
	w := &world{}
	w.reset()
	said := func() []string {
		var out []string
		for _, a := range w.wire {
			out = append(out, fmt.Sprintf("%d in %d, %v", a.GetMessageCount(), a.GetActiveConversations(), a.GetState()))
		}
		w.wire = nil
		return out
	}
	send := func(created, accepted int64, conversation string) {
		observe(w.memory, w.tracker, "ann", ident.New(time.UnixMilli(epoch+created)), conversation, epoch+accepted, w.speak)
	}
	check := func(clock int64, want ...string) {
		t.Helper()
		w.advance(epoch+clock, w.speak)
		if diff := cmp.Diff(want, said()); diff != "" {
			t.Errorf("at %d (-want +got):\n%s", clock, diff)
		}
	}
	const provisional, closed = "WINDOW_STATE_PROVISIONAL", "WINDOW_STATE_CLOSED"
	check(0)
	send(1_000, 1_000, "a")
	check(1_000, "1 in 1, "+provisional)
	send(1_100, 1_100, "b")
	check(5_999)
	check(6_000, "2 in 2, "+provisional)
	check(20_000)
	check(69_999)
	check(70_000, "2 in 2, "+closed)
	check(80_000)
	send(59_999, 90_000, "a") // a straggler
	check(99_999)
	check(100_000, "3 in 2, "+closed)
	check(400_000)
	if w.memory.Len() != 0 {
		t.Errorf("%d messages remembered", w.memory.Len())
	}
}

// 10,000 users send once a second each.
func BenchmarkTracker(b *testing.B) {
	w := &world{}
	w.reset()
	users := make([]string, 10_000)
	for i := range users {
		users[i] = fmt.Sprint("user-", i)
	}
	other := unique.Make("conversation")
	results, clock := 0, int64(epoch)
	emit := func(string, proto.Message) { results++ }
	id := ident.Hashed(time.UnixMilli(epoch), "x")
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if i%10 == 0 {
			clock++
			w.advance(clock, emit)
		}
		for j := range 6 {
			id[j] = byte(clock >> (40 - 8*j))
		}
		for j := range 4 {
			id[12+j] = byte(i >> (24 - 8*j))
		}
		w.tracker.Observe(w.memory.Observe(users[i%len(users)], recent.Entry{ID: id, Other: other}, clock), emit)
	}
	b.ReportMetric(float64(results)/float64(b.N), "results/msg")
}
