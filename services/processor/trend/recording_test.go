package trend

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
	"unique"

	eventv1 "github.com/earshot/earshot/gen/earshot/event/v1"
	"github.com/earshot/earshot/services/processor/recent"
	"google.golang.org/protobuf/proto"
)

// chat returns recorded chat: the file that EARSHOT_RECORDING names, one JSON object a line, or one made up here of a Zipf vocabulary with topics that
// come and go.
func chat(t testing.TB) []message {
	path := os.Getenv("EARSHOT_RECORDING")
	if path == "" {
		return madeUp(5_000)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var out []message
	lines := bufio.NewScanner(bytes.NewReader(data))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var r struct {
			ConversationID string    `json:"conversation_id"`
			SenderID       string    `json:"sender_id"`
			Content        string    `json:"content"`
			CreatedAt      time.Time `json:"created_at"`
		}
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			t.Fatalf("%s line %d: %v", path, len(out)+1, err)
		}
		out = append(out, message{r.ConversationID, r.SenderID, r.Content, r.CreatedAt.UnixMilli(), uint64(len(out))})
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return out
}

func madeUp(n int) []message {
	rnd := rand.New(rand.NewPCG(1, 2))
	zipf := rand.NewZipf(rnd, 1.2, 3, 20_000)
	var out []message
	now := start
	for i := range n {
		now += int64(rnd.ExpFloat64() * []float64{100, 1_000, 20_000}[rnd.IntN(3)])
		var text strings.Builder
		for range 1 + rnd.IntN(12) {
			fmt.Fprintf(&text, "word%d ", zipf.Uint64())
		}
		if topic := i / 100 % 7; rnd.IntN(3) == 0 {
			fmt.Fprintf(&text, "Topic%d!", topic)
		}
		out = append(out, message{fmt.Sprint("c", rnd.IntN(30)), fmt.Sprint("u", rnd.IntN(100)), text.String(), now, uint64(i)})
	}
	return out
}

// TestRecording replays recorded chat at full speed over six partitions, with a thousand messages in flight, twice, with crashes of both halves.
func TestRecording(t *testing.T) {
	all := chat(t)
	rnd := rand.New(rand.NewPCG(3, 4))
	var log []logged
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC).UnixMilli()
	for _, pause := range []int64{0, 1000} { // ms before the replay
		now += pause
		order := make([]int, len(all))
		place := make([]float64, len(all))
		for i := range all {
			order[i], place[i] = i, float64(i)+rnd.Float64()*1000
		}
		slices.SortFunc(order, func(a, b int) int { return int(place[a]*1e6) - int(place[b]*1e6) })
		for i, o := range order {
			now += int64(i % 2)
			log = append(log, logged{all[o], now})
		}
	}
	m := newMesh(t, DefaultConfig(), log, 6, 3)
	for unread := true; unread; {
		unread = false
		for _, s := range m.sources {
			s.read(rnd.IntN(800))
			if rnd.IntN(3) == 0 {
				s.commit()
			}
			if rnd.IntN(10) == 0 {
				s.crash(1 + rnd.IntN(500))
			}
			unread = unread || s.next < len(s.log)
		}
		for _, s := range m.terms {
			s.read(rnd.IntN(20))
			if rnd.IntN(3) == 0 {
				s.commit()
			}
			if rnd.IntN(10) == 0 {
				s.crash(1 + rnd.IntN(50))
			}
		}
	}
	m.check()
	t.Logf("%d messages, %d trends", len(all), len(m.results))
	if path := os.Getenv("EARSHOT_RECORDING"); path != "" {
		return
	}
	if n := len(m.results); n < 1000 {
		t.Errorf("%d trends in made-up chat", n)
	}
}

// BenchmarkCounter measures live traffic of 1,700 messages a second, a sixth of 10,000, without the memory's work.
func BenchmarkCounter(b *testing.B) {
	const rate = 1_700
	msgs := madeUp(50_000)
	records := make([]*eventv1.Message, len(msgs))
	users := make([]unique.Handle[string], len(msgs))
	for i, m := range msgs {
		records[i] = &eventv1.Message{ConversationId: m.conversation, SenderId: m.sender, Content: m.content}
		users[i] = unique.Make(m.sender)
	}
	c := NewCounter(DefaultConfig(), 0, 3)
	bytes := 0
	emit := func(_ string, v proto.Message) { bytes += proto.Size(v) }
	log := &recent.Log{Key: "c", Entries: make([]recent.Entry, 1)}
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		now := start + int64(n)*1000/rate
		log.Entries[0] = recent.Entry{ID: id(now, uint64(n)), Other: users[n%len(users)]}
		c.Observe(records[n%len(records)], recent.Seen{Log: log, First: true, LogTime: now + 5}, emit)
		if n%100 == 0 {
			c.Advance(now+5, emit)
		}
		n++
	}
	b.ReportMetric(float64(bytes)/float64(n), "sent-B/msg")
	b.ReportMetric(float64(c.uses), "uses")
}

// BenchmarkRanker measures what one Ranker of three does for 10,000 messages a second: totals of six sources each 5 s, and the rankings between. An
// operation is one second of watermark.
func BenchmarkRanker(b *testing.B) {
	msgs := madeUp(50_000)
	r := NewRanker(DefaultConfig())
	trends := 0
	say := func(string, proto.Message) { trends++ }
	var longest time.Duration
	var counters []*Counter
	var waiting []*eventv1.TermTotals
	for s := range int32(6) {
		counters = append(counters, NewCounter(DefaultConfig(), s, 3))
	}
	emit := func(_ string, v proto.Message) {
		if t := v.(*eventv1.TermTotals); t.TermPartition == 0 {
			waiting = append(waiting, t)
		}
	}
	log := &recent.Log{Key: "c", Entries: make([]recent.Entry, 1)}
	n := 0
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		for range 10_000 {
			now := start + int64(n)/10
			m := &msgs[n%len(msgs)]
			log.Entries[0] = recent.Entry{ID: id(now, uint64(n)), Other: unique.Make(m.sender)}
			rec := &eventv1.Message{ConversationId: m.conversation, SenderId: m.sender, Content: m.content}
			counters[n%6].Observe(rec, recent.Seen{Log: log, First: true, LogTime: now}, emit)
			n++
		}
		now := start + int64(n)/10
		for _, c := range counters {
			c.Advance(now, emit)
		}
		b.StartTimer()
		for _, t := range waiting {
			r.Merge(t)
		}
		waiting = waiting[:0]
		began := time.Now()
		r.Advance(now, say)
		longest = max(longest, time.Since(began))
	}
	b.ReportMetric(float64(trends)/float64(n), "trends/msg")
	b.ReportMetric(float64(longest.Microseconds()), "longest-µs")
	b.ReportMetric(float64(r.tallies), "tallies")
}
