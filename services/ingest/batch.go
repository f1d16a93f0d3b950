package ingest

import (
	"context"
	"fmt"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	apiv1 "github.com/earshot/earshot/gen/earshot/api/v1"
	"github.com/earshot/earshot/services/internal/apierror"
	"github.com/earshot/earshot/services/internal/kafka"
)

// SendMessages stores a batch of messages: all are sent before any acknowledgement is awaited, and each has its own result.
func (s *Service) SendMessages(ctx context.Context, in *apiv1.SendMessagesRequest) (*apiv1.SendMessagesResponse, error) {
	if err := s.batchFits(in); err != nil {
		return nil, err
	}
	b := newBatch(s, &s.metrics.messages, len(in.GetMessages()))
	accepted := time.Now()
	for i, item := range in.GetMessages() {
		m, r, bad := s.checkedMessage(item, in.GetBackfill(), accepted)
		if bad != nil {
			b.refuse(ctx, i, item.GetMessageId(), item.GetConversationId(), within("messages", i, bad))
			continue
		}
		b.send(ctx, i, r, m.GetMessageId(), m.GetConversationId())
	}
	return &apiv1.SendMessagesResponse{Results: b.wait(ctx)}, nil
}

// RecordViews stores a batch of receipts, as SendMessages does messages.
func (s *Service) RecordViews(ctx context.Context, in *apiv1.RecordViewsRequest) (*apiv1.RecordViewsResponse, error) {
	if err := s.batchFits(in); err != nil {
		return nil, err
	}
	b := newBatch(s, &s.metrics.views, len(in.GetViews()))
	accepted := time.Now()
	for i, item := range in.GetViews() {
		if item == nil {
			item = &apiv1.RecordViewRequest{}
		}
		v, r, bad := s.checkedView(item, accepted)
		if bad != nil {
			b.refuse(ctx, i, item.GetMessageId(), item.GetConversationId(), within("views", i, bad))
			continue
		}
		b.send(ctx, i, r, v.GetMessageId(), v.GetConversationId())
	}
	return &apiv1.RecordViewsResponse{Results: b.wait(ctx)}, nil
}

func (s *Service) batchFits(in proto.Message) error {
	if bad := s.open(); bad != nil {
		return bad
	}
	if size := proto.Size(in); size > s.cfg.MaxBatchBytes {
		return apierror.Field("request", size, fmt.Sprintf("at most %d bytes of protobuf", s.cfg.MaxBatchBytes), apierror.ReasonBodyTooLarge)
	}
	return nil
}

func within(list string, i int, bad *apierror.Error) *apierror.Error {
	return bad.Within(fmt.Sprintf("%s[%d]", list, i))
}

// batch gathers the results of records that were sent together.
type batch struct {
	s     *Service
	kind  *kind
	began time.Time
	bytes int

	mu      sync.Mutex // guards what acknowledgements write
	results []*apiv1.SendResult
	errs    []error // of the producer, by item
	pending int
	sent    bool          // no more will be
	whole   chan struct{} // closed when nothing is pending
}

func newBatch(s *Service, k *kind, items int) *batch {
	return &batch{
		s: s, kind: k, began: time.Now(), results: make([]*apiv1.SendResult, items), errs: make([]error, items), whole: make(chan struct{}),
	}
}

// refuse gives item i its result.
func (b *batch) refuse(ctx context.Context, i int, messageID, conversationID string, bad *apierror.Error) {
	b.kind.failed(ctx, bad.Reason)
	b.results[i] = result(messageID, conversationID, bad)
}

// send writes the record of item i. Until it is acknowledged its result is "unknown".
func (b *batch) send(ctx context.Context, i int, r kafka.Record, messageID, conversationID string) {
	b.results[i] = &apiv1.SendResult{MessageId: messageID, ConversationId: conversationID}
	b.mu.Lock()
	b.pending++
	b.errs[i] = kafka.ErrUnacknowledged
	b.mu.Unlock()
	b.bytes += len(r.Value)
	b.s.out.Send(ctx, r, func(_ kafka.Record, err error) { b.acknowledge(i, err) })
}

func (b *batch) acknowledge(i int, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.errs[i] = err
	if b.pending--; b.pending == 0 && b.sent {
		close(b.whole)
	}
}

// wait returns the results once all are known, or when ctx ends.
func (b *batch) wait(ctx context.Context) []*apiv1.SendResult {
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, b.s.cfg.AckWait)
		defer cancel()
	}
	b.mu.Lock()
	b.sent = true
	if b.pending == 0 {
		close(b.whole)
	}
	b.mu.Unlock()
	select {
	case <-b.whole:
	case <-ctx.Done():
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	var stored int
	var first error
	for i, r := range b.results {
		if r.GetStatus() != "" {
			continue // refused
		}
		err := b.errs[i]
		if err == nil {
			r.Status = success
			stored++
			continue
		}
		answer := outcome(err)
		b.results[i] = result(r.GetMessageId(), r.GetConversationId(), answer)
		b.kind.failed(ctx, answer.Reason)
		if first == nil && answer.Reason == apierror.ReasonInternal {
			first = err
		}
	}
	if stored > 0 {
		b.s.acked(b.began, b.kind, b.bytes, stored)
	}
	if first != nil {
		b.s.tel.Log.ErrorContext(ctx, "batch is not wholly stored", "records", len(b.results), "stored", stored, "err", first)
	}
	return b.results
}
