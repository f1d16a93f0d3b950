package gateway

import (
	"context"
	"errors"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/earshot/earshot/services/internal/apierror"
)

// fail answers with err as a google.rpc.Status, the same object that gRPC callers get.
func (g *Gateway) fail(w http.ResponseWriter, r *http.Request, err error) {
	err = g.known(r, err)
	st := status.Convert(err)
	b, encodeErr := encode(nil, st.Proto())
	if encodeErr != nil {
		g.tel.Log.ErrorContext(r.Context(), "error is not sent", "err", encodeErr)
		b = []byte(`{"code":13,"message":"internal error","details":[]}`)
	}
	h := w.Header()
	h.Set("Content-Type", mediaJSON)
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Length", strconv.Itoa(len(b)))
	if wait := retryAfter(st); wait > 0 {
		h.Set("Retry-After", strconv.Itoa(int(math.Ceil(wait.Seconds()))))
	}
	w.WriteHeader(httpStatus(err))
	_, _ = w.Write(b) // the client left
}

// refuse is fail for what no service has seen, and counts it: services count their own.
func (g *Gateway) refuse(w http.ResponseWriter, r *http.Request, err error) {
	g.metrics.refused(r, apierror.ReasonOf(err))
	g.fail(w, r, err)
}

func httpStatus(err error) int {
	if reason := apierror.ReasonOf(err); reason != "" {
		return reason.HTTPStatus()
	}
	return runtime.HTTPStatusFromCode(status.Code(err))
}

func retryAfter(st *status.Status) time.Duration {
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.RetryInfo); ok {
			return info.GetRetryDelay().AsDuration()
		}
	}
	return 0
}

// known returns err as one with a reason. Services and this gateway give one; what has none comes from grpc itself or from the generated code, and
// may name what lies inside.
func (g *Gateway) known(r *http.Request, err error) error {
	if apierror.ReasonOf(err) != "" {
		return err
	}
	cause := err
	switch status.Code(err) {
	case codes.InvalidArgument: // the generated code, on a path, a query or Grpc-Timeout
		return apierror.New(apierror.ReasonFieldInvalid, status.Convert(err).Message())
	case codes.DeadlineExceeded:
		if r.Method == http.MethodPost {
			return unknownOutcome()
		}
		return apierror.New(apierror.ReasonDeadlineExceeded, "took longer than the deadline; retry, or allow more time")
	case codes.Canceled:
		return apierror.New(apierror.ReasonCanceled, "canceled by the caller")
	case codes.Unavailable: // the connection to a service of another process
		if r.Method == http.MethodPost {
			err = unknownOutcome() // the request may have got there
		} else {
			err = apierror.Unavailable(apierror.ReasonUnavailable, "the service behind is away; retry", time.Second)
		}
	case codes.ResourceExhausted:
		err = apierror.Exhausted(apierror.ReasonOverCapacity, "the service behind is at its bounds; retry with backoff", nil)
	default:
		err = apierror.New(apierror.ReasonInternal, "internal error; the server's log says more")
	}
	g.tel.Log.WarnContext(r.Context(), "call failed", "route", r.Pattern, "err", cause)
	return err
}

func unknownOutcome() error {
	return apierror.Unavailable(apierror.ReasonOutcomeUnknown, "outcome unknown, retry with the same message_id", time.Second)
}

// muxError is where grpc-gateway hands us what went wrong.
func (g *Gateway) muxError(_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, r *http.Request, err error) {
	if b, ok := r.Body.(*body); ok && b.fault != nil {
		g.refuse(w, r, b.fault)
		return
	}
	var routing *runtime.HTTPStatusError
	if errors.As(err, &routing) {
		err = apierror.Field("path", nil, "percent-encoded UTF-8", apierror.ReasonFieldInvalid)
	}
	g.fail(w, r, err)
}

// routingError is asked about a path that our routes have and grpc-gateway's do not: %-encoded literals.
func (g *Gateway) routingError(_ context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, r *http.Request, _ int) {
	g.refuse(w, r, notFound())
}

func notFound() error {
	return apierror.New(apierror.ReasonNotFound, "no such path; /openapi.json lists them")
}
