package gateway

import (
	"context"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Local carries calls to services of the same process, through the interceptors that a server would run, but without a wire between: no encoding, no
// copying. Services register on it as on a server (it is a grpc.ServiceRegistrar); clients call it as a connection (grpc.ClientConnInterface). It
// knows unary calls and streams of answers, which is all that REST has.
//
// Register everything before the first call; calls are then safe for concurrent use.
type Local struct {
	unary    grpc.UnaryServerInterceptor
	stream   grpc.StreamServerInterceptor
	deadline time.Duration
	methods  map[string]localMethod
}

type localMethod struct {
	service any
	unary   grpc.MethodHandler
	stream  *grpc.StreamDesc
}

// NewLocal returns a Local whose unary calls last at most deadline.
func NewLocal(unary grpc.UnaryServerInterceptor, stream grpc.StreamServerInterceptor, deadline time.Duration) *Local {
	return &Local{unary: unary, stream: stream, deadline: deadline, methods: map[string]localMethod{}}
}

// RegisterService adds a service; the generated Register functions call it.
func (l *Local) RegisterService(d *grpc.ServiceDesc, service any) {
	for i := range d.Methods {
		l.methods["/"+d.ServiceName+"/"+d.Methods[i].MethodName] = localMethod{service: service, unary: d.Methods[i].Handler}
	}
	for i := range d.Streams {
		l.methods["/"+d.ServiceName+"/"+d.Streams[i].StreamName] = localMethod{service: service, stream: &d.Streams[i]}
	}
}

// Invoke makes a unary call. Call options are for wires, and ignored.
func (l *Local) Invoke(ctx context.Context, method string, args, reply any, _ ...grpc.CallOption) error {
	m, ok := l.methods[method]
	if !ok || m.unary == nil {
		return status.Errorf(codes.Unimplemented, "no unary method %s", method)
	}
	ctx, cancel := context.WithTimeout(received(ctx), l.deadline)
	defer cancel()
	answer, err := m.unary(m.service, ctx, func(in any) error { return hand(in, args) }, l.unary)
	if err != nil {
		return err // the edge made it for callers
	}
	return hand(reply, answer)
}

// NewStream opens a stream of answers. The service runs once the request is sent, and until ctx ends.
func (l *Local) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, _ ...grpc.CallOption) (grpc.ClientStream, error) {
	m, ok := l.methods[method]
	if !ok || m.stream == nil || desc.ClientStreams {
		return nil, status.Errorf(codes.Unimplemented, "no method %s that streams answers only", method)
	}
	ctx, cancel := context.WithCancel(received(ctx))
	s := &localStream{ctx: ctx, cancel: cancel, frames: make(chan any), done: make(chan struct{})}
	s.run = func() {
		s.err = l.stream(m.service, (*serverSide)(s), &grpc.StreamServerInfo{FullMethod: method, IsServerStream: true}, m.stream.Handler)
		close(s.done)
		cancel() // frees a Send that is still under way
	}
	return s, nil
}

// received turns what a client sends along into what a server gets.
func received(ctx context.Context) context.Context {
	md, _ := metadata.FromOutgoingContext(ctx)
	return metadata.NewIncomingContext(metadata.NewOutgoingContext(ctx, nil), md)
}

// hand makes dst, which is empty, the same message as src. What lies inside is shared: as with a wire, the sender no longer changes what it has sent.
func hand(dst, src any) error {
	to, ok := dst.(proto.Message)
	from, ok2 := src.(proto.Message)
	if !ok || !ok2 || to.ProtoReflect().Descriptor() != from.ProtoReflect().Descriptor() {
		return status.Error(codes.Internal, fmt.Sprintf("a %T can not be taken for a %T", src, dst))
	}
	m := to.ProtoReflect()
	from.ProtoReflect().Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		m.Set(f, v)
		return true
	})
	return nil
}

// localStream is the client's side of a stream; serverSide is the same from the other side.
type localStream struct {
	ctx     context.Context // of the call
	cancel  context.CancelFunc
	run     func()
	request any
	frames  chan any
	done    chan struct{} // closed when the service has returned
	err     error         // what it returned; read after done
}

func (s *localStream) Header() (metadata.MD, error) { return nil, nil }
func (s *localStream) Trailer() metadata.MD         { return nil }
func (s *localStream) Context() context.Context     { return s.ctx }

// SendMsg sends the request.
func (s *localStream) SendMsg(m any) error {
	s.request = m
	return nil
}

// CloseSend starts the service.
func (s *localStream) CloseSend() error {
	go s.run()
	return nil
}

// RecvMsg waits for the next frame; io.EOF when the service has returned well. It must be called until it fails, or ctx be ended.
func (s *localStream) RecvMsg(m any) error {
	select {
	case frame := <-s.frames:
		return hand(m, frame)
	case <-s.done:
		if s.err != nil {
			return s.err
		}
		return io.EOF
	}
}

type serverSide localStream

func (s *serverSide) Context() context.Context     { return s.ctx }
func (s *serverSide) SetHeader(metadata.MD) error  { return nil }
func (s *serverSide) SendHeader(metadata.MD) error { return nil }
func (s *serverSide) SetTrailer(metadata.MD)       {}

// SendMsg waits until the client has taken the frame: nothing piles up here.
func (s *serverSide) SendMsg(m any) error {
	select {
	case s.frames <- m:
		return nil
	case <-s.ctx.Done():
		return status.FromContextError(s.ctx.Err()).Err()
	}
}

// RecvMsg returns the request, and then io.EOF.
func (s *serverSide) RecvMsg(m any) error {
	if s.request == nil {
		return io.EOF
	}
	request := s.request
	s.request = nil
	return hand(m, request)
}
