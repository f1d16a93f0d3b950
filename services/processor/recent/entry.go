package recent

import (
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"unique"

	"google.golang.org/protobuf/proto"
)

// Emit hands a result to the host: the key of the record and its value. It must not call back into the processor that emits.
type Emit = func(key string, value proto.Message)

// Entry is one remembered message in 40 bytes.
type Entry struct {
	// ID is the UUIDv7 of the message's id: byte order is the order by created_at, then message_id.
	ID [16]byte
	// Other is the sender in a log keyed by conversation, and the conversation in a log keyed by sender. It must not be the zero Handle.
	Other unique.Handle[string]
	// Offset and Partition tell where the first copy lies in chat.messages.
	Offset    int64
	Partition int32
	// LogSecond is the log time in seconds since the epoch, rounded up. Copies renew it. Observe sets it.
	LogSecond uint32
}

// Millis returns created_at in milliseconds since the epoch.
func (e *Entry) Millis() int64 {
	return int64(binary.BigEndian.Uint64(e.ID[:8]) >> 16) //nolint:gosec // 48 bits always fit
}

// MessageID returns the message's id as text: "msg-" and the UUID in lower case.
func (e *Entry) MessageID() string {
	h := make([]byte, 0, 40)
	h = append(h, "msg-"...)
	for i, end := range [...]int{4, 6, 8, 10, 16} {
		start := [...]int{0, 4, 6, 8, 10}[i]
		if i > 0 {
			h = append(h, '-')
		}
		h = hex.AppendEncode(h, e.ID[start:end])
	}
	return string(h)
}

// compareID orders by created_at, then message_id.
func compareID(a, b *Entry) int {
	if c := cmp.Compare(binary.BigEndian.Uint64(a.ID[:8]), binary.BigEndian.Uint64(b.ID[:8])); c != 0 {
		return c
	}
	return cmp.Compare(binary.BigEndian.Uint64(a.ID[8:]), binary.BigEndian.Uint64(b.ID[8:]))
}

// compare orders by ID, then Other.
func compare(a, b *Entry) int {
	if c := compareID(a, b); c != 0 || a.Other == b.Other {
		return c
	}
	return cmp.Compare(a.Other.Value(), b.Other.Value())
}

// Log holds what is remembered of one key. A Log handed out stays valid for as long as it has entries; a key that was forgotten and comes back has
// a new one.
type Log struct {
	// Key is the conversation or the sender.
	Key string
	// Entries are sorted by ID, ties by Other. They are for reading only, and until the next call to the Memory: both Observe and Advance move them.
	Entries []Entry

	due      uint32 // when the Memory looks at it again; see Memory.due
	unsorted bool   // true when LogSecond may not grow along Entries
}

// Range returns the bounds of the entries with fromMs <= Millis < toMs: Entries[lo:hi].
func (l *Log) Range(fromMs, toMs int64) (lo, hi int) {
	lo = l.first(fromMs)
	if toMs <= fromMs {
		return lo, lo
	}
	return lo, l.first(toMs)
}

// first returns the index of the first entry that was created at ms or later. Most questions are about the newest entries, so it gallops from the end
// before it bisects.
func (l *Log) first(ms int64) int {
	n := len(l.Entries)
	step := 1
	hi := n // Entries[hi:] are known to be at ms or later
	for hi > 0 && l.Entries[max(hi-step, 0)].Millis() >= ms {
		hi = max(hi-step, 0)
		step *= 2
	}
	lo := max(hi-step, 0)
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		if l.Entries[mid].Millis() < ms {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo
}
