package anomaly_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/earshot/earshot/services/internal/ident"
	"github.com/earshot/earshot/services/processor/anomaly"
)

// load reads recorded chat: a JSON object a line.
func load(t *testing.T, path string) []message {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var out []message
	same := map[string]int{}
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var m struct {
			Conversation string `json:"conversation_id"`
			Sender       string `json:"sender_id"`
			Content      string `json:"content"`
			Created      string `json:"created_at"`
		}
		if err := json.Unmarshal(lines.Bytes(), &m); err != nil {
			t.Fatalf("%s, line %d: %v", path, len(out)+1, err)
		}
		at, err := time.Parse("2006-01-02T15:04:05", strings.TrimSuffix(m.Created, "Z"))
		if err != nil {
			t.Fatalf("%s, line %d: created_at %q: want RFC 3339", path, len(out)+1, m.Created)
		}
		same[lines.Text()]++
		id := ident.Hashed(at, m.Conversation, m.Sender, m.Content, fmt.Sprint(same[lines.Text()]))
		out = append(out, message{m.Sender, m.Conversation, id})
	}
	if err := lines.Err(); err != nil || len(out) == 0 {
		t.Fatalf("%s: %d messages, %v", path, len(out), err)
	}
	return out
}

// generated is three days of a small workplace: talk in bursts across channels, some of it fast.
func generated(seed uint64) []message {
	rnd := rand.New(rand.NewPCG(seed, 7))
	var out []message
	for day := range 3 {
		for range 40 {
			user := fmt.Sprint("user-", rnd.IntN(25))
			at := int64(epoch) + int64(day)*86_400_000 + rnd.Int64N(28_800_000)
			pace := 1 + rnd.Int64N(int64(5_000+rnd.IntN(60_000)))
			for range 1 + rnd.IntN(30) {
				at += rnd.Int64N(pace)
				out = append(out, message{user, fmt.Sprint("channel-", rnd.IntN(8)), ident.Hashed(time.UnixMilli(at), user, fmt.Sprint(len(out)))})
			}
		}
	}
	slices.SortFunc(out, func(a, b message) int { return strings.Compare(string(a.id[:]), string(b.id[:])) })
	return out
}

// Chat is replayed at full speed, nearly in order; once, twice at once, a day later again, with crashes. EARSHOT_RECORDING names a recording to take
// beside the generated one.
func TestReplaysEqualReference(t *testing.T) {
	chats := map[string][]message{"generated": generated(1)}
	if path := os.Getenv("EARSHOT_RECORDING"); path != "" {
		chats["recorded"] = load(t, path)
	}
	for name, messages := range chats {
		for _, threshold := range []int{4, 5, 6, 8} {
			cfg := anomaly.Config{Threshold: threshold, Span: time.Minute}
			want := reference(cfg, messages)
			t.Logf("%s: %d messages, threshold %d: %d episodes", name, len(messages), threshold, len(want))
			if len(want) == 0 {
				t.Errorf("%s, threshold %d: nothing to find", name, threshold)
			}
			for i, pauses := range [][]int64{{0}, {0, 0}, {0, 86_400_000}} {
				for _, inflight := range []int{1, 1000} {
					for _, crashes := range []bool{false, true} {
						rnd := rand.New(rand.NewPCG(uint64(i), uint64(inflight)))
						w := &world{cfg: cfg, rnd: rnd, crashes: crashes}
						w.log = rekey(rnd, replay(rnd, messages, pauses, inflight), 6)
						tab := table{}
						for _, s := range w.run() {
							tab.add(s.Alert)
						}
						got, unresolved := tab.episodes()
						if diff := cmp.Diff(want, got); diff != "" || unresolved > 0 {
							t.Errorf("%s, threshold %d, pauses %v, %d in flight, crashes %v: %d unresolved, episodes (-reference +detector):\n%s",
								name, threshold, pauses, inflight, crashes, unresolved, diff)
						}
					}
				}
			}
		}
	}
}

// replay sends messages once for each pause, ten a millisecond, each up to inflight places late.
func replay(rnd *rand.Rand, messages []message, pauses []int64, inflight int) []arrival {
	var out []arrival
	at := int64(epoch) + 400*86_400_000
	for _, pause := range pauses {
		at += pause
		place := make([]int, len(messages))
		order := make([]int, len(messages))
		for i := range messages {
			order[i], place[i] = i, i+rnd.IntN(inflight)
		}
		slices.SortStableFunc(order, func(a, b int) int { return place[a] - place[b] })
		for k, i := range order {
			out = append(out, arrival{messages[i], at + int64(k/10)})
		}
		at += int64(len(order) / 10)
	}
	return out
}
