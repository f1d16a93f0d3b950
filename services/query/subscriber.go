package query

import (
	"context"
	"math"
	"sync/atomic"
	"time"

	apiv1 "github.com/earshot/earshot/gen/earshot/api/v1"
	"github.com/earshot/earshot/services/internal/apierror"
	"github.com/earshot/earshot/services/internal/server"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// cause says why a subscriber is ended by somebody else than itself.
type cause int

const (
	causeSlow cause = iota + 1
	causeExpired
	causeStopped
)

// subscriber is what the feed knows of one.
type subscriber struct {
	cursor   atomic.Uint64 // serial of the next frame to read
	attached atomic.Bool   // false while it reads the log by itself
	sending  atomic.Int64  // when the frame under way was handed over, in Unix nanoseconds; 0 when none is
	token    atomic.Pointer[string]
	ended    chan cause // holds the first cause
}

func (s *subscriber) end(c cause) {
	select {
	case s.ended <- c:
	default:
	}
}

// behind returns how many frames the subscriber has not read of those before next.
func (s *subscriber) behind(next uint64) uint64 {
	if !s.attached.Load() {
		return 0
	}
	return next - min(s.cursor.Load(), next)
}

// subscription is what a request asks for.
type subscription[T proto.Message] struct {
	resume string
	since  *timestamppb.Timestamp
	filter uint64       // hash of the filters
	match  func(T) bool // true for what is wanted
	send   func(value T, heartbeat *apiv1.Heartbeat, token string) error
}

// serve sends frames until the caller leaves, falls behind, or the feed ends.
//
// Frames are sent by a goroutine of their own. A Send to someone who does not read blocks for good, and only the end of the call frees it (grpc-go cancels
// the stream's context then): so the call's own goroutine must stay free to return.
func (f *feed[T]) serve(ctx context.Context, want subscription[T]) error {
	if !f.streams.TryAcquire(1) {
		f.metric.refused(ctx, "max_streams")
		e := apierror.Exhausted(apierror.ReasonTooManyStreams, "all streams are taken; try again later or on another replica", nil)
		e.RetryAfter = 5 * time.Second
		return e
	}
	defer f.streams.Release(1)

	draining := server.Draining(ctx)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	sub := &subscriber{ended: make(chan cause, 1)}
	if !f.join(sub) {
		return unavailable("the server is stopping", "")
	}
	defer f.leave(sub)
	f.metric.opened(ctx)
	defer f.metric.closed(context.WithoutCancel(ctx))

	done := make(chan error, 1)
	panicked := make(chan any, 1)
	go func() {
		defer f.serving.Done()
		defer func() {
			if v := recover(); v != nil {
				panicked <- v
			}
		}()
		s := sender[T]{feed: f, sub: sub, want: want, own: tokenOwn(want.filter)}
		done <- s.run(ctx)
	}()
	watchdog := time.NewTicker(max(f.cfg.SendTimeout/4, time.Millisecond))
	defer watchdog.Stop()
	for {
		select {
		case err := <-done:
			return err
		case v := <-panicked:
			panic(v) // where the server's interceptors can catch it
		case c := <-sub.ended:
			return f.ending(ctx, sub, c, want.filter)
		case <-draining:
			return f.ending(ctx, sub, causeStopped, want.filter)
		case now := <-watchdog.C:
			if at := sub.sending.Load(); at != 0 && now.UnixNano()-at > int64(f.cfg.SendTimeout) {
				return f.ending(ctx, sub, causeSlow, want.filter)
			}
		}
	}
}

// join makes the subscriber known, so that it is ended with the feed; false when the feed has ended.
func (f *feed[T]) join(sub *subscriber) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.stopped {
		return false
	}
	f.serving.Add(1)
	f.subs[sub] = struct{}{}
	return true
}

func (f *feed[T]) leave(sub *subscriber) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.subs, sub)
}

// ending returns the error that a subscriber gets, with the token to go on from: that of the last frame which was sent whole.
func (f *feed[T]) ending(ctx context.Context, sub *subscriber, c cause, filter uint64) error {
	token := ""
	if t := sub.token.Load(); t != nil {
		token = *t
	}
	switch c {
	case causeSlow:
		f.metric.slow(ctx)
		return slowSubscriber(token)
	case causeExpired:
		return apierror.TokenExpired(f.oldest(filter))
	default:
		return unavailable("the server is stopping; resume elsewhere", token)
	}
}

func slowSubscriber(token string) error {
	return apierror.Exhausted(apierror.ReasonSlowSubscriber, "the stream was read too slowly; resume with resume_token", tokenMetadata(token))
}

func unavailable(msg, token string) error {
	e := apierror.Unavailable(apierror.ReasonUnavailable, msg, time.Second)
	e.Metadata = tokenMetadata(token)
	return e
}

func tokenMetadata(token string) map[string]string {
	if token == "" {
		return nil
	}
	return map[string]string{"resume_token": token}
}

// oldest returns the oldest valid token for these filters, as far as is known.
func (f *feed[T]) oldest(filter uint64) string {
	f.mu.RLock()
	defer f.mu.RUnlock()
	t := resumeToken{filter: filter, topic: f.hash, at: f.tail}
	if seen := f.seen.Load(); seen != nil {
		t.topic, t.at = topicHash(f.topic, seen.id), seen.first
	}
	return t.String()
}

// sender sends a subscriber its frames. One goroutine uses it.
type sender[T proto.Message] struct {
	feed *feed[T]
	sub  *subscriber
	want subscription[T]
	own  string // the subscriber's half of every token

	topic   uint64
	at      positions // everything before was read by this subscriber
	last    *frame[T] // behind which at is; nil when at is no frame's own
	floor   positions // what was read before the ring was joined; nil once the ring is past it
	beat    *time.Timer
	heard   time.Time // of the last record read by catching up
	release func()    // gives the place among those who catch up back; nil without one
}

func (s *sender[T]) run(ctx context.Context) error {
	if err := s.awaitLoaded(ctx); err != nil {
		return err
	}
	joined, err := s.start(ctx)
	if err != nil {
		return err
	}
	defer s.done()
	s.beat = time.NewTimer(s.feed.cfg.Heartbeat)
	defer s.beat.Stop()
	if err := s.sendHeartbeat(); err != nil { // at once: the gateway sends no headers before the first frame
		return err
	}
	if !joined {
		if err := s.catchUp(ctx); err != nil {
			return err
		}
		s.done()
	}
	return s.follow(ctx)
}

// done gives back what catching up took.
func (s *sender[T]) done() {
	if s.release != nil {
		s.release()
		s.release = nil
	}
}

// awaitLoaded waits until the feed knows where now is.
func (s *sender[T]) awaitLoaded(ctx context.Context) error {
	t := time.NewTimer(askTimeout)
	defer t.Stop()
	select {
	case <-s.feed.loaded:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return unavailable("the stream is not ready: the result topic could not be read yet", "")
	}
}

// follow sends what the feed appends.
func (s *sender[T]) follow(ctx context.Context) error {
	frames := make([]*frame[T], 64)
	for {
		n, more, ok := s.feed.read(s.sub.cursor.Load(), frames)
		if !ok {
			s.sub.end(causeSlow) // the call's goroutine answers
			<-ctx.Done()
			return ctx.Err()
		}
		for _, f := range frames[:n] {
			if err := s.take(f); err != nil {
				return err
			}
			s.sub.cursor.Add(1)
			select {
			case <-s.beat.C: // many records, none wanted
				if err := s.sendHeartbeat(); err != nil {
					return err
				}
			default:
			}
		}
		clear(frames[:n]) // so that an idle subscriber holds on to nothing
		if n > 0 {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			continue
		}
		select {
		case <-more:
		case <-s.beat.C:
			if err := s.sendHeartbeat(); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// take moves past a frame of the ring and sends it if it is wanted.
func (s *sender[T]) take(f *frame[T]) error {
	if s.floor != nil {
		if f.offset < s.floor.at(f.partition) {
			return nil // read before the ring was joined
		}
		s.at, s.last = s.at.later(f.after), nil
		if f.after.covers(s.floor) {
			s.floor, s.last = nil, f
		}
	} else {
		s.at, s.last = f.after, f
	}
	return s.offer(f)
}

// offer sends a frame if it is wanted.
func (s *sender[T]) offer(f *frame[T]) error {
	value, err := f.load(s.feed.fresh)
	if err != nil {
		s.feed.metric.unreadable(f.partition, f.offset, err)
		return nil // the sink keeps it among the dead letters
	}
	if !s.want.match(value) {
		return nil
	}
	return s.send(value, nil)
}

// token returns the token behind everything read so far.
func (s *sender[T]) token() string {
	if s.last != nil {
		return s.own + s.last.state()
	}
	return s.own + tokenState(s.topic, s.at)
}

func (s *sender[T]) sendHeartbeat() error {
	records, age := s.lag()
	token := s.token()
	var none T
	return s.sendToken(none, &apiv1.Heartbeat{SentAt: timestamppb.Now(), LagRecords: records, LagMs: age, ResumeToken: token}, token)
}

func (s *sender[T]) send(value T, heartbeat *apiv1.Heartbeat) error {
	return s.sendToken(value, heartbeat, s.token())
}

func (s *sender[T]) sendToken(value T, heartbeat *apiv1.Heartbeat, token string) error {
	s.sub.sending.Store(time.Now().UnixNano())
	err := s.want.send(value, heartbeat, token)
	s.sub.sending.Store(0)
	if err != nil {
		return err
	}
	s.sub.token.Store(&token)
	s.feed.metric.sent(heartbeat != nil)
	s.beat.Reset(s.feed.cfg.Heartbeat)
	return nil
}

// lag returns how many records the subscriber has not read and the age of the oldest in milliseconds. While brokers are away nobody knows of new records;
// then the age is the time since the feed was last known to be at the end, so it grows.
func (s *sender[T]) lag() (records, ms uint32) {
	f := s.feed
	seen := f.seen.Load()
	f.mu.RLock()
	defer f.mu.RUnlock()
	now := time.Now()
	if seen == nil || seen.id != f.id {
		return 0, clamp(now.Sub(f.caughtUp).Milliseconds())
	}
	n := behind(s.at, f.head.later(seen.end))
	var since time.Time
	switch oldest := f.ring[s.sub.cursor.Load()%uint64(len(f.ring))]; {
	case n > 0 && !s.sub.attached.Load():
		since = s.heard
	case s.sub.behind(f.serial.Load()) > 0 && oldest != nil:
		since = oldest.time
	case n > 0 || now.Sub(seen.at) > f.staleAfter():
		since = f.caughtUp
	}
	if since.IsZero() {
		return clamp(n), 0
	}
	return clamp(n), clamp(now.Sub(since).Milliseconds())
}

func clamp(n int64) uint32 { return uint32(min(max(n, 0), math.MaxUint32)) } //nolint:gosec // within bounds now
