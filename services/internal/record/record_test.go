package record_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	eventv1 "github.com/earshot/earshot/gen/earshot/event/v1"
	"github.com/earshot/earshot/services/internal/ident"
	"github.com/earshot/earshot/services/internal/record"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

var at = time.UnixMilli(1_530_000_000_123).UTC()

func message(change func(*eventv1.Message)) []byte {
	m := &eventv1.Message{
		MessageId: ident.Hashed(at, "a").MessageID(), ConversationId: "conv-1", SenderId: "alice", ReceiverId: "bob",
		Content: "see you at ten", CreatedAt: timestamppb.New(at), MessageType: "text",
	}
	change(m)
	return bytes(m)
}

func bytes(m proto.Message) []byte {
	b, err := proto.Marshal(m)
	if err != nil {
		panic(err)
	}
	return b
}

func TestMessageAccepts(t *testing.T) {
	for name, value := range map[string][]byte{
		"plain":            message(func(*eventv1.Message) {}),
		"group":            message(func(m *eventv1.Message) { m.ReceiverId = "" }),
		"micros are cut":   message(func(m *eventv1.Message) { m.CreatedAt.Nanos += 999_999 }),
		"4096 characters":  message(func(m *eventv1.Message) { m.Content = strings.Repeat("ß", 4096) }),
		"id of 128 runes":  message(func(m *eventv1.Message) { m.SenderId = strings.Repeat("ж", 128) }),
		"id alphabet":      message(func(m *eventv1.Message) { m.ConversationId = "._:@+~-aZ9名٣" }),
		"control and bidi": message(func(m *eventv1.Message) { m.Content = "a\x1b[31m\u202eb" }),
		"unknown field":    append(message(func(*eventv1.Message) {}), 0xa2, 0x06, 1, 'x'),
		"1970": message(func(m *eventv1.Message) {
			m.MessageId, m.CreatedAt = ident.Hashed(time.UnixMilli(0), "a").MessageID(), &timestamppb.Timestamp{}
		}),
	} {
		m, u, err := record.Message(value)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if u.MessageID() != m.GetMessageId() || u.Millis() != record.Millis(m.GetCreatedAt()) {
			t.Errorf("%s: id %s and time %d do not fit the message", name, u.MessageID(), u.Millis())
		}
	}
}

func TestMessageRefuses(t *testing.T) {
	const secret = "sesame"
	cases := []struct {
		name, reason, field string
		value               []byte
	}{
		{"empty", record.BadProtobuf, "", nil},
		{"garbage", record.BadProtobuf, "", []byte("\xff\xff\xffsesame")},
		{"cut", record.BadProtobuf, "", message(func(*eventv1.Message) {})[:40]},
		{"another event", record.FieldInvalid, "message_id", bytes(&eventv1.Alert{AlertId: "alert-1", UserId: "bob"})},
		{"bad UTF-8", record.InvalidUTF8, "", []byte("\x2a\x03a\xffb")},
		{"no id", record.FieldRequired, "message_id", message(func(m *eventv1.Message) { m.MessageId = "" })},
		{"foreign id", record.FieldInvalid, "message_id", message(func(m *eventv1.Message) { m.MessageId = "msg-1705412345678901234" })},
		{"id of the year 9000", record.TimeOutOfRange, "message_id", message(func(m *eventv1.Message) { m.MessageId = "msg-ca000000-0000-7000-8000-000000000000" })},
		{"id with a dash too many", record.FieldInvalid, "message_id", message(func(m *eventv1.Message) { m.MessageId = m.MessageId[:38] + "-0" })},
		{"no time", record.FieldRequired, "created_at", message(func(m *eventv1.Message) { m.CreatedAt = nil })},
		{"another time", record.FieldInvalid, "created_at", message(func(m *eventv1.Message) { m.CreatedAt = timestamppb.New(at.Add(time.Millisecond)) })},
		{"negative nanos", record.TimeOutOfRange, "created_at", message(func(m *eventv1.Message) { m.CreatedAt.Nanos = -1 })},
		{"year 10000", record.TimeOutOfRange, "created_at", message(func(m *eventv1.Message) { m.CreatedAt.Seconds = 253402300800 })},
		{"before 1970", record.TimeOutOfRange, "created_at", message(func(m *eventv1.Message) { m.CreatedAt.Seconds = -1 })},
		{"no conversation", record.FieldRequired, "conversation_id", message(func(m *eventv1.Message) { m.ConversationId = "" })},
		{"no sender", record.FieldRequired, "sender_id", message(func(m *eventv1.Message) { m.SenderId = "" })},
		{"129 characters", record.FieldTooLong, "sender_id", message(func(m *eventv1.Message) { m.SenderId = strings.Repeat("x", 129) })},
		{"slash", record.FieldInvalid, "receiver_id", message(func(m *eventv1.Message) { m.ReceiverId = "a/b" })},
		{"NUL", record.FieldInvalid, "sender_id", message(func(m *eventv1.Message) { m.SenderId = "a\x00" })},
		{"bidi", record.FieldInvalid, "sender_id", message(func(m *eventv1.Message) { m.SenderId = "a\u202e" })},
		{"dots", record.FieldInvalid, "conversation_id", message(func(m *eventv1.Message) { m.ConversationId = ".." })},
		{"no content", record.FieldRequired, "content", message(func(m *eventv1.Message) { m.Content = "" })},
		{"4097 characters", record.FieldTooLong, "content", message(func(m *eventv1.Message) { m.Content = secret + strings.Repeat("ß", 4091) })},
		{"content with NUL", record.FieldInvalid, "content", message(func(m *eventv1.Message) { m.Content = secret + "\x00" })},
		{"no type", record.FieldRequired, "message_type", message(func(m *eventv1.Message) { m.MessageType = "" })},
		{"upper-case type", record.FieldInvalid, "message_type", message(func(m *eventv1.Message) { m.MessageType = "Text" })},
	}
	for _, c := range cases {
		_, _, err := record.Message(c.value)
		var e *record.Error
		if !errors.As(err, &e) {
			t.Errorf("%s: got %v, want a record.Error", c.name, err)
			continue
		}
		if e.Reason != c.reason || e.Field != c.field {
			t.Errorf("%s: got %s %q (%v), want %s %q", c.name, e.Reason, e.Field, e, c.reason, c.field)
		}
		if s := err.Error(); strings.Contains(s, secret) || strings.Contains(s, "\n") {
			t.Errorf("%s: the error shows content or has two lines: %q", c.name, s)
		}
	}
}

func TestView(t *testing.T) {
	view := func(change func(*eventv1.MessageView)) []byte {
		v := &eventv1.MessageView{MessageId: ident.Hashed(at, "a").MessageID(), ConversationId: "conv-1", UserId: "bob", Status: "read", ViewedAt: timestamppb.New(at)}
		change(v)
		return bytes(v)
	}
	if _, u, err := record.View(view(func(*eventv1.MessageView) {})); err != nil || u.Millis() != at.UnixMilli() {
		t.Errorf("got %v, %v", u, err)
	}
	for field, change := range map[string]func(*eventv1.MessageView){
		"message_id":      func(v *eventv1.MessageView) { v.MessageId = "x" },
		"conversation_id": func(v *eventv1.MessageView) { v.ConversationId = "" },
		"user_id":         func(v *eventv1.MessageView) { v.UserId = "" },
		"status":          func(v *eventv1.MessageView) { v.Status = "sent" },
		"viewed_at":       func(v *eventv1.MessageView) { v.ViewedAt = nil },
	} {
		_, _, err := record.View(view(change))
		var e *record.Error
		if !errors.As(err, &e) || e.Field != field {
			t.Errorf("%s: got %v", field, err)
		}
	}
}

func TestResults(t *testing.T) {
	start, end := timestamppb.New(at.Add(-time.Minute)), timestamppb.New(at)
	good := map[string]func([]byte) error{
		string(bytes(&eventv1.Alert{AlertId: "a", UserId: "bob", State: 1, TriggeredAt: end, WindowStart: start, WindowEnd: end})):                                                   func(b []byte) error { _, err := record.Alert(b); return err },
		string(bytes(&eventv1.Trend{Term: "deadline", State: 1, WindowStart: start, WindowEnd: end})):                                                                                func(b []byte) error { _, err := record.Trend(b); return err },
		string(bytes(&eventv1.ConversationMetrics{ConversationId: "c", State: 2, WindowStart: start, WindowEnd: end})):                                                               func(b []byte) error { _, err := record.ConversationMetrics(b); return err },
		string(bytes(&eventv1.UserActivity{UserId: "bob", State: 2, WindowStart: start, WindowEnd: end, LastActive: end})):                                                           func(b []byte) error { _, err := record.UserActivity(b); return err },
		string(bytes(&eventv1.ConversationMetrics{ConversationId: "c", State: 2, WindowStart: &timestamppb.Timestamp{Seconds: -25}, WindowEnd: &timestamppb.Timestamp{Seconds: 5}})): func(b []byte) error { _, err := record.ConversationMetrics(b); return err },
	}
	for value, read := range good {
		if err := read([]byte(value)); err != nil {
			t.Error(err)
		}
		if err := read(nil); record.Reason(err) != record.BadProtobuf {
			t.Errorf("empty: %v", err)
		}
	}
	for name, err := range map[string]error{
		"unknown state": func() error {
			_, err := record.Alert(bytes(&eventv1.Alert{AlertId: "a", UserId: "bob", State: 9, TriggeredAt: end, WindowStart: start, WindowEnd: end}))
			return err
		}(),
		"window upside down": func() error {
			_, err := record.Trend(bytes(&eventv1.Trend{Term: "deadline", State: 1, WindowStart: end, WindowEnd: start}))
			return err
		}(),
		"no end": func() error {
			_, err := record.Trend(bytes(&eventv1.Trend{Term: "deadline", State: 1, WindowStart: end}))
			return err
		}(),
	} {
		if record.Reason(err) == "" {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestKeyAndAhead(t *testing.T) {
	if err := record.Key([]byte("c"), "c"); err != nil {
		t.Error(err)
	}
	if err := record.Key(nil, "c"); record.Reason(err) != record.WrongKey {
		t.Error(err)
	}
	if err := record.Ahead("created_at", at.Add(record.MaxAhead), at); err != nil {
		t.Error(err)
	}
	if err := record.Ahead("created_at", at.Add(record.MaxAhead+1), at); record.Reason(err) != record.TimeOutOfRange {
		t.Error(err)
	}
}

// FuzzRead: any bytes give a checked event or an error with a reason, never a panic.
func FuzzRead(f *testing.F) {
	f.Add(message(func(*eventv1.Message) {}))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _, m := record.Message(b)
		_, _, v := record.View(b)
		_, a := record.Alert(b)
		_, tr := record.Trend(b)
		_, c := record.ConversationMetrics(b)
		_, u := record.UserActivity(b)
		for _, err := range []error{m, v, a, tr, c, u} {
			if err != nil && record.Reason(err) == "" {
				t.Errorf("no reason: %v", err)
			}
		}
	})
}

func BenchmarkMessage(b *testing.B) {
	value := message(func(*eventv1.Message) {})
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := record.Message(value); err != nil {
			b.Fatal(err)
		}
	}
}
