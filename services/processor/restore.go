package processor

import (
	"context"
	"fmt"
	"time"

	eventv1 "github.com/earshot/earshot/gen/earshot/event/v1"
	"github.com/earshot/earshot/services/internal/kafka"
	"github.com/earshot/earshot/services/internal/record"
)

// alertRecord is an alert found in its topic.
type alertRecord struct {
	alert *eventv1.Alert
	time  int64 // of the record, in milliseconds since the epoch
}

// alertsSince returns from which record time on the alerts matter for a partition of sender-events that is rebuilt as snap says: two spans before the
// log time at its low offset. An open episode is announced again once per span, and never before the log time of its messages, so none that is alive is
// missed. 0 means all: the group never committed, so nothing is known.
func alertsSince(cfg Config, committed int64, snap snapshot) int64 {
	if committed < 0 || snap.clock == 0 {
		return 0
	}
	at := snap.clock
	for _, h := range snap.heard {
		if h.known {
			at = min(at, h.logTime)
		}
	}
	if len(snap.heard) == 0 {
		at -= cfg.senderKeep().Milliseconds()
	}
	return max(at-2*cfg.Span.Milliseconds(), 1)
}

// restoreWait bounds the reading of alerts: it happens in a rebalance, which must end well before the group takes this member for dead.
const restoreWait = 2 * time.Minute

// readAlerts reads anomaly-alerts from the record times asked for, by partition of sender-events, to its end, and hands each alert to the partition its
// user belongs to, if that is asked for. Alerts of one user come in log order.
func (h *Host) readAlerts(ctx context.Context, since map[int32]int64, to func(int32, *alertRecord)) error {
	if len(since) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, restoreWait)
	defer cancel()
	topic := h.kafka.Topics.Alerts.Name
	end, err := h.admin.EndOffsets(ctx, topic)
	if err != nil {
		return err
	}
	from, err := h.alertOffsets(ctx, topic, since)
	if err != nil {
		return err
	}
	start := map[kafka.TopicPartition]int64{}
	for p, o := range from {
		if o < end[p] {
			start[kafka.TopicPartition{Topic: topic, Partition: p}] = o
		}
	}
	if len(start) == 0 {
		return nil
	}
	r, err := kafka.NewReader(h.kafka, h.tel)
	if err != nil {
		return err
	}
	defer r.Close() //nolint:errcheck // it holds nothing
	if err := r.Assign(start); err != nil {
		return err
	}
	partitions := h.kafka.Topics.SenderEvents.Partitions
	for len(start) > 0 {
		recs, err := r.Poll(ctx, 2_000, time.Second)
		if err != nil {
			return fmt.Errorf("read %s: %w", topic, err)
		}
		if ctx.Err() != nil {
			return fmt.Errorf("read %s up to its end, %d partitions left: %w", topic, len(start), context.Cause(ctx))
		}
		for i := range recs {
			rec := &recs[i]
			if rec.Offset+1 >= end[rec.Partition] {
				delete(start, rec.TopicPartition())
			}
			if rec.Offset >= end[rec.Partition] {
				continue
			}
			a, err := record.Alert(rec.Value)
			if err != nil {
				continue // poison: the sink keeps it
			}
			p := partitionOf(a.UserId, partitions)
			if _, ok := since[p]; ok {
				to(p, &alertRecord{a, rec.Timestamp.UnixMilli()})
			}
		}
	}
	return nil
}

// alertOffsets returns where to begin in each partition of anomaly-alerts.
func (h *Host) alertOffsets(ctx context.Context, topic string, since map[int32]int64) (map[int32]int64, error) {
	least := int64(-1)
	for _, t := range since {
		if least < 0 || t < least {
			least = t
		}
	}
	if least == 0 {
		return h.admin.FirstOffsets(ctx, topic)
	}
	return h.admin.OffsetsAt(ctx, topic, time.UnixMilli(least))
}
