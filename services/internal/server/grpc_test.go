package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"

	apiv1 "github.com/earshot/earshot/gen/earshot/api/v1"
	"github.com/earshot/earshot/services/internal/apierror"
	"github.com/earshot/earshot/services/internal/telemetry"
)

// service answers as its fields say.
type service struct {
	apiv1.UnimplementedMessageServiceServer
	apiv1.UnimplementedAlertServiceServer
	send  func(context.Context, *apiv1.SendMessageRequest) error
	alert func(grpc.ServerStreamingServer[apiv1.StreamAlertsResponse]) error
}

func (s *service) SendMessage(ctx context.Context, in *apiv1.SendMessageRequest) (*apiv1.SendMessageResponse, error) {
	if s.send != nil {
		if err := s.send(ctx, in); err != nil {
			return nil, err
		}
	}
	return &apiv1.SendMessageResponse{Status: "success"}, nil
}

func (s *service) StreamMessages(stream grpc.BidiStreamingServer[apiv1.StreamMessagesRequest, apiv1.StreamMessagesResponse]) error {
	for n := int32(1); ; n++ {
		_, err := stream.Recv()
		var bad *apierror.Error
		switch {
		case errors.As(err, &bad):
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		out := &apiv1.StreamMessagesResponse{Sequence: n, Result: &apiv1.SendResult{Status: "success"}}
		if bad != nil {
			out.Result = &apiv1.SendResult{Status: "refused", Error: bad.Proto()}
		}
		if err := stream.Send(out); err != nil {
			return err
		}
	}
}

func (s *service) StreamAlerts(_ *apiv1.StreamAlertsRequest, stream grpc.ServerStreamingServer[apiv1.StreamAlertsResponse]) error {
	return s.alert(stream)
}

type rig struct {
	addr string
	conn *grpc.ClientConn
	log  *lockedBuffer
	stop func() error // ends the server, returns what Serve returned
	grpc *GRPC
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func start(t *testing.T, svc *service, change func(*Config), more ...func(*GRPC)) *rig {
	t.Helper()
	cfg := DefaultConfig()
	cfg.DrainWait, cfg.HealthEvery = 5*time.Second, 100*time.Millisecond
	if change != nil {
		change(&cfg)
	}
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	log := &lockedBuffer{}
	tel := telemetry.Nop()
	tel.Log = slog.New(slog.NewTextHandler(log, nil))
	s := NewGRPC(cfg, tel, Instruments{})
	apiv1.RegisterMessageServiceServer(s, svc)
	apiv1.RegisterAlertServiceServer(s, svc)
	for _, f := range more {
		f(s)
	}
	lis, err := Listen(t.Context(), GRPCPort, "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, lis) }()
	r := &rig{addr: lis.Addr().String(), log: log, grpc: s}
	r.stop = sync.OnceValue(func() error { cancel(); return <-done })
	r.conn = dial(t, r.addr)
	t.Cleanup(func() {
		if err := r.stop(); err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return r
}

func dial(t *testing.T, addr string, opts ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(addr, append(opts, grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func message() *apiv1.SendMessageRequest {
	return &apiv1.SendMessageRequest{SenderId: "alice", ReceiverId: "bob", Content: "hello"}
}

// raw sends bytes as they are.
type raw struct{}

func (raw) Name() string { return "proto" }
func (raw) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.([]byte))}, nil
}
func (raw) Unmarshal(mem.BufferSlice, any) error { return nil }

func TestUnreadableRequests(t *testing.T) {
	r := start(t, &service{}, nil)
	for _, tt := range []struct {
		name, method string
		in           []byte
		reason       apierror.Reason
		msg          string
	}{
		{
			"invalid UTF-8 in content", "SendMessage", []byte("\x1a\x01a\x2a\x04ab\xff\xfe"),
			apierror.ReasonInvalidUTF8, "content: must be valid UTF-8",
		},
		{
			"invalid UTF-8 in an id", "SendMessage", []byte("\x1a\x03a\xffb"),
			apierror.ReasonInvalidUTF8, `sender_id: must be valid UTF-8, got "a\xffb"`,
		},
		{
			"invalid UTF-8 inside a batch", "SendMessages", []byte("\x0a\x03\x1a\x01a\x0a\x03\x2a\x01\xff"),
			apierror.ReasonInvalidUTF8, "messages[1].content: must be valid UTF-8",
		},
		{
			"garbage", "SendMessage", []byte("\xff\xff\xff garbage"),
			apierror.ReasonBadProtobuf, "request: must be earshot.api.v1.SendMessageRequest in protobuf, got 11 bytes that are not",
		},
		{
			"cut", "SendMessage", []byte("\x1a\x05al"),
			apierror.ReasonBadProtobuf, "request: must be earshot.api.v1.SendMessageRequest in protobuf, got 4 bytes that are not",
		},
		{"no bytes", "SendMessage", nil, apierror.ReasonFieldRequired, `sender_id: must be 1 to 128 Unicode letters, digits and ._:@+~-, not . or .., got ""; content: must be 1 to 4,096 characters, got 0`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := r.conn.Invoke(t.Context(), "/earshot.api.v1.MessageService/"+tt.method, tt.in, nil, grpc.ForceCodecV2(raw{}))
			if status.Code(err) != codes.InvalidArgument || apierror.ReasonOf(err) != tt.reason {
				t.Errorf("got %v", err)
			}
			if got := status.Convert(err).Message(); got != tt.msg {
				t.Errorf("message\n got %q\nwant %q", got, tt.msg)
			}
		})
	}
	t.Run("a stream goes on after garbage", func(t *testing.T) {
		stream, err := r.conn.NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true},
			"/earshot.api.v1.MessageService/StreamMessages", grpc.ForceCodecV2(halfRaw{}))
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range []string{"\xff", "\x0a\x03\x1a\x01a"} {
			if err := stream.SendMsg([]byte(b)); err != nil {
				t.Fatal(err)
			}
		}
		_ = stream.CloseSend()
		for _, want := range []string{"refused", "success"} {
			var out apiv1.StreamMessagesResponse
			if err := stream.RecvMsg(&out); err != nil || out.GetResult().GetStatus() != want {
				t.Errorf("got %v, %v, want %s", &out, err, want)
			}
		}
	})
}

// halfRaw sends bytes and reads protobuf.
type halfRaw struct{ raw }

func (halfRaw) Unmarshal(b mem.BufferSlice, v any) error { return newCodec().CodecV2.Unmarshal(b, v) }

func TestEdge(t *testing.T) {
	var answer error
	r := start(t, &service{send: func(context.Context, *apiv1.SendMessageRequest) error {
		if errors.Is(answer, errPanic) {
			panic("the user wrote: secret")
		}
		return answer
	}}, nil)
	client := apiv1.NewMessageServiceClient(r.conn)
	secret := errors.New("dial 10.0.0.7: secret")
	for _, tt := range []struct {
		name   string
		err    error
		code   codes.Code
		reason apierror.Reason
		logged bool
	}{
		{"own error", apierror.NotFound("alert", "a"), codes.NotFound, apierror.ReasonNotFound, false},
		{"own error around a cause", fmt.Errorf("%w: %w", apierror.Unavailable(apierror.ReasonUnavailable, "no broker", time.Second), secret), codes.Unavailable, apierror.ReasonUnavailable, true},
		{"unknown error", secret, codes.Internal, apierror.ReasonInternal, true},
		{"status without a reason", status.Error(codes.AlreadyExists, "x"), codes.AlreadyExists, "", false},
		{"internal status", status.Error(codes.Internal, "secret"), codes.Internal, apierror.ReasonInternal, true},
		{"deadline", fmt.Errorf("query: %w", context.DeadlineExceeded), codes.DeadlineExceeded, apierror.ReasonDeadlineExceeded, false},
		{"canceled by us", context.Canceled, codes.Unavailable, apierror.ReasonUnavailable, false},
		{"panic", errPanic, codes.Internal, apierror.ReasonInternal, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			answer = tt.err
			_, err := client.SendMessage(t.Context(), message())
			if status.Code(err) != tt.code || apierror.ReasonOf(err) != tt.reason {
				t.Errorf("got %v, reason %q", err, apierror.ReasonOf(err))
			}
			if strings.Contains(err.Error(), "secret") {
				t.Errorf("the cause reached the caller: %v", err)
			}
		})
	}
	if log := r.log.String(); !strings.Contains(log, "call failed") || !strings.Contains(log, "handler panicked") || strings.Contains(log, "the user wrote") {
		t.Errorf("log:\n%s", log)
	}
	answer = nil
	if _, err := client.SendMessage(t.Context(), message()); err != nil {
		t.Errorf("after all that: %v", err)
	}
}

var errPanic = errors.New("panic")

func TestInterceptorsInProcess(t *testing.T) {
	in := Unary(telemetry.Nop())
	info := &grpc.UnaryServerInfo{FullMethod: apiv1.MessageService_SendMessage_FullMethodName}
	call := func(req any, handler grpc.UnaryHandler) error {
		_, err := in(t.Context(), req, info, handler)
		return err
	}
	fine := func(context.Context, any) (any, error) { return nil, nil }
	if err := call(message(), fine); err != nil {
		t.Error(err)
	}
	if err := call(&apiv1.SendMessageRequest{}, fine); apierror.ReasonOf(err) != apierror.ReasonFieldRequired {
		t.Errorf("got %v", err)
	}
	if err := call(message(), func(context.Context, any) (any, error) { panic("x") }); status.Code(err) != codes.Internal {
		t.Errorf("got %v", err)
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := in(canceled, message(), info, func(ctx context.Context, _ any) (any, error) { return nil, ctx.Err() })
	if status.Code(err) != codes.Canceled {
		t.Errorf("got %v", err)
	}
}

func FuzzCodec(f *testing.F) {
	f.Add([]byte("\x1a\x01a\x2a\x04ab\xff\xfe"))
	f.Add([]byte("\x0a\x03\x1a\x01a\x0a\x03\x2a\x01\xff"))
	c := newCodec()
	f.Fuzz(func(t *testing.T, b []byte) {
		var in apiv1.SendMessagesRequest
		if err := c.Unmarshal(mem.BufferSlice{mem.SliceBuffer(b)}, &in); err != nil {
			t.Fatal(err)
		}
		var plain apiv1.SendMessagesRequest
		err := c.CodecV2.Unmarshal(mem.BufferSlice{mem.SliceBuffer(b)}, &plain)
		bad := unreadable(&in)
		if (err != nil) != (bad != nil) {
			t.Fatalf("unmarshal says %v, the codec says %v", err, bad)
		}
		if bad != nil && bad.GRPCStatus().Code() != codes.InvalidArgument {
			t.Fatalf("got %v", bad)
		}
	})
}
