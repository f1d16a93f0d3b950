package gateway

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	apiv1 "github.com/earshot/earshot/gen/earshot/api/v1"
	"github.com/earshot/earshot/services/internal/apierror"
)

func TestExplain(t *testing.T) {
	for _, tt := range []struct{ in, msg string }{
		{`{"sender_id":"a",}`, `body: must be JSON; at byte 17 must be a field's name in quotes`},
		{`{"sender_id" "a"}`, `body: must be JSON; at byte 13 must be a colon`},
		{`{"backfill":tru}`, `body: must be JSON; at byte 12 must be a value`},
		{`{"backfill":01}`, `body: must be JSON; at byte 12 must be a value`},
		{`{"content":"` + "\n" + `"}`, `body: must be JSON; at byte 12 must be a control character escaped as \u00XX`},
		{`{"content":"\x"}`, `body: must be JSON; at byte 12 must be an escape such as \n or \u00e9`},
		{`{"content":5}`, `content: must be text in quotes`},
		{`{"sender_id":5}`, `sender_id: must be text in quotes, got "5"`},
		{`{"sender_id":["a"]}`, `sender_id: must be text in quotes`},
		{`{"created_at":"soon"}`, `created_at: must be a time of RFC 3339, such as 2026-01-31T15:04:05.678Z, got "soon"`},
		{`{"created_at":{"seconds":1}}`, `created_at: must be a time of RFC 3339, such as 2026-01-31T15:04:05.678Z`},
		{`{"x` + strings.Repeat("y", 100) + `":1}`, `x` + strings.Repeat("y", 63) + `…: must be a field of SendMessageRequest, which has message_id, conversation_id, sender_id, receiver_id, content, message_type, created_at, backfill`},
		{`"text"`, `body: must be a JSON object`},
	} {
		m := &apiv1.SendMessageRequest{}
		b := newBody([]byte(tt.in), "")
		if err := b.decode(m); err == nil || err.Error() != tt.msg {
			t.Errorf("%s:\n got %v\nwant %s", tt.in, err, tt.msg)
		}
	}
}

// FuzzBody: any bytes give a message or a reason. What this gateway calls bad syntax, depth or UTF-8 is bad in the eyes of encoding/json too, or deep, or
// a thing that encoding/json lets pass (half surrogates, broken UTF-8); and a refusal is one short line of valid text.
func FuzzBody(f *testing.F) {
	for _, s := range []string{
		`{"messages":[{"sender_id":"a","content":"\ud83d\ude00","created_at":"2026-01-01T00:00:00Z","backfill":true}],"backfill":false}`,
		`{"messages":[{"sender_id":1.5e3}]}`, `{"a":[[[[1]]]]}`, "\ufeff{}", `null`, `{"messages":[null]}`, `{"backfill":true,"backfill":true}`, `{"messages":{}}`, `{"":-0.0E+1}`,
		strings.Repeat("[", 40), `{"messages":[{"content":"\ud800"}]}`, "{\"\xff\":1}",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if len(raw) == 0 {
			return
		}
		m := &apiv1.SendMessagesRequest{}
		err := newBody(raw, "").decode(m)
		if err == nil {
			if b, err := encode(nil, m); err != nil {
				t.Errorf("%q was read and can not be written: %v", raw, err)
			} else if again := (&apiv1.SendMessagesRequest{}); newBody(b, "").decode(again) != nil || !proto.Equal(m, again) {
				t.Errorf("%q came back as %s", raw, b)
			}
			if e := (&scanner{b: raw}).document(m.ProtoReflect().Descriptor()); e != nil {
				t.Errorf("%q is fine, yet: %v", raw, e)
			}
			return
		}
		reason, msg := apierror.ReasonOf(err), err.Error()
		if reason.HTTPStatus() != 400 || len(msg) > 2000 || !utf8.ValidString(msg) || strings.ContainsAny(msg, "\n\r\x00") {
			t.Errorf("%q: %s %q", raw, reason, msg)
		}
		s := scanner{b: raw}
		if syntax := s.document(m.ProtoReflect().Descriptor()); (syntax == nil) != json.Valid(raw) && syntax != nil &&
			syntax.Reason == apierror.ReasonJSONInvalid && !strings.Contains(syntax.Message, "surrogate") {
			t.Errorf("%q is JSON, yet: %v", raw, syntax)
		} else if syntax == nil && !json.Valid(raw) {
			t.Errorf("%q is no JSON, yet no fault is found", raw)
		}
	})
}
