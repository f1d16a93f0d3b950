package ingest

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	apiv1 "github.com/earshot/earshot/gen/earshot/api/v1"
	"github.com/earshot/earshot/services/internal/apierror"
	"github.com/earshot/earshot/services/internal/ident"
	"github.com/earshot/earshot/services/internal/kafka"
	"github.com/earshot/earshot/services/internal/telemetry"
)

// details returns the ErrorInfo and the RetryInfo of err.
func details(err error) (info *errdetails.ErrorInfo, retry *errdetails.RetryInfo) {
	for _, d := range status.Convert(err).Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			info = d
		case *errdetails.RetryInfo:
			retry = d
		}
	}
	return info, retry
}

func TestOutcomeUnknown(t *testing.T) {
	r := start(t, func(s *settings) {
		s.server.CallDeadline = 500 * time.Millisecond
		s.ingest.AckWait = 500 * time.Millisecond
	})
	r.until("connected", func() bool { _, err := r.SendMessage(t.Context(), message("first")); return err == nil })
	before := r.counted("earshot.ingest.messages", "reason", "OUTCOME_UNKNOWN")
	release := r.stall()
	_, err := r.SendMessage(t.Context(), message("second"))
	if status.Code(err) != codes.Unavailable || apierror.ReasonOf(err) != apierror.ReasonOutcomeUnknown {
		t.Fatalf("got %v", err)
	}
	info, retry := details(err)
	if retry.GetRetryDelay().AsDuration() <= 0 {
		t.Error("no RetryInfo")
	}
	id, conversation := info.GetMetadata()["message_id"], info.GetMetadata()["conversation_id"]
	if _, err := ident.Parse(id); err != nil || conversation == "" {
		t.Fatalf("metadata %v", info.GetMetadata())
	}
	batch, err := r.SendMessages(t.Context(), &apiv1.SendMessagesRequest{Messages: []*apiv1.SendMessageRequest{message("third")}})
	if err != nil {
		t.Fatal(err)
	}
	if got := batch.GetResults()[0]; got.GetStatus() != "unknown" || got.GetMessageId() == "" || got.GetError().GetMessage() != "outcome unknown, retry with the same message_id" {
		t.Errorf("batch: %v", got)
	}
	stream, err := r.StreamMessages(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&apiv1.StreamMessagesRequest{Message: message("fourth")}); err != nil {
		t.Fatal(err)
	}
	if res, err := stream.Recv(); err != nil || res.GetResult().GetStatus() != "unknown" {
		t.Errorf("stream: %v, %v", res, err)
	}
	_ = stream.CloseSend()
	if n := r.counted("earshot.ingest.messages", "reason", "OUTCOME_UNKNOWN") - before; n != 3 {
		t.Errorf("counted %d unknown outcomes, want 3", n)
	}
	release()

	// The retry is the same message.
	in := message("second")
	in.MessageId = id
	r.until("stored", func() bool { _, err := r.SendMessage(t.Context(), in); return err == nil })
	copies := map[string]bool{}
	for _, rec := range r.records(r.cfg.Topics.Messages) {
		if rec.Header("ce_id") == id {
			copies[string(rec.Value)] = true
		}
	}
	if len(copies) != 1 {
		t.Errorf("%d different records of one message", len(copies))
	}
}

func TestNoBroker(t *testing.T) {
	r := start(t, nil)
	if _, err := r.SendMessage(t.Context(), message("first")); err != nil {
		t.Fatal(err)
	}
	r.cluster.Close()
	r.until("down", func() bool { return r.service.Ready(t.Context()) != nil })
	began := time.Now()
	_, err := r.SendMessage(t.Context(), message("second"))
	if status.Code(err) != codes.Unavailable || apierror.ReasonOf(err) != apierror.ReasonUnavailable || time.Since(began) > 5*time.Second {
		t.Errorf("after %v: %v", time.Since(began), err)
	}
	if _, retry := details(err); retry.GetRetryDelay().AsDuration() <= 0 {
		t.Error("no RetryInfo")
	}
	if _, err := r.SendMessages(t.Context(), &apiv1.SendMessagesRequest{Messages: []*apiv1.SendMessageRequest{message("x")}}); apierror.ReasonOf(err) != apierror.ReasonUnavailable {
		t.Errorf("batch: %v", err)
	}
	stream, err := r.StreamMessages(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_ = stream.Send(&apiv1.StreamMessagesRequest{Message: message("x")})
	if res, err := stream.Recv(); err != nil || res.GetResult().GetStatus() != "unknown" || res.GetResult().GetError().GetCode() != int32(codes.Unavailable) {
		t.Errorf("stream: %v, %v", res, err)
	}
	_ = stream.CloseSend()
	r.until("unhealthy", func() bool {
		res, err := healthv1.NewHealthClient(r.conn).Check(t.Context(), &healthv1.HealthCheckRequest{Service: "earshot.api.v1.MessageService"})
		return err == nil && res.GetStatus() == healthv1.HealthCheckResponse_NOT_SERVING
	})
}

// full answers as the producer does in these states.
type full struct{ err error }

func (f full) Send(_ context.Context, r kafka.Record, done func(kafka.Record, error)) { done(r, f.err) }

func (full) Missing(context.Context, []kafka.Topic) ([]string, error) {
	return []string{"chat.messages"}, nil
}

func TestProducerErrors(t *testing.T) {
	for _, tt := range []struct {
		err    error
		code   codes.Code
		reason apierror.Reason
		result string
	}{
		{kafka.ErrBufferFull, codes.ResourceExhausted, apierror.ReasonOverCapacity, "unknown"},
		{kafka.ErrUnacknowledged, codes.Unavailable, apierror.ReasonOutcomeUnknown, "unknown"},
		{kafka.ErrClosed, codes.Unavailable, apierror.ReasonUnavailable, "unknown"},
		{kafka.ErrRefused, codes.Internal, apierror.ReasonInternal, "unknown"},
	} {
		s := New(DefaultConfig(), full{tt.err}, full{}, telemetry.Nop())
		_, err := s.SendMessage(t.Context(), message("x"))
		if bad, ok := errors.AsType[*apierror.Error](err); !ok || bad.Reason != tt.reason || bad.Reason.Code() != tt.code {
			t.Errorf("%v: got %v", tt.err, err)
		}
		batch, err := s.SendMessages(t.Context(), &apiv1.SendMessagesRequest{Messages: []*apiv1.SendMessageRequest{message("x"), nil}})
		if err != nil {
			t.Fatal(err)
		}
		if got := batch.GetResults()[0]; got.GetStatus() != tt.result || got.GetMessageId() == "" {
			t.Errorf("%v: got %v", tt.err, got)
		}
		if got := batch.GetResults()[1]; got.GetStatus() != "refused" {
			t.Errorf("an empty item: got %v", got)
		}
	}
}

func TestReadyNamesMissingTopics(t *testing.T) {
	s := New(DefaultConfig(), full{}, full{}, telemetry.Nop())
	if err := s.Ready(t.Context()); err == nil {
		t.Error("ready before brokers were asked")
	}
	s.probe(t.Context())
	if err := s.Ready(t.Context()); err == nil || err.Error() != "brokers lack the topics chat.messages; create them with earshot topics apply" {
		t.Errorf("got %v", err)
	}
}

func TestConfigNamesEveryFault(t *testing.T) {
	if err := DefaultConfig().Validate(); err != nil {
		t.Error(err)
	}
	err := Config{Retention: time.Minute}.Validate()
	for _, name := range []string{"retention: got 1m0s", "stream_in_flight: got 0", "max_batch_bytes: got 0", "ack_wait: got 0s", "probe_every: got 0s"} {
		if err == nil || !strings.Contains(err.Error(), "ingest."+name) {
			t.Errorf("%v lacks %s", err, name)
		}
	}
}
