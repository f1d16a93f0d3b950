// Package ident makes and checks the ids by which messages are known everywhere.
//
// A message id is "msg-" and a UUIDv7 (RFC 9562, section 5.7) in lower case. The UUID's time is the message's created_at, so that day, order and
// partition follow from (conversation_id, message_id), which is a message's identity.
package ident

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"strconv"
	"strings"
	"time"
)

const messagePrefix = "msg-"

// UUID is the binary form of a message id. Its byte order is the order by created_at, then id.
type UUID [16]byte

// Millis returns created_at in milliseconds since the epoch.
func (u UUID) Millis() int64 {
	return int64(binary.BigEndian.Uint64(u[:8]) >> 16) //nolint:gosec // 48 bits always fit
}

// Time returns created_at, in UTC.
func (u UUID) Time() time.Time { return time.UnixMilli(u.Millis()).UTC() }

// MessageID returns the id as text.
func (u UUID) MessageID() string {
	var b [len(messagePrefix) + 36]byte
	copy(b[:], messagePrefix)
	h := b[len(messagePrefix):]
	hex.Encode(h[0:8], u[0:4])
	h[8] = '-'
	hex.Encode(h[9:13], u[4:6])
	h[13] = '-'
	hex.Encode(h[14:18], u[6:8])
	h[18] = '-'
	hex.Encode(h[19:23], u[8:10])
	h[23] = '-'
	hex.Encode(h[24:36], u[10:16])
	return string(b[:])
}

// Limits of created_at: what 48 bits of a UUID, Kafka's timestamps and ClickHouse's DateTime64(3) can all hold.
var (
	MinTime = time.UnixMilli(0).UTC()
	MaxTime = time.Date(2262, 1, 1, 0, 0, 0, 0, time.UTC)
)

// New returns a fresh id for a message created at t, cut to milliseconds. t must lie within MinTime and MaxTime.
func New(t time.Time) UUID {
	var r [10]byte
	_, _ = rand.Read(r[:]) // never fails (Go 1.24)
	return build(t, r)
}

// Hashed returns the id that content-derived parts always give: the same created_at and parts, the same id.
func Hashed(t time.Time, parts ...string) UUID {
	h := sha256.New()
	var n [8]byte
	for _, p := range parts {
		binary.BigEndian.PutUint64(n[:], uint64(len(p)))
		h.Write(n[:]) // lengths keep ("ab","c") and ("a","bc") apart
		h.Write([]byte(p))
	}
	var r [10]byte
	copy(r[:], h.Sum(nil))
	return build(t, r)
}

func build(t time.Time, random [10]byte) UUID {
	var u UUID
	binary.BigEndian.PutUint64(u[:8], uint64(t.UnixMilli())<<16) //nolint:gosec // callers keep t within MinTime and MaxTime
	copy(u[6:], random[:])
	u[6] = u[6]&0x0f | 0x70 // version 7
	u[8] = u[8]&0x3f | 0x80 // RFC variant
	return u
}

// ErrMessageID says that a text is not a message id.
var ErrMessageID = errors.New(`not "msg-" and a UUIDv7 in lower case`)

// Parse reads a message id. It accepts exactly what MessageID writes.
func Parse(id string) (UUID, error) {
	var u UUID
	h, ok := strings.CutPrefix(id, messagePrefix)
	if !ok || len(h) != 36 || h[8] != '-' || h[13] != '-' || h[18] != '-' || h[23] != '-' {
		return u, ErrMessageID
	}
	at := 0
	for i := 0; i < 36; i += 2 {
		if i == 8 || i == 13 || i == 18 || i == 23 { // the dashes; any other is no digit
			i++
		}
		hi, lo := nibble(h[i]), nibble(h[i+1])
		if hi|lo > 0x0f {
			return u, ErrMessageID
		}
		u[at] = hi<<4 | lo
		at++
	}
	if u[6]>>4 != 7 || u[8]>>6 != 2 {
		return u, ErrMessageID
	}
	return u, nil
}

func nibble(c byte) byte {
	switch {
	case c >= '0' && c <= '9':
		return c - '0'
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10
	}
	return 0xff
}

var lower32 = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// Conversation returns the id of the conversation of two users, the same whoever sends.
func Conversation(a, b string) string {
	if b < a {
		a, b = b, a
	}
	var buf [300]byte // both ids are at most 128 characters, mostly of a byte each
	text := append(strconv.AppendInt(buf[:0], int64(len(a)), 10), ':')
	text = append(append(text, a...), b...)
	h := sha256.Sum256(text)
	return "conv-" + lower32.EncodeToString(h[:10])
}
