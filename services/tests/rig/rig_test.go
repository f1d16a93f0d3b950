package rig_test

import (
	"context"
	"testing"
	"time"

	"github.com/earshot/earshot/services/internal/kafka"
	"github.com/earshot/earshot/services/internal/telemetry"
	"github.com/earshot/earshot/services/tests/rig"
)

// The seam against real brokers: what kfake is used for elsewhere must hold here, too.
func TestSeamOnRealKafka(t *testing.T) {
	k := rig.StartKafka(t, 3)
	cfg := kafka.DefaultConfig()
	cfg.Brokers = k.Brokers()
	a, err := kafka.NewAdmin(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	rig.Eventually(t, time.Minute, "metadata", func() bool { return a.Ping(ctx) == nil })
	if _, err := a.Apply(ctx, cfg.Topics.All()); err != nil {
		t.Fatal(err)
	}
	if again, err := a.Apply(ctx, cfg.Topics.All()); err != nil || again[0].Did != "unchanged" {
		t.Errorf("a second Apply: %v, %v", again, err)
	}
	p, err := kafka.NewProducer(cfg, telemetry.Nop())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	for i := range 300 {
		if i == 100 {
			k.Broker(0).Kill()
		}
		if err := p.Produce(ctx, kafka.Record{Topic: cfg.Topics.Messages.Name, Partition: int32(i % 6), Value: []byte("v")}); err != nil {
			t.Fatalf("record %d: %v", i, err)
		}
	}
	end, err := a.EndOffsets(ctx, cfg.Topics.Messages.Name)
	if err != nil {
		t.Fatal(err)
	}
	var n int64
	for _, o := range end {
		n += o
	}
	if n < 300 {
		t.Errorf("%d records in the log, want at least the 300 acknowledged", n)
	}
}
