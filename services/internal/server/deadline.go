package server

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc/tap"
)

// errNoRequest ends a call whose request did not come in time.
var errNoRequest = errors.New("the request did not arrive in time")

// kind is how a method is called.
type kind uint8

const (
	unary   kind = iota
	answers      // one request, a stream of answers
	both         // a stream each way, or of requests
)

// tap runs before a request is read, which interceptors do not: a client that opens a call and never sends is held to the deadline only from here.
func (s *GRPC) tap(ctx context.Context, info *tap.Info) (context.Context, error) {
	m, known := s.methods[info.FullMethodName]
	if !known || m.kind == unary {
		return s.withDeadline(ctx), nil
	}
	if !m.ours { // health watches and reflection would hold up the drain to its end
		ctx = endWith(ctx, s.draining)
	}
	ctx = context.WithValue(ctx, drainingKey{}, s.draining.Done())
	if m.kind == answers {
		var cancel context.CancelCauseFunc
		ctx, cancel = context.WithCancelCause(ctx)
		timer := time.AfterFunc(s.cfg.RequestWait, func() { cancel(errNoRequest) })
		return requestContext{ctx, timer}, nil
	}
	return ctx, nil
}

// requestContext is the context of a stream of answers. Until the request is there it ends as by a deadline, which is the code that grpc sends.
type requestContext struct {
	context.Context
	timer *time.Timer
}

// Err returns why the context ended.
func (c requestContext) Err() error {
	if err := c.Context.Err(); err == nil || !errors.Is(context.Cause(c.Context), errNoRequest) {
		return err
	}
	return context.DeadlineExceeded
}

// Value finds the context itself by requestKey.
func (c requestContext) Value(key any) any {
	if key == (requestKey{}) {
		return c
	}
	return c.Context.Value(key)
}

// withDeadline bounds ctx by CallDeadline. Its timer is freed with the call, whose own context ends first.
func (s *GRPC) withDeadline(ctx context.Context) context.Context {
	if own, ok := ctx.Deadline(); ok && time.Until(own) <= s.cfg.CallDeadline {
		return ctx
	}
	bounded, cancel := context.WithTimeout(ctx, s.cfg.CallDeadline)
	return deadlineContext{bounded, cancel}
}

// deadlineContext keeps the cancel function of a context that grpc ends by its parent.
type deadlineContext struct {
	context.Context
	_ context.CancelFunc
}

// endWith returns a ctx that also ends with other.
func endWith(ctx, other context.Context) context.Context {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(other, cancel)
	context.AfterFunc(ctx, func() { stop() })
	return ctx
}

type (
	drainingKey struct{}
	requestKey  struct{}
)

// Draining returns a channel that is closed when the server of this streaming call begins to stop: the handler should then end its stream in good
// order, with what lets the client go on elsewhere. In a call without a server it is nil, which blocks for ever.
func Draining(ctx context.Context) <-chan struct{} {
	c, _ := ctx.Value(drainingKey{}).(<-chan struct{})
	return c
}

func requestArrived(ctx context.Context) {
	if c, ok := ctx.Value(requestKey{}).(requestContext); ok {
		c.timer.Stop()
	}
}
