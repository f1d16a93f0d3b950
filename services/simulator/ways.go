package simulator

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	apiv1 "github.com/earshot/earshot/gen/earshot/api/v1"
	eventv1 "github.com/earshot/earshot/gen/earshot/event/v1"
	"github.com/earshot/earshot/services/internal/kafka"
	"github.com/earshot/earshot/services/internal/record"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

func (o Options) way() (way, error) {
	switch o.Mode {
	case "kafka":
		p, err := kafka.NewProducer(o.Kafka, o.Tel)
		if err != nil {
			return nil, err
		}
		return kafkaWay{p, o.Kafka.Topics, record.From("simulator")}, nil
	case "grpc":
		if o.GRPC == nil {
			return nil, errors.New("mode grpc needs a connection")
		}
		return grpcWay{apiv1.NewMessageServiceClient(o.GRPC)}, nil
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = callers
	return restWay{&http.Client{Transport: transport}, strings.TrimSuffix(o.RESTURL, "/")}, nil
}

// grpcWay goes through ingest.
type grpcWay struct{ client apiv1.MessageServiceClient }

func (w grpcWay) messages(ctx context.Context, in []*apiv1.SendMessageRequest) ([]*apiv1.SendResult, error) {
	resp, err := w.client.SendMessages(ctx, &apiv1.SendMessagesRequest{Messages: in})
	return resp.GetResults(), err
}

func (w grpcWay) views(ctx context.Context, in []*apiv1.RecordViewRequest) ([]*apiv1.SendResult, error) {
	resp, err := w.client.RecordViews(ctx, &apiv1.RecordViewsRequest{Views: in})
	return resp.GetResults(), err
}

func (w grpcWay) close() {}

// restWay goes through the gateway.
type restWay struct {
	client *http.Client
	url    string
}

func (w restWay) messages(ctx context.Context, in []*apiv1.SendMessageRequest) ([]*apiv1.SendResult, error) {
	var resp apiv1.SendMessagesResponse
	err := w.post(ctx, "/api/v1/messages:batch", &apiv1.SendMessagesRequest{Messages: in}, &resp)
	return resp.GetResults(), err
}

func (w restWay) views(ctx context.Context, in []*apiv1.RecordViewRequest) ([]*apiv1.SendResult, error) {
	var resp apiv1.RecordViewsResponse
	err := w.post(ctx, "/api/v1/views:batch", &apiv1.RecordViewsRequest{Views: in}, &resp)
	return resp.GetResults(), err
}

func (w restWay) post(ctx context.Context, path string, in, out proto.Message) error {
	body, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(in)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.url+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := w.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 8<<20))
	if err != nil {
		return fmt.Errorf("read the answer of %s: %w", path, err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s says %d: %.300s", path, resp.StatusCode, answer)
	}
	return protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(answer, out)
}

func (w restWay) close() { w.client.CloseIdleConnections() }

// kafkaWay writes the records that ingest would write.
type kafkaWay struct {
	out    *kafka.Producer
	topics kafka.Topics
	source record.Source
}

func (w kafkaWay) messages(ctx context.Context, in []*apiv1.SendMessageRequest) ([]*apiv1.SendResult, error) {
	recs := make([]kafka.Record, len(in))
	for i, m := range in {
		var err error
		if recs[i], err = record.NewMessage(w.topics.Messages.Name, w.source, &eventv1.Message{
			MessageId: m.GetMessageId(), ConversationId: m.GetConversationId(), SenderId: m.GetSenderId(), ReceiverId: m.GetReceiverId(),
			Content: m.GetContent(), CreatedAt: m.GetCreatedAt(), MessageType: "text",
		}, time.Now()); err != nil {
			return nil, err
		}
	}
	return w.produce(ctx, recs)
}

func (w kafkaWay) views(ctx context.Context, in []*apiv1.RecordViewRequest) ([]*apiv1.SendResult, error) {
	recs := make([]kafka.Record, len(in))
	for i, v := range in {
		var err error
		if recs[i], err = record.NewView(w.topics.Views.Name, w.source, &eventv1.MessageView{
			MessageId: v.GetMessageId(), ConversationId: v.GetConversationId(), UserId: v.GetUserId(), Status: v.GetStatus(), ViewedAt: v.GetViewedAt(),
		}, time.Now()); err != nil {
			return nil, err
		}
	}
	return w.produce(ctx, recs)
}

var acknowledged = &apiv1.SendResult{Status: "success"}

func (w kafkaWay) produce(ctx context.Context, recs []kafka.Record) ([]*apiv1.SendResult, error) {
	if err := w.out.Produce(ctx, recs...); err != nil {
		return nil, err // of some it may be untrue: their copies collapse
	}
	results := make([]*apiv1.SendResult, len(recs))
	for i := range results {
		results[i] = acknowledged
	}
	return results, nil
}

func (w kafkaWay) close() { w.out.Close() }
