package query

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/earshot/earshot/services/internal/kafka"
	"github.com/earshot/earshot/services/internal/telemetry"
	"golang.org/x/sync/semaphore"
	"google.golang.org/protobuf/proto"
)

// feed holds the latest records of one result topic for its subscribers. T is the pointer type of the topic's value.
//
// One goroutine (run) appends; subscribers read by sequence number and wait on wake. Nothing a subscriber does can hold the feed back.
type feed[T proto.Message] struct {
	name   string // of the stream, for metrics and tokens
	topic  string
	fresh  func() T
	cfg    Config
	kafka  kafka.Config
	tel    telemetry.T
	metric *streamMetrics

	streams, catchUps *semaphore.Weighted // shared by all feeds

	seen   atomic.Pointer[sighting] // what the brokers said last; nil before they said anything
	serial atomic.Uint64            // of the next frame; changed under mu

	mu       sync.RWMutex
	admin    *kafka.Admin // set while run runs
	id       string       // of the topic
	hash     uint64       // of the topic's name and id
	ring     []*frame[T]  // frame n is at n % len
	tail     positions    // before the oldest frame in the ring
	head     positions    // after the newest
	base     uint64       // serial of the first frame since the ring was begun
	wake     chan struct{}
	loaded   chan struct{} // closed once the ring reaches the log's end
	isReady  bool
	caughtUp time.Time // when the feed was last known to be at the log's end
	why      error     // what keeps the feed from reading; nil when nothing does
	stopped  bool
	subs     map[*subscriber]struct{}
	serving  sync.WaitGroup // goroutines of subscribers
}

// sighting is what the brokers said of a topic.
type sighting struct {
	id         string
	first, end positions
	at         time.Time // before they were asked
}

// frame is a record for subscribers. It is decoded and its token is written once, by the first who needs it.
type frame[T proto.Message] struct {
	partition int32
	offset    int64
	time      time.Time // of acceptance
	topic     uint64
	after     positions // of the feed, behind this record

	decode sync.Once
	raw    []byte
	value  T
	bad    error

	encode sync.Once
	text   string
}

func (f *frame[T]) load(fresh func() T) (T, error) {
	f.decode.Do(func() {
		f.value = fresh()
		f.bad = proto.Unmarshal(f.raw, f.value)
		f.raw = nil
	})
	return f.value, f.bad
}

// state returns the feed's half of the resume token behind this frame.
func (f *frame[T]) state() string {
	f.encode.Do(func() { f.text = tokenState(f.topic, f.after) })
	return f.text
}

func newFeed[T proto.Message](s *Service, m *metrics, name, topic string, fresh func() T) *feed[T] {
	f := &feed[T]{
		name: name, topic: topic, fresh: fresh, cfg: s.cfg, kafka: s.kafka, tel: s.tel, streams: s.streams, catchUps: s.catchUps,
		ring:   make([]*frame[T], s.cfg.Buffer),
		wake:   make(chan struct{}),
		loaded: make(chan struct{}),
		why:    fmt.Errorf("stream of %s is not running", name),
		subs:   map[*subscriber]struct{}{},
	}
	f.metric = m.stream(name, f.lag)
	return f
}

// reset starts the ring anew at a place in the log. Those who listen can not be served on without a gap: they are ended.
func (f *feed[T]) reset(id string, at positions) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.id, f.hash = id, topicHash(f.topic, id)
	clear(f.ring)
	f.tail, f.head = at, at
	f.base = f.serial.Add(1) // before it lies what belonged to another place
	f.caughtUp = time.Now()
	if f.isReady { // else they still wait for the beginning
		for sub := range f.subs {
			sub.end(causeExpired)
		}
	}
	f.signal()
}

// grow adds partitions that appeared; at names where they begin.
func (f *feed[T]) grow(at positions) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tail, f.head = f.tail.later(at), f.head.later(at)
}

// append adds records, in the order they were read, wakes those who wait and ends those who were overtaken.
func (f *feed[T]) append(recs []kafka.Record) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.serial.Load()
	for i := range recs {
		r := &recs[i]
		f.head = slices.Clone(f.head)
		f.head[r.Partition] = r.Offset + 1
		slot := &f.ring[n%uint64(len(f.ring))]
		if old := *slot; old != nil {
			f.tail = f.tail.later(old.after) // which may not know the newest partitions
		}
		*slot = &frame[T]{partition: r.Partition, offset: r.Offset, time: r.Timestamp, raw: r.Value, topic: f.hash, after: f.head}
		n++
	}
	f.serial.Store(n)
	for sub := range f.subs {
		if sub.behind(n) > uint64(len(f.ring)) {
			sub.end(causeSlow)
		}
	}
	f.signal()
}

func (f *feed[T]) signal() {
	close(f.wake)
	f.wake = make(chan struct{})
}

// read copies frames from a cursor on into out. It returns how many, and a channel that closes when there are more; ok is false when the ring has
// overtaken the cursor.
func (f *feed[T]) read(cursor uint64, out []*frame[T]) (n int, more <-chan struct{}, ok bool) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	next := f.serial.Load()
	if cursor < f.base || next-cursor > uint64(len(f.ring)) {
		return 0, nil, false
	}
	for ; cursor < next && n < len(out); n++ {
		out[n] = f.ring[cursor%uint64(len(f.ring))]
		cursor++
	}
	return n, f.wake, true
}

// crowded tells whether at least half of the subscribers are more than half a ring behind: then it is a burst that is fast, not they who are slow.
func (f *feed[T]) crowded() bool {
	f.mu.RLock()
	defer f.mu.RUnlock()
	next, behind := f.serial.Load(), 0
	for sub := range f.subs {
		if sub.behind(next) > uint64(len(f.ring)/2) {
			behind++
		}
	}
	return behind > 0 && behind*2 >= len(f.subs)
}

// setState notes what keeps the feed from reading, nil for nothing.
func (f *feed[T]) setState(why error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.why = why
}

// state returns what keeps streams from being served as promised, or nil.
func (f *feed[T]) state() error {
	f.mu.RLock()
	defer f.mu.RUnlock()
	switch seen := f.seen.Load(); {
	case f.why != nil:
		return f.why
	case !f.isReady:
		return fmt.Errorf("stream of %s is still reading %s", f.name, f.topic)
	case seen == nil || time.Since(seen.at) > f.staleAfter():
		return fmt.Errorf("stream of %s: no broker answers for %s", f.name, f.topic)
	}
	return nil
}

// staleAfter is how old an answer of the brokers may be before they count as away: one that was missed, and the time to notice.
func (f *feed[T]) staleAfter() time.Duration { return 2*f.cfg.Refresh + askTimeout }

// lag returns how many records of the topic the feed has not read, as far as the brokers said.
func (f *feed[T]) lag() int64 {
	f.mu.RLock()
	defer f.mu.RUnlock()
	seen := f.seen.Load()
	if seen == nil || seen.id != f.id {
		return 0
	}
	return behind(f.head, seen.end)
}

// behind counts the records from at to end.
func behind(at, end positions) int64 {
	var n int64
	for p, e := range end {
		if o := max(at.at(int32(p)), 0); e > o { //nolint:gosec // a partition number
			n += e - o
		}
	}
	return n
}
