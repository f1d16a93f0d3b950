package ingest

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	apiv1 "github.com/earshot/earshot/gen/earshot/api/v1"
	"github.com/earshot/earshot/services/internal/apierror"
	"github.com/earshot/earshot/services/internal/ident"
	"github.com/earshot/earshot/services/internal/record"
)

var noon = time.Date(2026, 1, 15, 12, 0, 0, 123_456_789, time.UTC)

func at(t time.Time) *timestamppb.Timestamp { return timestamppb.New(t) }

func TestIdentityAndTime(t *testing.T) {
	const day = 24 * time.Hour
	live := rules{retention: 30 * day}
	replay := &rules{retention: 30 * day, allowBackfill: true}
	forever := &rules{}
	id := func(t time.Time) string { return ident.Hashed(t, "x").MessageID() }
	old := time.Date(2018, 6, 1, 0, 0, 0, 999_999_999, time.UTC)
	with := func(change func(*apiv1.SendMessageRequest)) *apiv1.SendMessageRequest {
		m := message("hi")
		change(m)
		return m
	}
	for _, tt := range []struct {
		name   string
		rules  *rules // nil for live
		in     *apiv1.SendMessageRequest
		want   time.Time // created_at, when accepted
		reason apierror.Reason
		says   string // in the error
	}{
		{name: "now, cut and not rounded", in: message("hi"), want: noon.Truncate(time.Millisecond)},
		{name: "given time, cut", in: with(func(m *apiv1.SendMessageRequest) { m.CreatedAt = at(noon.Add(-time.Hour)) }), want: noon.Add(-time.Hour).Truncate(time.Millisecond)},
		{name: "time of the id", in: with(func(m *apiv1.SendMessageRequest) { m.MessageId = id(noon.Add(-time.Minute)) }), want: noon.Add(-time.Minute).Truncate(time.Millisecond)},
		{name: "id and time agree in milliseconds", in: with(func(m *apiv1.SendMessageRequest) {
			m.MessageId, m.CreatedAt = id(noon), at(noon.Truncate(time.Millisecond).Add(999_999))
		}), want: noon.Truncate(time.Millisecond)},
		{name: "id and time differ", in: with(func(m *apiv1.SendMessageRequest) {
			m.MessageId, m.CreatedAt = id(noon), at(noon.Add(-time.Millisecond))
		}), reason: apierror.ReasonFieldInvalid, says: "created_at: must be the time inside message_id, 2026-01-15T12:00:00.123Z, got 2026-01-15T12:00:00.122Z; message_id: must be made of created_at, 2026-01-15T12:00:00.122Z, got \"msg-"},
		{name: "5 minutes ahead", in: with(func(m *apiv1.SendMessageRequest) { m.CreatedAt = at(noon.Add(5 * time.Minute)) }), want: noon.Add(5 * time.Minute).Truncate(time.Millisecond)},
		{
			name: "5 minutes and 1 ms ahead", in: with(func(m *apiv1.SendMessageRequest) { m.CreatedAt = at(noon.Add(5*time.Minute + time.Millisecond)) }),
			reason: apierror.ReasonTimeOutOfRange, says: "created_at: must be at most 5 minutes ahead of the server's clock, 2026-01-15T12:00:00.123Z, got 2026-01-15T12:05:00.124Z",
		},
		{name: "id ahead", in: with(func(m *apiv1.SendMessageRequest) { m.MessageId = id(noon.Add(time.Hour)) }), reason: apierror.ReasonTimeOutOfRange, says: "message_id: must be at most 5 minutes ahead"},
		{name: "id at the end of time", in: with(func(m *apiv1.SendMessageRequest) { m.MessageId = "msg-ffffffff-ffff-7fff-bfff-ffffffffffff" }), reason: apierror.ReasonTimeOutOfRange, says: "message_id"},
		{name: "retention old", in: with(func(m *apiv1.SendMessageRequest) { m.CreatedAt = at(noon.Add(-30 * day)) }), want: noon.Add(-30 * day).Truncate(time.Millisecond)},
		{
			name: "older", in: with(func(m *apiv1.SendMessageRequest) { m.CreatedAt = at(noon.Add(-30*day - time.Millisecond)) }),
			reason: apierror.ReasonTimeOutOfRange, says: "created_at: must be 2025-12-16T12:00:00.123Z or later, got 2025-12-16T12:00:00.122Z",
		},
		{name: "older, where backfill would do", rules: replay, in: with(func(m *apiv1.SendMessageRequest) { m.CreatedAt = at(old) }), reason: apierror.ReasonTimeOutOfRange, says: "or sent with backfill"},
		{name: "older, kept for ever", rules: forever, in: with(func(m *apiv1.SendMessageRequest) { m.CreatedAt = at(old) }), want: old.Truncate(time.Millisecond)},
		{name: "backfill", rules: replay, in: with(func(m *apiv1.SendMessageRequest) { m.CreatedAt, m.Backfill = at(old), true }), want: old.Truncate(time.Millisecond)},
		{name: "backfill of 1970", rules: replay, in: with(func(m *apiv1.SendMessageRequest) { m.CreatedAt, m.Backfill = &timestamppb.Timestamp{}, true }), want: time.UnixMilli(0).UTC()},
		{name: "backfill of the future", rules: replay, in: with(func(m *apiv1.SendMessageRequest) { m.CreatedAt, m.Backfill = at(noon.Add(time.Hour)), true }), reason: apierror.ReasonTimeOutOfRange, says: "ahead"},
		{name: "backfill that is not allowed", in: with(func(m *apiv1.SendMessageRequest) { m.CreatedAt, m.Backfill = at(old), true }), reason: apierror.ReasonPermissionDenied, says: "allow-backfill"},
		{name: "before 1970", rules: replay, in: with(func(m *apiv1.SendMessageRequest) {
			m.CreatedAt, m.Backfill = at(time.Date(1969, 12, 31, 23, 59, 59, 999e6, time.UTC)), true
		}), reason: apierror.ReasonTimeOutOfRange, says: "got 1969-12-31T23:59:59.999Z"},
		{name: "nanos -1", in: with(func(m *apiv1.SendMessageRequest) {
			m.CreatedAt = &timestamppb.Timestamp{Seconds: noon.Unix(), Nanos: -1}
		}), reason: apierror.ReasonTimeOutOfRange, says: "nanos -1"},
		{name: "nanos of a second", in: with(func(m *apiv1.SendMessageRequest) {
			m.CreatedAt = &timestamppb.Timestamp{Seconds: noon.Unix(), Nanos: 1e9}
		}), reason: apierror.ReasonTimeOutOfRange, says: "nanos 1000000000"},
		{name: "year 10000", in: with(func(m *apiv1.SendMessageRequest) { m.CreatedAt = &timestamppb.Timestamp{Seconds: 253402300800} }), reason: apierror.ReasonTimeOutOfRange, says: "seconds 253402300800"},
		{name: "seconds that overflow", in: with(func(m *apiv1.SendMessageRequest) { m.CreatedAt = &timestamppb.Timestamp{Seconds: 1<<63 - 1} }), reason: apierror.ReasonTimeOutOfRange, says: "seconds"},
		{name: "an id of another kind", in: with(func(m *apiv1.SendMessageRequest) { m.MessageId = "msg-1705412345678901234" }), reason: apierror.ReasonFieldInvalid, says: "UUIDv7"},
		{name: "neither conversation nor receiver", in: with(func(m *apiv1.SendMessageRequest) { m.ReceiverId = "" }), reason: apierror.ReasonFieldRequired, says: `receiver_id: must be given when conversation_id is not, got ""`},
		{name: "group", in: with(func(m *apiv1.SendMessageRequest) { m.ReceiverId, m.ConversationId = "", "g1" }), want: noon.Truncate(time.Millisecond)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := tt.rules
			if r == nil {
				r = &live
			}
			m, bad := r.message(tt.in, false, noon)
			if bad != nil {
				if bad.Reason != tt.reason || !strings.Contains(bad.Error(), tt.says) {
					t.Errorf("got %s: %v\nwant %s: …%s…", bad.Reason, bad, tt.reason, tt.says)
				}
				return
			}
			if tt.reason != "" {
				t.Fatalf("accepted, want %s", tt.reason)
			}
			if got := m.GetCreatedAt().AsTime(); !got.Equal(tt.want) {
				t.Errorf("created_at %v, want %v", got, tt.want)
			}
			rec, bad := messageRecord("t", m, noon)
			if bad != nil {
				t.Fatal(bad)
			}
			if _, _, err := record.Message(rec.Value); err != nil {
				t.Errorf("the record breaks its invariants: %v", err)
			}
		})
	}
}

func TestConversationOfTwoIsTheSameBothWays(t *testing.T) {
	r := rules{}
	a, _ := r.message(&apiv1.SendMessageRequest{SenderId: "alice", ReceiverId: "bob", Content: "x"}, false, noon)
	b, _ := r.message(&apiv1.SendMessageRequest{SenderId: "bob", ReceiverId: "alice", Content: "x"}, false, noon)
	if a.GetConversationId() == "" || a.GetConversationId() != b.GetConversationId() {
		t.Errorf("%q and %q", a.GetConversationId(), b.GetConversationId())
	}
}

func TestViews(t *testing.T) {
	const day = 24 * time.Hour
	live := rules{retention: 30 * day}
	id := ident.New(noon.Add(-time.Hour)).MessageID()
	for _, tt := range []struct {
		name   string
		rules  rules
		in     *apiv1.RecordViewRequest
		want   time.Time
		status string
		reason apierror.Reason
	}{
		{"now and read", live, &apiv1.RecordViewRequest{MessageId: id}, noon.Truncate(time.Millisecond), "read", ""},
		{"given", live, &apiv1.RecordViewRequest{MessageId: id, Status: "delivered", ViewedAt: at(noon.Add(-time.Minute))}, noon.Add(-time.Minute).Truncate(time.Millisecond), "delivered", ""},
		{"ahead", live, &apiv1.RecordViewRequest{MessageId: id, ViewedAt: at(noon.Add(6 * time.Minute))}, time.Time{}, "", apierror.ReasonTimeOutOfRange},
		{"before 1970", live, &apiv1.RecordViewRequest{MessageId: id, ViewedAt: &timestamppb.Timestamp{Seconds: -1}}, time.Time{}, "", apierror.ReasonTimeOutOfRange},
		{"not an id", live, &apiv1.RecordViewRequest{MessageId: "msg-123456789"}, time.Time{}, "", apierror.ReasonFieldInvalid},
		{"of a message to come", live, &apiv1.RecordViewRequest{MessageId: ident.New(noon.Add(time.Hour)).MessageID()}, time.Time{}, "", apierror.ReasonTimeOutOfRange},
		{"of a message still kept", live, &apiv1.RecordViewRequest{MessageId: ident.New(noon.Add(-59 * day)).MessageID()}, noon.Truncate(time.Millisecond), "read", ""},
		{"of a message long gone", live, &apiv1.RecordViewRequest{MessageId: ident.New(noon.Add(-61 * day)).MessageID()}, time.Time{}, "", apierror.ReasonTimeOutOfRange},
		{"of a recording", rules{30 * day, true}, &apiv1.RecordViewRequest{MessageId: ident.New(noon.Add(-3000 * day)).MessageID()}, noon.Truncate(time.Millisecond), "read", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.in.ConversationId, tt.in.UserId = "c", "bob"
			v, bad := tt.rules.view(tt.in, noon)
			if bad != nil || tt.reason != "" {
				if bad == nil || bad.Reason != tt.reason {
					t.Errorf("got %v, want %q", bad, tt.reason)
				}
				return
			}
			if got := v.GetViewedAt().AsTime(); !got.Equal(tt.want) || v.GetStatus() != tt.status {
				t.Errorf("got %s at %v, want %s at %v", v.GetStatus(), got, tt.status, tt.want)
			}
			rec, bad := viewRecord("t", v, noon)
			if bad != nil {
				t.Fatal(bad)
			}
			if _, _, err := record.View(rec.Value); err != nil {
				t.Errorf("the record breaks its invariants: %v", err)
			}
		})
	}
}

// Any timestamp is either refused or gives an id and a created_at that agree.
func FuzzMessageTime(f *testing.F) {
	f.Add(int64(0), int32(0), true)
	f.Add(int64(-1), int32(999_999_999), false)
	f.Add(noon.Unix(), int32(-1), true)
	f.Fuzz(func(t *testing.T, seconds int64, nanos int32, backfill bool) {
		in := message("x")
		in.CreatedAt, in.Backfill = &timestamppb.Timestamp{Seconds: seconds, Nanos: nanos}, backfill
		m, bad := rules{retention: 720 * time.Hour, allowBackfill: true}.message(in, false, noon)
		if bad != nil {
			return
		}
		rec, bad := messageRecord("t", m, noon)
		if bad != nil {
			t.Fatal(bad)
		}
		if _, _, err := record.Message(rec.Value); err != nil {
			t.Fatalf("%d s %d ns: %v", seconds, nanos, err)
		}
	})
}
