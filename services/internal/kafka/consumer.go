package kafka

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	ck "github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"github.com/earshot/earshot/services/internal/telemetry"
)

// FirstOffset as a place to start means the first record that is kept.
const FirstOffset = int64(ck.OffsetBeginning)

// Assignment is a partition that a group handed to a consumer.
type Assignment struct {
	TopicPartition
	Committed int64  // offset to go on at; -1 when the group never committed
	Metadata  string // what was committed with it
}

// Rebalance is told of partitions that come and go: inside Poll and Close, on their caller's goroutine. Only the partitions named change.
type Rebalance interface {
	// Assigned returns where to start. A partition it does not name starts at Committed, or without that at the first record.
	Assigned([]Assignment) (map[TopicPartition]int64, error)
	// Revoked must finish and commit: when it returns the partitions go to someone else.
	Revoked([]TopicPartition)
	// Lost must only forget: someone else has the partitions already.
	Lost([]TopicPartition)
}

// Commit is what a group remembers of a partition.
type Commit struct {
	Next     int64  // offset of the first record not yet done
	Metadata string // at most 4,096 bytes (the brokers' offset.metadata.max.bytes)
}

// ErrOutOfRange says that records a group still needed are gone: retention passed them. It is a loss, never skipped silently.
var ErrOutOfRange = errors.New("offset out of range")

// Consumer reads topics as a member of a group. It never commits or moves on by itself. One goroutine at a time may use it.
type Consumer struct {
	client    *ck.Consumer
	tel       telemetry.T
	rebalance Rebalance
	failed    error // of a rebalance callback, returned by Poll
	wg        sync.WaitGroup
	commits   atomic.Int32 // not yet answered
	done      chan struct{}
}

// NewConsumer joins group for topics with cooperative rebalancing. h may be nil: then partitions start where the group committed.
func NewConsumer(cfg Config, group string, topics []Topic, h Rebalance, tel telemetry.T) (*Consumer, error) {
	conf := ck.ConfigMap{
		"group.id":                      group,
		"enable.auto.commit":            false,
		"enable.auto.offset.store":      false,
		"auto.offset.reset":             "error",
		"partition.assignment.strategy": "cooperative-sticky",
		"session.timeout.ms":            int(cfg.SessionTimeout / time.Millisecond),
		"heartbeat.interval.ms":         int(cfg.SessionTimeout / 5 / time.Millisecond),
		"max.poll.interval.ms":          300_000,
	}
	if cfg.Instance != "" {
		conf["group.instance.id"] = group + "-" + cfg.Instance
	}
	c, err := newConsumer(cfg, conf, tel)
	if err != nil {
		return nil, fmt.Errorf("create consumer of group %s: %w", group, err)
	}
	c.rebalance = h
	names := make([]string, len(topics))
	for i, t := range topics {
		names[i] = t.Name
	}
	if err := c.client.SubscribeTopics(names, c.rebalanced); err != nil {
		return nil, errors.Join(fmt.Errorf("subscribe group %s to %v: %w", group, names, err), c.Close())
	}
	return c, nil
}

func newConsumer(cfg Config, more ck.ConfigMap, tel telemetry.T) (*Consumer, error) {
	conf := with(cfg.client(), ck.ConfigMap{
		"fetch.min.bytes":            cfg.FetchBytes,
		"fetch.wait.max.ms":          100,
		"socket.timeout.ms":          10_000, // of a request without an answer; joins have their own
		"fetch.error.backoff.ms":     50,
		"fetch.queue.backoff.ms":     10,
		"fetch.message.max.bytes":    1 << 20, // of one partition; a larger record comes alone
		"fetch.max.bytes":            4 << 20, // of one answer, which broker and client both hold whole
		"queued.min.messages":        cfg.ReadAhead,
		"queued.max.messages.kbytes": cfg.ReadAheadBytes >> 10,
		"check.crcs":                 true,
	})
	c, err := ck.NewConsumer(with(*conf, more))
	if err != nil {
		return nil, err
	}
	k := &Consumer{client: c, tel: tel, done: make(chan struct{})}
	k.wg.Add(1)
	go func() { defer k.wg.Done(); relay(tel.Log, c.Logs(), k.done) }()
	return k, nil
}

func (c *Consumer) rebalanced(_ *ck.Consumer, e ck.Event) error {
	switch e := e.(type) {
	case ck.AssignedPartitions:
		c.failed = errors.Join(c.failed, c.assigned(e.Partitions))
	case ck.RevokedPartitions:
		gone := fromClientPartitions(e.Partitions)
		if c.rebalance != nil {
			if c.client.AssignmentLost() {
				c.rebalance.Lost(gone)
			} else {
				c.rebalance.Revoked(gone)
			}
		}
		if err := c.client.IncrementalUnassign(e.Partitions); err != nil {
			c.failed = errors.Join(c.failed, fmt.Errorf("give up %v: %w", gone, err))
		}
	}
	return nil
}

func (c *Consumer) assigned(parts []ck.TopicPartition) error {
	if len(parts) == 0 {
		return c.client.IncrementalAssign(parts)
	}
	committed, err := c.client.Committed(parts, 10_000)
	if err != nil {
		return fmt.Errorf("ask for the committed offsets of %v: %w", fromClientPartitions(parts), err)
	}
	given := make([]Assignment, len(committed))
	for i, p := range committed {
		if p.Error != nil {
			return fmt.Errorf("ask for the committed offset of %s/%d: %w", *p.Topic, p.Partition, p.Error)
		}
		given[i] = Assignment{TopicPartition: TopicPartition{*p.Topic, p.Partition}, Committed: -1}
		if p.Offset >= 0 {
			given[i].Committed = int64(p.Offset)
		}
		if p.Metadata != nil {
			given[i].Metadata = *p.Metadata
		}
	}
	var start map[TopicPartition]int64
	if c.rebalance != nil {
		if start, err = c.rebalance.Assigned(given); err != nil {
			return err
		}
	}
	for i, a := range given {
		at, ok := start[a.TopicPartition]
		if !ok {
			at = a.Committed
		}
		if at < 0 {
			at = FirstOffset
		}
		parts[i] = toClient(a.TopicPartition, at)
	}
	if err := c.client.IncrementalAssign(parts); err != nil {
		return fmt.Errorf("take %v: %w", fromClientPartitions(parts), err)
	}
	return nil
}

// Poll returns up to limit records, waiting up to wait for the first and not at all for the others. No records and no error means that there were
// none. Records of one partition come in order. ErrOutOfRange is returned when wanted records are gone.
func (c *Consumer) Poll(ctx context.Context, limit int, wait time.Duration) ([]Record, error) {
	var recs []Record
	deadline := time.Now().Add(wait)
	for len(recs) < limit {
		left := 0
		if len(recs) == 0 {
			// Short slices, since the client does not know ctx; rounded up, or the last millisecond would be spent spinning.
			left = int((min(time.Until(deadline), 100*time.Millisecond) + time.Millisecond - 1) / time.Millisecond)
			if ctx.Err() != nil {
				return nil, nil //nolint:nilerr // an ended ctx is the caller's own doing
			}
		}
		e := c.client.Poll(max(left, 0))
		if c.failed != nil {
			err := c.failed
			c.failed = nil
			return recs, err
		}
		switch e := e.(type) {
		case *ck.Message:
			if e.TopicPartition.Error != nil {
				return recs, fmt.Errorf("read %s/%d: %w", *e.TopicPartition.Topic, e.TopicPartition.Partition, e.TopicPartition.Error)
			}
			recs = append(recs, fromClient(e))
		case ck.Error:
			if err := c.clientError(e); err != nil {
				return recs, err
			}
		case nil:
			if len(recs) > 0 || !time.Now().Before(deadline) {
				return recs, nil
			}
		}
	}
	return recs, nil
}

// clientError sorts the client's events: most tell of trouble that it overcomes alone.
func (c *Consumer) clientError(e ck.Error) error {
	switch {
	case e.Code() == ck.ErrAutoOffsetReset || e.Code() == ck.ErrOffsetOutOfRange:
		return fmt.Errorf("%w: %w", ErrOutOfRange, e)
	case e.IsFatal(), e.Code() == ck.ErrTopicAuthorizationFailed, e.Code() == ck.ErrGroupAuthorizationFailed:
		return fmt.Errorf("consumer: %w", e)
	}
	switch e.Code() {
	case ck.ErrTransport, ck.ErrAllBrokersDown, ck.ErrTimedOut, ck.ErrResolve: // told by the client's own log
		c.tel.Log.Debug("kafka consumer", "err", e)
	default: // some never pass, such as a session timeout that the brokers do not allow
		c.tel.Log.Warn("kafka consumer", "err", e)
	}
	return nil
}

// Commit stores how far the group is. It fails when the partitions went to someone else meanwhile, and with ErrUnanswered when brokers are silent for
// 15 s. Unlike the other methods it may be called beside Poll.
func (c *Consumer) Commit(offsets map[TopicPartition]Commit) error {
	if len(offsets) == 0 {
		return nil
	}
	parts := make([]ck.TopicPartition, 0, len(offsets))
	for tp, o := range offsets {
		p := toClient(tp, o.Next)
		if o.Metadata != "" {
			p.Metadata = &o.Metadata
		}
		parts = append(parts, p)
	}
	type answer struct {
		done []ck.TopicPartition
		err  error
	}
	answered := make(chan answer, 1)
	c.commits.Add(1)
	c.wg.Go(func() {
		defer c.commits.Add(-1)
		done, err := c.client.CommitOffsets(parts)
		answered <- answer{done, err}
	})
	var a answer
	select {
	case a = <-answered:
	case <-time.After(commitLimit):
		return fmt.Errorf("commit %d partitions: %w", len(parts), ErrUnanswered)
	}
	if a.err != nil {
		return fmt.Errorf("commit %d partitions: %w", len(parts), a.err)
	}
	for _, p := range a.done {
		if p.Error != nil {
			return fmt.Errorf("commit %s/%d at %d: %w", *p.Topic, p.Partition, p.Offset, p.Error)
		}
	}
	return nil
}

// commitLimit bounds the wait for a commit. The client knows no bound, and around a rebalance an answer may never come.
const commitLimit = 15 * time.Second

// ErrUnanswered says that brokers did not answer a commit in time: it may be done or not.
var ErrUnanswered = errors.New("no answer to a commit, outcome unknown")

// Pause stops fetching from partitions; what was prefetched from them is discarded and read again later.
func (c *Consumer) Pause(tps ...TopicPartition) error { return c.client.Pause(toClients(tps)) }

// Resume ends Pause.
func (c *Consumer) Resume(tps ...TopicPartition) error { return c.client.Resume(toClients(tps)) }

// Seek goes on reading an assigned partition at offset.
func (c *Consumer) Seek(tp TopicPartition, offset int64) error {
	parts, err := c.client.SeekPartitions([]ck.TopicPartition{toClient(tp, offset)})
	if err == nil && len(parts) > 0 {
		err = parts[0].Error
	}
	if err != nil {
		return fmt.Errorf("seek %v to %d: %w", tp, offset, err)
	}
	return nil
}

// Close leaves the group: Revoked is called for what is still assigned. While a commit is unanswered, which needs the client, it can not be closed:
// then it is left behind with an error, and its members' session times out.
func (c *Consumer) Close() error {
	for deadline := time.Now().Add(5 * time.Second); c.commits.Load() > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			return fmt.Errorf("close consumer: %w; it is left to time out", ErrUnanswered)
		}
	}
	err := c.client.Close()
	close(c.done)
	c.wg.Wait()
	if err != nil && !strings.Contains(err.Error(), "already clos") {
		return fmt.Errorf("close consumer: %w", err)
	}
	return nil
}

func toClient(tp TopicPartition, offset int64) ck.TopicPartition {
	return ck.TopicPartition{Topic: &tp.Topic, Partition: tp.Partition, Offset: ck.Offset(offset)}
}

func toClients(tps []TopicPartition) []ck.TopicPartition {
	parts := make([]ck.TopicPartition, len(tps))
	for i, tp := range tps {
		parts[i] = toClient(tp, int64(ck.OffsetInvalid))
	}
	return parts
}

func fromClientPartitions(parts []ck.TopicPartition) []TopicPartition {
	tps := make([]TopicPartition, len(parts))
	for i, p := range parts {
		tps[i] = TopicPartition{*p.Topic, p.Partition}
	}
	return tps
}
