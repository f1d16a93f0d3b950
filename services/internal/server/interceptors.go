package server

import (
	"context"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/earshot/earshot/services/internal/apierror"
	"github.com/earshot/earshot/services/internal/telemetry"
)

// Unary returns the interceptors of every unary call as one, for servers and for calls inside of a process alike.
func Unary(tel telemetry.T) grpc.UnaryServerInterceptor {
	e := newEdge(tel)
	return chainUnary(e.recoverUnary, e.edgeUnary, checkUnary) // outermost first
}

// Stream returns the interceptors of every streaming call as one, in the same order.
func Stream(tel telemetry.T) grpc.StreamServerInterceptor {
	e := newEdge(tel)
	return chainStream(e.recoverStream, e.edgeStream, checkStream) // outermost first
}

func (e *edge) recoverUnary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (resp any, err error) {
	defer func() {
		if v := recover(); v != nil {
			resp, err = nil, e.panicked(ctx, info.FullMethod, v)
		}
	}()
	return next(ctx, req)
}

func (e *edge) edgeUnary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	resp, err := next(ctx, req)
	if err != nil {
		return nil, e.answer(ctx, info.FullMethod, err)
	}
	return resp, nil
}

func checkUnary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	if err := check(req); err != nil {
		return nil, err
	}
	return next(ctx, req)
}

// check refuses a request that could not be read or that breaks the rules of its proto.
func check(req any) error {
	m, ok := req.(proto.Message)
	if !ok {
		return nil
	}
	if bad := unreadable(m); bad != nil {
		return bad
	}
	return apierror.Validate(m)
}

func (e *edge) recoverStream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = e.panicked(ss.Context(), info.FullMethod, v)
		}
	}()
	return next(srv, ss)
}

func (e *edge) edgeStream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	if err := next(srv, ss); err != nil {
		return e.answer(ss.Context(), info.FullMethod, err)
	}
	return nil
}

func checkStream(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	return next(srv, &checkedStream{ServerStream: ss})
}

// checkedStream checks every message that comes in. RecvMsg returns an *apierror.Error for a bad one; a service may answer it and read on, since
// the framing is intact.
type checkedStream struct {
	grpc.ServerStream
	begun bool // RecvMsg is called by one goroutine at a time
}

func (s *checkedStream) RecvMsg(m any) error {
	err := s.ServerStream.RecvMsg(m)
	if !s.begun {
		s.begun = true
		requestArrived(s.Context())
	}
	if err != nil {
		return err
	}
	return check(m)
}

// chainUnary returns the interceptors as one, the first outermost.
func chainUnary(list ...grpc.UnaryServerInterceptor) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		for _, in := range slices.Backward(list) {
			next := handler
			handler = func(ctx context.Context, req any) (any, error) { return in(ctx, req, info, next) }
		}
		return handler(ctx, req)
	}
}

// chainStream returns the interceptors as one, the first outermost.
func chainStream(list ...grpc.StreamServerInterceptor) grpc.StreamServerInterceptor {
	return func(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		for _, in := range slices.Backward(list) {
			next := handler
			handler = func(srv any, ss grpc.ServerStream) error { return in(srv, ss, info, next) }
		}
		return handler(srv, ss)
	}
}
