package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/earshot/earshot/services/internal/apierror"
	"github.com/earshot/earshot/services/internal/telemetry"
)

// HTTPConfig bounds an HTTP server. Start from DefaultHTTPConfig.
type HTTPConfig struct {
	HeaderWait         time.Duration `yaml:"header_wait"`        // longest arrival of a request's headers; at least 100ms
	BodyWait           time.Duration `yaml:"body_wait"`          // longest arrival of its body; at least 100ms
	WriteWait          time.Duration `yaml:"write_wait"`         // longest answer, of all but streams; at least 100ms
	FrameWait          time.Duration `yaml:"frame_wait"`         // longest one frame of a stream; at least 100ms
	IdleWait           time.Duration `yaml:"idle_wait"`          // a connection without requests is closed after this; at least 1s
	MaxHeaderBytes     int           `yaml:"max_header_bytes"`   // request line and headers; at least 8 KiB
	MaxConns           int           `yaml:"max_conns"`          // connections; 0 for no bound
	MaxConnsPerAddress int           `yaml:"max_conns_per_addr"` // connections from one address (IPv6: one /64); 0 for no bound, as behind a proxy
	DrainWait          time.Duration `yaml:"drain_wait"`         // longest wait for requests under way when the server stops; at least 100ms
}

// DefaultHTTPConfig returns the bounds as documented.
func DefaultHTTPConfig() HTTPConfig {
	return HTTPConfig{
		HeaderWait:         5 * time.Second,
		BodyWait:           10 * time.Second,
		WriteWait:          15 * time.Second,
		FrameWait:          10 * time.Second,
		IdleWait:           time.Minute,
		MaxHeaderBytes:     16 << 10,
		MaxConns:           2048,
		MaxConnsPerAddress: 1024,
		DrainWait:          20 * time.Second,
	}
}

// Validate returns every fault at once, by its setting.
func (c HTTPConfig) Validate() error {
	var errs []error
	wait := func(name string, got, low time.Duration) {
		if got < low {
			errs = append(errs, fmt.Errorf("http.%s: got %v, want at least %v", name, got, low))
		}
	}
	wait("header_wait", c.HeaderWait, 100*time.Millisecond)
	wait("body_wait", c.BodyWait, 100*time.Millisecond)
	wait("write_wait", c.WriteWait, 100*time.Millisecond)
	wait("frame_wait", c.FrameWait, 100*time.Millisecond)
	wait("idle_wait", c.IdleWait, time.Second)
	wait("drain_wait", c.DrainWait, 100*time.Millisecond)
	if c.MaxHeaderBytes < 8<<10 {
		errs = append(errs, fmt.Errorf("http.max_header_bytes: got %d, want at least %d", c.MaxHeaderBytes, 8<<10))
	}
	if c.MaxConns < 0 || c.MaxConnsPerAddress < 0 {
		errs = append(errs, fmt.Errorf("http.max_conns, http.max_conns_per_addr: got %d and %d, want 0 or more", c.MaxConns, c.MaxConnsPerAddress))
	}
	return errors.Join(errs...)
}

// HTTP is an HTTP/1.1 server within bounds. Call Serve once.
type HTTP struct {
	cfg      HTTPConfig
	tel      telemetry.T
	http     *http.Server
	draining context.Context
	drain    context.CancelFunc
}

// netHTTPSlack is what net/http lets headers go over MaxHeaderBytes before it answers 431.
const netHTTPSlack = 4 << 10

// NewHTTP returns a server for h that does not listen yet. A handler that streams calls StreamFrame before each write, and ends its stream when
// Draining(r.Context()) is closed.
func NewHTTP(cfg HTTPConfig, h http.Handler, tel telemetry.T) *HTTP {
	s := &HTTP{cfg: cfg, tel: tel}
	s.draining, s.drain = context.WithCancel(context.Background())
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	s.http = &http.Server{
		Handler:           s.bounded(h),
		ReadHeaderTimeout: cfg.HeaderWait,
		WriteTimeout:      cfg.WriteWait,
		IdleTimeout:       cfg.IdleWait,
		MaxHeaderBytes:    cfg.MaxHeaderBytes - netHTTPSlack,
		Protocols:         protocols,
		ErrorLog:          slog.NewLogLogger(tel.Log.Handler(), slog.LevelDebug), // what clients do wrong
	}
	return s
}

// Serve takes requests on lis until ctx ends, then drains within DrainWait and cuts off what is left. It closes lis, and returns nil after a drain.
func (s *HTTP) Serve(ctx context.Context, lis net.Listener) error {
	limited := Limit(lis, s.cfg.MaxConns, s.cfg.MaxConnsPerAddress, func(addr netip.Addr) {
		s.tel.Log.WarnContext(ctx, "connections over the cap are closed", "address", addr, "max_conns", s.cfg.MaxConns, "max_conns_per_addr", s.cfg.MaxConnsPerAddress)
	})
	served := make(chan error, 1)
	go func() { served <- s.http.Serve(limited) }()
	select {
	case err := <-served:
		return fmt.Errorf("serve http on %s: %w", lis.Addr(), err)
	case <-ctx.Done():
	}
	s.drain()
	wait, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.DrainWait)
	defer cancel()
	if err := s.http.Shutdown(wait); err != nil {
		s.tel.Log.WarnContext(ctx, "requests are cut off at the end of the drain", "drain_wait", s.cfg.DrainWait)
		_ = s.http.Close()
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve http on %s: %w", lis.Addr(), err)
	}
	return nil
}

type frameWaitKey struct{}

// bounded gives the body a deadline of its own. The server's ReadTimeout would not do: it goes on counting while a stream is written, and ends it.
func (s *HTTP) bounded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx := context.WithValue(r.Context(), drainingKey{}, s.draining.Done())
		ctx = context.WithValue(ctx, frameWaitKey{}, s.cfg.FrameWait)
		r = r.WithContext(ctx)
		if r.Body != nil && r.Body != http.NoBody {
			control := http.NewResponseController(w)
			if err := control.SetReadDeadline(time.Now().Add(s.cfg.BodyWait)); err == nil {
				clear := sync.OnceFunc(func() { _ = control.SetReadDeadline(time.Time{}) })
				r.Body = &timedBody{ReadCloser: r.Body, done: clear}
			}
		}
		next.ServeHTTP(w, r)
	})
}

// timedBody lifts the read deadline when the body is whole, and says in our words when it came too slowly.
type timedBody struct {
	io.ReadCloser
	done func()
}

// Read returns an *apierror.Error (REQUEST_TIMEOUT) when the body did not arrive in time.
func (b *timedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	switch {
	case errors.Is(err, io.EOF):
		b.done()
	case errors.Is(err, os.ErrDeadlineExceeded):
		return n, errSlowBody
	}
	return n, err //nolint:wrapcheck // readers look for io.EOF
}

var errSlowBody = apierror.New(apierror.ReasonRequestTimeout, "the body did not arrive in time")

// StreamFrame allows the answer to r one more frame's time. Handlers of streams call it before each write, instead of the bound on whole answers.
func StreamFrame(w http.ResponseWriter, r *http.Request) error {
	wait, ok := r.Context().Value(frameWaitKey{}).(time.Duration)
	if !ok {
		return nil // not under HTTP
	}
	if err := http.NewResponseController(w).SetWriteDeadline(time.Now().Add(wait)); err != nil {
		return fmt.Errorf("set write deadline: %w", err)
	}
	return nil
}
