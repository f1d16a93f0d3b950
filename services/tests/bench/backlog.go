package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/earshot/earshot/services/internal/kafka"
)

// backlogLimit is how many messages consumers may be behind before the load holds back. Commits come once a second, so that a part of it is always
// done already.
const backlogLimit = 250_000

// The groups that read what the load writes.
const (
	groupSource  = "processor"
	groupRekeyed = "processor-rekeyed"
	groupSink    = "sink"
)

// backlog watches how far consumers are behind, by what they have committed.
type backlog struct {
	admin  *kafka.Admin
	topics kafka.Topics

	now  atomic.Int64 // messages that a group has still to commit, at the latest look
	most atomic.Int64
	open atomic.Bool // the load may go on
}

func newBacklog(m *mesh) *backlog {
	b := &backlog{admin: m.admin, topics: kafka.DefaultTopics()}
	b.open.Store(true)
	return b
}

// watch looks until ctx ends.
func (b *backlog) watch(ctx context.Context) error {
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for {
		if err := b.look(ctx); err != nil && ctx.Err() == nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func (b *backlog) look(ctx context.Context) error {
	topic := b.topics.Messages.Name
	end, err := b.admin.EndOffsets(ctx, topic)
	if err != nil {
		return err
	}
	var behind int64
	for _, group := range []string{groupSource, groupSink} {
		n, err := b.behind(ctx, group, topic, end)
		if err != nil {
			return err
		}
		behind = max(behind, n)
	}
	b.now.Store(behind)
	b.most.Store(max(b.most.Load(), behind))
	b.open.Store(behind < backlogLimit)
	return nil
}

// behind returns how many records before end a group has not committed.
func (b *backlog) behind(ctx context.Context, group, topic string, end map[int32]int64) (n int64, err error) {
	done, err := b.admin.Committed(ctx, group, topic)
	if err != nil {
		return 0, err
	}
	for p, e := range end {
		n += max(0, e-done[p])
	}
	return n, nil
}

// hold waits while consumers are too far behind.
func (b *backlog) hold(ctx context.Context) {
	for !b.open.Load() && ctx.Err() == nil {
		time.Sleep(10 * time.Millisecond)
	}
}

// drain returns once everything that was written, and everything made of it, is worked off: the messages by the processors, then what they re-keyed,
// then all of it by the sink.
func (b *backlog) drain(ctx context.Context) error {
	t := b.topics
	for _, step := range []struct {
		group  string
		topics []kafka.Topic
	}{
		{groupSource, []kafka.Topic{t.Messages}},
		{groupRekeyed, []kafka.Topic{t.SenderEvents, t.TermTotals}},
		{groupSink, t.Stored()},
	} {
		for _, topic := range step.topics {
			end, err := b.admin.EndOffsets(ctx, topic.Name)
			if err != nil {
				return err
			}
			if err := b.reach(ctx, step.group, topic.Name, end); err != nil {
				return err
			}
		}
	}
	return nil
}

// made says how many records each topic holds that are made of messages: results, and what is re-keyed.
func (b *backlog) made(ctx context.Context) (string, error) {
	t := b.topics
	var parts []string
	for _, topic := range []kafka.Topic{t.Alerts, t.Trends, t.ConversationMetrics, t.UserActivity, t.SenderEvents, t.TermTotals} {
		end, err := b.admin.EndOffsets(ctx, topic.Name)
		if err != nil {
			return "", err
		}
		var n int64
		for _, o := range end {
			n += o
		}
		parts = append(parts, fmt.Sprintf("%s %s", thousands(n), topic.Name))
	}
	return strings.Join(parts, ", "), nil
}

const drainLimit = 5 * time.Minute

func (b *backlog) reach(ctx context.Context, group, topic string, end map[int32]int64) error {
	ctx, cancel := context.WithTimeoutCause(ctx, drainLimit, errors.New("too slow"))
	defer cancel()
	for {
		n, err := b.behind(ctx, group, topic, end)
		switch {
		case err != nil:
			return err
		case n == 0:
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("group %s is still %d records of %s behind after %v: %w", group, n, topic, drainLimit, context.Cause(ctx))
		case <-time.After(20 * time.Millisecond):
		}
	}
}
