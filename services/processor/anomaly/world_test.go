package anomaly_test

import (
	"fmt"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"slices"
	"time"
	"unique"

	"google.golang.org/protobuf/proto"

	eventv1 "github.com/earshot/earshot/gen/earshot/event/v1"
	"github.com/earshot/earshot/services/processor/anomaly"
	"github.com/earshot/earshot/services/processor/recent"
)

// record is a message in the re-keyed log, with what is known once it was read.
type record struct {
	message
	partition int32 // of the source
	offset    int64
	logTime   int64 // of its source partition
	watermark int64 // after it
	wall      int64 // a clock that no log time is ahead of
}

// arrival is a message and the moment of its acceptance.
type arrival struct {
	message
	at int64
}

// rekey lays arrivals, in order of acceptance, into source partitions and reads those at random paces into one log.
func rekey(rnd *rand.Rand, arrivals []arrival, partitions int) []record {
	sources := make([][]record, partitions)
	for _, a := range arrivals {
		h := fnv.New32a()
		h.Write([]byte(a.conversation))
		p := int(h.Sum32()) % partitions
		sources[p] = append(sources[p], record{message: a.message, partition: int32(p), offset: int64(len(sources[p])), logTime: a.at})
	}
	clock := make([]int64, partitions)
	next := make([]int, partitions)
	var log []record
	for len(log) < len(arrivals) {
		p := rnd.IntN(partitions)
		for n := []int{1, 5, 500}[rnd.IntN(3)]; n > 0 && next[p] < len(sources[p]); n-- {
			r := sources[p][next[p]]
			next[p]++
			clock[p] = r.logTime
			r.watermark = math.MaxInt64
			for q := range sources {
				if next[q] < len(sources[q]) { // one that is read to its end holds nobody back
					r.watermark = min(r.watermark, clock[q])
				}
			}
			r.wall = slices.Max(clock)
			r.watermark = min(r.watermark, r.wall)
			log = append(log, r)
		}
	}
	return log
}

// said is an alert on the wire.
type said struct {
	*eventv1.Alert
	at int64 // record time
}

// world runs a detector over a log as the host would: in batches, with commits, crashes and silent rebuilds.
type world struct {
	cfg     anomaly.Config
	rnd     *rand.Rand
	log     []record
	topic   []said
	crashes bool

	detector *anomaly.Detector
	memory   *recent.Memory
}

func (w *world) keep() int64 { return max(w.cfg.Span, time.Minute).Milliseconds() + 60_000 }

func (w *world) reset() {
	w.detector = anomaly.New(w.cfg)
	w.memory = recent.NewBySender(time.Duration(w.keep()) * time.Millisecond)
}

// step reads one batch from pos, at most up to end, and returns the position after it.
func (w *world) step(pos, end, size int, emit func(wall int64) recent.Emit) int {
	end = min(end, pos+1+w.rnd.IntN(size))
	for ; pos < end; pos++ {
		r := &w.log[pos]
		e := recent.Entry{ID: r.id, Other: unique.Make(r.conversation), Partition: r.partition, Offset: r.offset}
		if seen := w.memory.Observe(r.user, e, r.logTime); seen.First {
			w.detector.Observe(seen, emit(r.wall))
		}
	}
	last := &w.log[pos-1]
	w.detector.Advance(last.watermark, emit(last.wall))
	w.memory.Advance(last.watermark)
	return pos
}

func (w *world) speak(wall int64) recent.Emit {
	return func(_ string, v proto.Message) {
		w.topic = append(w.topic, said{v.(*eventv1.Alert), wall})
	}
}

func silent(int64) recent.Emit { return func(string, proto.Message) {} }

// run returns what the topic holds when the log has been read and the clock has gone on until nothing is due.
func (w *world) run() []said {
	w.reset()
	size := []int{1, 3, 20, 1000}[w.rnd.IntN(4)]
	committed, acknowledged := 0, 0 // position in the log, length of the topic
	for pos := 0; pos < len(w.log); {
		pos = w.step(pos, len(w.log), size, w.speak)
		switch w.rnd.IntN(4 + len(w.log)/size/50) { // a rebuild costs as much as all before it
		case 0:
			committed, acknowledged = pos, len(w.topic)
		case 1:
			if w.crashes {
				w.topic = w.topic[:acknowledged+w.rnd.IntN(len(w.topic)-acknowledged+1)]
				w.rebuild(committed, size)
				pos = committed
			}
		}
	}
	last := w.log[len(w.log)-1]
	newest := last.wall
	for _, r := range w.log {
		newest = max(newest, r.id.Millis())
	}
	for clock := last.watermark; clock < newest+2*w.keep(); {
		clock += 1 + w.rnd.Int64N(20_000)
		w.detector.Advance(clock, w.speak(max(last.wall, clock)))
		w.memory.Advance(clock)
	}
	return w.topic
}

// rebuild starts over from the lowest record that was still remembered at the commit.
func (w *world) rebuild(committed, size int) {
	w.reset()
	if committed == 0 {
		w.restore(math.MinInt64)
		return
	}
	low := slices.IndexFunc(w.log[:committed], func(r record) bool { return r.logTime > w.log[committed-1].watermark-w.keep() })
	if low < 0 {
		w.restore(w.log[committed-1].logTime - 2*w.cfg.Span.Milliseconds())
		return
	}
	w.restore(w.log[low].logTime - 2*w.cfg.Span.Milliseconds())
	for pos := low; pos < committed; {
		pos = w.step(pos, committed, size, silent)
	}
}

func (w *world) restore(from int64) {
	for _, s := range w.topic {
		if s.at >= from {
			w.detector.Restore(proto.Clone(s.Alert).(*eventv1.Alert), s.at)
		}
	}
}

// pauses tells whether log time once stood still for long enough to forget alerts, whose states and revisions then begin again.
func (w *world) pauses() bool {
	for i := 1; i < len(w.log); i++ {
		if w.log[i].wall-w.log[i-1].wall > w.cfg.Span.Milliseconds() {
			return true
		}
	}
	return false
}

// checkWire says what is wrong with the announcements themselves. After a pause or a crash an alert may begin again, and one that
// a rebuild alone has seen may take over another.
func checkWire(topic []said, forgets bool) error {
	type last struct {
		state    eventv1.AlertState
		revision uint32
	}
	seen := map[string]last{}
	for i, s := range topic {
		before, known := seen[s.GetAlertId()]
		if known && !forgets && (s.GetState() < before.state || s.GetRevision() < before.revision) {
			return fmt.Errorf("announcement %d: %s goes back from %v to %v, revision %d to %d", i, s.GetAlertId(), before.state, s.GetState(), before.revision, s.GetRevision())
		}
		seen[s.GetAlertId()] = last{s.GetState(), s.GetRevision()}
		if by := s.GetSupersededBy(); (by != "") != (s.GetState() == eventv1.AlertState_ALERT_STATE_RETRACTED) {
			return fmt.Errorf("announcement %d: %v superseded by %q", i, s.GetState(), by)
		} else if _, ok := seen[by]; by != "" && !ok && !forgets {
			return fmt.Errorf("announcement %d: superseded by %s, which was not announced before", i, by)
		}
		if int(s.GetThreshold()) != len(s.GetMessageIds()) || len(s.GetPositions()) != len(s.GetMessageIds()) || len(s.GetConversationIds()) == 0 {
			return fmt.Errorf("announcement %d: %d messages, %d positions, threshold %d", i, len(s.GetMessageIds()), len(s.GetPositions()), s.GetThreshold())
		}
		if s.GetCount() < s.GetThreshold() {
			return fmt.Errorf("announcement %d: count %d below threshold %d", i, s.GetCount(), s.GetThreshold())
		}
	}
	return nil
}
