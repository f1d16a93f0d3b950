package apierror

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// maxSeen is how many characters of a value an error repeats.
const maxSeen = 64

// show renders a value for an error: always one line of printable, valid UTF-8.
func show(v any) string {
	switch v := v.(type) {
	case string:
		return quote(v)
	case int:
		return group(int64(v))
	case int32:
		return group(int64(v))
	case int64:
		return group(v)
	case uint32:
		return group(int64(v))
	case time.Time:
		return v.UTC().Format(time.RFC3339Nano)
	case bool:
		return strconv.FormatBool(v)
	case literal:
		return string(v)
	default:
		return quote(fmt.Sprint(v))
	}
}

// literal is text of this package that is shown as it is.
type literal string

// quote quotes s as Go does, so that control, bidi and broken bytes show as escapes; of a longer s it shows 64 characters and the number of all.
func quote(s string) string {
	cut, runes := len(s), 0
	for i := range s {
		if runes == maxSeen {
			cut = i
		}
		runes++
	}
	if cut == len(s) {
		return strconv.Quote(s)
	}
	return strconv.Quote(s[:cut]) + "… (" + group(int64(runes)) + " characters)"
}

// group writes n with a comma between thousands.
func group(n int64) string {
	s := strconv.FormatInt(n, 10)
	sign := ""
	if s[0] == '-' {
		sign, s = "-", s[1:]
	}
	var b strings.Builder
	b.WriteString(sign)
	for i, c := range s {
		if i > 0 && (len(s)-i)%3 == 0 {
			b.WriteByte(',')
		}
		b.WriteRune(c)
	}
	return b.String()
}
