package ingest

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	apiv1 "github.com/earshot/earshot/gen/earshot/api/v1"
	"github.com/earshot/earshot/services/internal/apierror"
)

const canary = "my card is 4929-1234"

// TestBadInput sends every kind of wrong input over real gRPC. After each, no topic has anything new, an honest client is served, the refusal is
// counted once, and nothing a user wrote is in the log or in an error.
func TestBadInput(t *testing.T) {
	r := start(t, func(s *settings) { s.server.CallDeadline = 3 * time.Second })
	raw := newRawClient(t, r.conn.Target())
	send := func(change func(*apiv1.SendMessageRequest)) func() error {
		return func() error {
			m := message(canary)
			change(m)
			_, err := r.SendMessage(t.Context(), m)
			return err
		}
	}
	wire := func(b string) func() error {
		return func() error {
			return r.conn.Invoke(t.Context(), apiv1.MessageService_SendMessage_FullMethodName, []byte(b), nil, grpc.ForceCodecV2(bytesCodec{}))
		}
	}
	id := func(s string) func() error { return send(func(m *apiv1.SendMessageRequest) { m.SenderId = s }) }
	when := func(ts *timestamppb.Timestamp) func() error {
		return send(func(m *apiv1.SendMessageRequest) { m.CreatedAt = ts })
	}
	valid, err := proto.Marshal(message(canary))
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().Unix()
	for _, tt := range []struct {
		name   string
		do     func() error
		code   codes.Code
		reason apierror.Reason // empty where grpc answers before our code
		field  string          // how the message begins
	}{
		{"invalid UTF-8", wire("\x1a\x01a\x2a\x0a" + canary[:8] + "\xff\xfe"), 3, "INVALID_UTF8", "content: must be valid UTF-8"},
		{"garbage", wire("\xff\xff garbage"), 3, "BAD_PROTOBUF", "request: "},
		{"cut protobuf", wire(string(valid[:len(valid)-3])), 3, "BAD_PROTOBUF", "request: "},
		{"0 bytes", wire(""), 3, "FIELD_REQUIRED", "sender_id: "},
		{"empty content", send(func(m *apiv1.SendMessageRequest) { m.Content = "" }), 3, "FIELD_REQUIRED", "content: must be 1 to 4,096 characters, got 0"},
		{"no sender", id(""), 3, "FIELD_REQUIRED", "sender_id: "},
		{"no receiver, no conversation", send(func(m *apiv1.SendMessageRequest) { m.ReceiverId = "" }), 3, "FIELD_REQUIRED", "receiver_id: "},
		{"content of 4,097 characters", send(func(m *apiv1.SendMessageRequest) { m.Content = canary + strings.Repeat("é", 4097-len(canary)) }), 3, "FIELD_TOO_LONG", "content: must be 1 to 4,096 characters, got 4,097"},
		{"content of 1 MiB", send(func(m *apiv1.SendMessageRequest) { m.Content = strings.Repeat("x", 1<<20) }), 3, "FIELD_TOO_LONG", "content: "},
		{"message over 4 MiB + 64 KiB", send(func(m *apiv1.SendMessageRequest) { m.Content = strings.Repeat("x", 4<<20+64<<10) }), 8, "", ""},
		{"batch of 4 MiB and a little", func() error {
			in := &apiv1.SendMessagesRequest{}
			for range 250 {
				m := message(canary)
				m.Content = strings.Repeat("日", 4096*4/3)
				in.Messages = append(in.Messages, m)
			}
			in.Messages[0].Content += strings.Repeat("x", 4<<20+1000-proto.Size(in))
			_, err := r.SendMessages(t.Context(), in)
			return err
		}, 8, "BODY_TOO_LARGE", "request: must be at most 4194304 bytes of protobuf"},
		{"batch of 1,001", func() error {
			_, err := r.SendMessages(t.Context(), &apiv1.SendMessagesRequest{Messages: make([]*apiv1.SendMessageRequest, 1001)})
			return err
		}, 3, "FIELD_INVALID", "messages: must be 1 to 1,000 items, got 1,001"},
		{"batch of none", func() error {
			_, err := r.RecordViews(t.Context(), &apiv1.RecordViewsRequest{})
			return err
		}, 3, "FIELD_REQUIRED", "views: must be 1 to 1,000 items, got 0"},
		{"id of 129", id(strings.Repeat("a", 129)), 3, "FIELD_TOO_LONG", "sender_id: "},
		{"id with NUL", id("a\x00b"), 3, "FIELD_INVALID", `sender_id: must be 1 to 128 Unicode letters, digits and ._:@+~-, not . or .., got "a\x00b"`},
		{"id with bidi", id("a\u202eb"), 3, "FIELD_INVALID", "sender_id: "},
		{"id with %2F", id("a%2Fb"), 3, "FIELD_INVALID", "sender_id: "},
		{"id of two dots", id(".."), 3, "FIELD_INVALID", "sender_id: "},
		{"conversation of one dot", send(func(m *apiv1.SendMessageRequest) { m.ConversationId = "." }), 3, "FIELD_INVALID", "conversation_id: "},
		{"unknown type", send(func(m *apiv1.SendMessageRequest) { m.MessageType = "fax" }), 3, "FIELD_INVALID", "message_type: must be one of text, image"},
		{"content with NUL", send(func(m *apiv1.SendMessageRequest) { m.Content = canary + "\x00" }), 3, "FIELD_INVALID", "content: "},
		{"foreign message_id", send(func(m *apiv1.SendMessageRequest) { m.MessageId = "msg-1705412345678901234" }), 3, "FIELD_INVALID", "message_id: "},
		{"negative time", when(&timestamppb.Timestamp{Seconds: -1}), 3, "TIME_OUT_OF_RANGE", "created_at: "},
		{"nanos -1", when(&timestamppb.Timestamp{Seconds: now, Nanos: -1}), 3, "TIME_OUT_OF_RANGE", "created_at: "},
		{"year 10000", when(&timestamppb.Timestamp{Seconds: 253402300800}), 3, "TIME_OUT_OF_RANGE", "created_at: "},
		{"10 minutes ahead", when(&timestamppb.Timestamp{Seconds: now + 600}), 3, "TIME_OUT_OF_RANGE", "created_at: "},
		{"31 days old", when(&timestamppb.Timestamp{Seconds: now - 31*86400}), 3, "TIME_OUT_OF_RANGE", "created_at: "},
		{"backfill where it is not allowed", send(func(m *apiv1.SendMessageRequest) { m.Backfill = true }), 7, "PERMISSION_DENIED", "backfill: "},
		{"forged receipt", func() error {
			_, err := r.RecordView(t.Context(), &apiv1.RecordViewRequest{MessageId: "msg-123456789", ConversationId: "c", UserId: "bob"})
			return err
		}, 3, "FIELD_INVALID", "message_id: "},
		{"unknown status", func() error {
			_, err := r.RecordView(t.Context(), &apiv1.RecordViewRequest{MessageId: "msg-0193b3f0-0000-7000-8000-000000000000", ConversationId: "c", UserId: "bob", Status: "seen"})
			return err
		}, 3, "FIELD_INVALID", "status: "},
		{"bad gzip", raw.post(frame(1, valid), "grpc-encoding", "gzip"), 13, "", ""},
		{"bad flag", raw.post(frame(7, valid)), 13, "", ""},
		{"unknown encoding", raw.post(frame(1, valid), "grpc-encoding", "br"), 12, "", ""},
		{"frame that is too short", raw.post(frame(0, valid)[:len(valid)-2]), 13, "", ""},
		{"frame of 4 GiB", raw.post([]byte{0, 0xff, 0xff, 0xff, 0xff, 1, 2, 3}), 8, "", ""},
		{"frame that never comes", raw.stall(), 4, "", ""},
		{"no message", raw.post(nil), 13, "", ""},
		{"two messages", raw.post(append(frame(0, valid), frame(0, valid)...)), 13, "", ""},
		{"wrong content type", raw.post(frame(0, valid), "content-type", "application/json"), codes.Code(415), "", ""},
		{"bad timeout", raw.post(frame(0, valid), "grpc-timeout", "soon"), 13, "", ""},
		{"bad binary header", raw.post(frame(0, valid), "x-bin", "%%%"), 13, "", ""},
		{"unknown method", func() error {
			return r.conn.Invoke(t.Context(), "/earshot.api.v1.MessageService/Nothing", message("x"), nil)
		}, 12, "", ""},
		{"headers over 16 KiB", func() error {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			return raw.postContext(ctx, frame(0, valid), "x-large", strings.Repeat("x", 17<<10))
		}, codes.Unknown, "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			counted := r.counted("earshot.server.failures", "reason", string(tt.reason))
			before := r.end(r.cfg.Topics.Messages) + r.end(r.cfg.Topics.Views)
			err := tt.do()
			if got := status.Code(err); got != tt.code || apierror.ReasonOf(err) != tt.reason {
				t.Errorf("got %d %q: %v", got, apierror.ReasonOf(err), err)
			}
			if msg := status.Convert(err).Message(); !strings.HasPrefix(msg, tt.field) {
				t.Errorf("message\n got %q\nwant %q…", msg, tt.field)
			}
			if strings.Contains(status.Convert(err).Proto().String(), "4929") {
				t.Errorf("content is in the error: %v", err)
			}
			if after := r.end(r.cfg.Topics.Messages) + r.end(r.cfg.Topics.Views); after != before {
				t.Errorf("%d records came into the log", after-before)
			}
			if n := r.counted("earshot.server.failures", "reason", string(tt.reason)) - counted; tt.reason != "" && n != 1 {
				t.Errorf("counted %d times", n)
			}
			if _, err := r.SendMessage(t.Context(), message("honest")); err != nil {
				t.Errorf("an honest client is harmed: %v", err)
			}
		})
	}
	if r.logged("4929") || r.logged("panic") {
		t.Error("the log holds content, or a panic")
	}
}

func TestHarmlessInput(t *testing.T) {
	r := start(t, nil)
	// The last of a field twice wins and an unknown field is dropped, as protobuf has it.
	b := "\x1a\x01x\x1a\x05alice\x22\x03bob\x2a\x02hi\xfa\x7f\x03abc"
	out := new(apiv1.SendMessageResponse)
	if err := r.conn.Invoke(t.Context(), apiv1.MessageService_SendMessage_FullMethodName, []byte(b), out, grpc.ForceCodecV2(bytesCodec{})); err != nil {
		t.Fatal(err)
	}
	if _, err := r.SendMessage(t.Context(), &apiv1.SendMessageRequest{SenderId: "Łukasz.b+1", ReceiverId: "日本", Content: "x"}); err != nil {
		t.Errorf("ids of other scripts: %v", err)
	}
	if n := r.counted("earshot.ingest.messages", "outcome", "success"); n != 2 {
		t.Errorf("counted %d messages", n)
	}
	for _, rec := range r.records(r.cfg.Topics.Messages) {
		if strings.Contains(string(rec.Value), "abc") {
			t.Error("an unknown field is in the record")
		}
	}
}

// bytesCodec sends bytes as they are.
type bytesCodec struct{}

func (bytesCodec) Name() string { return "proto" }
func (bytesCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.([]byte))}, nil
}
func (bytesCodec) Unmarshal(mem.BufferSlice, any) error { return nil }

// frame is a gRPC message: flag, length, bytes.
func frame(flag byte, b []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{flag}, uint32(len(b))), b...) //nolint:gosec // small
}

// rawClient speaks HTTP/2 without grpc's good manners.
type rawClient struct {
	t    *testing.T
	url  string
	http *http.Client
}

func newRawClient(t *testing.T, addr string) *rawClient {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: protocols}
	t.Cleanup(transport.CloseIdleConnections)
	return &rawClient{t, "http://" + addr + apiv1.MessageService_SendMessage_FullMethodName, &http.Client{Transport: transport}}
}

func (c *rawClient) post(body []byte, headers ...string) func() error {
	return func() error { return c.postContext(c.t.Context(), body, headers...) }
}

func (c *rawClient) postContext(ctx context.Context, body []byte, headers ...string) error {
	return c.do(ctx, bytes.NewReader(body), headers...)
}

// stall opens a call and never sends its message.
func (c *rawClient) stall() func() error {
	return func() error {
		body, hold := io.Pipe()
		defer hold.Close()
		return c.do(c.t.Context(), body)
	}
}

// do returns the status in the trailers; another HTTP status than 200, as a code.
func (c *rawClient) do(ctx context.Context, body io.Reader, headers ...string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url, body)
	if err != nil {
		return err
	}
	req.Header.Set("content-type", "application/grpc")
	req.Header.Set("te", "trailers")
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	_, _ = io.Copy(io.Discard, res.Body)
	code := res.Trailer.Get("grpc-status")
	if code == "" {
		code = res.Header.Get("grpc-status")
	}
	n, err := strconv.Atoi(code)
	if err != nil || res.StatusCode == http.StatusUnsupportedMediaType {
		n = res.StatusCode
	}
	return status.Error(codes.Code(n), res.Status) //nolint:gosec // small
}
