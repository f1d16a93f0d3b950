package query

import (
	"encoding/binary"
	"hash/crc32"
	"math"

	"github.com/earshot/earshot/services/internal/apierror"
)

// Sizes of pages.
const (
	defaultPage = 50
	largestPage = 200
)

// pageSize returns the rows of a page: 50 when not given, never more than 200.
func pageSize(asked int32) (int, error) {
	if asked < 0 {
		return 0, apierror.Field("page_size", int64(asked), "0 (for 50) to 200", apierror.ReasonFieldInvalid)
	}
	if asked == 0 {
		return defaultPage, nil
	}
	return min(int(asked), largestPage), nil
}

// cursor is the sort key of a page's last row; the next page begins behind it. Pages are found by key, not by number, so what is written meanwhile moves
// nothing.
type cursor struct {
	numbers []int64
	text    string
}

// A page token is base64url of
//
//	version (1 byte) | filter hash (8) | count (uvarint), numbers (varint) | length (uvarint), text | CRC-32C of all before (4)
const (
	pageVersion = 2 // unlike a resume token's
	maxNumbers  = 8
)

func pageToken(filter uint64, c cursor) string {
	b := []byte{pageVersion}
	b = binary.BigEndian.AppendUint64(b, filter)
	b = binary.AppendUvarint(b, uint64(len(c.numbers)))
	for _, n := range c.numbers {
		b = binary.AppendVarint(b, n)
	}
	b = binary.AppendUvarint(b, uint64(len(c.text)))
	b = append(b, c.text...)
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	return tokenText.EncodeToString(b)
}

// parsePageToken reads a token that pageToken wrote for the same filter and as many numbers; ok is false for an empty one, the first page.
func parsePageToken(token string, filter uint64, numbers int) (c cursor, ok bool, err error) {
	if token == "" {
		return c, false, nil
	}
	invalid := apierror.TokenInvalid("page_token", token)
	b, derr := tokenText.DecodeString(token)
	if derr != nil || len(b) < 1+8+2+crc32.Size || b[0] != pageVersion {
		return c, false, invalid
	}
	end := len(b) - crc32.Size
	if crc32.Checksum(b[:end], castagnoli) != binary.BigEndian.Uint32(b[end:]) || binary.BigEndian.Uint64(b[1:]) != filter {
		return c, false, invalid
	}
	b = b[9:end]
	n, w := binary.Uvarint(b)
	if w <= 0 || n > maxNumbers || int(n) != numbers { //nolint:gosec // small
		return c, false, invalid
	}
	b = b[w:]
	for range n {
		v, w := binary.Varint(b)
		if w <= 0 {
			return c, false, invalid
		}
		c.numbers = append(c.numbers, v)
		b = b[w:]
	}
	size, w := binary.Uvarint(b)
	if w <= 0 || size > math.MaxInt32 || len(b)-w != int(size) {
		return c, false, invalid
	}
	c.text = string(b[w:])
	if pageToken(filter, c) != token {
		return c, false, invalid
	}
	return c, true, nil
}

// page cuts rows to a page, of which one row more was asked for, and returns the token of the next one, empty on the last.
func page[R any](rows []R, size int, filter uint64, key func(R) cursor) ([]R, string) {
	if len(rows) <= size {
		return rows, ""
	}
	rows = rows[:size]
	return rows, pageToken(filter, key(rows[size-1]))
}
