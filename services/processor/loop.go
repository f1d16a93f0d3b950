package processor

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/earshot/earshot/services/internal/kafka"
	"go.opentelemetry.io/otel/trace"
)

// partition is the state machine of one partition that a loop drives.
type partition interface {
	start() int64                          // where to begin reading
	observe(r *kafka.Record, now int64)    // the next record
	commit(now int64) (kafka.Commit, bool) // see source.commit
	uncommitted()                          // what commit returned last could not be committed
	report() report                        // what was counted since the last report
}

// stage is what tells the two loops apart.
type stage interface {
	// open makes the state of partitions that were assigned.
	open(ctx context.Context, l *loop, given []kafka.Assignment) (map[kafka.TopicPartition]partition, error)
	// advance takes a partition's clock on.
	advance(p partition, now int64)
	// turn runs once per turn of the loop, after all partitions.
	turn(l *loop, now int64) error
}

// How a loop is paced.
const (
	idleWait     = 20 * time.Millisecond // longest wait for a record
	advanceEvery = 50                    // milliseconds between calls to Advance of a partition without records
	reportEvery  = 1000                  // milliseconds between reports of metrics
)

// loop reads some topics as a member of a group and drives a state machine for each partition. Everything but acknowledgements happens on the goroutine
// that runs it.
type loop struct {
	host   *Host
	group  string
	topics []kafka.Topic
	stage  stage

	ctx      context.Context
	consumer *kafka.Consumer
	parts    map[kafka.TopicPartition]*held
	ledger   *ledger
	common   *common

	fresh      map[kafka.TopicPartition]bool         // assigned during the poll under way
	pending    map[kafka.TopicPartition]kafka.Commit // to be committed once the ledger is settled; nil: none
	asked      map[kafka.TopicPartition]kafka.Commit // by the commit under way
	committing chan error                            // its answer; nil: none is under way
	commitAt   int64                                 // when the next commit is due
	reportAt   int64
	running    bool // it has told so
	broken     bool // what is in memory must not be committed
}

// held is a partition in a loop's hands.
type held struct {
	partition
	touched    bool  // it had records in this turn
	advanced   int64 // when it was last advanced
	opened     int64 // when it was taken over
	rebuilding bool  // when last reported
}

// run works until ctx ends, and then commits what it can; or until something fails, after which everything is to be read again from the commits.
func (l *loop) run(ctx context.Context) (err error) {
	l.ctx, l.parts, l.fresh, l.ledger = ctx, map[kafka.TopicPartition]*held{}, map[kafka.TopicPartition]bool{}, newLedger()
	l.pending, l.committing, l.commitAt, l.running, l.broken = nil, nil, 0, false, false
	l.common = l.host.common(l.write)
	if l.consumer, err = kafka.NewConsumer(l.host.kafka, l.group, l.topics, l, l.host.tel); err != nil {
		return err
	}
	defer func() {
		l.broken = err != nil || l.host.abandon.Load()
		err = errors.Join(err, l.close())
	}()
	for ctx.Err() == nil {
		if err := l.once(ctx); err != nil {
			return err
		}
	}
	return nil
}

// once is one turn: read, hand over, take clocks on, commit.
func (l *loop) once(ctx context.Context) error {
	clear(l.fresh)
	recs, err := l.consumer.Poll(ctx, l.host.cfg.BatchRecords, idleWait)
	if err != nil {
		return fmt.Errorf("poll group %s: %w", l.group, err)
	}
	if !l.running {
		l.running = true
		l.host.setState(l.group, nil)
	}
	now := l.host.now()
	if err := l.observe(recs, now); err != nil {
		return err
	}
	for _, p := range l.parts {
		if p.touched || now-p.advanced >= advanceEvery {
			p.touched, p.advanced = false, now
			l.stage.advance(p.partition, now)
		}
	}
	if err := l.stage.turn(l, now); err != nil {
		return err
	}
	if err := l.commitDue(now); err != nil {
		return err
	}
	if now >= l.reportAt {
		l.reportAt = now + reportEvery
		l.host.metrics.report(ctx, l, now)
	}
	for l.ledger.outstanding() >= l.host.cfg.Outstanding && ctx.Err() == nil && l.ledger.err() == nil {
		l.awaitAck(time.Second)
	}
	l.replaceRefused()
	return l.ledger.err()
}

func (l *loop) observe(recs []kafka.Record, now int64) error {
	var at kafka.TopicPartition
	var p *held
	for i := range recs {
		r := &recs[i]
		if p == nil || r.Partition != at.Partition || r.Topic != at.Topic {
			at = r.TopicPartition()
			p = l.parts[at]
		}
		if p == nil || l.fresh[at] {
			continue
		}
		p.observe(r, now)
		p.touched = true
	}
	// A partition that was given up and came back during one poll may have left records of before among these.
	for tp := range l.fresh {
		p := l.parts[tp]
		if p == nil || !hold(recs, tp) {
			continue
		}
		if err := l.consumer.Seek(tp, p.start()); err != nil {
			return err
		}
	}
	return nil
}

func hold(recs []kafka.Record, tp kafka.TopicPartition) bool {
	for i := range recs {
		if recs[i].TopicPartition() == tp {
			return true
		}
	}
	return false
}

// write sends what a state machine gives out.
func (l *loop) write(o output) {
	ctx := context.Background()
	if o.trace.IsValid() {
		var span trace.Span
		ctx, span = l.host.tel.Tracer.Start(trace.ContextWithRemoteSpanContext(ctx, o.trace), "process "+l.host.kafka.Topics.Messages.Name,
			trace.WithSpanKind(trace.SpanKindConsumer), trace.WithAttributes(processAttributes(l, o)...))
		defer span.End()
	}
	o.record.Timestamp = time.UnixMilli(l.host.now())
	l.send(ctx, o.record, l.ledger.open(o))
}

// send writes a record, once there is room for it in the producer's buffer, which large word totals can fill before Config.Outstanding is reached.
func (l *loop) send(ctx context.Context, r kafka.Record, done func(kafka.Record, error)) {
	for {
		full := false
		l.host.producer.Send(ctx, r, func(r kafka.Record, err error) {
			if errors.Is(err, kafka.ErrBufferFull) { // told before Send returns
				full = true
				return
			}
			done(r, err)
		})
		if !full {
			return
		}
		if err := l.ledger.err(); err != nil {
			done(r, err)
			return
		}
		l.waitAck(10 * time.Millisecond) // the other loop's count, too
	}
}

// replaceRefused writes dead letters for what brokers will never take.
func (l *loop) replaceRefused() {
	for {
		select {
		case r := <-l.ledger.refused:
			l.host.tel.Log.Error("result refused, written as a dead letter", "topic", r.output.record.Topic, "processor", r.output.processor, "err", r.err)
			l.host.metrics.refused(r.output)
			o := output{record: kafka.DeadLetter(r.output.record, "processor/"+r.output.processor, "REFUSED", r.err), processor: r.output.processor, final: true}
			if o.record.Timestamp.IsZero() {
				o.record.Timestamp = time.UnixMilli(l.host.now())
			}
			l.send(context.Background(), o.record, l.ledger.outcome(o, r.count))
		default:
			return
		}
	}
}

// awaitAck waits for an acknowledgement, or a failure, up to d, and sees to refusals.
func (l *loop) awaitAck(d time.Duration) {
	l.waitAck(d)
	l.replaceRefused()
}

func (l *loop) waitAck(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-l.ledger.changed:
	case <-t.C:
	}
}

// commitDue starts a commit every Config.CommitEvery, and ends it once what it answers for is acknowledged. Reading goes on between.
func (l *loop) commitDue(now int64) error {
	if l.pending == nil && now >= l.commitAt {
		l.commitAt = now + l.host.cfg.CommitEvery.Milliseconds()
		l.pending = map[kafka.TopicPartition]kafka.Commit{}
		for tp, p := range l.parts {
			if c, ok := p.commit(now); ok {
				l.pending[tp] = c
			}
		}
		l.ledger.cut()
	}
	if l.committing != nil {
		select {
		case err := <-l.committing:
			l.committed(err)
		default:
		}
	}
	if l.pending == nil || l.committing != nil || !l.ledger.settled() {
		return nil
	}
	l.asked, l.pending = l.pending, nil
	l.committing = l.commit(l.asked)
	return nil
}

// commit asks for offsets to be stored, and hands out the answer. It does not wait: while its group is rebalancing the client answers only once the loop
// has polled.
func (l *loop) commit(offsets map[kafka.TopicPartition]kafka.Commit) chan error {
	done := make(chan error, 1)
	consumer := l.consumer
	go func() { done <- consumer.Commit(offsets) }()
	return done
}

// committed takes the answer to the commit under way. While a group is rebalancing it takes none. Those who keep their partitions commit again, those who
// lose them are told.
func (l *loop) committed(err error) {
	l.committing = nil
	if err == nil {
		return
	}
	l.host.tel.Log.Warn("commit refused, tried again with the next", "group", l.group, "err", err)
	for tp := range l.asked {
		if p := l.parts[tp]; p != nil {
			p.uncommitted()
		}
	}
}

// answered waits for the commit under way up to d, and returns false if it has no answer then.
func (l *loop) answered(d time.Duration) bool {
	if l.committing == nil {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case err := <-l.committing:
		l.committed(err)
		return true
	case <-t.C:
		return false
	}
}

// close commits what it can and leaves the group. The last commit is asked for and answered before, while the client can still be polled.
func (l *loop) close() error {
	deadline := time.Now().Add(l.host.cfg.DrainWait)
	if !l.broken {
		l.release(slices.Collect(maps.Keys(l.parts)), deadline)
	}
	l.broken = true // nothing more to commit
	for !l.answered(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			return errors.New("a commit has no answer: the consumer is left to time out") // the commit still uses it
		}
		_, _ = l.consumer.Poll(context.Background(), 1, 10*time.Millisecond) // for the client's sake: nothing is read any more
	}
	return l.consumer.Close()
}

// Assigned implements kafka.Rebalance.
func (l *loop) Assigned(given []kafka.Assignment) (map[kafka.TopicPartition]int64, error) {
	opened, err := l.stage.open(l.ctx, l, given)
	if err != nil {
		return nil, fmt.Errorf("take over %d partitions: %w", len(given), err)
	}
	start := map[kafka.TopicPartition]int64{}
	for tp, p := range opened {
		l.parts[tp] = &held{partition: p, opened: l.host.now(), rebuilding: true}
		l.fresh[tp] = true
		start[tp] = p.start()
	}
	return start, nil
}

// Revoked implements kafka.Rebalance: what was derived from the partitions is written and acknowledged before someone else goes on.
func (l *loop) Revoked(gone []kafka.TopicPartition) {
	defer l.Lost(gone)
	if l.broken {
		return
	}
	deadline := time.Now().Add(l.host.cfg.DrainWait)
	l.release(gone, deadline)
	if !l.answered(time.Until(deadline)) {
		l.host.tel.Log.Warn("partitions given up: their commit has no answer yet", "group", l.group)
	}
}

// release asks for a commit of partitions that are given up, once everything derived from them is acknowledged. Without one, whoever follows only has
// more to do again.
func (l *loop) release(gone []kafka.TopicPartition, deadline time.Time) {
	now := l.host.now()
	offsets := map[kafka.TopicPartition]kafka.Commit{}
	for _, tp := range gone {
		p := l.parts[tp]
		if p == nil {
			continue
		}
		if c, ok := p.commit(now); ok {
			offsets[tp] = c
		} else if c, ok := l.pending[tp]; ok {
			offsets[tp] = c
		}
	}
	for l.ledger.outstanding() > 0 {
		left := time.Until(deadline)
		if left <= 0 || l.ledger.err() != nil {
			l.host.tel.Log.Warn("partitions given up without a commit: what was written is not acknowledged",
				"group", l.group, "outstanding", l.ledger.outstanding(), "err", l.ledger.err())
			return
		}
		l.awaitAck(left)
	}
	if !l.answered(time.Until(deadline) / 2) {
		l.host.tel.Log.Warn("partitions given up without a commit: the one before it has no answer", "group", l.group)
		return
	}
	l.asked, l.committing = offsets, l.commit(offsets)
}

// Lost implements kafka.Rebalance.
func (l *loop) Lost(gone []kafka.TopicPartition) {
	for _, tp := range gone {
		delete(l.parts, tp)
		delete(l.pending, tp)
		delete(l.fresh, tp)
	}
}
