package kafka

import (
	"context"
	"fmt"
	"time"

	ck "github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"github.com/earshot/earshot/services/internal/telemetry"
)

// Reader reads chosen partitions without a group and leaves no trace at the brokers. One goroutine at a time may use it.
type Reader struct{ c *Consumer }

// NewReader returns a reader with nothing assigned.
func NewReader(cfg Config, tel telemetry.T) (*Reader, error) {
	c, err := newConsumer(cfg, ck.ConfigMap{
		"group.id":           "earshot-reader", // the client wants one; it is never joined
		"enable.auto.commit": false,
		"auto.offset.reset":  "error",
	}, tel)
	if err != nil {
		return nil, fmt.Errorf("create reader: %w", err)
	}
	return &Reader{c}, nil
}

// Assign replaces what is read: each partition starts at its offset, which may be FirstOffset.
func (r *Reader) Assign(at map[TopicPartition]int64) error {
	parts := make([]ck.TopicPartition, 0, len(at))
	for tp, o := range at {
		parts = append(parts, toClient(tp, o))
	}
	if err := r.c.client.Assign(parts); err != nil {
		return fmt.Errorf("assign %d partitions: %w", len(at), err)
	}
	return nil
}

// Add reads more partitions beside those that are read already.
func (r *Reader) Add(at map[TopicPartition]int64) error {
	parts := make([]ck.TopicPartition, 0, len(at))
	for tp, o := range at {
		parts = append(parts, toClient(tp, o))
	}
	if err := r.c.client.IncrementalAssign(parts); err != nil {
		return fmt.Errorf("add %d partitions: %w", len(at), err)
	}
	return nil
}

// Poll is Consumer.Poll.
func (r *Reader) Poll(ctx context.Context, limit int, wait time.Duration) ([]Record, error) {
	return r.c.Poll(ctx, limit, wait)
}

// Close ends the reader.
func (r *Reader) Close() error { return r.c.Close() }
