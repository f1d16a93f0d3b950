// Package record reads and checks the values of stored topics, so that every service agrees on what counts as a record.
//
// A record that fails here is poison: the sink dead-letters it, the processors' host counts and skips it. Errors name the field and the rule, never
// content. Beside gen it may import services/internal/ident and, to write records, services/internal/kafka only.
package record

import (
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	eventv1 "github.com/earshot/earshot/gen/earshot/event/v1"
	"github.com/earshot/earshot/services/internal/ident"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Limits of a record's fields, in characters.
const (
	MaxID      = 128
	MaxContent = 4096
)

// MaxAhead is how far an event's time may lie after its record's timestamp: how wrong a client's clock may be.
const MaxAhead = 5 * time.Minute

// Reasons why a record is refused, as in a dead letter's headers and in metrics.
const (
	BadProtobuf    = "BAD_PROTOBUF"
	InvalidUTF8    = "INVALID_UTF8"
	FieldRequired  = "FIELD_REQUIRED"
	FieldInvalid   = "FIELD_INVALID"
	FieldTooLong   = "FIELD_TOO_LONG"
	TimeOutOfRange = "TIME_OUT_OF_RANGE"
	WrongKey       = "WRONG_KEY"
)

// Error says why a record can not be used. Its text is one line and holds no content.
type Error struct {
	Reason string // one of the reasons above
	Field  string // field at fault, empty when it is the whole record
	Text   string // what is wrong with it
}

func (e *Error) Error() string {
	if e.Field == "" {
		return e.Text
	}
	return e.Field + ": " + e.Text
}

// Reason returns the reason of an *Error in err's chain, or "" without one.
func Reason(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Reason
	}
	return ""
}

// Message reads a record of chat.messages. The id returned is the parsed message_id; its time is created_at. Safe for concurrent use, as all here.
func Message(value []byte) (*eventv1.Message, ident.UUID, error) {
	m := &eventv1.Message{}
	if err := unmarshal(value, m); err != nil {
		return nil, ident.UUID{}, err
	}
	u, err := messageID(m.GetMessageId())
	if err == nil {
		err = sameMillis("created_at", m.GetCreatedAt(), u)
	}
	if err = first(err,
		id("conversation_id", m.GetConversationId()),
		id("sender_id", m.GetSenderId())); err == nil && m.GetReceiverId() != "" {
		err = id("receiver_id", m.GetReceiverId())
	}
	if err = first(err, content(m.GetContent()), word("message_type", m.GetMessageType())); err != nil {
		return nil, ident.UUID{}, err
	}
	return m, u, nil
}

// View reads a record of message-views. The id returned is that of the message that was viewed, which need not exist.
func View(value []byte) (*eventv1.MessageView, ident.UUID, error) {
	v := &eventv1.MessageView{}
	if err := unmarshal(value, v); err != nil {
		return nil, ident.UUID{}, err
	}
	u, err := messageID(v.GetMessageId())
	err = first(err, id("conversation_id", v.GetConversationId()), id("user_id", v.GetUserId()), instant("viewed_at", v.GetViewedAt()))
	if s := v.GetStatus(); err == nil && s != Delivered && s != Read {
		err = &Error{FieldInvalid, "status", fmt.Sprintf("got %s, want %q or %q", seen(s), Delivered, Read)}
	}
	if err != nil {
		return nil, ident.UUID{}, err
	}
	return v, u, nil
}

// What a message's read_status goes through. A receipt says Delivered or Read.
const (
	Sent      = "sent"
	Delivered = "delivered"
	Read      = "read"
)

// Alert reads a record of anomaly-alerts.
func Alert(value []byte) (*eventv1.Alert, error) {
	a := &eventv1.Alert{}
	if err := unmarshal(value, a); err != nil {
		return nil, err
	}
	err := first(nil, required("alert_id", a.GetAlertId()), id("user_id", a.GetUserId()),
		state(int32(a.GetState()), eventv1.AlertState_name),
		instant("triggered_at", a.GetTriggeredAt()), window(a.GetWindowStart(), a.GetWindowEnd()))
	if err != nil {
		return nil, err
	}
	return a, nil
}

// Trend reads a record of trending-words.
func Trend(value []byte) (*eventv1.Trend, error) {
	t := &eventv1.Trend{}
	if err := unmarshal(value, t); err != nil {
		return nil, err
	}
	err := first(nil, required("term", t.GetTerm()), window(t.GetWindowStart(), t.GetWindowEnd()),
		state(int32(t.GetState()), eventv1.WindowState_name))
	if err != nil {
		return nil, err
	}
	return t, nil
}

// ConversationMetrics reads a record of conversation-metrics.
func ConversationMetrics(value []byte) (*eventv1.ConversationMetrics, error) {
	c := &eventv1.ConversationMetrics{}
	if err := unmarshal(value, c); err != nil {
		return nil, err
	}
	err := first(nil, id("conversation_id", c.GetConversationId()), window(c.GetWindowStart(), c.GetWindowEnd()),
		state(int32(c.GetState()), eventv1.WindowState_name))
	if err != nil {
		return nil, err
	}
	return c, nil
}

// UserActivity reads a record of user-activity-metrics.
func UserActivity(value []byte) (*eventv1.UserActivity, error) {
	a := &eventv1.UserActivity{}
	if err := unmarshal(value, a); err != nil {
		return nil, err
	}
	err := first(nil, id("user_id", a.GetUserId()), window(a.GetWindowStart(), a.GetWindowEnd()),
		instant("last_active", a.GetLastActive()), state(int32(a.GetState()), eventv1.WindowState_name))
	if err != nil {
		return nil, err
	}
	return a, nil
}

// Key checks that a record has the key that its value asks for: with another it may lie in another partition, where copies of it do not meet.
func Key(key []byte, want string) error {
	if string(key) != want {
		return &Error{WrongKey, "", fmt.Sprintf("key is %s, want %s", seen(string(key)), seen(want))}
	}
	return nil
}

// Ahead checks that an event's time is at most MaxAhead later than accepted, its record's timestamp.
func Ahead(field string, at, accepted time.Time) error {
	if at.After(accepted.Add(MaxAhead)) {
		return &Error{TimeOutOfRange, field, fmt.Sprintf("%s is more than %v after the record's timestamp %s", at.UTC().Format(time.RFC3339), MaxAhead, accepted.UTC().Format(time.RFC3339))}
	}
	return nil
}

func first(err error, more ...error) error {
	for _, e := range more {
		if err != nil {
			break
		}
		err = e
	}
	return err
}

func unmarshal(value []byte, m proto.Message) error {
	if len(value) == 0 {
		return &Error{BadProtobuf, "", "empty record"}
	}
	if err := proto.Unmarshal(value, m); err != nil {
		if strings.Contains(err.Error(), "invalid UTF-8") {
			return &Error{InvalidUTF8, "", "a text is not valid UTF-8"}
		}
		return &Error{BadProtobuf, "", fmt.Sprintf("%d bytes are not a %s", len(value), m.ProtoReflect().Descriptor().FullName())}
	}
	return nil
}

func messageID(s string) (ident.UUID, error) {
	if s == "" {
		return ident.UUID{}, &Error{FieldRequired, "message_id", "empty"}
	}
	u, err := ident.UUID{}, ident.ErrMessageID
	if strings.Count(s, "-") == 5 { // Parse reads past the end when there is a dash too many
		u, err = ident.Parse(s)
	}
	if err != nil {
		return u, &Error{FieldInvalid, "message_id", fmt.Sprintf("got %s, which is %v", seen(s), err)}
	}
	if u.Time().After(ident.MaxTime) {
		return u, &Error{TimeOutOfRange, "message_id", "its time is after " + ident.MaxTime.Format(time.RFC3339)}
	}
	return u, nil
}

func sameMillis(field string, ts *timestamppb.Timestamp, u ident.UUID) error {
	if err := instant(field, ts); err != nil {
		return err
	}
	if ms := Millis(ts); ms != u.Millis() {
		return &Error{FieldInvalid, field, fmt.Sprintf("is %d ms, but message_id says %d ms", ms, u.Millis())}
	}
	return nil
}

// Millis returns a timestamp in milliseconds since the epoch, cut and not rounded.
func Millis(ts *timestamppb.Timestamp) int64 {
	return ts.GetSeconds()*1000 + int64(ts.GetNanos())/1e6
}

// Time returns a timestamp cut to milliseconds, in UTC.
func Time(ts *timestamppb.Timestamp) time.Time { return time.UnixMilli(Millis(ts)).UTC() }

func instant(field string, ts *timestamppb.Timestamp) error {
	switch {
	case ts == nil:
		return &Error{FieldRequired, field, "absent"}
	case ts.GetNanos() < 0 || ts.GetNanos() > 999_999_999:
		return &Error{TimeOutOfRange, field, fmt.Sprintf("got %d nanos, want 0 to 999999999", ts.GetNanos())}
	case ts.GetSeconds() < ident.MinTime.Unix() || ts.GetSeconds() >= ident.MaxTime.Unix():
		return &Error{TimeOutOfRange, field, fmt.Sprintf("got %d s, want %s to %s", ts.GetSeconds(), ident.MinTime.Format(time.RFC3339), ident.MaxTime.Format(time.RFC3339))}
	}
	return nil
}

// window checks a window's bounds. A window that starts within its own length of the epoch has a start before it, which is allowed.
func window(start, end *timestamppb.Timestamp) error {
	if err := instant("window_end", end); err != nil {
		return err
	}
	if start == nil {
		return &Error{FieldRequired, "window_start", "absent"}
	}
	if start.GetSeconds() >= 0 {
		if err := instant("window_start", start); err != nil {
			return err
		}
	}
	if d := Millis(end) - Millis(start); d < 0 || start.GetSeconds() < -maxWindow {
		return &Error{TimeOutOfRange, "window_start", fmt.Sprintf("got %d s, want at most window_end and at least %d", start.GetSeconds(), -maxWindow)}
	}
	return nil
}

// maxWindow is the longest window in seconds: a year, well above any setting.
const maxWindow = 366 * 86_400

func required(field, s string) error {
	if s == "" {
		return &Error{FieldRequired, field, "empty"}
	}
	if n := utf8.RuneCountInString(s); n > MaxContent {
		return &Error{FieldTooLong, field, fmt.Sprintf("got %d characters, want at most %d", n, MaxContent)}
	}
	return nil
}

func state(n int32, names map[int32]string) error {
	if _, ok := names[n]; !ok || n == 0 {
		return &Error{FieldInvalid, "state", fmt.Sprintf("got the unknown number %d", n)}
	}
	return nil
}

// id checks an identifier: 1 to 128 Unicode letters, decimal digits and ._:@+~- and neither "." nor "..", which mean something else in a path.
func id(field, s string) error {
	if s == "" {
		return &Error{FieldRequired, field, "empty"}
	}
	n := 0
	for _, r := range s {
		n++
		if !idRune(r) {
			return &Error{FieldInvalid, field, fmt.Sprintf("got %s, want letters, digits and ._:@+~-", seen(s))}
		}
	}
	switch {
	case n > MaxID:
		return &Error{FieldTooLong, field, fmt.Sprintf("got %d characters, want at most %d", n, MaxID)}
	case s == "." || s == "..":
		return &Error{FieldInvalid, field, fmt.Sprintf("got %q, which means a folder", s)}
	}
	return nil
}

func idRune(r rune) bool {
	if r < utf8.RuneSelf {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.IndexByte("._:@+~-", byte(r)) >= 0
	}
	return unicode.IsLetter(r) || unicode.IsDigit(r)
}

func content(s string) error {
	switch n := utf8.RuneCountInString(s); {
	case n == 0:
		return &Error{FieldRequired, "content", "empty"}
	case n > MaxContent:
		return &Error{FieldTooLong, "content", fmt.Sprintf("got %d characters, want at most %d", n, MaxContent)}
	case strings.IndexByte(s, 0) >= 0:
		return &Error{FieldInvalid, "content", "holds NUL"}
	}
	return nil
}

func word(field, s string) error {
	if s == "" {
		return &Error{FieldRequired, field, "empty"}
	}
	if len(s) > 32 {
		return &Error{FieldTooLong, field, fmt.Sprintf("got %d characters, want at most 32", len(s))}
	}
	for i := range len(s) {
		if c := s[i]; c < 'a' || c > 'z' {
			return &Error{FieldInvalid, field, fmt.Sprintf("got %s, want a lower-case word", seen(s))}
		}
	}
	return nil
}

// seen quotes a value for an error, cut to 64 characters.
func seen(s string) string {
	n := 0
	for i := range s {
		if n == 64 {
			return fmt.Sprintf("%q…", s[:i])
		}
		n++
	}
	return fmt.Sprintf("%q", s)
}
