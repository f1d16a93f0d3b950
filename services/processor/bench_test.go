package processor

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	eventv1 "github.com/earshot/earshot/gen/earshot/event/v1"
	"github.com/earshot/earshot/services/internal/kafka"
	"github.com/earshot/earshot/services/internal/kafka/kafkatest"
	"github.com/earshot/earshot/services/internal/telemetry"
	"google.golang.org/protobuf/proto"
)

// BenchmarkAlert sends 10,000 msg/s to one host with all processors, on a broker in the same process, and measures the time from before a message is
// sent to the reading of the alert that it triggered. Run it with -benchtime=50000x or so: the first seconds are those of joining the groups.
func BenchmarkAlert(b *testing.B) {
	const rate, perBurst = 10_000, 8
	kcfg := kafkatest.Start(b)
	f := everything(kcfg.Topics, perBurst)
	ctx, cancel := context.WithCancel(b.Context())
	h := New(DefaultConfig(), kcfg, telemetry.Nop(), f.byConversation, f.bySender, WithTerms(f.byTerm...))
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			b.Error(err)
		}
	}()
	p, err := kafka.NewProducer(kcfg, telemetry.Nop())
	if err != nil {
		b.Fatal(err)
	}
	defer p.Close()
	r, err := kafka.NewReader(kcfg, telemetry.Nop())
	if err != nil {
		b.Fatal(err)
	}
	defer r.Close()
	at := map[kafka.TopicPartition]int64{}
	for i := range kcfg.Topics.Alerts.Partitions {
		at[kafka.TopicPartition{Topic: kcfg.Topics.Alerts.Name, Partition: int32(i)}] = kafka.FirstOffset //nolint:gosec // few
	}
	if err := r.Assign(at); err != nil {
		b.Fatal(err)
	}

	// One message in ten is a spammer's, in bursts of eight; the others come from 20,000 users.
	send := func(i int) {
		sender, conversation := fmt.Sprint("user-", i%20_000), fmt.Sprint("conv-", i%3000)
		if i%10 == 0 {
			sender = fmt.Sprint("spammer-", i/10/perBurst)
		}
		m, _ := message(time.Now().UnixMilli(), i, conversation, sender, "release party tonight, coffee for everyone", false)
		value, err := proto.Marshal(m)
		if err != nil {
			b.Error(err)
		}
		p.Send(context.Background(), kafka.Record{
			Topic: kcfg.Topics.Messages.Name, Partition: kafka.AnyPartition, Key: []byte(conversation), Value: value, Timestamp: time.Now(),
		}, func(_ kafka.Record, err error) {
			if err != nil {
				b.Error(err)
			}
		})
	}
	n := max(b.N, 2*perBurst*10)
	bursts := n / 10 / perBurst
	var latencies []time.Duration
	read := make(chan struct{})
	go func() {
		defer close(read)
		seen := map[string]bool{}
		for deadline := time.Now().Add(time.Minute); len(seen) < bursts && time.Now().Before(deadline); {
			recs, err := r.Poll(b.Context(), 1000, time.Second)
			if err != nil {
				b.Error(err)
				return
			}
			for i := range recs {
				var a eventv1.Alert
				if err := proto.Unmarshal(recs[i].Value, &a); err != nil {
					b.Error(err)
				}
				if !seen[a.AlertId] {
					seen[a.AlertId] = true
					latencies = append(latencies, time.Since(a.TriggeredAt.AsTime()))
				}
			}
		}
	}()
	for deadline := time.Now().Add(20 * time.Second); h.Ready(b.Context()) != nil && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	b.ResetTimer()
	began := time.Now()
	for i := range n {
		if ahead := time.Duration(i)*time.Second/rate - time.Since(began); ahead > time.Millisecond {
			time.Sleep(ahead)
		}
		send(i)
	}
	<-read
	b.StopTimer()
	if len(latencies) < bursts {
		b.Fatalf("%d alerts of %d", len(latencies), bursts)
	}
	late := latencies[len(latencies)/4:]
	slices.Sort(late)
	b.ReportMetric(float64(late[len(late)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(late[len(late)*99/100].Microseconds())/1000, "p99-ms")
	b.ReportMetric(0, "ns/op")
}
