// Package kafkatest starts a real broker in the test's own process.
package kafkatest

import (
	"context"
	"testing"
	"time"

	"github.com/earshot/earshot/services/internal/kafka"
	"github.com/twmb/franz-go/pkg/kfake"
)

// Start returns settings for a fresh broker that holds every topic and ends with the test.
func Start(tb testing.TB) kafka.Config {
	tb.Helper()
	cfg, _ := StartBroker(tb)
	return cfg
}

// StartBroker is Start, and also hands out the broker, so that a test can make it misbehave.
func StartBroker(tb testing.TB) (kafka.Config, *kfake.Cluster) {
	tb.Helper()
	c, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		tb.Fatalf("start broker: %v", err)
	}
	tb.Cleanup(c.Close)
	cfg := kafka.DefaultConfig()
	cfg.Brokers = c.ListenAddrs()
	Apply(tb, cfg)
	return cfg, c
}

// Apply creates every topic of cfg.
func Apply(tb testing.TB, cfg kafka.Config) {
	tb.Helper()
	a, err := kafka.NewAdmin(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	defer a.Close()
	ctx, cancel := context.WithTimeout(tb.Context(), 20*time.Second)
	defer cancel()
	if _, err := a.Apply(ctx, cfg.Topics.All()); err != nil {
		tb.Fatalf("create topics: %v", err)
	}
}
