package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/earshot/earshot/services/internal/server"
)

// line starts things in order and stops them in reverse, each once those after it are gone. A thing that ends by itself ends them all.
type line struct {
	log    *slog.Logger
	parts  []*part
	failed chan error
}

type part struct {
	name   string
	cancel context.CancelFunc
	done   chan struct{}
	err    error
}

func newLine(log *slog.Logger) *line { return &line{log: log, failed: make(chan error, 1)} }

// run starts a thing that works until its context ends. The context is not the caller's: only stop ends it, in its turn.
func (l *line) run(name string, run func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	p := &part{name: name, cancel: cancel, done: make(chan struct{})}
	l.parts = append(l.parts, p)
	go func() {
		defer close(p.done)
		p.err = run(ctx)
		if ctx.Err() == nil {
			err := p.err
			if err == nil {
				err = errors.New("ended by itself")
			}
			select {
			case l.failed <- fmt.Errorf("%s: %w", name, err):
			default: // the first failure is the cause
			}
		}
	}()
}

// closer adds something that only has to be closed in its turn.
func (l *line) closer(name string, closeIt func(context.Context) error) {
	l.run(name, func(ctx context.Context) error {
		<-ctx.Done()
		drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		defer cancel()
		return closeIt(drain)
	})
}

// wait returns when ctx ends, nil, or when a part fails, why.
func (l *line) wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case err := <-l.failed:
		return err
	}
}

// stop ends every part in reverse order and returns what went wrong on the way. A part that hangs is reported and left behind.
func (l *line) stop() error {
	var errs []error
	for i := len(l.parts) - 1; i >= 0; i-- {
		p := l.parts[i]
		start := time.Now()
		p.cancel()
		select {
		case <-p.done:
			if p.err != nil && !errors.Is(p.err, context.Canceled) {
				errs = append(errs, fmt.Errorf("stop %s: %w", p.name, p.err))
			}
			l.log.Debug("stopped", "part", p.name, "seconds", time.Since(start).Seconds())
		case <-time.After(time.Minute):
			errs = append(errs, fmt.Errorf("stop %s: still busy after a minute", p.name))
		}
	}
	l.parts = nil
	return errors.Join(errs...)
}

// ready polls until every probe succeeds.
func (l *line) ready(ctx context.Context, limit time.Duration, probes map[string]func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for name, probe := range probes {
		for {
			err := probe(ctx)
			if err == nil {
				break
			}
			select {
			case failed := <-l.failed:
				return failed
			case <-ctx.Done():
				if errors.Is(ctx.Err(), context.DeadlineExceeded) {
					return fmt.Errorf("%s is not ready after %v: %w", name, limit, err)
				}
				return ctx.Err()
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
	return nil
}

// sideServer serves metrics, pprof and health on their own port.
func (a *app) sideServer(metrics http.Handler, lis net.Listener, ready func(context.Context) error) func(context.Context) error {
	mux := http.NewServeMux()
	mux.Handle("/", metrics)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), 2*time.Second)
		defer cancel()
		if err := ready(ctx); err != nil {
			http.Error(w, oneLine(err), http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	return func(ctx context.Context) error {
		s := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
		ended := make(chan error, 1)
		go func() { ended <- s.Serve(lis) }()
		select {
		case err := <-ended:
			return err
		case <-ctx.Done():
		}
		drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if s.Shutdown(drain) != nil { // a profile may be running
			_ = s.Close()
		}
		return nil
	}
}

// listen opens one of our ports.
func (a *app) listen(ctx context.Context, p server.Port, port int) (net.Listener, error) {
	return server.Listen(ctx, p, a.cfg.listen(port))
}
