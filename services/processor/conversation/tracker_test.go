package conversation

import (
	"fmt"
	"slices"
	"testing"
	"time"

	eventv1 "github.com/earshot/earshot/gen/earshot/event/v1"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"
)

// start is a moment well past the epoch, on a step's edge.
var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC).UnixMilli()

func sec(s float64) int64 { return start + int64(s*1000) }

// send makes a log: sender and second of creation, accepted in this order, one each 10 ms from after on.
func send(after float64, what ...any) []logged {
	var out []logged
	for i := 0; i < len(what); i += 2 {
		out = append(out, logged{
			message:  message{"c", what[i].(string), sec(what[i+1].(float64)), uint64(i)},
			accepted: sec(after) + int64(i)*10,
		})
	}
	return out
}

func TestNumbersOfAWindow(t *testing.T) {
	h := newHost(t, DefaultConfig(), send(31, "ann", 0.001, "ann", 1.0, "bob", 4.0, "bob", 5.0, "ann", 5.001, "cid", 30.0))
	h.check()
	got := h.results[key{"c", sec(30)}]
	// (0, 30]: all six; four of them in (0, 5]. Bob after 3 s, Ann after 1 ms, Cid after 24.999 s.
	if got.MessageCount != 6 || got.ParticipantCount != 3 || got.Peak != 4 || got.Replies != 3 || got.ReplySeconds != 28.0/3 || got.Rate != 0.2 {
		t.Errorf("window (0 s, 30 s]: %v", got)
	}
	if got := h.results[key{"c", sec(60)}]; got.MessageCount != 0 || got.Revision != 1 {
		t.Errorf("after 30 s of silence: %v, want zeros, closed", got)
	}
	if len(h.results) != 4 {
		t.Errorf("%d records, want three steps and the silence", len(h.results))
	}
}

// heard collects what is announced, as "end/count/state".
func heard(out *[]string) func(string, proto.Message) {
	return func(_ string, v proto.Message) {
		m := v.(*eventv1.ConversationMetrics)
		state := "provisional"
		if m.State == eventv1.WindowState_WINDOW_STATE_CLOSED {
			state = "closed"
		}
		*out = append(*out, fmt.Sprintf("%d/%d/%s", m.WindowEnd.Seconds-start/1000, m.MessageCount, state))
	}
}

func TestAnnouncedAtTheStepsEndAndWhenSettled(t *testing.T) {
	h := newHost(t, DefaultConfig(), append(send(1, "ann", 1.0, "bob", 1.5), send(18, "cid", 2.0)...))
	var got []string
	want := func(when string, want ...string) {
		t.Helper()
		if !slices.Equal(got, want) {
			t.Errorf("%s: announced %q, want %q", when, got, want)
		}
		got = nil
	}
	emit := heard(&got)
	h.read(2)
	h.tracker.Advance(sec(4.9), emit)
	want("before the step's end")
	h.tracker.Advance(sec(5), emit)
	want("at the step's end", "5/2/provisional")
	h.tracker.Advance(sec(14.9), emit)
	want("9.9 s later")
	h.tracker.Advance(sec(15), emit)
	want("10 s later", "5/2/closed")
	h.read(1)
	h.tracker.Advance(sec(27.9), emit)
	want("before the straggler settles")
	h.tracker.Advance(sec(28), emit)
	want("10 s after the straggler", "5/3/closed")
	h.tracker.Advance(sec(44.9), emit)
	want("while silence is uncertain")
	h.tracker.Advance(sec(45), emit)
	want("10 s after 30 s of silence", "35/0/closed")
}

func TestProvisionalAtMostEveryFiveSeconds(t *testing.T) {
	var log []logged
	for i := range 40 { // old chat: one message each 500 ms of log time, all of one step
		log = append(log, logged{message{"c", "ann", sec(-9000), uint64(i)}, sec(float64(i) / 2)})
	}
	h := newHost(t, DefaultConfig(), log)
	var got []string
	h.hear = heard(&got)
	for range log {
		h.read(1)
	}
	h.advance(sec(100))
	step := "-9000"
	// The silence after it is certain before the step itself is.
	want := []string{step + "/1/provisional", step + "/10/provisional", step + "/20/provisional", "-8970/0/closed", step + "/30/provisional", step + "/40/closed"}
	if !slices.Equal(got, want) {
		t.Errorf("announced %q\nwant      %q", got, want)
	}
}

func TestSilenceThatWasCalledTooEarlyIsCorrected(t *testing.T) {
	h := newHost(t, DefaultConfig(), append(send(1, "ann", 1.0), send(50, "bob", 20.0)...))
	h.read(1)
	h.idle(49_000)
	if got := h.results[key{"c", sec(35)}]; got == nil || got.MessageCount != 0 {
		t.Fatalf("at 35 s: %v, want zeros", got)
	}
	h.check()
	if got := h.results[key{"c", sec(35)}]; got.MessageCount != 1 {
		t.Fatalf("at 35 s after the straggler: %v, want its one message", got)
	}
}

func TestCopiesCountOnceAndKeepStragglersWelcome(t *testing.T) {
	log := slices.Concat(send(1, "ann", 1.0), send(80, "ann", 1.0), send(160, "bob", 2.0), send(165, "bob", 2.0))
	log[2].number, log[3].number = 7, 7
	newHost(t, DefaultConfig(), log).check()
}

// drawLog draws messages and the order in which they are accepted: live, with up to a minute of delay, or old chat as fast as it is read. Copies may
// come while the first is remembered, or, of everything, long after.
func drawLog(t *rapid.T) (log []logged, again bool) {
	live := rapid.Bool().Draw(t, "live")
	names := rapid.SampledFrom([]string{"a", "b", "c"})
	// Often on an edge: of a step, of a window, a millisecond beside it.
	moment := rapid.Custom(func(t *rapid.T) int64 {
		edge := rapid.Int64Range(0, 30).Draw(t, "step") * 5000
		return start + edge + rapid.SampledFrom([]int64{-1, 0, 1, 1, 2500, 4999}).Draw(t, "beside")
	})
	for i := range rapid.IntRange(1, 40).Draw(t, "messages") {
		m := message{"conv-" + names.Draw(t, "conversation"), names.Draw(t, "sender"), moment.Draw(t, "created"), uint64(i)}
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
	slices.SortStableFunc(log, func(a, b logged) int { return int(a.accepted - b.accepted) })
	again = rapid.Bool().Draw(t, "all again when forgotten")
	if again {
		for _, r := range log {
			log = append(log, logged{r.message, r.accepted + 1000_000})
		}
	}
	return log, again
}

func TestSameAsReference(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		cfg := DefaultConfig()
		if rapid.Bool().Draw(rt, "other window") {
			cfg = Config{Window: 12 * time.Second, Step: 3 * time.Second}
		}
		log, again := drawLog(rt)
		h := newHost(rt, cfg, log)
		h.exact = again
		h.drive(rt)
		h.check()
	})
}

// drive reads the log in batches of any size, with idle times, commits and crashes between them.
func (h *host) drive(t *rapid.T) {
	for h.next < len(h.log) {
		switch rapid.IntRange(0, 5).Draw(t, "do") {
		case 0:
			h.idle(rapid.Int64Range(0, 20_000).Draw(t, "idle"))
		case 1:
			h.commit()
		case 2:
			if rapid.IntRange(0, 3).Draw(t, "crash") == 0 {
				h.crash(rapid.IntRange(1, 20).Draw(t, "rebuilt by"))
			}
		default:
			h.read(rapid.IntRange(1, 10).Draw(t, "batch"))
		}
	}
}

func TestValidate(t *testing.T) {
	if err := DefaultConfig().Validate(); err != nil {
		t.Error(err)
	}
	for _, c := range []Config{{}, {Window: 30 * time.Second, Step: 7 * time.Second}, {Window: time.Hour, Step: time.Minute}, {Window: time.Second, Step: 100 * time.Millisecond}} {
		if c.Validate() == nil {
			t.Errorf("%+v is accepted", c)
		}
	}
}
