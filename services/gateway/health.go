package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/earshot/earshot/services/internal/apierror"
	"github.com/earshot/earshot/services/internal/telemetry"
)

// Check is one dependency that health speaks of.
type Check struct {
	Name     string                      // as shown: kafka
	Critical bool                        // without it no message can be accepted
	Probe    func(context.Context) error // nil while all is well; it should heed ctx, and is never run twice at a time
}

// States of health.
const (
	stateOK          = "ok"
	stateDegraded    = "degraded" // messages are accepted, something else is away
	stateUnavailable = "unavailable"
)

// healthKind is how much an address tells.
type healthKind int

const (
	healthAlive healthKind = iota // the process lives: always 200
	healthReady                   // 200 when messages can be accepted, else 503
	healthFull                    // the same, with a state per dependency
)

var healthPaths = map[string]healthKind{"/healthz": healthAlive, "/readyz": healthReady, "/api/v1/health": healthFull}

// healthReport is the body of /api/v1/health.
type healthReport struct {
	Status       string                     `json:"status"`
	Dependencies map[string]dependencyState `json:"dependencies,omitempty"`
	Accepted     *int64                     `json:"messages_accepted,omitempty"` // ever, by the whole mesh; absent when unknown
	CheckedAt    *time.Time                 `json:"checked_at,omitempty"`
}

type dependencyState struct {
	State  string `json:"state"`
	Detail string `json:"detail,omitempty"`
}

// health asks the dependencies, all at once and at most once in ProbeEvery, however many ask us.
type health struct {
	tel      telemetry.T
	wait     time.Duration
	every    time.Duration
	probes   []*probe
	accepted *probe

	mu     sync.Mutex // held while asking: who comes meanwhile wants the same answer
	asked  time.Time
	report healthReport
}

// probe runs one check. One that hangs is not started again.
type probe struct {
	Check
	running atomic.Bool
	was     string // its detail when last asked
	value   atomic.Int64
}

func newHealth(cfg Config, back Backends, tel telemetry.T) *health {
	h := &health{tel: tel, wait: cfg.ProbeWait, every: cfg.ProbeEvery}
	for _, c := range back.Checks {
		h.probes = append(h.probes, &probe{Check: c})
	}
	if back.Accepted != nil {
		p := &probe{}
		p.Probe = func(ctx context.Context) error {
			n, err := back.Accepted(ctx)
			if err == nil {
				p.value.Store(n)
			}
			return err
		}
		h.accepted = p
	}
	return h
}

// current returns what is known, asking when that is too old.
func (h *health) current() healthReport {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.asked.IsZero() && time.Since(h.asked) < h.every {
		return h.report
	}
	ctx, cancel := context.WithTimeout(context.Background(), h.wait)
	defer cancel()
	details := make([]string, len(h.probes))
	var count *int64
	var asking sync.WaitGroup
	for i, p := range h.probes {
		asking.Go(func() { details[i] = h.run(ctx, p) })
	}
	if h.accepted != nil {
		asking.Go(func() {
			if h.run(ctx, h.accepted) == "" {
				n := h.accepted.value.Load()
				count = &n
			}
		})
	}
	asking.Wait()
	now := time.Now().UTC().Truncate(time.Millisecond)
	h.report = healthReport{Status: stateOK, Dependencies: map[string]dependencyState{}, Accepted: count, CheckedAt: &now}
	for i, p := range h.probes {
		if details[i] == "" {
			h.report.Dependencies[p.Name] = dependencyState{State: stateOK}
			continue
		}
		h.report.Dependencies[p.Name] = dependencyState{State: stateUnavailable, Detail: details[i]}
		switch {
		case p.Critical:
			h.report.Status = stateUnavailable
		case h.report.Status == stateOK:
			h.report.Status = stateDegraded
		}
	}
	h.asked = time.Now()
	return h.report
}

// run returns what is wrong, in words for everybody, or "". It returns in time even when the check does not.
func (h *health) run(ctx context.Context, p *probe) string {
	if !p.running.CompareAndSwap(false, true) {
		return "no answer in time" // still the one before
	}
	done := make(chan error, 1)
	go func() {
		defer p.running.Store(false)
		done <- p.Probe(ctx)
	}()
	var err error
	select {
	case err = <-done:
	case <-ctx.Done():
		err = ctx.Err()
	}
	now := outside(err)
	if now != p.was && p.Name != "" {
		if now == "" {
			h.tel.Log.InfoContext(ctx, "dependency is well again", "dependency", p.Name)
		} else {
			h.tel.Log.WarnContext(ctx, "dependency is not well", "dependency", p.Name, "err", err)
		}
	}
	p.was = now
	return now
}

// outside says what is wrong without names and secrets from inside; the log has those.
func outside(err error) string {
	var dns *net.DNSError
	var known *apierror.Error
	switch {
	case err == nil:
		return ""
	case errors.As(err, &known):
		return known.Message
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return "no answer in time"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused"
	case errors.As(err, &dns):
		return "name not found"
	}
	return "not well; the server's log says more"
}

// answer serves one of healthPaths.
func (h *health) answer(w http.ResponseWriter, r *http.Request, kind healthKind) {
	report := healthReport{Status: stateOK}
	if kind != healthAlive {
		report = h.current()
	}
	code := http.StatusOK
	if report.Status == stateUnavailable {
		code = http.StatusServiceUnavailable
	}
	if kind == healthReady {
		report.Dependencies, report.Accepted = nil, nil
	}
	b, err := json.Marshal(report)
	if err != nil {
		h.tel.Log.ErrorContext(r.Context(), "health is not sent", "err", err)
		return
	}
	w.Header().Set("Content-Type", mediaJSON)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_, _ = w.Write(b) // the client left
}
