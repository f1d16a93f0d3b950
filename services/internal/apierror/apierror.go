// Package apierror makes the errors that callers of the API see, the same over gRPC and REST: a google.rpc.Status with an ErrorInfo {reason, domain
// "earshot"}, a BadRequest that names each field, the value seen and what is allowed, and a RetryInfo where a retry helps.
//
// An Error carries nothing that users wrote in their messages, and no cause from inside: wrap a cause and the error edge of services/internal/server
// logs it and sends the Error alone.
package apierror

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"
)

// maxViolations bounds the BadRequest, which travels in HTTP/2 trailers, and these must stay small.
const maxViolations = 16

// Error is an error of the API. Its fields may be set until it is returned; after that it is read by many.
type Error struct {
	Reason     Reason            // decides code and HTTP status
	Message    string            // one line for people
	Violations []Violation       // fields at fault; those beyond the 16th are not sent
	Metadata   map[string]string // sent in the ErrorInfo; may be nil
	RetryAfter time.Duration     // sent in a RetryInfo; 0 for none
}

// Violation is one field at fault.
type Violation struct {
	Field   string // path in snake_case, such as messages[3].sender_id
	Seen    any    // the value: text is quoted and cut to 64 characters; nil to leave it out
	Allowed string // what it must be, in words that follow "must be"
	Reason  Reason
}

// String returns the violation as "content: must be 1 to 4,096 characters, got 0".
func (v Violation) String() string { return v.Field + ": " + v.description() }

func (v Violation) description() string {
	if v.Seen == nil {
		return "must be " + v.Allowed
	}
	return "must be " + v.Allowed + ", got " + show(v.Seen)
}

// New returns an error for reason; its code follows from the reason.
func New(reason Reason, msg string) *Error { return &Error{Reason: reason, Message: msg} }

// Field returns the error for one field; Violation explains the arguments.
func Field(field string, seen any, allowed string, reason Reason) *Error {
	return Invalid(Violation{Field: field, Seen: seen, Allowed: allowed, Reason: reason})
}

// Invalid returns the error for fields at fault, at least one; the first gives the reason.
func Invalid(violations ...Violation) *Error {
	if len(violations) == 0 {
		return New(ReasonInternal, "internal error")
	}
	e := &Error{Reason: violations[0].Reason, Violations: violations}
	e.Message = e.summary()
	return e
}

func (e *Error) summary() string {
	const shown = 3
	parts := make([]string, 0, shown+1)
	for i, v := range e.Violations {
		if i == shown {
			parts = append(parts, fmt.Sprintf("and %d more", len(e.Violations)-shown))
			break
		}
		parts = append(parts, v.String())
	}
	return strings.Join(parts, "; ")
}

// Unavailable returns the error of a call that may be repeated after retryAfter: ReasonUnavailable, or ReasonOutcomeUnknown.
func Unavailable(reason Reason, msg string, retryAfter time.Duration) *Error {
	return &Error{Reason: reason, Message: msg, RetryAfter: retryAfter}
}

// Exhausted returns the error of a caller that went over a bound: ReasonRateLimited, ReasonTooManyStreams, ReasonSlowSubscriber (its resume token in metadata),
// ReasonOverCapacity. Set RetryAfter on it where waiting helps.
func Exhausted(reason Reason, msg string, metadata map[string]string) *Error {
	return &Error{Reason: reason, Message: msg, Metadata: metadata}
}

// NotFound returns the error for a thing that does not exist, such as NotFound("alert", id).
func NotFound(what, id string) *Error {
	return New(ReasonNotFound, fmt.Sprintf("no %s with id %s", what, show(id)))
}

// TokenInvalid returns the error for a page or resume token that was not made by us for this request.
func TokenInvalid(field, token string) *Error {
	return Field(field, token, "a token of an earlier answer with the same filters", ReasonTokenInvalid)
}

// TokenExpired returns the error for a resume token whose records are gone; the metadata's oldest_token is the oldest that is still valid.
func TokenExpired(oldest string) *Error {
	return &Error{
		Reason:   ReasonTokenExpired,
		Message:  "resume_token: its records are no longer kept; go on from oldest_token, or without a token",
		Metadata: map[string]string{"oldest_token": oldest},
	}
}

// Error returns the message.
func (e *Error) Error() string { return e.Message }

// Within returns a copy of e whose fields lie inside of prefix, such as "messages[3]".
func (e *Error) Within(prefix string) *Error {
	c := *e
	c.Violations = make([]Violation, len(e.Violations))
	for i, v := range e.Violations {
		v.Field = prefix + "." + v.Field
		c.Violations[i] = v
	}
	if len(c.Violations) > 0 {
		c.Message = c.summary()
	}
	return &c
}

// With returns a copy of e with one more pair of metadata.
func (e *Error) With(key, value string) *Error {
	c := *e
	c.Metadata = maps.Clone(e.Metadata)
	if c.Metadata == nil {
		c.Metadata = make(map[string]string, 1)
	}
	c.Metadata[key] = value
	return &c
}

// GRPCStatus returns e as a status with its details; grpc-go finds it by this method.
func (e *Error) GRPCStatus() *status.Status {
	details := make([]protoadapt.MessageV1, 0, 3)
	details = append(details, &errdetails.ErrorInfo{Reason: string(e.Reason), Domain: Domain, Metadata: e.Metadata})
	if n := min(len(e.Violations), maxViolations); n > 0 {
		bad := &errdetails.BadRequest{FieldViolations: make([]*errdetails.BadRequest_FieldViolation, n)}
		for i, v := range e.Violations[:n] {
			bad.FieldViolations[i] = &errdetails.BadRequest_FieldViolation{Field: v.Field, Description: v.description(), Reason: string(v.Reason)}
		}
		details = append(details, bad)
	}
	if e.RetryAfter > 0 {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(e.RetryAfter)})
	}
	st := status.New(e.Reason.Code(), e.Message)
	if with, err := st.WithDetails(details...); err == nil {
		return with
	}
	return st
}

// Proto returns e as the message that results of batches carry.
func (e *Error) Proto() *spb.Status { return e.GRPCStatus().Proto() }

// ReasonOf returns the reason of an Error or of a status that came over the wire; empty when err has none.
func ReasonOf(err error) Reason {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Reason
	}
	st, ok := status.FromError(err)
	if !ok || st.Code() == codes.OK {
		return ""
	}
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetDomain() == Domain {
			return Reason(info.GetReason())
		}
	}
	return ""
}
