package conversation

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"
	"unique"

	eventv1 "github.com/earshot/earshot/gen/earshot/event/v1"
	"github.com/earshot/earshot/services/processor/recent"
	"google.golang.org/protobuf/proto"
)

// chat returns recorded chat: the file that EARSHOT_RECORDING names, one JSON object a line, or one made up here of conversations with quiet and lively
// spells.
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
			CreatedAt      time.Time `json:"created_at"`
		}
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			t.Fatalf("%s line %d: %v", path, len(out)+1, err)
		}
		out = append(out, message{r.ConversationID, r.SenderID, r.CreatedAt.UnixMilli(), uint64(len(out))})
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return out
}

func madeUp(n int) []message {
	rnd := rand.New(rand.NewPCG(1, 2))
	var out []message
	now := start
	for i := range n {
		now += int64(rnd.ExpFloat64() * []float64{300, 3_000, 60_000}[rnd.IntN(3)])
		out = append(out, message{fmt.Sprint("c", rnd.IntN(8)), fmt.Sprint("u", rnd.IntN(5)), now, uint64(i)})
	}
	return out
}

// TestRecording replays recorded chat at full speed, with a thousand messages in flight, twice, with a crash in the middle of each.
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
	h := newHost(t, DefaultConfig(), log)
	for h.next < len(log) {
		h.read(1 + rnd.IntN(2000))
		if rnd.IntN(3) == 0 {
			h.commit()
		}
		if rnd.IntN(6) == 0 && h.committed > 0 {
			h.crash(1 + rnd.IntN(500))
		}
	}
	h.check()
	t.Logf("%d messages, %d records", len(all), len(h.results))
}

// BenchmarkLive measures live traffic of 10,000 messages a second over 20,000 conversations, the memory's work included.
func BenchmarkLive(b *testing.B) {
	const conversations, rate = 20_000, 10_000
	rnd := rand.New(rand.NewPCG(1, 2))
	names := make([]string, conversations)
	for i := range names {
		names[i] = fmt.Sprint("conversation-", i)
	}
	users := make([]unique.Handle[string], 10_000)
	for i := range users {
		users[i] = unique.Make(fmt.Sprint("user-", i))
	}
	mem, tracker := recent.New(memory), New(DefaultConfig())
	records := 0
	emit := func(string, proto.Message) { records++ }
	m := &eventv1.Message{}
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		now := start + int64(n)*1000/rate
		e := recent.Entry{ID: id(now, uint64(n)), Other: users[rnd.IntN(len(users))]}
		tracker.Observe(m, mem.Observe(names[rnd.IntN(conversations)], e, now+5), emit)
		if n%200 == 0 {
			tracker.Advance(now+5, emit)
			mem.Advance(now + 5)
		}
		n++
	}
	b.ReportMetric(float64(records)/float64(n), "records/msg")
}
