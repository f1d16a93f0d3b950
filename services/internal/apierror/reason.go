package apierror

import (
	"net/http"

	"google.golang.org/grpc/codes"
)

// Domain is the domain of every ErrorInfo.
const Domain = "earshot"

// Reason says in one word why a call failed. It is the ErrorInfo's reason, and stable: programs may compare it.
type Reason string

// The reasons, in the order of the table of outcomes.
const (
	ReasonFieldRequired        Reason = "FIELD_REQUIRED"
	ReasonFieldTooLong         Reason = "FIELD_TOO_LONG"
	ReasonFieldInvalid         Reason = "FIELD_INVALID"
	ReasonTimeOutOfRange       Reason = "TIME_OUT_OF_RANGE"
	ReasonInvalidUTF8          Reason = "INVALID_UTF8"
	ReasonBadProtobuf          Reason = "BAD_PROTOBUF"
	ReasonBodyTooLarge         Reason = "BODY_TOO_LARGE"
	ReasonJSONInvalid          Reason = "JSON_INVALID"
	ReasonJSONTooDeep          Reason = "JSON_TOO_DEEP"
	ReasonDuplicateField       Reason = "DUPLICATE_FIELD"
	ReasonUnknownField         Reason = "UNKNOWN_FIELD"
	ReasonTokenInvalid         Reason = "TOKEN_INVALID"
	ReasonTokenExpired         Reason = "TOKEN_EXPIRED"
	ReasonUnsupportedEncoding  Reason = "UNSUPPORTED_ENCODING"
	ReasonUnsupportedMediaType Reason = "UNSUPPORTED_MEDIA_TYPE"
	ReasonNotFound             Reason = "NOT_FOUND"
	ReasonMethodNotAllowed     Reason = "METHOD_NOT_ALLOWED"
	ReasonRequestTimeout       Reason = "REQUEST_TIMEOUT"
	ReasonDeadlineExceeded     Reason = "DEADLINE_EXCEEDED"
	ReasonCanceled             Reason = "CANCELED"
	ReasonRateLimited          Reason = "RATE_LIMITED"
	ReasonTooManyStreams       Reason = "TOO_MANY_STREAMS"
	ReasonSlowSubscriber       Reason = "SLOW_SUBSCRIBER"
	ReasonOverCapacity         Reason = "OVER_CAPACITY"
	ReasonUnavailable          Reason = "UNAVAILABLE"
	ReasonOutcomeUnknown       Reason = "OUTCOME_UNKNOWN"
	ReasonUnauthenticated      Reason = "UNAUTHENTICATED"
	ReasonPermissionDenied     Reason = "PERMISSION_DENIED"
	ReasonInternal             Reason = "INTERNAL"
)

// outcomes is the one table of what a reason means over gRPC and over REST.
var outcomes = map[Reason]struct {
	code codes.Code
	http int
}{
	ReasonFieldRequired:        {codes.InvalidArgument, http.StatusBadRequest},
	ReasonFieldTooLong:         {codes.InvalidArgument, http.StatusBadRequest},
	ReasonFieldInvalid:         {codes.InvalidArgument, http.StatusBadRequest},
	ReasonTimeOutOfRange:       {codes.InvalidArgument, http.StatusBadRequest},
	ReasonInvalidUTF8:          {codes.InvalidArgument, http.StatusBadRequest},
	ReasonBadProtobuf:          {codes.InvalidArgument, http.StatusBadRequest},
	ReasonBodyTooLarge:         {codes.ResourceExhausted, http.StatusRequestEntityTooLarge},
	ReasonJSONInvalid:          {codes.InvalidArgument, http.StatusBadRequest},
	ReasonJSONTooDeep:          {codes.InvalidArgument, http.StatusBadRequest},
	ReasonDuplicateField:       {codes.InvalidArgument, http.StatusBadRequest},
	ReasonUnknownField:         {codes.InvalidArgument, http.StatusBadRequest},
	ReasonTokenInvalid:         {codes.InvalidArgument, http.StatusBadRequest},
	ReasonTokenExpired:         {codes.OutOfRange, http.StatusBadRequest},
	ReasonUnsupportedEncoding:  {codes.InvalidArgument, http.StatusUnsupportedMediaType},
	ReasonUnsupportedMediaType: {codes.InvalidArgument, http.StatusUnsupportedMediaType},
	ReasonNotFound:             {codes.NotFound, http.StatusNotFound},
	ReasonMethodNotAllowed:     {codes.Unimplemented, http.StatusMethodNotAllowed},
	ReasonRequestTimeout:       {codes.DeadlineExceeded, http.StatusRequestTimeout},
	ReasonDeadlineExceeded:     {codes.DeadlineExceeded, http.StatusGatewayTimeout},
	ReasonCanceled:             {codes.Canceled, 499}, // nginx's "client closed request"; nobody is left to read it
	ReasonRateLimited:          {codes.ResourceExhausted, http.StatusTooManyRequests},
	ReasonTooManyStreams:       {codes.ResourceExhausted, http.StatusTooManyRequests},
	ReasonSlowSubscriber:       {codes.ResourceExhausted, http.StatusTooManyRequests},
	ReasonOverCapacity:         {codes.ResourceExhausted, http.StatusTooManyRequests},
	ReasonUnavailable:          {codes.Unavailable, http.StatusServiceUnavailable},
	ReasonOutcomeUnknown:       {codes.Unavailable, http.StatusServiceUnavailable},
	ReasonUnauthenticated:      {codes.Unauthenticated, http.StatusUnauthorized},
	ReasonPermissionDenied:     {codes.PermissionDenied, http.StatusForbidden},
	ReasonInternal:             {codes.Internal, http.StatusInternalServerError},
}

// Code returns the gRPC code of r; INTERNAL when r is none of this package's reasons.
func (r Reason) Code() codes.Code {
	if o, ok := outcomes[r]; ok {
		return o.code
	}
	return codes.Internal
}

// HTTPStatus returns the HTTP status of r; 500 when r is none of this package's reasons.
func (r Reason) HTTPStatus() int {
	if o, ok := outcomes[r]; ok {
		return o.http
	}
	return http.StatusInternalServerError
}
