package recent

import "time"

// Seen says what became of a message that was handed to a Memory.
type Seen struct {
	Log   *Log // the log of its key
	Index int  // of its entry in Log.Entries
	// First is false for a copy: it renewed the entry of the first one, which Index names, and changed nothing else.
	First   bool
	LogTime int64 // of this record, in milliseconds since the epoch
}

// Memory remembers messages by key until the clock is `keep` past their log time.
//
// It costs 40 bytes a message and, with one message a key, about 180 bytes a key in all.
type Memory struct {
	keep    int64 // milliseconds
	byOther bool  // whether Other belongs to a message's identity
	logs    map[string]*Log
	entries int
	// due holds each log under its own due second, the first in which an entry of it can be forgotten; under other seconds it no longer counts.
	due map[uint32][]*Log
	// horizon: what has a LogSecond before it is forgotten. It only grows.
	horizon uint32
}

// New returns an empty Memory in which ID alone tells messages apart: right for logs keyed by conversation, where (conversation_id, message_id) is a
// message's identity and a copy that names another sender is still a copy. Entries are kept until the clock is keep past their log time.
func New(keep time.Duration) *Memory {
	return &Memory{keep: keep.Milliseconds(), logs: map[string]*Log{}, due: map[uint32][]*Log{}}
}

// NewBySender returns an empty Memory in which ID and Other tell messages apart: right for logs keyed by sender, where the same id in another
// conversation is another message.
func NewBySender(keep time.Duration) *Memory {
	m := New(keep)
	m.byOther = true
	return m
}

// Observe remembers a message, or renews it if it is a copy of one that is remembered. logTime is the record's log time in milliseconds since the epoch.
// Messages in order cost constant time; one that comes late is searched for and moves those after it.
func (m *Memory) Observe(key string, e Entry, logTime int64) Seen {
	e.LogSecond = ceilSecond(logTime)
	log := m.logs[key]
	if log == nil {
		log = &Log{Key: key, due: never}
		m.logs[key] = log
	}
	i, found := m.find(log, &e)
	if found {
		old := &log.Entries[i]
		old.LogSecond = max(old.LogSecond, e.LogSecond)
		log.unsorted = log.unsorted || !fits(log.Entries, i)
		return Seen{Log: log, Index: i, LogTime: logTime}
	}
	m.schedule(log, e.LogSecond)
	log.Entries = append(log.Entries, e)
	if i < len(log.Entries)-1 {
		copy(log.Entries[i+1:], log.Entries[i:])
		log.Entries[i] = e
	}
	log.unsorted = log.unsorted || !fits(log.Entries, i)
	m.entries++
	return Seen{Log: log, Index: i, First: true, LogTime: logTime}
}

// find returns where the message is or belongs.
func (m *Memory) find(log *Log, e *Entry) (int, bool) {
	same := compareID
	if m.byOther {
		same = compare
	}
	lo, hi := 0, len(log.Entries)
	if hi > 0 { // in order: one comparison
		switch c := same(&log.Entries[hi-1], e); {
		case c < 0:
			return hi, false
		case c == 0:
			return hi - 1, true
		}
	}
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		switch c := same(&log.Entries[mid], e); {
		case c == 0:
			return mid, true
		case c < 0:
			lo = mid + 1
		default:
			hi = mid
		}
	}
	return lo, false
}

// Advance forgets what is older than the clock allows: the log time of the partition, or the watermark, in milliseconds since the epoch. It is monotonic
// (an earlier clock does nothing), advances in whole seconds, and visits only keys that have something to forget. Call the processors' own Advance
// before it, so that they see what they have not yet reported.
func (m *Memory) Advance(watermark int64) {
	horizon := floorSecond(watermark - m.keep)
	if horizon <= m.horizon {
		return
	}
	from := m.horizon
	m.horizon = horizon
	if int(horizon-from) > len(m.due) { // a jump: fewer buckets than seconds
		for second := range m.due {
			if second < horizon {
				m.sweep(second)
			}
		}
		return
	}
	for second := from; second < horizon; second++ {
		m.sweep(second)
	}
}

// sweep forgets in the logs that were due in a second. Each either goes or becomes due at the horizon or later.
func (m *Memory) sweep(second uint32) {
	logs, ok := m.due[second]
	if !ok {
		return
	}
	delete(m.due, second)
	for _, log := range logs {
		if log.due == second {
			m.forget(log)
		}
	}
}

// fits tells whether an entry's LogSecond lies between those beside it.
func fits(all []Entry, i int) bool {
	return (i == 0 || all[i-1].LogSecond <= all[i].LogSecond) && (i == len(all)-1 || all[i].LogSecond <= all[i+1].LogSecond)
}

// forget drops the entries of one log that are before the horizon. In live traffic acceptance follows creation: what goes is then a prefix, and the
// slice only moves on (append frees the room when it next grows). Otherwise it looks at every entry.
func (m *Memory) forget(log *Log) {
	all := log.Entries
	gone := 0
	for gone < len(all) && all[gone].LogSecond < m.horizon {
		gone++
	}
	clear(all[:gone]) // no Handle outlives its entry
	log.Entries = all[gone:]
	if log.unsorted {
		m.filter(log)
	}
	m.entries -= len(all) - len(log.Entries)
	log.due = never
	if len(log.Entries) == 0 {
		log.Entries = nil
		delete(m.logs, log.Key)
		return
	}
	if kept := len(log.Entries); kept*4 < cap(log.Entries) && cap(log.Entries) > 16 { // a burst is over: give its room back
		log.Entries = append(make([]Entry, 0, kept+kept/4), log.Entries...)
	}
	next := log.Entries[0].LogSecond
	if log.unsorted {
		for i := range log.Entries {
			next = min(next, log.Entries[i].LogSecond)
		}
	}
	m.schedule(log, next)
}

// filter drops what is before the horizon wherever it is, and finds out whether log times are in order again.
func (m *Memory) filter(log *Log) {
	kept := log.Entries[:0]
	log.unsorted = false
	for _, e := range log.Entries {
		if e.LogSecond < m.horizon {
			continue
		}
		log.unsorted = log.unsorted || len(kept) > 0 && kept[len(kept)-1].LogSecond > e.LogSecond
		kept = append(kept, e)
	}
	clear(log.Entries[len(kept):])
	log.Entries = kept
}

// schedule makes a log due in a second, unless it is due before.
func (m *Memory) schedule(log *Log, second uint32) {
	second = max(second, m.horizon) // what was swept is not swept again
	if second < log.due {
		log.due = second
		m.due[second] = append(m.due[second], log)
	}
}

const never = ^uint32(0)

// Len returns how many messages are remembered, Keys for how many keys.
func (m *Memory) Len() int { return m.entries }

// Keys returns for how many keys something is remembered.
func (m *Memory) Keys() int { return len(m.logs) }

func ceilSecond(ms int64) uint32 { return floorSecond(ms + 999) }

// floorSecond cuts to what 32 bits hold: 1970 to 2106.
func floorSecond(ms int64) uint32 {
	return uint32(min(max(ms/1000, 0), 1<<32-2)) //nolint:gosec // within bounds
}
