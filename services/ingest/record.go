package ingest

import (
	"time"

	"google.golang.org/protobuf/proto"

	eventv1 "github.com/earshot/earshot/gen/earshot/event/v1"
	"github.com/earshot/earshot/services/internal/apierror"
	"github.com/earshot/earshot/services/internal/kafka"
)

// Headers that are the same in every record: CloudEvents 1.0 in Kafka's binary mode. The producer adds the trace.
var (
	contentType = kafka.Header{Key: "content-type", Value: []byte("application/protobuf")}
	specVersion = kafka.Header{Key: "ce_specversion", Value: []byte("1.0")}
	source      = kafka.Header{Key: "ce_source", Value: []byte("/earshot/ingest")}
	messageType = kafka.Header{Key: "ce_type", Value: []byte("earshot.event.v1.Message")}
	viewType    = kafka.Header{Key: "ce_type", Value: []byte("earshot.event.v1.MessageView")}
)

// messageRecord returns m as it goes into the log: keyed by conversation, stamped with the moment of acceptance.
func messageRecord(topic string, m *eventv1.Message, accepted time.Time) (kafka.Record, *apierror.Error) {
	return event(topic, m, m.GetConversationId(), messageType, m.GetMessageId(), m.GetCreatedAt().AsTime(), accepted)
}

// viewRecord returns v as it goes into the log.
func viewRecord(topic string, v *eventv1.MessageView, accepted time.Time) (kafka.Record, *apierror.Error) {
	id := v.GetMessageId() + "/" + v.GetUserId() + "/" + v.GetStatus() // the same receipt, the same event
	return event(topic, v, v.GetConversationId(), viewType, id, v.GetViewedAt().AsTime(), accepted)
}

func event(topic string, m proto.Message, key string, kind kafka.Header, id string, at, accepted time.Time) (kafka.Record, *apierror.Error) {
	value, err := proto.Marshal(m)
	if err != nil { // only callers inside of the process get so far with text that is not UTF-8
		return kafka.Record{}, apierror.Field("request", nil, "valid UTF-8", apierror.ReasonInvalidUTF8)
	}
	headers := make([]kafka.Header, 0, 8) // two more for the trace
	headers = append(headers, contentType, specVersion, source, kind,
		kafka.Header{Key: "ce_id", Value: []byte(id)},
		kafka.Header{Key: "ce_time", Value: at.UTC().AppendFormat(make([]byte, 0, len(stampLayout)), stampLayout)})
	return kafka.Record{
		Topic:     topic,
		Partition: kafka.AnyPartition,
		Timestamp: accepted,
		Key:       []byte(key),
		Value:     value,
		Headers:   headers,
	}, nil
}
