package processor

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
)

// A partition's commit carries what a rebuild needs, as the commit's metadata: text, "1." and base64 of varints. Brokers keep up to 4,096 bytes.
const (
	metadataVersion = "1."
	metadataLimit   = 3_500
)

// snapshot is what goes with a committed offset.
type snapshot struct {
	low   int64 // lowest offset whose record is still remembered; the rebuild starts there
	clock int64 // log time or watermark at the commit, in milliseconds since the epoch
	// logTime is that of the partition just before low. Of a source only.
	logTime int64
	// heard is what was known of each source partition just before low. Of internal partitions only.
	heard []heard
}

// heard is what an internal partition knows of one partition of chat.messages.
type heard struct {
	known   bool
	applied int64 // its records below this offset are applied
	logTime int64 // its log time, in milliseconds since the epoch
}

// encode returns the metadata. Should the source partitions be too many for the room there is (some 300), they are left out, and the rebuild believes the
// first batch of each.
func (s snapshot) encode() string {
	b := binary.AppendVarint(nil, s.low)
	b = binary.AppendVarint(b, s.clock)
	b = binary.AppendVarint(b, s.logTime)
	full := binary.AppendUvarint(b[:len(b):len(b)], uint64(len(s.heard)))
	for _, h := range s.heard {
		if !h.known {
			full = append(full, 0)
			continue
		}
		full = append(full, 1)
		full = binary.AppendVarint(full, h.applied)
		full = binary.AppendVarint(full, s.clock-h.logTime)
	}
	if text := metadataVersion + base64.RawStdEncoding.EncodeToString(full); len(text) <= metadataLimit {
		return text
	}
	return metadataVersion + base64.RawStdEncoding.EncodeToString(binary.AppendUvarint(b, 0))
}

var errMetadata = errors.New("not metadata of this version")

// decodeSnapshot reads what encode wrote.
func decodeSnapshot(text string) (snapshot, error) {
	var s snapshot
	if len(text) < len(metadataVersion) || text[:len(metadataVersion)] != metadataVersion {
		return s, fmt.Errorf("%q: %w", cut(text), errMetadata)
	}
	b, err := base64.RawStdEncoding.DecodeString(text[len(metadataVersion):])
	if err != nil {
		return s, fmt.Errorf("%q: %w: %w", cut(text), errMetadata, err)
	}
	r := varints{b: b}
	s.low, s.clock, s.logTime = r.signed(), r.signed(), r.signed()
	n := r.unsigned()
	if n > uint64(len(b)) { // each takes a byte at least
		return snapshot{}, fmt.Errorf("%q: %w", cut(text), errMetadata)
	}
	s.heard = make([]heard, n)
	for i := range s.heard {
		if r.unsigned() == 1 {
			s.heard[i] = heard{known: true, applied: r.signed(), logTime: s.clock - r.signed()}
		}
	}
	if r.bad || len(r.b) > 0 {
		return snapshot{}, fmt.Errorf("%q: %w", cut(text), errMetadata)
	}
	return s, nil
}

func cut(text string) string { return text[:min(len(text), 64)] }

// varints reads numbers one after the other; bad is set once there was none to read.
type varints struct {
	b   []byte
	bad bool
}

func (r *varints) signed() int64 {
	v, n := binary.Varint(r.b)
	r.take(n)
	return v
}

func (r *varints) unsigned() uint64 {
	v, n := binary.Uvarint(r.b)
	r.take(n)
	return v
}

func (r *varints) take(n int) {
	if n <= 0 {
		r.bad, n = true, len(r.b)
	}
	r.b = r.b[n:]
}
