package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/mem"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
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

func TestCallDeadline(t *testing.T) {
	left := make(chan time.Duration, 1)
	r := start(t, &service{send: func(ctx context.Context, _ *apiv1.SendMessageRequest) error {
		d, _ := ctx.Deadline()
		left <- time.Until(d)
		return nil
	}}, func(c *Config) { c.CallDeadline = time.Second })
	client := apiv1.NewMessageServiceClient(r.conn)
	if _, err := client.SendMessage(t.Context(), message()); err != nil {
		t.Fatal(err)
	}
	if d := <-left; d <= 0 || d > time.Second {
		t.Errorf("%v left of 1s", d)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	if _, err := client.SendMessage(ctx, message()); err != nil {
		t.Fatal(err)
	}
	if d := <-left; d > time.Second {
		t.Errorf("a caller's hour was kept: %v", d)
	}
	t.Run("a request that never comes", func(t *testing.T) {
		for _, method := range []string{"/earshot.api.v1.MessageService/SendMessage", "/earshot.api.v1.AlertService/StreamAlerts"} {
			r.grpc.cfg.RequestWait = 300 * time.Millisecond
			stream, err := r.conn.NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method)
			if err != nil {
				t.Fatal(err)
			}
			if err := stream.RecvMsg(&apiv1.SendMessageResponse{}); status.Code(err) != codes.DeadlineExceeded {
				t.Errorf("%s: got %v", method, err)
			}
		}
	})
}

func TestSizes(t *testing.T) {
	r := start(t, &service{}, nil)
	client := apiv1.NewMessageServiceClient(r.conn)
	big := &apiv1.SendMessageRequest{SenderId: "a", ReceiverId: "b", Content: strings.Repeat("x", 8<<20)}
	for name, opts := range map[string][]grpc.CallOption{"plain": nil, "gzip bomb": {grpc.UseCompressor(gzip.Name)}} {
		if _, err := client.SendMessage(t.Context(), big, opts...); status.Code(err) != codes.ResourceExhausted {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if _, err := client.SendMessage(t.Context(), message(), grpc.UseCompressor(gzip.Name)); err != nil {
		t.Errorf("honest gzip: %v", err)
	}
}

func TestHealthAndReflection(t *testing.T) {
	var mu sync.Mutex
	var down error
	r := start(t, &service{}, nil, func(s *GRPC) {
		s.HealthCheck("earshot.api.v1.MessageService", func(context.Context) error {
			mu.Lock()
			defer mu.Unlock()
			return down
		})
	})
	client := healthv1.NewHealthClient(r.conn)
	until := func(service string, want healthv1.HealthCheckResponse_ServingStatus) {
		t.Helper()
		deadline := time.Now().Add(5 * time.Second)
		for {
			res, err := client.Check(t.Context(), &healthv1.HealthCheckRequest{Service: service})
			if err == nil && res.GetStatus() == want {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%q: got %v, %v, want %v", service, res, err, want)
			}
		}
	}
	const ingest = "earshot.api.v1.MessageService"
	until(ingest, healthv1.HealthCheckResponse_SERVING)
	until("", healthv1.HealthCheckResponse_SERVING)
	mu.Lock()
	down = errors.New("no broker")
	mu.Unlock()
	until(ingest, healthv1.HealthCheckResponse_NOT_SERVING)
	until("", healthv1.HealthCheckResponse_NOT_SERVING)
	until("earshot.api.v1.AlertService", healthv1.HealthCheckResponse_SERVING)

	stream, err := reflectionv1.NewServerReflectionClient(r.conn).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	res, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range res.GetListServicesResponse().GetService() {
		names = append(names, s.GetName())
	}
	if got, want := fmt.Sprint(names), "[earshot.api.v1.AlertService earshot.api.v1.MessageService]"; got != want {
		t.Errorf("listed %s, want %s", got, want)
	}
}

func TestDrain(t *testing.T) {
	begun, release := make(chan struct{}), make(chan struct{})
	r := start(t, &service{
		send: func(context.Context, *apiv1.SendMessageRequest) error { close(begun); <-release; return nil },
		alert: func(s grpc.ServerStreamingServer[apiv1.StreamAlertsResponse]) error {
			if err := s.Send(&apiv1.StreamAlertsResponse{}); err != nil {
				return err
			}
			<-Draining(s.Context())
			return apierror.Unavailable(apierror.ReasonUnavailable, "the server is stopping", time.Second)
		},
	}, nil)
	watch, err := healthv1.NewHealthClient(r.conn).Watch(t.Context(), &healthv1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Recv(); err != nil {
		t.Fatal(err)
	}
	alerts, err := apiv1.NewAlertServiceClient(r.conn).StreamAlerts(t.Context(), &apiv1.StreamAlertsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := alerts.Recv(); err != nil {
		t.Fatal(err)
	}
	sent := make(chan error, 1)
	go func() {
		_, err := apiv1.NewMessageServiceClient(r.conn).SendMessage(context.Background(), message())
		sent <- err
	}()
	<-begun
	stopped := make(chan error, 1)
	go func() { stopped <- r.stop() }()
	if _, err := alerts.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("stream ended with %v", err)
	}
	for {
		res, err := watch.Recv()
		if err != nil {
			break
		}
		_ = res
	}
	select {
	case err := <-stopped:
		t.Fatalf("stopped before the call under way ended: %v", err)
	default:
	}
	close(release)
	if err := <-sent; err != nil {
		t.Errorf("call under way: %v", err)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

func TestDrainCutsOff(t *testing.T) {
	begun := make(chan struct{})
	r := start(t, &service{send: func(ctx context.Context, _ *apiv1.SendMessageRequest) error {
		close(begun)
		<-ctx.Done()
		return ctx.Err()
	}}, func(c *Config) { c.DrainWait = 100 * time.Millisecond })
	sent := make(chan error, 1)
	go func() {
		_, err := apiv1.NewMessageServiceClient(r.conn).SendMessage(context.Background(), message())
		sent <- err
	}()
	<-begun
	if err := r.stop(); err != nil {
		t.Error(err)
	}
	if err := <-sent; status.Code(err) != codes.Unavailable {
		t.Errorf("got %v", err)
	}
}

func TestConnectionCaps(t *testing.T) {
	r := start(t, &service{}, func(c *Config) { c.MaxConnsPerAddress = 2 })
	hold := func() net.Conn {
		c, err := net.Dial("tcp", r.addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
		return c
	}
	a, b := hold(), hold()
	one := make([]byte, 1)
	for _, c := range []net.Conn{a, b} {
		if _, err := c.Read(one); err != nil { // the server's settings frame
			t.Fatal(err)
		}
	}
	if _, err := hold().Read(one); err == nil {
		t.Error("a third connection was served")
	}
	_ = a.Close()
	deadline := time.Now().Add(5 * time.Second)
	for {
		if _, err := hold().Read(one); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("no room after one left")
		}
	}
	if !strings.Contains(r.log.String(), "over the cap") {
		t.Error("not logged")
	}
}

func TestSilentConnectionIsClosed(t *testing.T) {
	r := start(t, &service{}, func(c *Config) { c.HandshakeWait = 200 * time.Millisecond })
	c, err := net.Dial("tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.Copy(io.Discard, c); err != nil && errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("still open after 5s")
	}
}

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

func TestListenNamesThePort(t *testing.T) {
	lis, err := Listen(t.Context(), GRPCPort, "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	_, port, _ := net.SplitHostPort(lis.Addr().String())
	_, err = Listen(t.Context(), GRPCPort, lis.Addr().String())
	want := "grpc port " + port + " is taken; choose another with --grpc-port or GRPC_PORT, 0 for a free one"
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestConfigNamesEveryFault(t *testing.T) {
	err := errors.Join(Config{}.Validate(), HTTPConfig{}.Validate())
	for _, want := range []string{"server.max_streams: got 0", "server.drain_wait: got 0s, want at least 100ms", "http.body_wait: got 0s", "http.max_header_bytes"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q lacks %q", err, want)
		}
	}
	if err := errors.Join(DefaultConfig().Validate(), DefaultHTTPConfig().Validate()); err != nil {
		t.Error(err)
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
