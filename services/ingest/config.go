// Package ingest takes messages and read receipts over gRPC: it checks, stamps and keys them, writes them to Kafka, and answers once all in-sync
// replicas have them.
//
//	SendMessage, SendMessages, StreamMessages --> chat.messages
//	RecordView, RecordViews                   --> message-views
//
// It keeps no state: a retry with the same message_id is written again, and collapses everywhere downstream. It may import gen and internal packages
// only, and never logs content.
package ingest

import (
	"errors"
	"fmt"
	"time"

	"github.com/earshot/earshot/services/internal/kafka"
)

// Config says what ingest accepts. Start from DefaultConfig.
type Config struct {
	Retention      time.Duration `yaml:"retention"`        // oldest created_at accepted without backfill; at least 1h, or 0 for any
	AllowBackfill  bool          `yaml:"allow_backfill"`   // whether requests may set backfill; only for listeners on loopback by default
	StreamInFlight int           `yaml:"stream_in_flight"` // unacknowledged messages a stream may have; 1 to 100,000
	MaxBatchBytes  int           `yaml:"max_batch_bytes"`  // largest batch, in bytes of protobuf; at least 1 KiB
	AckWait        time.Duration `yaml:"ack_wait"`         // longest wait for Kafka where the caller sets no deadline, and in streams; 100ms to 30s
	ProbeEvery     time.Duration `yaml:"probe_every"`      // how often brokers are asked whether they are there; at least 50ms
	Topics         kafka.Topics  `yaml:"-"`                // the registry; Messages and Views are written
}

// DefaultConfig returns the settings as documented; backfill is not allowed.
func DefaultConfig() Config {
	return Config{
		Retention:      30 * 24 * time.Hour,
		StreamInFlight: 1024,
		MaxBatchBytes:  4 << 20,
		AckWait:        10 * time.Second, // well below the producer's message timeout: a late acknowledgement is "unknown", not "failed"
		ProbeEvery:     time.Second,
		Topics:         kafka.DefaultTopics(),
	}
}

// Validate returns every fault at once, by its setting.
func (c Config) Validate() error {
	var errs []error
	if c.Retention != 0 && c.Retention < time.Hour {
		errs = append(errs, fmt.Errorf("ingest.retention: got %v, want at least 1h, or 0 to keep for ever", c.Retention))
	}
	if c.StreamInFlight < 1 || c.StreamInFlight > 100_000 {
		errs = append(errs, fmt.Errorf("ingest.stream_in_flight: got %d, want 1 to 100000", c.StreamInFlight))
	}
	if c.MaxBatchBytes < 1<<10 {
		errs = append(errs, fmt.Errorf("ingest.max_batch_bytes: got %d, want at least 1024", c.MaxBatchBytes))
	}
	if c.AckWait < 100*time.Millisecond || c.AckWait > 30*time.Second {
		errs = append(errs, fmt.Errorf("ingest.ack_wait: got %v, want 100ms to 30s", c.AckWait))
	}
	if c.ProbeEvery < 50*time.Millisecond {
		errs = append(errs, fmt.Errorf("ingest.probe_every: got %v, want at least 50ms", c.ProbeEvery))
	}
	return errors.Join(errs...)
}
