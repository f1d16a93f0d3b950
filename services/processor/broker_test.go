package processor

import (
	"context"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	eventv1 "github.com/earshot/earshot/gen/earshot/event/v1"
	"github.com/earshot/earshot/services/internal/kafka"
	"github.com/earshot/earshot/services/internal/kafka/kafkatest"
	"github.com/earshot/earshot/services/internal/telemetry"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

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
		t.Fatal("host does not stop")
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

// until reads until ok holds, and fails the test when it does not within a minute; say tells what is wrong then.
func (c *collector) until(t *testing.T, ok func([]kafka.Record) bool, say func([]kafka.Record) string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(c.recs); {
		recs, err := c.r.Poll(context.Background(), 1000, 100*time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		c.recs = append(c.recs, recs...)
		if time.Now().After(deadline) {
			t.Fatalf("not there after a minute, %d records read: %s", len(c.recs), say(c.recs))
		}
	}
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
			kcfg := kafkatest.Start(t)
			cfg := DefaultConfig()
			now := fastClock()
			f := factories{
				byConversation: []ConversationFactory{{"probe", func(int32) ByConversation { return conversationProbe{} }}},
				bySender:       []SenderFactory{{"probe", func(p int32) BySender { return probe{p} }}},
			}
			var all []*running
			for range hosts {
				all = append(all, start(t, cfg, kcfg, now, f))
			}
			rnd := rand.New(rand.NewPCG(7, uint64(hosts)))
			msgs := chat(rnd, now()-300*24*3600*1000, 2000)
			out := collect(t, kcfg, kcfg.Topics.UserActivity)
			seen := func(recs []kafka.Record) map[string]bool {
				m := map[string]bool{}
				values(t, [][]kafka.Record{recs}, func() *eventv1.UserActivity { return &eventv1.UserActivity{} }, func(v *eventv1.UserActivity) { m[v.UserId] = true })
				return m
			}
			first := map[string]bool{}
			want := map[string]bool{}
			for i, s := range msgs {
				name := s.m.SenderId + " " + s.m.ConversationId + " " + s.m.MessageId
				want[name] = true
				if i < 1000 {
					first[name] = true
				}
			}
			produce(t, kcfg, now, msgs[:1000])
			out.until(t, func(recs []kafka.Record) bool { return len(seen(recs)) > 300 }, func(recs []kafka.Record) string { return "" })
			all[0].kill(t)
			all[0] = start(t, cfg, kcfg, now, f)
			produce(t, kcfg, now, msgs)
			out.until(t, func(recs []kafka.Record) bool { return len(seen(recs)) >= len(want) }, func(recs []kafka.Record) string {
				return cmp.Diff(slices.Sorted(maps.Keys(want)), slices.Sorted(maps.Keys(seen(recs))))
			})
			if diff := cmp.Diff(slices.Sorted(maps.Keys(want)), slices.Sorted(maps.Keys(seen(out.recs)))); diff != "" {
				t.Errorf("-sent +seen\n%s", diff)
			}
			for _, r := range all {
				if err := r.host.Ready(context.Background()); err != nil {
					t.Errorf("not ready: %v", err)
				}
			}
		})
	}
}
