package apierror

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/testing/protocmp"

	"buf.build/go/protovalidate"

	apiv1 "github.com/earshot/earshot/gen/earshot/api/v1"
	eventv1 "github.com/earshot/earshot/gen/earshot/event/v1"
)

func TestValidate(t *testing.T) {
	id := strings.Repeat("a", 129)
	many := make([]*apiv1.SendMessageRequest, 1001)
	for _, tt := range []struct {
		name   string
		in     proto.Message
		reason Reason
		msg    string
	}{
		{
			"nothing at all", &apiv1.SendMessageRequest{},
			ReasonFieldRequired, `sender_id: must be 1 to 128 Unicode letters, digits and ._:@+~-, not . or .., got ""; content: must be 1 to 4,096 characters, got 0`,
		},
		{"content too long", &apiv1.SendMessageRequest{SenderId: "a", Content: strings.Repeat("é", 4097)}, ReasonFieldTooLong, `content: must be 1 to 4,096 characters, got 4,097`},
		{"NUL in content", &apiv1.SendMessageRequest{SenderId: "a", Content: "secret\x00"}, ReasonFieldInvalid, `content: must be 1 to 4,096 characters without NUL, got one that has it`},
		{
			"id too long", &apiv1.SendMessageRequest{SenderId: id, Content: "x"},
			ReasonFieldTooLong, `sender_id: must be 1 to 128 Unicode letters, digits and ._:@+~-, not . or .., got "` + id[:64] + `"… (129 characters)`,
		},
		{
			"bidi in an id", &apiv1.SendMessageRequest{SenderId: "a\u202eb", Content: "x"},
			ReasonFieldInvalid, `sender_id: must be 1 to 128 Unicode letters, digits and ._:@+~-, not . or .., got "a\u202eb"`,
		},
		{"dots", &apiv1.SendMessageRequest{SenderId: "..", Content: "x"}, ReasonFieldInvalid, `sender_id: must be 1 to 128 Unicode letters, digits and ._:@+~-, not . or .., got ".."`},
		{"foreign message id", &apiv1.SendMessageRequest{MessageId: "m1", SenderId: "a", Content: "x"}, ReasonFieldInvalid, `message_id: must be "msg-" and a UUIDv7 in lower case, got "m1"`},
		{
			"unknown type", &apiv1.SendMessageRequest{MessageType: "fax", SenderId: "a", Content: "x"}, ReasonFieldInvalid,
			`message_type: must be one of text, image, video, audio, voice, file, location, contact, sticker, gif, emoji, link, reaction, poll, call, system, got "fax"`,
		},
		{"batch of 1,001", &apiv1.SendMessagesRequest{Messages: many}, ReasonFieldInvalid, `messages: must be 1 to 1,000 items, got 1,001`},
		{"empty batch", &apiv1.SendMessagesRequest{}, ReasonFieldRequired, `messages: must be 1 to 1,000 items, got 0`},
		{
			"unknown state in a list", &apiv1.ListAlertsRequest{States: []eventv1.AlertState{1, 99}}, ReasonFieldInvalid,
			`states[1]: must be one of ALERT_STATE_OPEN, ALERT_STATE_CONFIRMED, ALERT_STATE_RESOLVED, ALERT_STATE_RETRACTED, got 99`,
		},
		{"negative page", &apiv1.ListAlertsRequest{PageSize: -1}, ReasonFieldInvalid, `page_size: must be at least 0, got -1`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := Validate(tt.in)
			if got := status.Code(err); got != codes.InvalidArgument {
				t.Fatalf("code %v of %v", got, err)
			}
			if got := ReasonOf(err); got != tt.reason {
				t.Errorf("reason %s, want %s", got, tt.reason)
			}
			if diff := cmp.Diff(err.Error(), tt.msg); diff != "" {
				t.Errorf("message (-got +want):\n%s", diff)
			}
			if strings.Contains(status.Convert(err).Proto().String(), "secret") {
				t.Error("content is repeated in the error")
			}
		})
	}
}

// Every rule of the API's protos is said in our words: a pattern without any would reach callers as a regular expression.
func TestEveryPatternHasWords(t *testing.T) {
	var check func(protoreflect.MessageDescriptor)
	check = func(m protoreflect.MessageDescriptor) {
		for i := range m.Fields().Len() {
			f := m.Fields().Get(i)
			rules, err := protovalidate.ResolveFieldRules(f)
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range []string{rules.GetString().GetPattern(), rules.GetRepeated().GetItems().GetString().GetPattern()} {
				if p != "" && patternWords[p] == "" {
					t.Errorf("%s: patternWords lacks %q", f.FullName(), p)
				}
			}
		}
		for i := range m.Messages().Len() {
			check(m.Messages().Get(i))
		}
	}
	protoregistry.GlobalFiles.RangeFilesByPackage("earshot.api.v1", func(f protoreflect.FileDescriptor) bool {
		for i := range f.Messages().Len() {
			check(f.Messages().Get(i))
		}
		return true
	})
}

func TestDetails(t *testing.T) {
	err := fmt.Errorf("wrapped: %w", Unavailable(ReasonOutcomeUnknown, "outcome unknown", 2*time.Second).With("message_id", "msg-1"))
	st := status.Convert(err)
	if st.Code() != codes.Unavailable {
		t.Errorf("code %v", st.Code())
	}
	details := st.Details()
	if len(details) != 2 {
		t.Fatalf("details %v", details)
	}
	want := &errdetails.ErrorInfo{Reason: "OUTCOME_UNKNOWN", Domain: "earshot", Metadata: map[string]string{"message_id": "msg-1"}}
	if diff := cmp.Diff(details[0], any(want), protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
	if d := details[1].(*errdetails.RetryInfo).GetRetryDelay().AsDuration(); d != 2*time.Second {
		t.Errorf("retry after %v", d)
	}
	if got := ReasonOf(st.Err()); got != ReasonOutcomeUnknown {
		t.Errorf("reason over the wire %q", got)
	}
	if got := ReasonOf(errors.New("x")); got != "" {
		t.Errorf("reason of a plain error %q", got)
	}
}

func TestWithin(t *testing.T) {
	e := Field("content", 0, "1 to 4,096 characters", ReasonFieldRequired)
	if got, want := e.Within("messages[3]").Error(), "messages[3].content: must be 1 to 4,096 characters, got 0"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if e.Violations[0].Field != "content" {
		t.Error("Within changed the original")
	}
}

func TestManyViolationsStaySmall(t *testing.T) {
	var vs []Violation
	for range 1000 {
		vs = append(vs, Violation{"user_ids", strings.Repeat("\u202e", 5000), "short", ReasonFieldTooLong})
	}
	e := Invalid(vs...)
	if n := proto.Size(e.Proto()); n > 16<<10 {
		t.Errorf("status has %d bytes", n)
	}
}

func TestEveryReasonHasAnOutcome(t *testing.T) {
	for r, o := range outcomes {
		if o.code == codes.OK || o.http < 400 {
			t.Errorf("%s: %v, %d", r, o.code, o.http)
		}
	}
	if Reason("?").Code() != codes.Internal || Reason("?").HTTPStatus() != 500 {
		t.Error("an unknown reason is internal")
	}
}

func FuzzShow(f *testing.F) {
	f.Add("a\x00\xff\u202e")
	f.Fuzz(func(t *testing.T, s string) {
		got := show(s)
		if !utf8.ValidString(got) || strings.ContainsAny(got, "\n\r\x00\u202e") || len(got) > 1000 {
			t.Errorf("show(%q) = %q", s, got)
		}
	})
}
