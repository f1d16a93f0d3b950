package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	apiv1 "github.com/earshot/earshot/gen/earshot/api/v1"
	"google.golang.org/grpc/codes"
)

func TestTrafficIsOfItsShape(t *testing.T) {
	a, b := newTraffic(7, 100), newTraffic(7, 100)
	var bytes int
	uses := map[string]int{}
	for i := range a.texts {
		if a.texts[i] != b.texts[i] {
			t.Fatalf("text %d differs between two traffics of one seed", i)
		}
		bytes += len(a.texts[i])
		for _, w := range strings.Fields(a.texts[i]) {
			uses[w]++
		}
	}
	if mean := bytes / texts; mean < contentBytes-20 || mean > contentBytes+20 {
		t.Errorf("texts have %d bytes on average, want about %d", mean, contentBytes)
	}
	if first, later := uses[word(0)], uses[word(1000)]; first < 100*max(1, later) {
		t.Errorf("the commonest word is used %d times and the thousandth %d: that is not Zipf's law", first, later)
	}
	var m apiv1.SendMessageRequest
	a.fork(1).fill(&m)
	if m.GetSenderId() == "" || m.GetConversationId() == "" || m.GetContent() == "" {
		t.Errorf("a message lacks something: %v", &m)
	}
}

func TestWordsAreDistinct(t *testing.T) {
	seen := map[string]bool{}
	for i := range vocabulary {
		w := word(i)
		if seen[w] || len(w) < 4 {
			t.Fatalf("word %d is %q: twice, or too short to be counted", i, w)
		}
		seen[w] = true
	}
}

func TestQuantiles(t *testing.T) {
	var s samples
	if got := s.quantile(0.5); got != 0 {
		t.Errorf("median of nothing is %v", got)
	}
	for i := 100; i >= 1; i-- {
		s.add(time.Duration(i))
	}
	for q, want := range map[float64]time.Duration{0: 1, 0.5: 51, 0.99: 100, 1: 100} {
		if got := s.quantile(q); got != want {
			t.Errorf("quantile %v of 1 to 100 is %d, want %d", q, got, want)
		}
	}
}

func TestTallySortsAnswers(t *testing.T) {
	var c tally
	for _, code := range []codes.Code{codes.OK, codes.ResourceExhausted, codes.Unavailable, codes.DeadlineExceeded} {
		if err := c.count(code == codes.OK, code, ""); err != nil {
			t.Error(err)
		}
	}
	if c.acked.Load() != 1 || c.refused.Load() != 1 || c.unknown.Load() != 2 {
		t.Errorf("got %d acknowledged, %d refused, %d unknown, want 1, 1, 2", c.acked.Load(), c.refused.Load(), c.unknown.Load())
	}
	if err := c.count(false, codes.InvalidArgument, "sender_id"); err == nil {
		t.Error("a refusal of the benchmark's own messages is no measurement: want an error")
	}
}

func TestDocumentTellsWhatWasMissed(t *testing.T) {
	d := document{began: time.Now(), opts: options{Seconds: 5, Binary: "no such file"}, engine: "26.7", build: "earshot v0"}
	d.add(rows[0], result{Measured: "1 msg/s", Details: []string{"a detail"}})
	d.add(rows[1], result{Measured: "did not finish", Broken: true})
	d.add(rows[2], result{Measured: "p50 1 ms", Met: true})
	path := filepath.Join(t.TempDir(), "performance.md")
	if err := d.write(path); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"| unary |", "**1 msg/s** | 10,000 msg/s | missed |", "not measured |", "| met |", "- a detail", "ClickHouse 26.7"} {
		if !strings.Contains(string(b), want) {
			t.Errorf("the document lacks %q:\n%s", want, b)
		}
	}
}

func TestOptions(t *testing.T) {
	t.Setenv("ROW", "unary,none")
	t.Setenv("BENCH_SECONDS", "soon")
	_, err := readOptions()
	if err == nil || !strings.Contains(err.Error(), `"none"`) || !strings.Contains(err.Error(), `BENCH_SECONDS: got "soon"`) {
		t.Errorf("got %v, want both faults named", err)
	}
	t.Setenv("ROW", "batch")
	t.Setenv("BENCH_SECONDS", "7")
	o, err := readOptions()
	if err != nil || o.Seconds != 7 || len(o.Rows) != 1 {
		t.Errorf("got %+v, %v", o, errors.Unwrap(err))
	}
}

func TestThousands(t *testing.T) {
	for n, want := range map[int64]string{0: "0", 999: "999", 1000: "1,000", 1234567: "1,234,567", 10_000_000: "10,000,000"} {
		if got := thousands(n); got != want {
			t.Errorf("thousands(%d) = %q, want %q", n, got, want)
		}
	}
}
