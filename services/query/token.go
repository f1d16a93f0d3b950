package query

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"slices"

	"github.com/cespare/xxhash/v2"
)

// unnamed is the position of a partition of which nothing is known: reading starts at its first record.
const unnamed int64 = -1

// positions says how far a topic was read: the offset of the next record, by partition. Once shared, it is never changed.
type positions []int64

// at returns the position in a partition, unnamed beyond the last.
func (p positions) at(partition int32) int64 {
	if int(partition) < len(p) {
		return p[partition]
	}
	return unnamed
}

// covers tells whether p is at or past q in every partition that q names.
func (p positions) covers(q positions) bool {
	for i, o := range q {
		if o > p.at(int32(i)) { //nolint:gosec // a partition number
			return false
		}
	}
	return true
}

// later returns, for each partition, the later position of the two.
func (p positions) later(q positions) positions {
	if len(q) > len(p) {
		p, q = q, p
	}
	out := slices.Clone(p)
	for i, o := range q {
		out[i] = max(out[i], o)
	}
	return out
}

// positionsOf turns what an admin answers into positions.
func positionsOf(offsets map[int32]int64) positions {
	out := positions{}
	for p, o := range offsets {
		for len(out) <= int(p) {
			out = append(out, unnamed)
		}
		out[p] = o
	}
	return out
}

// A resume token is base64url of
//
//	version (1 byte) | filter hash (8) | topic hash (8) | partitions (uvarint) | position + 1 of each (uvarint; 0: unnamed) | CRC-32C of the bytes after the filter hash (4)
//
// The first two belong to the subscriber, the rest to the state of the feed, which all its subscribers share. Nine bytes are twelve characters without a
// remainder, so the two halves are encoded apart, the second once a record, and joined as text.
//
// A token is no secret and grants nothing: who forges one well has named a place in the log, which is checked against the log like any other.
const (
	tokenVersion   = 1
	tokenOwnBytes  = 9
	tokenOwnChars  = 12
	maxPartitions  = 4096 // more in a token can only be forged
	tokenHashBytes = 8
)

var (
	tokenText  = base64.RawURLEncoding.Strict()
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// tokenOwn returns the half of a resume token that belongs to a subscriber.
func tokenOwn(filter uint64) string {
	var b [tokenOwnBytes]byte
	b[0] = tokenVersion
	binary.BigEndian.PutUint64(b[1:], filter)
	return tokenText.EncodeToString(b[:])
}

// tokenState returns the half of a resume token that says where in the log.
func tokenState(topic uint64, at positions) string {
	b := make([]byte, 0, 64)
	b = binary.BigEndian.AppendUint64(b, topic)
	b = binary.AppendUvarint(b, uint64(len(at)))
	for _, o := range at {
		b = binary.AppendUvarint(b, uint64(o+1)) //nolint:gosec // an offset or -1
	}
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	return tokenText.EncodeToString(b)
}

// resumeToken is what a resume token says.
type resumeToken struct {
	filter, topic uint64
	at            positions
}

func (t resumeToken) String() string { return tokenOwn(t.filter) + tokenState(t.topic, t.at) }

// errToken says that a text is no token of ours.
var errToken = errors.New("not a token")

// parseResumeToken reads what String wrote, and nothing else.
func parseResumeToken(text string) (resumeToken, error) {
	var t resumeToken
	b, err := tokenText.DecodeString(text)
	if err != nil || len(b) < tokenOwnBytes+tokenHashBytes+1+crc32.Size || b[0] != tokenVersion {
		return t, errToken
	}
	t.filter = binary.BigEndian.Uint64(b[1:])
	b = b[tokenOwnBytes:]
	end := len(b) - crc32.Size
	if crc32.Checksum(b[:end], castagnoli) != binary.BigEndian.Uint32(b[end:]) {
		return t, errToken
	}
	t.topic = binary.BigEndian.Uint64(b)
	b = b[tokenHashBytes:end]
	n, w := binary.Uvarint(b)
	if w <= 0 || n > maxPartitions {
		return t, errToken
	}
	b = b[w:]
	t.at = make(positions, 0, n)
	for range n {
		o, w := binary.Uvarint(b)
		if w <= 0 || o > 1<<62 {
			return t, errToken
		}
		t.at = append(t.at, int64(o)-1)
		b = b[w:]
	}
	if len(b) != 0 || t.String() != text { // a uvarint can be written in several ways
		return t, errToken
	}
	return t, nil
}

// topicHash stands for a topic in tokens: its name, and the id that changes when it is made anew.
func topicHash(name, id string) uint64 { return newHash("topic").text(name).text(id).sum() }

// hash folds the arguments of a request, so that a token serves only the request it was made for. It is the same in every process and version.
type hash struct{ d *xxhash.Digest }

func newHash(kind string) hash { return hash{xxhash.New()}.text(kind) }

func (h hash) text(s string) hash {
	h.number(uint64(len(s))) // keeps ("ab","c") and ("a","bc") apart
	_, _ = h.d.WriteString(s)
	return h
}

func (h hash) number(n uint64) hash {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], n)
	_, _ = h.d.Write(b[:])
	return h
}

// set folds texts whose order and repeats do not matter.
func (h hash) set(texts []string) hash {
	texts = slices.Compact(slices.Sorted(slices.Values(texts)))
	h.number(uint64(len(texts)))
	for _, s := range texts {
		h.text(s)
	}
	return h
}

func (h hash) sum() uint64 { return h.d.Sum64() }
