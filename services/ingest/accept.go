package ingest

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	apiv1 "github.com/earshot/earshot/gen/earshot/api/v1"
	eventv1 "github.com/earshot/earshot/gen/earshot/event/v1"
	"github.com/earshot/earshot/services/internal/apierror"
	"github.com/earshot/earshot/services/internal/ident"
)

// ahead is how far a clock of a client may run before ours.
const ahead = 5 * time.Minute

// rules turn requests that hold to their proto into records. They know no clock: now is given.
type rules struct {
	retention     time.Duration // 0 for any age
	allowBackfill bool
}

// message returns the record of a request accepted at now. backfill is the batch's; the request's own adds to it.
func (r rules) message(in *apiv1.SendMessageRequest, backfill bool, now time.Time) (*eventv1.Message, *apierror.Error) {
	backfill = backfill || in.GetBackfill()
	if backfill && !r.allowBackfill {
		return nil, noBackfill
	}
	id, err := r.identity(in, backfill, now)
	if err != nil {
		return nil, err
	}
	conversation := in.GetConversationId()
	if conversation == "" {
		if in.GetReceiverId() == "" {
			return nil, apierror.Field("receiver_id", "", "given when conversation_id is not", apierror.ReasonFieldRequired)
		}
		conversation = ident.Conversation(in.GetSenderId(), in.GetReceiverId())
	}
	kind := in.GetMessageType()
	if kind == "" {
		kind = "text"
	}
	name := in.GetMessageId()
	if name == "" {
		name = id.MessageID()
	}
	return &eventv1.Message{
		MessageId:      name,
		ConversationId: conversation,
		SenderId:       in.GetSenderId(),
		ReceiverId:     in.GetReceiverId(),
		Content:        in.GetContent(),
		CreatedAt:      timestamp(id.Millis()),
		MessageType:    kind,
		Backfill:       backfill,
	}, nil
}

// identity returns the message's id, given or made, whose time is created_at.
func (r rules) identity(in *apiv1.SendMessageRequest, backfill bool, now time.Time) (ident.UUID, *apierror.Error) {
	given := in.GetMessageId() != ""
	var id ident.UUID
	if given {
		var err error
		if id, err = ident.Parse(in.GetMessageId()); err != nil {
			return id, badMessageID(in.GetMessageId())
		}
	}
	ms, field := now.UnixMilli(), "created_at"
	switch {
	case in.GetCreatedAt() != nil:
		var err *apierror.Error
		if ms, err = millis(field, in.GetCreatedAt()); err != nil {
			return id, err
		}
	case given:
		ms, field = id.Millis(), "message_id"
	}
	if err := r.inRange(field, ms, backfill, now); err != nil {
		return id, err
	}
	switch {
	case !given:
		return ident.New(time.UnixMilli(ms)), nil
	case id.Millis() != ms:
		return id, apierror.Invalid(
			apierror.Violation{Field: "created_at", Seen: time.UnixMilli(ms), Allowed: "the time inside message_id, " + stamp(id.Time()), Reason: apierror.ReasonFieldInvalid},
			apierror.Violation{Field: "message_id", Seen: in.GetMessageId(), Allowed: "made of created_at, " + stamp(time.UnixMilli(ms)), Reason: apierror.ReasonFieldInvalid},
		)
	}
	return id, nil
}

// inRange checks a created_at in milliseconds.
func (r rules) inRange(field string, ms int64, backfill bool, now time.Time) *apierror.Error {
	if err := notAhead(field, ms, now); err != nil {
		return err
	}
	if oldest := now.Add(-r.retention); r.retention > 0 && !backfill && ms < oldest.UnixMilli() {
		allowed := stamp(oldest) + " or later"
		if r.allowBackfill {
			allowed += ", or sent with backfill"
		}
		return apierror.Field(field, time.UnixMilli(ms), allowed, apierror.ReasonTimeOutOfRange)
	}
	return nil
}

func notAhead(field string, ms int64, now time.Time) *apierror.Error {
	if ms > now.Add(ahead).UnixMilli() {
		return apierror.Field(field, time.UnixMilli(ms), "at most 5 minutes ahead of the server's clock, "+stamp(now), apierror.ReasonTimeOutOfRange)
	}
	return nil
}

// view returns the record of a receipt accepted at now.
func (r rules) view(in *apiv1.RecordViewRequest, now time.Time) (*eventv1.MessageView, *apierror.Error) {
	id, err := ident.Parse(in.GetMessageId())
	if err != nil {
		return nil, badMessageID(in.GetMessageId())
	}
	// A receipt is kept beside its message, by the message's day: an id with any time at all would make days of its own. A message may be as old
	// as the retention when it is accepted, and is kept that long again.
	if err := notAhead("message_id", id.Millis(), now); err != nil {
		return nil, err
	}
	if oldest := now.Add(-2 * r.retention); r.retention > 0 && !r.allowBackfill && id.Millis() < oldest.UnixMilli() {
		return nil, apierror.Field("message_id", id.Time(), "of a message that can still be kept, from "+stamp(oldest)+" or later", apierror.ReasonTimeOutOfRange)
	}
	ms := now.UnixMilli()
	if in.GetViewedAt() != nil {
		var bad *apierror.Error
		if ms, bad = millis("viewed_at", in.GetViewedAt()); bad != nil {
			return nil, bad
		}
		if bad = notAhead("viewed_at", ms, now); bad != nil {
			return nil, bad
		}
	}
	status := in.GetStatus()
	if status == "" {
		status = "read"
	}
	return &eventv1.MessageView{
		MessageId:      in.GetMessageId(),
		ConversationId: in.GetConversationId(),
		UserId:         in.GetUserId(),
		Status:         status,
		ViewedAt:       timestamp(ms),
	}, nil
}

// millis cuts t to milliseconds, never rounding.
func millis(field string, t *timestamppb.Timestamp) (int64, *apierror.Error) {
	if t.GetSeconds() < 0 || t.CheckValid() != nil { // before 1970, beyond 9999, or nanos outside of a second
		return 0, apierror.Field(field, rawTime(t), "from 1970-01-01T00:00:00Z to 5 minutes ahead, with nanos from 0 to 999,999,999", apierror.ReasonTimeOutOfRange)
	}
	return t.GetSeconds()*1000 + int64(t.GetNanos())/1e6, nil
}

// rawTime shows a timestamp that may not be one.
func rawTime(t *timestamppb.Timestamp) any {
	if t.CheckValid() == nil {
		return t.AsTime()
	}
	return fmt.Sprintf("seconds %d, nanos %d", t.GetSeconds(), t.GetNanos())
}

func timestamp(ms int64) *timestamppb.Timestamp {
	return &timestamppb.Timestamp{Seconds: ms / 1000, Nanos: int32(ms%1000) * 1e6} //nolint:gosec // under a second
}

// stamp writes a time as errors and record headers show it, cut to milliseconds.
func stamp(t time.Time) string { return t.UTC().Format(stampLayout) }

const stampLayout = "2006-01-02T15:04:05.000Z07:00"

func badMessageID(id string) *apierror.Error {
	return apierror.Field("message_id", id, `"msg-" and a UUIDv7 in lower case`, apierror.ReasonFieldInvalid)
}

var noBackfill = &apierror.Error{
	Reason:     apierror.ReasonPermissionDenied,
	Message:    "backfill: this server takes no old messages (its allow-backfill setting is off); send without it",
	Violations: []apierror.Violation{{Field: "backfill", Seen: true, Allowed: "false on this server", Reason: apierror.ReasonPermissionDenied}},
}
