package server

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/earshot/earshot/services/internal/apierror"
	"github.com/earshot/earshot/services/internal/telemetry"
)

// edge is the one place where errors of services become what callers see. Causes stay in the log.
type edge struct {
	log      *slog.Logger
	failures metric.Int64Counter

	quietUntil atomic.Int64 // Unix nanoseconds
	kept       atomic.Int64 // causes not logged since
}

func newEdge(tel telemetry.T) *edge {
	failures, err := tel.Meter.Int64Counter("earshot.server.failures", metric.WithUnit("{call}"),
		metric.WithDescription("Calls answered with an error, by method and reason."))
	if err != nil {
		tel.Log.Error("metric is not counted", "metric", "earshot.server.failures", "err", err)
	}
	return &edge{log: tel.Log, failures: failures}
}

// answer returns what the caller of method sees of err: always an error with a status, never a cause.
func (e *edge) answer(ctx context.Context, method string, err error) error {
	answer, cause := classify(ctx, err)
	reason := string(apierror.ReasonOf(answer))
	if reason == "" {
		reason = status.Code(answer).String()
	}
	if e.failures != nil {
		// Without its end: OpenTelemetry drops what is counted under a context that has ended, as it has in a call that took too long.
		e.failures.Add(context.WithoutCancel(ctx), 1, metric.WithAttributes(attribute.String("rpc.method", method), attribute.String("reason", reason)))
	}
	if cause != nil {
		e.logCause(ctx, method, reason, cause)
	}
	return answer
}

// classify splits err into what the caller sees and what only we may see.
func classify(ctx context.Context, err error) (answer, cause error) {
	if known, ok := errors.AsType[*apierror.Error](err); ok {
		if err != error(known) || known.Reason == apierror.ReasonInternal { //nolint:errorlint // the question is whether it is wrapped
			cause = err
		}
		return known, cause
	}
	var carrier interface{ GRPCStatus() *status.Status } // from grpc itself, or from the service behind a gateway, which has an edge of its own
	if errors.As(err, &carrier) {
		switch st := carrier.GRPCStatus(); st.Code() {
		case codes.DeadlineExceeded:
			return deadlineExceeded, nil
		case codes.Canceled:
			return canceled(ctx), nil
		case codes.OK, codes.Unknown, codes.Internal, codes.DataLoss:
			return internal, err
		default:
			return st.Err(), nil
		}
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return deadlineExceeded, nil
	case errors.Is(err, context.Canceled):
		return canceled(ctx), nil
	}
	return internal, err
}

var (
	internal         = apierror.New(apierror.ReasonInternal, "internal error; the server's log says more")
	deadlineExceeded = apierror.New(apierror.ReasonDeadlineExceeded, "took longer than the deadline; retry, or allow more time")
	gone             = apierror.New(apierror.ReasonCanceled, "canceled by the caller")
	stopping         = apierror.Unavailable(apierror.ReasonUnavailable, "the server is stopping; retry", time.Second)
)

// canceled tells a caller who went away from work that we ended ourselves.
func canceled(ctx context.Context) error {
	if ctx.Err() != nil {
		return gone
	}
	return stopping
}

// logCause logs at most one cause a second: in an outage every call has one.
func (e *edge) logCause(ctx context.Context, method, reason string, cause error) {
	now := time.Now().UnixNano()
	until := e.quietUntil.Load()
	if now < until || !e.quietUntil.CompareAndSwap(until, now+int64(time.Second)) {
		e.kept.Add(1)
		return
	}
	level := slog.LevelWarn
	if reason == string(apierror.ReasonInternal) {
		level = slog.LevelError
	}
	e.log.Log(ctx, level, "call failed", "method", method, "reason", reason, "err", cause, "also_failed", e.kept.Swap(0))
}

// panicked returns the answer to a call whose handler panicked, and logs where. Only the runtime's own words are logged: another value might hold
// what a user wrote.
func (e *edge) panicked(ctx context.Context, method string, value any) error {
	what := "value withheld"
	if err, ok := value.(runtime.Error); ok {
		what = err.Error()
	}
	e.log.ErrorContext(ctx, "handler panicked", "method", method, "err", what, "stack", string(debug.Stack()))
	return e.answer(ctx, method, internal)
}
