package processor

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"log/slog"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/earshot/earshot/services/internal/kafka"
	"github.com/earshot/earshot/services/internal/kafka/kafkatest"
	"github.com/earshot/earshot/services/internal/telemetry"
	gocmp "github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"
)

// TestMain allows for one thing the client does: a commit during a rebalance may stay without an answer, which nothing can cancel. The seam then gives
// it up, and leaves that client behind rather than close it under the commit.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		goleak.IgnoreAnyFunction("github.com/confluentinc/confluent-kafka-go/v2/kafka.(*Consumer).CommitOffsets"),
		goleak.IgnoreAnyFunction("github.com/confluentinc/confluent-kafka-go/v2/kafka.(*handle).pollLogEvents"),
		goleak.IgnoreAnyFunction("github.com/earshot/earshot/services/internal/kafka.relay"))
}

// fastClock is a clock that runs 20 times as fast as life: what settles in 70 s settles in 3.5.
func fastClock() func() int64 {
	began := time.Now()
	return func() int64 { return began.UnixMilli() + 20*time.Since(began).Milliseconds() }
}

// observed logs to the test's output.
func observed(t *testing.T) telemetry.T {
	tel := telemetry.Nop()
	tel.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	return tel
}

// running is a host at work in a test.
type running struct {
	host *Host
	stop context.CancelFunc
	done chan error
}

func start(t *testing.T, cfg Config, kcfg kafka.Config, now func() int64, f factories) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{host: New(cfg, kcfg, observed(t), f.byConversation, f.bySender, WithTerms(f.byTerm...)), stop: cancel, done: make(chan error, 1)}
	r.host.now = now
	go func() { r.done <- r.host.Run(ctx) }()
	t.Cleanup(func() { r.end(t) })
	return r
}

// end stops a host as SIGTERM does.
func (r *running) end(t *testing.T) {
	t.Helper()
	r.stop()
	select {
	case err, ok := <-r.done:
		if ok && err != nil {
			t.Errorf("host ended with: %v", err)
		}
		if ok {
			close(r.done)
		}
	case <-time.After(30 * time.Second):
		stacks := make([]byte, 1<<20)
		t.Fatalf("host does not stop:\n%s", stacks[:runtime.Stack(stacks, true)])
	}
}

// kill stops a host without a commit.
func (r *running) kill(t *testing.T) {
	t.Helper()
	r.host.abandon.Store(true)
	r.end(t)
}

// collector reads topics from their first record on.
type collector struct {
	r    *kafka.Reader
	recs []kafka.Record
}

func collect(t *testing.T, cfg kafka.Config, topics ...kafka.Topic) *collector {
	t.Helper()
	r, err := kafka.NewReader(cfg, telemetry.Nop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	at := map[kafka.TopicPartition]int64{}
	for _, topic := range topics {
		for p := range topic.Partitions {
			at[kafka.TopicPartition{Topic: topic.Name, Partition: int32(p)}] = kafka.FirstOffset
		}
	}
	if err := r.Assign(at); err != nil {
		t.Fatal(err)
	}
	return &collector{r: r}
}

// until reads until wrong returns nothing, and fails the test when that takes more than limit. It looks only when nothing new came for a moment.
func (c *collector) until(t *testing.T, limit time.Duration, wrong func() string) {
	t.Helper()
	for deadline := time.Now().Add(limit); ; {
		recs, err := c.r.Poll(context.Background(), 10_000, 200*time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		c.recs = append(c.recs, recs...)
		if len(recs) > 0 && time.Now().Before(deadline) {
			continue
		}
		what := wrong()
		if what == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not so after %v, with %d records read: %s", limit, len(c.recs), what)
		}
	}
}

// topic returns what was read of a topic.
func (c *collector) topic(topic kafka.Topic) [][]kafka.Record {
	var out []kafka.Record
	for _, r := range c.recs {
		if r.Topic == topic.Name {
			out = append(out, r)
		}
	}
	return [][]kafka.Record{out}
}

func produce(t *testing.T, cfg kafka.Config, now func() int64, all []sim) {
	t.Helper()
	p, err := kafka.NewProducer(cfg, telemetry.Nop())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	recs := make([]kafka.Record, len(all))
	for i, s := range all {
		value, err := proto.Marshal(s.m)
		if err != nil {
			t.Fatal(err)
		}
		recs[i] = kafka.Record{Topic: cfg.Topics.Messages.Name, Partition: kafka.AnyPartition, Key: []byte(s.m.ConversationId), Value: value, Timestamp: time.UnixMilli(now())}
	}
	if err := p.Produce(context.Background(), recs...); err != nil {
		t.Fatal(err)
	}
}

// chat is old chat, to be replayed: all of it counts whenever it is accepted.
func chat(rnd *rand.Rand, start int64, n int) []sim {
	var all []sim
	for i := range n {
		start += int64(rnd.IntN(4000))
		s := sim{}
		s.m, s.id = message(start, i, "conv-"+string(rune('a'+rnd.IntN(20))), "user-"+string(rune('a'+rnd.IntN(6))), "release party tonight", true)
		all = append(all, s)
	}
	return all
}

func TestHostsOnABroker(t *testing.T) {
	for _, hosts := range []int{1, 3} {
		t.Run(map[int]string{1: "one host", 3: "three hosts"}[hosts], func(t *testing.T) {
			msgs := chat(rand.New(rand.NewPCG(7, uint64(hosts))), time.Now().Add(-300*24*time.Hour).UnixMilli(), 1500) //nolint:gosec // small
			replay(t, msgs, hosts, 5, true)
		})
	}
}

// TestRecording replays recorded chat, if EARSHOT_RECORDING names a file of it, and EARSHOT_THRESHOLD the rule.
func TestRecording(t *testing.T) {
	path := os.Getenv("EARSHOT_RECORDING")
	if path == "" {
		return // nothing to do: the made-up chat above covers the same ground
	}
	threshold, err := strconv.Atoi(cmp.Or(os.Getenv("EARSHOT_THRESHOLD"), "8"))
	if err != nil {
		t.Fatal(err)
	}
	msgs := recording(t, path)
	t.Logf("%d messages, %d episodes", len(msgs), len(wantAlerts(msgs, threshold)))
	replay(t, msgs, 3, threshold, false)
}

// recording reads one JSON object a line.
func recording(t *testing.T, path string) []sim {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var msgs []sim
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var line struct {
			ConversationID string    `json:"conversation_id"`
			SenderID       string    `json:"sender_id"`
			Content        string    `json:"content"`
			CreatedAt      time.Time `json:"created_at"`
		}
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil {
			t.Fatal(err)
		}
		s := sim{}
		s.m, s.id = message(line.CreatedAt.UnixMilli(), len(msgs), line.ConversationID, line.SenderID, line.Content, true)
		msgs = append(msgs, s)
	}
	if lines.Err() != nil {
		t.Fatal(lines.Err())
	}
	return msgs
}

// replay sends msgs twice at full speed, kills a host and starts another while they are read, and waits for every result to be right.
func replay(t *testing.T, msgs []sim, hosts, threshold int, plainWords bool) {
	t.Helper()
	kcfg := kafkatest.Start(t)
	reg := kcfg.Topics
	cfg := DefaultConfig()
	now := fastClock()
	f := everything(reg, threshold)
	var all []*running
	for range hosts {
		all = append(all, start(t, cfg, kcfg, now, f))
	}
	out := collect(t, kcfg, reg.Alerts, reg.UserActivity, reg.ConversationMetrics, reg.Trends)
	produce(t, kcfg, now, msgs)
	produce(t, kcfg, now, msgs)
	out.until(t, 30*time.Second, func() string {
		if len(out.recs) == 0 {
			return "no result"
		}
		return ""
	})
	all[0].kill(t)
	all[0] = start(t, cfg, kcfg, now, f)
	want := wantAlerts(msgs, threshold)
	out.until(t, 90*time.Second, func() string {
		if diff := gocmp.Diff(want, heardAlerts(t, out.topic(reg.Alerts))); diff != "" {
			return "alerts (-want +got):\n" + diff
		}
		return wrongWindows(t, out.topic, reg, msgs, plainWords)
	})
	for _, r := range all {
		if err := r.host.Ready(context.Background()); err != nil {
			t.Errorf("not ready: %v", err)
		}
	}
}
