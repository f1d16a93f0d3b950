package gateway

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel/propagation"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/earshot/earshot/services/internal/telemetry"
)

// streamsPerConn leaves room below what servers allow on one connection (256): beyond that, calls wait without a word.
const streamsPerConn = 128

// Remote carries calls to a service of another process. Unary calls share one connection; streams get more connections as they grow in number. Calls
// are spread over all addresses that the name has. It is safe for concurrent use.
type Remote struct {
	addr    string
	options []grpc.DialOption
	unary   *grpc.ClientConn

	mu      sync.Mutex
	streams []*streamConn
	closed  bool
}

type streamConn struct {
	*grpc.ClientConn
	open int
}

// Dial returns a Remote to addr, a host:port. Nothing is connected before the first call.
func Dial(addr string, tel telemetry.T) (*Remote, error) {
	r := &Remote{addr: "dns:///" + addr, options: []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig":[{"round_robin":{}}]}`),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 40 * time.Second, Timeout: 10 * time.Second}), // servers refuse pings under 30 s
		grpc.WithStatsHandler(otelgrpc.NewClientHandler(
			otelgrpc.WithTracerProvider(tracers{tracer: tel.Tracer}),
			otelgrpc.WithMeterProvider(meters{meter: tel.Meter}),
			otelgrpc.WithPropagators(propagation.TraceContext{}),
		)),
	}}
	var err error
	r.unary, err = r.dial()
	return r, err
}

func (r *Remote) dial() (*grpc.ClientConn, error) {
	c, err := grpc.NewClient(r.addr, r.options...)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", r.addr, err)
	}
	return c, nil
}

// Invoke makes a unary call.
func (r *Remote) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	return r.unary.Invoke(ctx, method, args, reply, opts...)
}

// NewStream opens a stream on a connection with room. ctx must end when the stream is no longer used.
func (r *Remote) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	c, err := r.take()
	if err != nil {
		return nil, err
	}
	s, err := c.NewStream(ctx, desc, method, opts...)
	if err != nil {
		r.give(c)
		return nil, err
	}
	context.AfterFunc(ctx, func() { r.give(c) })
	return s, nil
}

func (r *Remote) take() (*streamConn, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, status.Error(codes.Canceled, "the connections are closed")
	}
	for _, c := range r.streams {
		if c.open < streamsPerConn {
			c.open++
			return c, nil
		}
	}
	conn, err := r.dial()
	if err != nil {
		return nil, err
	}
	c := &streamConn{ClientConn: conn, open: 1}
	r.streams = append(r.streams, c)
	return c, nil
}

func (r *Remote) give(c *streamConn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c.open--
}

// Ready returns nil once a connection stands, and why not when ctx ends first.
func (r *Remote) Ready(ctx context.Context) error {
	r.unary.Connect()
	for {
		state := r.unary.GetState()
		if state == connectivity.Ready {
			return nil
		}
		if !r.unary.WaitForStateChange(ctx, state) {
			return fmt.Errorf("connect to %s: still %v: %w", r.addr, state, ctx.Err())
		}
	}
}

// Close ends all connections and the calls on them.
func (r *Remote) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	errs := []error{r.unary.Close()}
	for _, c := range r.streams {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}
