package ingest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"

	apiv1 "github.com/earshot/earshot/gen/earshot/api/v1"
	eventv1 "github.com/earshot/earshot/gen/earshot/event/v1"
	"github.com/earshot/earshot/services/internal/apierror"
	"github.com/earshot/earshot/services/internal/kafka"
	"github.com/earshot/earshot/services/internal/server"
)

// checkedMessage checks an item of a batch or a stream, which interceptors leave to us, and returns its record.
func (s *Service) checkedMessage(in *apiv1.SendMessageRequest, backfill bool, accepted time.Time) (*eventv1.Message, kafka.Record, *apierror.Error) {
	if in == nil {
		in = &apiv1.SendMessageRequest{}
	}
	if bad := asRefusal(apierror.Validate(in)); bad != nil {
		return nil, kafka.Record{}, bad
	}
	m, bad := s.rules.message(in, backfill, accepted)
	if bad != nil {
		return nil, kafka.Record{}, bad
	}
	r, bad := messageRecord(s.cfg.Topics.Messages.Name, m, accepted)
	return m, r, bad
}

func (s *Service) checkedView(in *apiv1.RecordViewRequest, accepted time.Time) (*eventv1.MessageView, kafka.Record, *apierror.Error) {
	if bad := asRefusal(apierror.Validate(in)); bad != nil {
		return nil, kafka.Record{}, bad
	}
	return s.viewRecord(in, accepted)
}

// asRefusal returns err as an API error; one of another kind is a fault of ours.
func asRefusal(err error) *apierror.Error {
	if err == nil {
		return nil
	}
	if bad, ok := errors.AsType[*apierror.Error](err); ok {
		return bad
	}
	return internal
}

// StreamMessages stores messages as they come and acknowledges each, in order. At most StreamInFlight wait for Kafka; then it reads no further, and
// flow control slows the client. A bad message is answered and the stream goes on. When the client has closed its side, the rest is acknowledged.
func (s *Service) StreamMessages(stream grpc.BidiStreamingServer[apiv1.StreamMessagesRequest, apiv1.StreamMessagesResponse]) error {
	p := &pipe{s: s, stream: stream, slots: make(chan struct{}, s.cfg.StreamInFlight), items: make(chan *item, s.cfg.StreamInFlight)}
	go p.read() // ends with the stream: its Recv does when we return
	return p.acknowledge(stream.Context())
}

// pipe is one stream: read puts items in, acknowledge takes them out in order.
type pipe struct {
	s      *Service
	stream grpc.BidiStreamingServer[apiv1.StreamMessagesRequest, apiv1.StreamMessagesResponse]
	slots  chan struct{} // one is held by each item from before it is read until it is answered
	items  chan *item    // never full: as many as slots

	mu     sync.Mutex // held while an item is sent and queued, so that close leaves none behind
	closed bool
	err    error // why reading ended; nil when the client closed its side. Written before items is closed
}

// item is one message under way.
type item struct {
	messageID, conversationID string

	bad   *apierror.Error // refused; acked is not used then
	acked chan error
	began time.Time
	bytes int
}

// read takes messages until the client closes its side or the stream ends.
func (p *pipe) read() {
	for {
		select {
		case p.slots <- struct{}{}:
		case <-p.stream.Context().Done():
			p.close(p.stream.Context().Err())
			return
		}
		in, err := p.stream.Recv()
		bad, unreadable := errors.AsType[*apierror.Error](err)
		switch {
		case errors.Is(err, io.EOF):
			p.close(nil)
			return
		case err != nil && !unreadable:
			p.close(err)
			return
		}
		if !p.take(in.GetMessage(), bad) {
			return
		}
	}
}

// take sends one message to Kafka; bad is why it could not even be read. It returns false once the pipe is closed: nothing is sent then.
func (p *pipe) take(in *apiv1.SendMessageRequest, bad *apierror.Error) bool {
	it := &item{messageID: in.GetMessageId(), conversationID: in.GetConversationId(), bad: bad}
	var r kafka.Record
	if bad == nil {
		it.bad = p.s.open()
	}
	if it.bad == nil {
		var m *eventv1.Message
		if m, r, it.bad = p.s.checkedMessage(in, false, time.Now()); it.bad == nil {
			it.messageID, it.conversationID = m.GetMessageId(), m.GetConversationId()
		} else {
			it.bad = it.bad.Within("message")
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	if it.bad == nil {
		it.acked, it.began, it.bytes = make(chan error, 1), time.Now(), len(r.Value)
		p.s.out.Send(p.stream.Context(), r, func(_ kafka.Record, err error) { it.acked <- err })
	}
	p.items <- it
	return true
}

// close ends the intake; what was taken is still answered.
func (p *pipe) close(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		p.closed, p.err = true, err
		close(p.items)
	}
}

// acknowledge answers the items in order until the intake has ended and all are answered.
func (p *pipe) acknowledge(ctx context.Context) error {
	draining := server.Draining(ctx)
	for sequence := int32(1); ; sequence++ {
		var it *item
		var more bool
		select {
		case it, more = <-p.items:
		case <-draining:
			p.close(stopping)
			draining = nil
			it, more = <-p.items
		}
		if !more {
			return p.err
		}
		if it.bad == nil {
			it.bad = p.s.await(ctx, it)
		} else {
			p.s.metrics.messages.failed(ctx, it.bad.Reason)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		answer := &apiv1.StreamMessagesResponse{Sequence: sequence, Result: result(it.messageID, it.conversationID, it.bad)}
		if err := p.stream.Send(answer); err != nil {
			return fmt.Errorf("acknowledge message %d of a stream: %w", sequence, err)
		}
		<-p.slots
	}
}

// await returns nil once the item is acknowledged, or why it is not.
func (s *Service) await(ctx context.Context, it *item) *apierror.Error {
	var err error
	select {
	case err = <-it.acked:
	default: // only who must wait pays for a timer
		late := time.NewTimer(time.Until(it.began.Add(s.cfg.AckWait)))
		select {
		case err = <-it.acked:
		case <-late.C:
			err = kafka.ErrUnacknowledged
		case <-ctx.Done():
			err = kafka.ErrUnacknowledged
		}
		late.Stop()
	}
	if err == nil {
		s.acked(it.began, &s.metrics.messages, it.bytes, 1)
		return nil
	}
	answer := outcome(err)
	if answer.Reason == apierror.ReasonInternal {
		s.tel.Log.ErrorContext(ctx, "message of a stream is not stored", "message_id", it.messageID, "conversation_id", it.conversationID, "err", err)
	}
	s.metrics.messages.failed(ctx, answer.Reason)
	return answer
}
