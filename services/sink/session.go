package sink

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/earshot/earshot/services/internal/kafka"
	"github.com/earshot/earshot/services/internal/record"
)

const (
	pollRecords = 256                    // most records of one poll: of 1 MiB each they are still bearable
	pollWait    = 100 * time.Millisecond // longest wait for the first of them
	busyWait    = 10 * time.Millisecond  // the same while a batch is being stored, whose end is looked for between polls
	// fullWait is how long a full sink waits for ClickHouse before it pauses its partitions: pausing throws away what was prefetched.
	fullWait = time.Second
)

// session is one membership in the group. All of it runs on one goroutine, but for the batch being stored.
type session struct {
	*Service
	in      *kafka.Consumer
	letters *kafka.Producer
	owned   map[kafka.TopicPartition]*owned
	batch   *batch                        // being filled
	storing *batch                        // being stored, or nil
	stored  chan error                    // its end
	paused  map[kafka.TopicPartition]bool // as both batches are full
	buf     []tableRow                    // reused
	work    context.Context
	stop    context.CancelFunc // ends work, and with it storing
}

// session joins the group and stores records until ctx ends or something fails. What was not committed is read again by whoever comes next.
func (s *Service) session(ctx context.Context, letters *kafka.Producer) error {
	x := &session{
		Service: s, letters: letters,
		owned:  map[kafka.TopicPartition]*owned{},
		paused: map[kafka.TopicPartition]bool{},
		batch:  newBatch(),
		stored: make(chan error, 1),
	}
	// Storing outlives ctx, so that a stop can finish what has begun.
	x.work, x.stop = context.WithCancel(context.WithoutCancel(ctx))
	var err error
	if x.in, err = kafka.NewConsumer(s.kafka, Group, s.kafka.Topics.Stored(), x, s.tel); err != nil {
		x.stop()
		return err
	}
	err = x.loop(ctx)
	if ctx.Err() == nil {
		x.batch = newBatch() // after a failure nothing more is stored, and nothing committed
		x.stop()
	}
	err = errors.Join(err, x.in.Close()) // calls Revoked
	x.stop()
	if x.storing != nil {
		if err := <-x.stored; err != nil {
			s.tel.Log.InfoContext(ctx, "sink gave up a batch; its records are read again", "records", x.storing.records, "err", err)
		}
	}
	s.m.forget(slices.Collect(maps.Keys(x.owned))...)
	return err
}

func (x *session) loop(ctx context.Context) error {
	for ctx.Err() == nil {
		if err := x.finish(0); err != nil {
			return err
		}
		if x.due(time.Now()) && x.storing == nil {
			x.begin()
		}
		if x.full() && len(x.paused) < len(x.owned) {
			// Being here means that x.storing is busy, or x.begin would have emptied the batch.
			if err := x.finish(fullWait); err != nil {
				return err
			}
			if x.storing == nil {
				continue
			}
		}
		if err := x.throttle(); err != nil {
			return err
		}
		limit, wait := x.room()
		recs, err := x.in.Poll(ctx, limit, wait)
		if err := x.take(recs); err != nil {
			return err
		}
		if errors.Is(err, kafka.ErrOutOfRange) {
			return fmt.Errorf("%w: records were deleted by retention before they were stored: %w", ErrStopped, err)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// throttle pauses all partitions while the batch is full, and resumes them when it no longer is. Polling goes on, which keeps the membership.
func (x *session) throttle() error {
	if !x.full() {
		if len(x.paused) == 0 {
			return nil
		}
		again := slices.Collect(maps.Keys(x.paused))
		clear(x.paused)
		return wrap(x.in.Resume(again...), "resume %d partitions", len(again))
	}
	var more []kafka.TopicPartition
	for tp := range x.owned {
		if !x.paused[tp] {
			more = append(more, tp)
			x.paused[tp] = true
		}
	}
	if len(more) == 0 {
		return nil
	}
	x.tel.Log.Info("sink is full and waits for ClickHouse", "records", x.batch.records, "bytes", x.batch.bytes)
	return wrap(x.in.Pause(more...), "pause %d partitions", len(more))
}

func (x *session) full() bool {
	return x.batch.records >= x.cfg.BatchRows || x.batch.bytes >= x.cfg.BatchBytes
}

func (x *session) due(now time.Time) bool {
	return !x.batch.empty() && (x.full() || now.Sub(x.batch.began) >= x.cfg.BatchWait)
}

// room returns how many records to poll for, and how long.
func (x *session) room() (limit int, wait time.Duration) {
	limit, wait = max(1, min(pollRecords, x.cfg.BatchRows-x.batch.records)), pollWait
	switch {
	case x.storing != nil:
		wait = busyWait
	case !x.batch.empty():
		wait = min(wait, max(0, x.cfg.BatchWait-time.Since(x.batch.began)))
	}
	return limit, wait
}

// take adds records to the batch.
func (x *session) take(recs []kafka.Record) error {
	now := time.Now()
	for i := range recs {
		r := &recs[i]
		o := x.owned[r.TopicPartition()]
		if o == nil || r.Offset < o.next {
			continue // polled just before its partition went away, or came back
		}
		o.next = r.Offset + 1
		rows, err := x.decode(r)
		if err == nil {
			o.run = 0
			x.batch.take(o, r, rows, nil, "", now)
			continue
		}
		if o.run++; o.run >= x.cfg.PoisonRun {
			return fmt.Errorf("%w: %d records in a row can not be read, the last at %v offset %d: %w; nothing past them is committed; mend their writer, then raise sink.poison_run to have them dead-lettered",
				ErrStopped, o.run, o.tp, r.Offset, err)
		}
		reason := record.Reason(err)
		letter := kafka.DeadLetter(*r, Group, reason, err)
		x.batch.take(o, r, nil, &letter, reason, now)
		x.tel.Log.WarnContext(x.work, "record dead-lettered", "topic", r.Topic, "partition", r.Partition, "offset", r.Offset, "reason", reason, "err", err)
	}
	x.buf = x.buf[:0]
	return nil
}

func (x *session) decode(r *kafka.Record) ([]tableRow, error) {
	read := x.read[r.Topic]
	if read == nil {
		return nil, &record.Error{Reason: record.FieldInvalid, Text: "no table for this topic"}
	}
	rows, err := read(r, x.buf[:0])
	x.buf = rows[:0]
	return rows, err
}

// begin starts to store the batch and opens the next. Nothing else may be being stored.
func (x *session) begin() {
	b := x.batch
	x.storing, x.batch = b, newBatch()
	x.m.waiting(b)
	go func() { x.stored <- x.store(x.work, b, x.letters) }()
}

// finish commits the batch that was being stored, if it is, or is within wait.
func (x *session) finish(wait time.Duration) error {
	if x.storing == nil {
		return nil
	}
	var err error
	if wait == 0 {
		select {
		case err = <-x.stored:
		default:
			return nil
		}
	} else {
		late := time.NewTimer(wait)
		defer late.Stop()
		select {
		case err = <-x.stored:
		case <-late.C:
			return nil
		}
	}
	b := x.storing
	x.storing = nil
	if err != nil {
		return fmt.Errorf("store %d records: %w", b.records, err)
	}
	x.commit(b)
	return nil
}

// commit says that a batch is stored, for the partitions that are still ours. When it fails, its records are only stored again.
func (x *session) commit(b *batch) {
	next := map[kafka.TopicPartition]kafka.Commit{}
	for tp, c := range b.chunks {
		if x.owned[tp] == c.owner {
			next[tp] = kafka.Commit{Next: c.next}
		}
	}
	x.m.stored(b, time.Now())
	if err := x.in.Commit(next); err != nil {
		x.tel.Log.Warn("sink could not commit; the records will be stored again, to no visible effect", "err", err)
	}
}

// Assigned is called by the consumer, as are Revoked and Lost.
func (x *session) Assigned(given []kafka.Assignment) (map[kafka.TopicPartition]int64, error) {
	for _, a := range given {
		x.owned[a.TopicPartition] = &owned{tp: a.TopicPartition, next: -1}
		x.m.assigned(a.TopicPartition, a.Committed)
		x.tel.Log.Info("sink takes partition", "topic", a.Topic, "partition", a.Partition, "offset", a.Committed)
	}
	x.state.fail(nil) // whatever it was, it is being tried again
	return nil, nil
}

// Revoked stores and commits what was read of all partitions, as far as ClickHouse does it in time.
func (x *session) Revoked(gone []kafka.TopicPartition) {
	late := time.Now().Add(x.cfg.DrainWait)
	left := func() time.Duration { return max(time.Millisecond, time.Until(late)) }
	err := x.finish(left())
	if err == nil && x.storing == nil && !x.batch.empty() {
		x.begin()
		err = x.finish(left())
	}
	if err != nil {
		x.tel.Log.Warn("sink gives partitions away with records unstored; they are read again", "err", err)
	}
	x.Lost(gone)
}

// Lost forgets what was read of partitions.
func (x *session) Lost(gone []kafka.TopicPartition) {
	for _, tp := range gone {
		delete(x.owned, tp)
		delete(x.paused, tp)
		x.batch.forget(tp)
	}
	x.m.forget(gone...)
}
