package simulator

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	apiv1 "github.com/earshot/earshot/gen/earshot/api/v1"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
)

// fakeWay answers in the fake time of a test; the ways into a real mesh are tested in services/tests/traffic.
type fakeWay struct {
	answer func(at time.Time, id string, try int) (string, error) // a result's status
	delay  time.Duration

	mu    sync.Mutex
	tries map[string]int
	got   map[string]time.Time // acknowledged, by id
	due   map[string]time.Time
	seen  map[string]int
}

func newFakeWay() *fakeWay {
	return &fakeWay{tries: map[string]int{}, got: map[string]time.Time{}, due: map[string]time.Time{}, seen: map[string]int{}}
}

func (w *fakeWay) take(ctx context.Context, ids []string, then func(i int)) ([]*apiv1.SendResult, error) {
	select {
	case <-time.After(w.delay):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	var results []*apiv1.SendResult
	for i, id := range ids {
		w.tries[id]++
		status := "success"
		if w.answer != nil {
			var err error
			if status, err = w.answer(time.Now(), id, w.tries[id]); err != nil {
				return nil, err
			}
		}
		if status == "success" {
			then(i)
		}
		r := &apiv1.SendResult{Status: status}
		if status == "refused" {
			r.Error = &rpcstatus.Status{Code: int32(codes.InvalidArgument), Message: "content: no"}
		}
		results = append(results, r)
	}
	return results, nil
}

func (w *fakeWay) messages(ctx context.Context, in []*apiv1.SendMessageRequest) ([]*apiv1.SendResult, error) {
	ids := make([]string, len(in))
	for i, m := range in {
		ids[i] = m.GetMessageId()
	}
	return w.take(ctx, ids, func(i int) {
		w.got[ids[i]], w.due[ids[i]] = time.Now(), in[i].GetCreatedAt().AsTime()
	})
}

func (w *fakeWay) views(ctx context.Context, in []*apiv1.RecordViewRequest) ([]*apiv1.SendResult, error) {
	ids := make([]string, len(in))
	for i, v := range in {
		ids[i] = v.GetMessageId() + " " + v.GetUserId() + " " + v.GetStatus()
	}
	return w.take(ctx, ids, func(i int) { w.seen[ids[i]]++ })
}

func (w *fakeWay) close() {}

func options(change func(*Options)) Options {
	o := DefaultOptions()
	o.Rate, o.Users, o.Duration = 50, 1000, time.Minute
	if change != nil {
		change(&o)
	}
	return o
}

// Answers that take a second do not slow the plan down: each message leaves at its own time.
// A start between two milliseconds once let the first message of the slot after the last into the plan.
func TestTheNumberOfMessagesIsExact(t *testing.T) {
	for seed := range uint64(100) {
		synctest.Test(t, func(t *testing.T) {
			time.Sleep(999_999 * time.Nanosecond)
			total, err := options(func(o *Options) { o.Seed, o.Rate, o.Duration = seed, 50, time.Second }).run(t.Context(), newFakeWay())
			if err != nil || total.Messages != 50 {
				t.Errorf("seed %d: %d messages, %v; want 50", seed, total.Messages, err)
			}
		})
	}
}

func TestSlowAnswersDoNotDelayThePlan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newFakeWay()
		w.delay = time.Second
		o := options(nil)
		total, err := o.run(t.Context(), w)
		if err != nil {
			t.Fatal(err)
		}
		if total.Messages != 3000 || total.Refused+total.Unknown > 0 || total.Receipts != len(w.seen) || total.Receipts < 1000 {
			t.Errorf("got %v", total)
		}
		if total.Behind > time.Millisecond {
			t.Errorf("%v behind the plan", total.Behind)
		}
		for id, at := range w.got {
			if late := at.Sub(w.due[id]); late < w.delay || late > 4*w.delay {
				t.Fatalf("%s was stored %v after it was due", id, late)
			}
		}
	})
}

func TestWhatHasNoAnswerIsSentAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newFakeWay()
		w.answer = func(at time.Time, id string, try int) (string, error) {
			switch {
			case at.Second() >= 20 && at.Second() < 25:
				return "", errors.New("the broker restarts")
			case try == 1 && strings.Contains(id, "a "), try == 1 && strings.HasSuffix(id, "3"):
				return "unknown", nil
			}
			return "success", nil
		}
		var reports []string
		o := options(func(o *Options) { o.Report = func(s string) { reports = append(reports, s) } })
		total, err := o.run(t.Context(), w)
		if err != nil {
			t.Fatal(err)
		}
		if total.Messages != 3000 || total.Unknown+total.Refused > 0 || len(w.got) != 3000 {
			t.Errorf("got %v, %d stored", total, len(w.got))
		}
		if len(reports) == 0 || !strings.Contains(strings.Join(reports, "\n"), "the broker restarts") {
			t.Errorf("reports: %q", reports)
		}
	})
}

func TestItGivesUpWithoutAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newFakeWay()
		w.answer = func(time.Time, string, int) (string, error) { return "", errors.New("nobody home") }
		total, err := options(func(o *Options) { o.Patience = 20 * time.Second }).run(t.Context(), w)
		if err == nil || !strings.Contains(err.Error(), "no acknowledgement for 20s: nobody home") {
			t.Errorf("got error %v", err)
		}
		if total.Took < 20*time.Second || total.Took > 40*time.Second || total.Unknown == 0 {
			t.Errorf("got %v", total)
		}
	})
}

// Without patience an outage of minutes is survived, and what comes after it is not late.
func TestAnOutagePutsThePlanOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newFakeWay()
		began := time.Now()
		w.answer = func(at time.Time, _ string, _ int) (string, error) {
			if since := at.Sub(began); since > 10*time.Second && since < 5*time.Minute {
				return "", errors.New("away")
			}
			return "success", nil
		}
		file := filepath.Join(t.TempDir(), "truth.jsonl")
		o := options(func(o *Options) { o.Patience, o.Duration, o.Rate, o.Truth = 0, 7*time.Minute, 50, file })
		total, err := o.run(t.Context(), w)
		if err != nil || total.Unknown+total.Refused > 0 {
			t.Fatalf("got %v: %v", total, err)
		}
		if total.Behind < 2*time.Minute {
			t.Errorf("only %v behind", total.Behind)
		}
		late := 0
		for id, at := range w.got {
			if at.Sub(began) > 5*time.Minute+10*time.Second && at.Sub(w.due[id]) > tooLate {
				late++
			}
		}
		if late > 0 {
			t.Errorf("%d messages were late after the outage", late)
		}
		if moved := kinds(t, file)["moved"]; moved == 0 {
			t.Error("the truth does not say that the plan was put off")
		}
	})
}

func TestCtrlCEndsItAndDrains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newFakeWay()
		w.delay = time.Second
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		total, err := options(func(o *Options) { o.Duration = 0 }).run(ctx, w)
		if err != nil || total.Messages < 499 || total.Messages > 501 || total.Unknown > 0 || total.Took > 13*time.Second {
			t.Errorf("got %v: %v", total, err)
		}
	})
}

// kinds counts the lines of a truth file.
func kinds(t *testing.T, file string) map[string]int {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	n := map[string]int{}
	s := bufio.NewScanner(bytes.NewReader(b))
	for s.Scan() {
		var l struct{ Kind string }
		if err := json.Unmarshal(s.Bytes(), &l); err != nil {
			t.Fatalf("%s: %v", s.Text(), err)
		}
		n[l.Kind]++
	}
	return n
}

func TestTruthFileIsWhatWasAcknowledged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newFakeWay()
		w.answer = func(_ time.Time, id string, _ int) (string, error) {
			if strings.HasSuffix(id, "7") {
				return "refused", nil
			}
			return "success", nil
		}
		file := filepath.Join(t.TempDir(), "truth.jsonl")
		total, err := options(func(o *Options) { o.Truth = file }).run(t.Context(), w)
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		stored, refused := map[string]bool{}, 0
		for _, l := range strings.Split(strings.TrimSpace(string(b)), "\n") {
			var e eventTruth
			if err := json.Unmarshal([]byte(l), &e); err != nil {
				t.Fatal(err)
			}
			switch {
			case e.Outcome == "refused":
				refused++
			case e.Kind == "message" && e.Outcome == "acknowledged":
				stored[e.MessageID] = true
			}
		}
		want := slices.Sorted(maps.Keys(w.got))
		if got := slices.Sorted(maps.Keys(stored)); !slices.Equal(got, want) {
			t.Errorf("the truth knows %d messages, %d were stored", len(got), len(want))
		}
		if refused == 0 || refused != total.Refused {
			t.Errorf("the truth knows %d refusals, the totals %d", refused, total.Refused)
		}
		n := kinds(t, file)
		if n["run"] != 1 || n["total"] != 1 || n["view"] != total.Receipts || n["alert"] != total.Alerts || n["word"] != total.Words || total.Alerts == 0 || total.Words == 0 {
			t.Errorf("lines %v, totals %v", n, total)
		}
	})
}

func TestSamplesArePrinted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		if _, err := options(func(o *Options) { o.Out = &out }).run(t.Context(), newFakeWay()); err != nil {
			t.Fatal(err)
		}
		messages, views := strings.Count(out.String(), "💬 ["), strings.Count(out.String(), "👀 Message view: msg-")
		if messages < 60 || messages > 100 || views < 10 || views > 21 {
			t.Errorf("%d messages and %d receipts are shown in a minute:\n%.500s", messages, views, out.String())
		}
	})
}

func TestOptionsNameEveryFault(t *testing.T) {
	o := options(func(o *Options) { o.Mode, o.Rate, o.Users, o.Duration = "pigeon", 0, 1, -1 })
	err := fmt.Sprint(o.Validate())
	for _, flag := range []string{"--mode", "--rate", "--users", "--duration"} {
		if !strings.Contains(err, flag) {
			t.Errorf("%s is not named: %s", flag, err)
		}
	}
}
