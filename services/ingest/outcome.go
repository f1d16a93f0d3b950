package ingest

import (
	"errors"
	"time"

	apiv1 "github.com/earshot/earshot/gen/earshot/api/v1"
	"github.com/earshot/earshot/services/internal/apierror"
	"github.com/earshot/earshot/services/internal/kafka"
)

// The outcomes of a record, as results of batches and streams say them.
const (
	success = "success"
	refused = "refused" // will never be accepted like this
	unknown = "unknown" // send it again with the same message_id
)

var (
	unavailable = apierror.Unavailable(apierror.ReasonUnavailable, "no Kafka broker takes messages now; nothing was stored, retry later", 2*time.Second)
	unconfirmed = apierror.Unavailable(apierror.ReasonOutcomeUnknown, "outcome unknown, retry with the same message_id", time.Second)
	stopping    = apierror.Unavailable(apierror.ReasonUnavailable, "the server is stopping; go on elsewhere with the first message that was not acknowledged", time.Second)
	internal    = apierror.New(apierror.ReasonInternal, "internal error; the server's log says more")
	overfull    = &apierror.Error{
		Reason:     apierror.ReasonOverCapacity,
		Message:    "over capacity; nothing was stored, retry with backoff",
		RetryAfter: time.Second,
	}
)

// outcome returns what a caller sees of an error of the producer.
func outcome(err error) *apierror.Error {
	switch {
	case errors.Is(err, kafka.ErrBufferFull):
		return overfull
	case errors.Is(err, kafka.ErrUnacknowledged):
		return unconfirmed
	case errors.Is(err, kafka.ErrClosed):
		return unavailable
	}
	return internal // ErrRefused among them: no record of ours is too large, so a topic is missing or closed to us
}

// outcomeOf returns the outcome of a record that is not stored. What may succeed when sent again is "unknown", since "refused" is for good.
func outcomeOf(why apierror.Reason) string {
	switch why {
	case apierror.ReasonOutcomeUnknown, apierror.ReasonUnavailable, apierror.ReasonOverCapacity, apierror.ReasonInternal:
		return unknown
	}
	return refused
}

// result returns the outcome of an item: nil is success.
func result(messageID, conversationID string, bad *apierror.Error) *apiv1.SendResult {
	r := &apiv1.SendResult{Status: success, MessageId: messageID, ConversationId: conversationID}
	if bad != nil {
		r.Status, r.Error = outcomeOf(bad.Reason), bad.Proto()
	}
	return r
}
