package processor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	eventv1 "github.com/earshot/earshot/gen/earshot/event/v1"
	"github.com/earshot/earshot/services/internal/kafka"
	"github.com/earshot/earshot/services/internal/kafka/kafkatest"
	"github.com/earshot/earshot/services/internal/telemetry"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

func probes() factories {
	return factories{
		byConversation: []ConversationFactory{{"probe", func(int32) ByConversation { return conversationProbe{} }}},
		bySender:       []SenderFactory{{"probe", func(p int32) BySender { return probe{p} }}},
	}
}

// names returns how often each message was told of by sender.
func (c *collector) names(t *testing.T, reg kafka.Topics) map[string]int {
	t.Helper()
	told := map[string]int{}
	values(t, c.topic(reg.UserActivity), func() *eventv1.UserActivity { return &eventv1.UserActivity{} }, func(v *eventv1.UserActivity) { told[v.UserId]++ })
	return told
}

func nameOf(s sim) string { return s.m.SenderId + " " + s.m.ConversationId + " " + s.m.MessageId }

// waitTold reads until every message was told of.
func (c *collector) waitTold(t *testing.T, reg kafka.Topics, msgs []sim) {
	t.Helper()
	want := map[string]bool{}
	for _, s := range msgs {
		want[nameOf(s)] = true
	}
	c.until(t, time.Minute, func() string {
		told := c.names(t, reg)
		missing := 0
		for name := range want {
			if told[name] == 0 {
				missing++
			}
		}
		if missing > 0 {
			return fmt.Sprintf("%d of %d messages were not told of", missing, len(want))
		}
		return ""
	})
}

func TestGracefulStopRepeatsNothing(t *testing.T) {
	kcfg := kafkatest.Start(t)
	now := fastClock()
	msgs := chat(rand.New(rand.NewPCG(1, 1)), now()-24*3600*1000, 400)
	out := collect(t, kcfg, kcfg.Topics.UserActivity)
	for i := range 4 {
		h := start(t, DefaultConfig(), kcfg, now, probes())
		produce(t, kcfg, now, msgs[100*i:100*i+100])
		out.waitTold(t, kcfg.Topics, msgs[:100*i+100])
		h.end(t)
	}
	for name, n := range out.names(t, kcfg.Topics) {
		if n != 1 {
			t.Errorf("%s was told of %d times over three graceful stops", name, n)
		}
	}
}

// failProduce makes the broker answer the first n produce requests to a topic with an error code.
func failProduce(c *kfake.Cluster, topic string, n int32, code int16) *atomic.Int32 {
	var failed atomic.Int32
	c.ControlKey(0, func(req kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		r := req.(*kmsg.ProduceRequest)
		if len(r.Topics) != 1 || len(r.Topics[0].Partitions) != 1 || r.Topics[0].Topic != topic || failed.Load() >= n {
			return nil, nil, false
		}
		failed.Add(1)
		res := r.ResponseKind().(*kmsg.ProduceResponse)
		part := kmsg.NewProduceResponseTopicPartition()
		part.Partition, part.ErrorCode = r.Topics[0].Partitions[0].Partition, code
		top := kmsg.NewProduceResponseTopic()
		top.Topic, top.Partitions = topic, append(top.Partitions, part)
		res.Topics = append(res.Topics, top)
		return res, nil, true
	})
	return &failed
}

func TestRefusedResultIsADeadLetter(t *testing.T) {
	kcfg, broker := kafkatest.StartBroker(t)
	now := fastClock()
	msgs := chat(rand.New(rand.NewPCG(2, 1)), now()-24*3600*1000, 200)
	const messageTooLarge = 10
	failed := failProduce(broker, kcfg.Topics.UserActivity.Name, 1, messageTooLarge)
	dead := kcfg.Topics.UserActivity.DeadLetter()
	out, letters := collect(t, kcfg, kcfg.Topics.UserActivity), collect(t, kcfg, dead)
	start(t, DefaultConfig(), kcfg, now, probes())
	produce(t, kcfg, now, msgs)
	told := map[string]int{}
	letters.until(t, time.Minute, func() string {
		recs, err := out.r.Poll(context.Background(), 1000, 0)
		if err != nil {
			t.Fatal(err)
		}
		out.recs = append(out.recs, recs...)
		told = out.names(t, kcfg.Topics)
		for _, r := range letters.recs {
			r.Topic = kcfg.Topics.UserActivity.Name
			maps.Copy(told, (&collector{recs: []kafka.Record{r}}).names(t, kcfg.Topics))
		}
		if len(told) < len(msgs) {
			return fmt.Sprintf("%d of %d messages were told of, in letters too", len(told), len(msgs))
		}
		return ""
	})
	if failed.Load() != 1 || len(letters.recs) == 0 {
		t.Fatalf("%d requests failed, %d dead letters", failed.Load(), len(letters.recs))
	}
	if got := letters.recs[0].Header(kafka.HeaderDeadService); got != "processor/probe" {
		t.Errorf("dead letter of %q, want processor/probe", got)
	}
}

func TestFailedDeliverySendsTheLoopBack(t *testing.T) {
	kcfg, broker := kafkatest.StartBroker(t)
	now := fastClock()
	msgs := chat(rand.New(rand.NewPCG(3, 1)), now()-24*3600*1000, 600)
	const invalidRequiredAcks = 21 // an error that is neither tried again nor a refusal
	failed := failProduce(broker, kcfg.Topics.SenderEvents.Name, 3, invalidRequiredAcks)
	out := collect(t, kcfg, kcfg.Topics.UserActivity)
	start(t, DefaultConfig(), kcfg, now, probes())
	for part := range slices.Chunk(msgs, 50) {
		produce(t, kcfg, now, part)
	}
	out.waitTold(t, kcfg.Topics, msgs)
	if failed.Load() == 0 {
		t.Error("nothing failed")
	}
}

// A partition that nobody reads holds the watermark back. Those that are ahead of it are paused before they fill the memory, and go on when it is read.
func TestFarAheadIsPaused(t *testing.T) {
	kcfg := kafkatest.Start(t)
	now := fastClock()
	stuck, err := kafka.NewConsumer(kcfg, GroupSource, []kafka.Topic{kcfg.Topics.Messages}, nil, telemetry.Nop())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan struct{})
	go func() { // it takes its share of the partitions, and does nothing with them
		defer close(gone)
		for ctx.Err() == nil {
			if _, err := stuck.Poll(ctx, 1, 100*time.Millisecond); err != nil {
				t.Error(err)
			}
		}
		if err := stuck.Close(); err != nil {
			t.Error(err)
		}
	}()
	defer func() { cancel(); <-gone }()

	cfg := DefaultConfig()
	cfg.WaitingEvents, cfg.BatchRecords = 1000, 100
	h := start(t, cfg, kcfg, now, probes())
	var msgs []sim
	rnd := rand.New(rand.NewPCG(4, 1))
	paused := func() bool { return h.host.pauses.Load() > 0 }
	for deadline := time.Now().Add(time.Minute); !paused(); {
		if time.Now().After(deadline) {
			t.Fatalf("not paused, with %d messages waiting", h.host.waiting.Load())
		}
		more := chat(rnd, now()-24*3600*1000, 500)
		produce(t, kcfg, now, more)
		msgs = append(msgs, more...)
	}
	cancel()
	<-gone
	out := collect(t, kcfg, kcfg.Topics.UserActivity)
	out.waitTold(t, kcfg.Topics, msgs)
}

func TestWrongRegistryEndsTheHost(t *testing.T) {
	kcfg := kafkatest.Start(t)
	kcfg.Topics.SenderEvents.Partitions--
	h := New(DefaultConfig(), kcfg, observed(t), nil, nil)
	if err := h.Ready(t.Context()); err == nil {
		t.Error("ready before it runs")
	}
	err := h.Run(t.Context())
	if !errors.Is(err, errSettings) || !strings.Contains(err.Error(), kcfg.Topics.SenderEvents.Name+" has 6 partitions, the registry says 5") {
		t.Errorf("got %v", err)
	}
}

func TestMissingTopicsAreAwaited(t *testing.T) {
	c, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	kcfg := kafka.DefaultConfig()
	kcfg.Brokers = c.ListenAddrs()
	h := start(t, DefaultConfig(), kcfg, fastClock(), probes())
	state := func(want string) {
		t.Helper()
		for deadline := time.Now().Add(30 * time.Second); !strings.Contains(fmt.Sprint(h.host.Ready(t.Context())), want); {
			if time.Now().After(deadline) {
				t.Fatalf("state is %v, want %q", h.host.Ready(t.Context()), want)
			}
			time.Sleep(10 * time.Millisecond) // between two looks
		}
	}
	state("does not exist; create it with: earshot topics apply")
	kafkatest.Apply(t, kcfg)
	state("<nil>")
}

func TestMetricsHaveTheirNames(t *testing.T) {
	kcfg := kafkatest.Start(t)
	now := fastClock()
	reader := metric.NewManualReader()
	provider := metric.NewMeterProvider(metric.WithReader(reader))
	tel := observed(t)
	tel.Meter = provider.Meter("test")
	h := New(DefaultConfig(), kcfg, tel, probes().byConversation, probes().bySender)
	h.now = now
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	msgs := chat(rand.New(rand.NewPCG(5, 1)), now()-24*3600*1000, 100)
	late, _ := message(now()-3600*1000, 1, "conv-late", "ann", "too late", false)
	produce(t, kcfg, now, append(msgs, sim{m: late}))
	produce(t, kcfg, now, msgs[:1])
	want := map[string]int64{
		"earshot.processor.records host handled": 100, "earshot.processor.records host copy": 1, "earshot.processor.records rekeyed handled": 100, "earshot.processor.records host late": 1,
		"earshot.processor.records probe emitted": 200, "earshot.processor.late": 1,
		"earshot.processor.watermark": -1, "earshot.freshness": -1, "earshot.kafka.lag.records": -1, "earshot.processor.outstanding": -1,
		"earshot.processor.remembered": -1, "earshot.processor.waiting": -1, "earshot.processor.rebuild.duration": -1,
	}
	for deadline := time.Now().Add(30 * time.Second); ; {
		var all metricdata.ResourceMetrics
		if err := reader.Collect(t.Context(), &all); err != nil {
			t.Fatal(err)
		}
		got := map[string]int64{}
		for _, m := range all.ScopeMetrics[0].Metrics {
			got[m.Name] = -1
			sum, ok := m.Data.(metricdata.Sum[int64])
			if !ok {
				continue
			}
			delete(got, m.Name)
			for _, p := range sum.DataPoints {
				name := m.Name
				if v, ok := p.Attributes.Value("processor"); ok {
					o, _ := p.Attributes.Value("outcome")
					name += " " + v.AsString() + " " + o.AsString()
				}
				got[name] = p.Value
			}
		}
		missing := ""
		for name, n := range want {
			if got[name] != n {
				missing += fmt.Sprintf("%s: got %d, want %d; ", name, got[name], n)
			}
		}
		if missing == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(missing)
		}
		time.Sleep(50 * time.Millisecond) // between two looks
	}
}
