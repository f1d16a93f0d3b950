package processor

import (
	"context"
	"fmt"
	"time"

	"github.com/earshot/earshot/services/internal/kafka"
)

// sourceStage is the loop over chat.messages.
type sourceStage struct {
	host   *Host
	paused map[kafka.TopicPartition]bool
	paceAt int64 // when to look again whether someone is too far ahead
}

func (g *sourceStage) open(ctx context.Context, l *loop, given []kafka.Assignment) (map[kafka.TopicPartition]partition, error) {
	first, err := firstOffsets(ctx, g.host.admin, given)
	if err != nil {
		return nil, err
	}
	parts := map[kafka.TopicPartition]partition{}
	for _, a := range given {
		snap := g.host.snapshot(a)
		parts[a.TopicPartition] = newSource(l.common, a.Partition, g.host.byConversation, first[a.TopicPartition], a.Committed, snap)
		delete(g.paused, a.TopicPartition) // a new assignment is never paused
	}
	return parts, nil
}

func (g *sourceStage) advance(p partition, now int64) {
	s := p.(*source)
	s.advance(now, g.host.ends.Load().idle(s.partition, s.next))
}

// turn pauses the partitions that are furthest ahead when too many messages wait for the slowest, one a second, and resumes them when that is over. It is
// rare, and costly: a pause discards what was prefetched.
func (g *sourceStage) turn(l *loop, now int64) error {
	if now < g.paceAt {
		return nil
	}
	g.paceAt = now + 1000
	waiting, watermark := g.host.waiting.Load(), g.host.watermark.Load()
	var furthest kafka.TopicPartition
	most := watermark + pauseAhead
	for tp, p := range l.parts {
		clock := p.partition.(*source).clock
		if g.paused[tp] {
			// One that the watermark has caught up with is what the others wait for.
			if waiting < int64(g.host.cfg.WaitingEvents)/2 || clock <= watermark+pauseAhead {
				if err := l.consumer.Resume(tp); err != nil {
					return fmt.Errorf("resume %v: %w", tp, err)
				}
				delete(g.paused, tp)
			}
		} else if clock > most {
			most, furthest = clock, tp
		}
	}
	if waiting < int64(g.host.cfg.WaitingEvents) || furthest.Topic == "" {
		return nil
	}
	if err := l.consumer.Pause(furthest); err != nil {
		return fmt.Errorf("pause %v: %w", furthest, err)
	}
	g.paused[furthest] = true
	g.host.pauses.Add(1)
	g.host.tel.Log.Info("partition paused: too many messages wait for a slower one", "topic", furthest.Topic, "partition", furthest.Partition, "waiting", waiting)
	return nil
}

// pauseAhead is how far beyond the watermark, in milliseconds, a partition must be to be paused.
const pauseAhead = 10_000

// ends is what was known of the partitions of chat.messages when their ends were asked for.
type ends struct {
	asked   int64 // before the question was sent
	offsets map[int32]int64
}

// idleMargin is how much below the moment of asking the log time of a partition that is read to its end stays: acceptance comes before the append.
const idleMargin = 1000

// idle returns the log time of a partition whose next record is next, if it is read to its end; else 0. No silence is taken for idleness otherwise.
func (e *ends) idle(partition int32, next int64) int64 {
	if e == nil {
		return 0
	}
	if end, ok := e.offsets[partition]; !ok || next < end {
		return 0
	}
	return e.asked - idleMargin
}

// sources returns how many partitions chat.messages has; 0 while that is unknown.
func (e *ends) sources() int {
	if e == nil {
		return 0
	}
	return len(e.offsets)
}

// rekeyedStage is the loop over the internal topics.
type rekeyedStage struct{ host *Host }

func (g *rekeyedStage) open(ctx context.Context, l *loop, given []kafka.Assignment) (map[kafka.TopicPartition]partition, error) {
	first, err := firstOffsets(ctx, g.host.admin, given)
	if err != nil {
		return nil, err
	}
	parts := map[kafka.TopicPartition]partition{}
	since := map[int32]int64{}
	for _, a := range given {
		snap := g.host.snapshot(a)
		if a.Topic == g.host.kafka.Topics.TermTotals.Name {
			parts[a.TopicPartition] = newTerms(l.common, a.Partition, g.host.byTerm, first[a.TopicPartition], a.Committed, snap)
			continue
		}
		parts[a.TopicPartition] = newSenders(l.common, a.Partition, g.host.bySender, first[a.TopicPartition], a.Committed, snap)
		since[a.Partition] = alertsSince(g.host.cfg, a.Committed, snap)
	}
	restore := func(partition int32, r *alertRecord) {
		tp := kafka.TopicPartition{Topic: g.host.kafka.Topics.SenderEvents.Name, Partition: partition}
		parts[tp].(*senders).restore(r.alert, r.time)
	}
	if err := g.host.readAlerts(ctx, since, restore); err != nil {
		return nil, err
	}
	return parts, nil
}

func (g *rekeyedStage) advance(p partition, _ int64) {
	p.(interface{ advance(int) }).advance(g.host.ends.Load().sources())
}

// turn tells the other loop how far this one is.
func (g *rekeyedStage) turn(l *loop, _ int64) error {
	waiting, watermark := 0, int64(0)
	for _, p := range l.parts {
		s, ok := p.partition.(*senders)
		if !ok {
			continue
		}
		waiting += s.ahead.total
		if watermark == 0 || s.watermark < watermark {
			watermark = s.watermark
		}
	}
	g.host.waiting.Store(int64(waiting))
	g.host.watermark.Store(watermark)
	return nil
}

// firstOffsets returns the first kept offset of each assigned partition. A group whose commit is no longer kept has lost records: an error, never a jump.
func firstOffsets(ctx context.Context, admin *kafka.Admin, given []kafka.Assignment) (map[kafka.TopicPartition]int64, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	topics := map[string]map[int32]int64{}
	first := map[kafka.TopicPartition]int64{}
	for _, a := range given {
		if topics[a.Topic] == nil {
			offsets, err := admin.FirstOffsets(ctx, a.Topic)
			if err != nil {
				return nil, err
			}
			topics[a.Topic] = offsets
		}
		offset, ok := topics[a.Topic][a.Partition]
		if !ok {
			return nil, fmt.Errorf("the broker asked knows no %v yet", a.TopicPartition)
		}
		if a.Committed >= 0 && a.Committed < offset {
			return nil, fmt.Errorf("%v: the group committed offset %d, the first kept is %d: %d records are gone; to go on without them, set the group's offset: %w",
				a.TopicPartition, a.Committed, offset, offset-a.Committed, kafka.ErrOutOfRange)
		}
		first[a.TopicPartition] = offset
	}
	return first, nil
}
