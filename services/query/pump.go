package query

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/earshot/earshot/services/internal/kafka"
)

const (
	askTimeout  = 5 * time.Second        // for one question to the brokers
	pollWait    = 100 * time.Millisecond // how soon the feed notices new partitions and the end
	politeness  = 200 * time.Millisecond // longest wait for subscribers in a burst, for each quarter of the ring
	retryAtMost = 5 * time.Second        // between attempts while the topic can not be read
	endWait     = 5 * time.Second        // for subscribers to leave
)

// errMoved says that the topic is not what it was: made anew, or shorter than what was read.
var errMoved = errors.New("topic was replaced or cut")

// run reads the topic until ctx ends, then ends the subscribers and waits for them.
func (f *feed[T]) run(ctx context.Context, admin *kafka.Admin) {
	f.mu.Lock()
	f.admin = admin
	f.mu.Unlock()

	watching := make(chan struct{})
	go func() { defer close(watching); f.watch(ctx) }()

	wait := 50 * time.Millisecond
	for ctx.Err() == nil {
		started := time.Now()
		err := f.session(ctx)
		if ctx.Err() != nil {
			break
		}
		f.setState(fmt.Errorf("stream of %s: %w", f.name, err))
		f.tel.Log.WarnContext(ctx, "result topic can not be read, trying again", "topic", f.topic, "err", err)
		if time.Since(started) > time.Minute {
			wait = 50 * time.Millisecond
		}
		pause(ctx, wait)
		wait = min(2*wait, retryAtMost)
	}
	f.stop()
	<-watching
}

func (f *feed[T]) stop() {
	f.mu.Lock()
	f.stopped = true
	f.why = fmt.Errorf("stream of %s has ended", f.name)
	for sub := range f.subs {
		sub.end(causeStopped)
	}
	f.mu.Unlock()
	gone := make(chan struct{})
	go func() { defer close(gone); f.serving.Wait() }()
	select {
	case <-gone:
	case <-time.After(endWait): // a transport that holds on to a frame after its call has ended
		f.tel.Log.Warn("subscribers did not leave in time", "stream", f.name)
	}
}

// pause waits for d or the end of ctx.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// watch asks the brokers about the topic every Refresh.
func (f *feed[T]) watch(ctx context.Context) {
	for ctx.Err() == nil {
		if seen, err := f.look(ctx); err == nil {
			f.sight(seen)
		}
		pause(ctx, f.cfg.Refresh)
	}
}

// sight keeps an answer of the brokers, and notes when the feed was last known to be at the end.
func (f *feed[T]) sight(seen *sighting) {
	f.mu.Lock()
	defer f.mu.Unlock()
	before := f.seen.Swap(seen)
	switch {
	case seen.id == f.id && f.head.covers(seen.end):
		f.caughtUp = seen.at
	case before != nil && before.id == f.id && f.head.covers(before.end): // under load there is always something new
		f.caughtUp = before.at
	}
}

// look asks the brokers where the topic begins and ends.
func (f *feed[T]) look(ctx context.Context) (*sighting, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	now := time.Now()
	info, err := f.admin.Describe(ctx, f.topic)
	if err != nil {
		return nil, err
	}
	if !info.Exists {
		return nil, fmt.Errorf("topic %s does not exist; create it with: earshot topics apply", f.topic)
	}
	first, err := f.admin.FirstOffsets(ctx, f.topic)
	if err != nil {
		return nil, err
	}
	end, err := f.admin.EndOffsets(ctx, f.topic)
	if err != nil {
		return nil, err
	}
	return &sighting{id: info.ID, first: positionsOf(first), end: positionsOf(end), at: now}, nil
}

// session reads the topic from where the feed is until something is wrong.
func (f *feed[T]) session(ctx context.Context) error {
	seen, err := f.look(ctx)
	if err != nil {
		return err
	}
	f.place(seen)
	f.sight(seen)

	reader, err := kafka.NewReader(f.kafka, f.tel)
	if err != nil {
		return err
	}
	defer func() {
		if err := reader.Close(); err != nil {
			f.tel.Log.WarnContext(ctx, "result topic's reader did not close", "topic", f.topic, "err", err)
		}
	}()
	if err := reader.Assign(f.assignment(f.head)); err != nil {
		return err
	}
	f.setState(nil)
	for ctx.Err() == nil {
		// A quarter of the ring at a time, so that subscribers get a chance in between.
		recs, err := reader.Poll(ctx, max(len(f.ring)/4, 1), pollWait)
		if len(recs) > 0 {
			f.append(recs)
			f.pace(ctx)
		}
		if err != nil {
			return err
		}
		if !f.isReady && f.head.covers(seen.end) {
			f.ready()
		}
		if now := f.seen.Load(); now != seen {
			if now.id != f.id {
				return errMoved
			}
			if err := f.follow(reader, now); err != nil {
				return err
			}
			seen = now
		}
	}
	return ctx.Err()
}

func (f *feed[T]) assignment(at positions) map[kafka.TopicPartition]int64 {
	out := make(map[kafka.TopicPartition]int64, len(at))
	for p, o := range at {
		out[kafka.TopicPartition{Topic: f.topic, Partition: int32(p)}] = o //nolint:gosec // a partition number
	}
	return out
}

// place decides where to read on: where the feed is, if the log still has that. Only the goroutine of run changes the fields read here.
func (f *feed[T]) place(seen *sighting) {
	switch {
	case f.id == "":
		// Half a ring before the end: those who were connected before a restart resume from the ring.
		start := make(positions, len(seen.end))
		for p, end := range seen.end {
			start[p] = max(seen.first[p], end-int64(len(f.ring)/2/len(seen.end)))
		}
		f.reset(seen.id, start)
	case f.id != seen.id:
		f.tel.Log.Warn("result topic was made anew; subscribers are ended", "topic", f.topic)
		f.reset(seen.id, seen.first)
	default:
		at := slices.Clone(f.head)
		for p := range at {
			part := int32(p) //nolint:gosec // a partition number
			at[p] = min(max(at[p], seen.first.at(part)), seen.end.at(part))
		}
		if !slices.Equal(at, f.head) {
			f.tel.Log.Warn("records of a result topic are gone; subscribers are ended", "topic", f.topic, "offsets", f.head, "first", seen.first, "end", seen.end)
			f.reset(seen.id, at)
		}
		f.grow(f.beginnings(seen))
	}
}

// beginnings returns where partitions that the feed does not know begin; the others are unnamed.
func (f *feed[T]) beginnings(seen *sighting) positions {
	fresh := positions{}
	for p, first := range seen.first {
		if p < len(f.head) {
			first = unnamed
		}
		fresh = append(fresh, first)
	}
	return fresh
}

// follow reads partitions that have appeared from their first record.
func (f *feed[T]) follow(reader *kafka.Reader, seen *sighting) error {
	if len(seen.end) <= len(f.head) {
		return nil
	}
	fresh := f.beginnings(seen)
	f.tel.Log.Info("result topic has more partitions", "topic", f.topic, "partitions", len(seen.end))
	f.grow(fresh)
	return reader.Add(f.newAssignment(fresh))
}

func (f *feed[T]) ready() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.isReady = true
	close(f.loaded)
}

// pace waits in a burst until subscribers are on their way again, not longer than politeness: without it, a backlog read at full speed would overtake
// everybody. A few slow ones do not make it wait.
func (f *feed[T]) pace(ctx context.Context) {
	for until := time.Now().Add(politeness); f.crowded() && time.Now().Before(until) && ctx.Err() == nil; {
		pause(ctx, time.Millisecond)
	}
}
