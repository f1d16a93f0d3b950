package ingest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	apiv1 "github.com/earshot/earshot/gen/earshot/api/v1"
	eventv1 "github.com/earshot/earshot/gen/earshot/event/v1"
	"github.com/earshot/earshot/services/internal/apierror"
	"github.com/earshot/earshot/services/internal/kafka"
	"github.com/earshot/earshot/services/internal/telemetry"
)

// appender writes records; *kafka.Producer is one. done is called exactly once and must not block.
type appender interface {
	Send(ctx context.Context, r kafka.Record, done func(kafka.Record, error))
}

// brokers tells whether the log is there; *kafka.Admin is one.
type brokers interface {
	Missing(ctx context.Context, topics []kafka.Topic) ([]string, error)
}

// Service is earshot.api.v1.MessageService. It is safe for concurrent use. The requests of its unary calls must have passed the interceptors of
// services/internal/server, which check them against their proto.
type Service struct {
	apiv1.UnimplementedMessageServiceServer

	cfg     Config
	rules   rules
	out     appender
	brokers brokers
	tel     telemetry.T
	metrics metrics

	state   atomic.Pointer[state]
	lastAck atomic.Int64 // Unix nanoseconds
}

// state is what the last probe of the brokers found.
type state struct{ err error }

var errNotAsked = errors.New("brokers were not asked yet")

// New returns a service that writes to out. It does nothing until it is called; Run keeps its readiness true.
func New(cfg Config, out appender, b brokers, tel telemetry.T) *Service {
	s := &Service{
		cfg:     cfg,
		rules:   rules{cfg.Retention, cfg.AllowBackfill},
		out:     out,
		brokers: b,
		tel:     tel,
		metrics: newMetrics(tel),
	}
	s.state.Store(&state{errNotAsked})
	return s
}

// Run asks the brokers every ProbeEvery whether they can take messages, until ctx ends; it returns nil then. While they can not, calls are refused at
// once (UNAVAILABLE) instead of waiting for an acknowledgement that will not come.
func (s *Service) Run(ctx context.Context) error {
	tick := time.NewTicker(s.cfg.ProbeEvery)
	defer tick.Stop()
	for {
		s.probe(ctx)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

const probeWait = 3 * time.Second

func (s *Service) probe(ctx context.Context) {
	asking, cancel := context.WithTimeout(ctx, probeWait)
	defer cancel()
	missing, err := s.brokers.Missing(asking, []kafka.Topic{s.cfg.Topics.Messages, s.cfg.Topics.Views})
	if ctx.Err() != nil {
		return
	}
	switch {
	case err != nil && time.Since(time.Unix(0, s.lastAck.Load())) < probeWait:
		err = nil // slow to answer us, but they do acknowledge
	case err != nil:
		err = fmt.Errorf("brokers do not answer: %s", strings.ReplaceAll(err.Error(), "\n", "; ")) // one line, for the log and the health page
	case len(missing) > 0:
		err = fmt.Errorf("brokers lack the topics %s; create them with earshot topics apply", strings.Join(missing, ", "))
	}
	was := s.state.Swap(&state{err}).err
	switch {
	case err != nil && (was == nil || errors.Is(was, errNotAsked)):
		s.tel.Log.WarnContext(ctx, "messages can not be taken", "err", err)
	case err == nil && was != nil && !errors.Is(was, errNotAsked):
		s.tel.Log.InfoContext(ctx, "messages can be taken again")
	}
}

// Ready returns nil when messages can be taken, as the last probe of Run found.
func (s *Service) Ready(context.Context) error { return s.state.Load().err }

// open returns the refusal of new records while brokers are known to be away. Before the first probe it lets them try.
func (s *Service) open() *apierror.Error {
	if err := s.state.Load().err; err != nil && !errors.Is(err, errNotAsked) {
		return unavailable
	}
	return nil
}

// SendMessage stores one message and answers once it is durable.
func (s *Service) SendMessage(ctx context.Context, in *apiv1.SendMessageRequest) (*apiv1.SendMessageResponse, error) {
	accepted := time.Now()
	m, bad := s.rules.message(in, false, accepted)
	if bad != nil {
		s.metrics.messages.failed(ctx, bad.Reason)
		return nil, bad
	}
	r, bad := messageRecord(s.cfg.Topics.Messages.Name, m, accepted)
	if bad != nil {
		s.metrics.messages.failed(ctx, bad.Reason)
		return nil, bad
	}
	if err := s.store(ctx, &s.metrics.messages, r, m.GetMessageId(), m.GetConversationId()); err != nil {
		return nil, err
	}
	return &apiv1.SendMessageResponse{Status: success, MessageId: m.GetMessageId(), ConversationId: m.GetConversationId()}, nil
}

// RecordView stores one receipt and answers once it is durable.
func (s *Service) RecordView(ctx context.Context, in *apiv1.RecordViewRequest) (*apiv1.RecordViewResponse, error) {
	accepted := time.Now()
	v, r, bad := s.viewRecord(in, accepted)
	if bad != nil {
		s.metrics.views.failed(ctx, bad.Reason)
		return nil, bad
	}
	if err := s.store(ctx, &s.metrics.views, r, v.GetMessageId(), v.GetConversationId()); err != nil {
		return nil, err
	}
	return &apiv1.RecordViewResponse{Status: success, MessageId: v.GetMessageId(), ConversationId: v.GetConversationId()}, nil
}

func (s *Service) viewRecord(in *apiv1.RecordViewRequest, accepted time.Time) (*eventv1.MessageView, kafka.Record, *apierror.Error) {
	v, bad := s.rules.view(in, accepted)
	if bad != nil {
		return nil, kafka.Record{}, bad
	}
	r, bad := viewRecord(s.cfg.Topics.Views.Name, v, accepted)
	return v, r, bad
}

// store writes one record and waits for its acknowledgement, as long as ctx allows, or AckWait when it sets no deadline.
func (s *Service) store(ctx context.Context, k *kind, r kafka.Record, messageID, conversationID string) error {
	if bad := s.open(); bad != nil {
		k.failed(ctx, bad.Reason)
		return bad
	}
	if err := ctx.Err(); err != nil {
		return err // nothing was sent
	}
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, s.cfg.AckWait)
		defer cancel()
	}
	size, began := len(r.Value), time.Now()
	acked := make(chan error, 1)
	s.out.Send(ctx, r, func(_ kafka.Record, err error) { acked <- err })
	var err error
	select {
	case err = <-acked:
	case <-ctx.Done():
		select {
		case err = <-acked: // both at once: then we do know
		default:
			err = kafka.ErrUnacknowledged
		}
	}
	if err == nil {
		s.acked(began, k, size, 1)
		return nil
	}
	return s.failed(ctx, k, err, messageID, conversationID)
}

// acked counts what the brokers have.
func (s *Service) acked(began time.Time, k *kind, bytes, records int) {
	now := time.Now()
	s.lastAck.Store(now.UnixNano())
	k.stored(bytes, records, now.Sub(began))
}

// failed counts an acknowledgement that did not come, and returns what the caller sees, around the cause.
func (s *Service) failed(ctx context.Context, k *kind, err error, messageID, conversationID string) error {
	answer := outcome(err)
	k.failed(ctx, answer.Reason)
	switch answer.Reason {
	case apierror.ReasonOutcomeUnknown: // with the ids, which we may have made, a caller can retry safely
		return answer.With("message_id", messageID).With("conversation_id", conversationID)
	case apierror.ReasonInternal:
		return fmt.Errorf("%w: %w", answer, err)
	}
	return answer
}
