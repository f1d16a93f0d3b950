package query

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/earshot/earshot/services/internal/apierror"
	"github.com/earshot/earshot/services/internal/kafka"
)

// catchUpBatch is how many records a subscriber that reads the log by itself takes at a time.
const catchUpBatch = 500

// start finds where the subscriber begins. It returns true when it goes on from the ring, false when it has to read the log by itself first.
func (s *sender[T]) start(ctx context.Context) (joined bool, err error) {
	switch {
	case s.want.resume != "" && s.want.since != nil:
		return false, apierror.Field("since", nil, "absent when resume_token is given", apierror.ReasonFieldInvalid)
	case s.want.resume != "":
		joined, err = s.startAtToken(ctx)
	case s.want.since != nil:
		joined, err = s.startAtTime(ctx)
	default:
		s.feed.joinNow(s)
		return true, nil
	}
	if joined || err != nil {
		return joined, err
	}
	if !s.feed.catchUps.TryAcquire(1) {
		s.feed.metric.refused(ctx, "max_catch_ups")
		e := apierror.Exhausted(apierror.ReasonTooManyStreams, "too many streams are reading the past; try again later or on another replica", nil)
		e.RetryAfter = 2 * time.Second
		return false, e
	}
	s.release = func() { s.feed.catchUps.Release(1) }
	return false, nil
}

func (s *sender[T]) startAtToken(ctx context.Context) (bool, error) {
	t, err := parseResumeToken(s.want.resume)
	if err != nil || t.filter != s.want.filter {
		return false, apierror.TokenInvalid("resume_token", s.want.resume)
	}
	if s.feed.joinAt(s, t.topic, t.at, false) {
		return true, nil
	}
	seen, err := s.look(ctx)
	if err != nil {
		return false, err
	}
	if t.topic != topicHash(s.feed.topic, seen.id) || !seen.end.covers(t.at) {
		return false, apierror.TokenExpired(s.feed.oldest(s.want.filter))
	}
	at := slices.Clone(seen.first)
	for p, o := range t.at {
		if o == unnamed {
			continue
		}
		if o < at[p] {
			return false, apierror.TokenExpired(s.feed.oldest(s.want.filter))
		}
		at[p] = o
	}
	return s.feed.joinAt(s, t.topic, at, true), nil
}

func (s *sender[T]) startAtTime(ctx context.Context) (bool, error) {
	if err := checkTime("since", s.want.since); err != nil {
		return false, err
	}
	seen, err := s.look(ctx)
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	offsets, err := s.feed.admin.OffsetsAt(ctx, s.feed.topic, s.want.since.AsTime())
	if err != nil {
		return false, errors.Join(unavailable("no broker answers", ""), err)
	}
	s.heard = s.want.since.AsTime()
	return s.feed.joinAt(s, topicHash(s.feed.topic, seen.id), positionsOf(offsets), true), nil
}

// look asks the brokers about the topic, and keeps the answer for all.
func (s *sender[T]) look(ctx context.Context) (*sighting, error) {
	seen, err := s.feed.look(ctx)
	if err != nil {
		return nil, errors.Join(unavailable("no broker answers", ""), err)
	}
	return seen, nil
}

// joinNow makes the subscriber hear what comes after this moment.
func (f *feed[T]) joinNow(s *sender[T]) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	s.topic, s.at = f.hash, f.head
	s.sub.cursor.Store(f.serial.Load())
	s.sub.attached.Store(true)
}

// joinAt makes the subscriber hear from a place on, if the ring still has all that comes after it. Places beyond what the feed has read are for those who
// checked them against the log. It remembers the place in any case.
func (f *feed[T]) joinAt(s *sender[T], topic uint64, at positions, checked bool) bool {
	f.mu.RLock()
	defer f.mu.RUnlock()
	s.topic, s.at, s.last = topic, at, nil
	if topic != f.hash || !checked && !f.head.covers(at) {
		return false
	}
	for p, tail := range f.tail {
		if max(at.at(int32(p)), 0) < tail { //nolint:gosec // a partition number
			return false
		}
	}
	next := f.serial.Load()
	cursor := next
	if !at.covers(f.head) {
		cursor = max(f.base, next-min(next, uint64(len(f.ring))))
	}
	s.floor = at // offsets decide what was read already
	s.sub.cursor.Store(cursor)
	s.sub.attached.Store(true)
	return true
}

// catchUp reads the log from s.at until the ring has all that follows, and joins it there.
func (s *sender[T]) catchUp(ctx context.Context) error {
	for ctx.Err() == nil {
		err := s.readLog(ctx)
		if err == nil {
			return nil
		}
		if _, ours := errors.AsType[*sendError](err); ours || ctx.Err() != nil {
			return err
		}
		if errors.Is(err, kafka.ErrOutOfRange) {
			return apierror.TokenExpired(s.feed.oldest(s.want.filter))
		}
		s.feed.tel.Log.WarnContext(ctx, "log can not be read for a subscriber, trying again", "topic", s.feed.topic, "err", err)
		pause(ctx, time.Second)
		if err := s.beatIfDue(); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// sendError is an error of the caller's own stream, after which nothing can be sent.
type sendError struct{ error }

func (e *sendError) Unwrap() error { return e.error }

func (s *sender[T]) readLog(ctx context.Context) error {
	f := s.feed
	cfg := f.kafka
	cfg.ReadAhead, cfg.ReadAheadBytes = 2*catchUpBatch, 1<<20 // there may be MaxCatchUps of them
	reader, err := kafka.NewReader(cfg, f.tel)
	if err != nil {
		return err
	}
	defer func() {
		if err := reader.Close(); err != nil {
			f.tel.Log.WarnContext(ctx, "a subscriber's reader did not close", "topic", f.topic, "err", err)
		}
	}()
	if err := reader.Assign(f.assignment(s.at)); err != nil {
		return err
	}
	for ctx.Err() == nil {
		if f.joinAt(s, s.topic, s.at, true) {
			return nil
		}
		if added := f.partitions() - len(s.at); added > 0 { // from their first record
			fresh := slices.Repeat(positions{unnamed}, len(s.at))
			fresh = append(fresh, slices.Repeat(positions{0}, added)...)
			if err := reader.Add(f.newAssignment(fresh)); err != nil {
				return err
			}
			s.at = s.at.later(fresh)
		}
		recs, readErr := reader.Poll(ctx, catchUpBatch, pollWait)
		for i := range recs {
			r := &recs[i]
			s.at = slices.Clone(s.at)
			s.at[r.Partition] = r.Offset + 1
			s.heard = r.Timestamp
			if err := s.offer(&frame[T]{partition: r.Partition, offset: r.Offset, raw: r.Value}); err != nil {
				return &sendError{err}
			}
		}
		if err := s.beatIfDue(); err != nil {
			return &sendError{err}
		}
		if readErr != nil {
			return readErr
		}
	}
	return ctx.Err()
}

func (s *sender[T]) beatIfDue() error {
	select {
	case <-s.beat.C:
		return s.sendHeartbeat()
	default:
		return nil
	}
}

func (f *feed[T]) partitions() int {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return len(f.head)
}

// newAssignment is assignment without the unnamed.
func (f *feed[T]) newAssignment(at positions) map[kafka.TopicPartition]int64 {
	out := f.assignment(at)
	for tp, o := range out {
		if o == unnamed {
			delete(out, tp)
		}
	}
	return out
}
