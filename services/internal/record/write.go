package record

import (
	"time"

	eventv1 "github.com/earshot/earshot/gen/earshot/event/v1"
	"github.com/earshot/earshot/services/internal/kafka"
	"google.golang.org/protobuf/proto"
)

// Headers that are the same in every record: CloudEvents 1.0 in Kafka's binary mode. The producer adds the trace.
var (
	contentType = kafka.Header{Key: "content-type", Value: []byte("application/protobuf")}
	specVersion = kafka.Header{Key: "ce_specversion", Value: []byte("1.0")}
	messageType = kafka.Header{Key: "ce_type", Value: []byte("earshot.event.v1.Message")}
	viewType    = kafka.Header{Key: "ce_type", Value: []byte("earshot.event.v1.MessageView")}
)

// timeLayout is RFC 3339 in milliseconds.
const timeLayout = "2006-01-02T15:04:05.000Z07:00"

// Source is the header that names who wrote a record.
type Source kafka.Header

// From returns the Source of a service: /earshot/<service>.
func From(service string) Source {
	return Source{Key: "ce_source", Value: []byte("/earshot/" + service)}
}

// NewMessage returns m as it goes into the log: keyed by conversation, stamped with the moment of acceptance. It fails only on text that is not UTF-8.
func NewMessage(topic string, from Source, m *eventv1.Message, accepted time.Time) (kafka.Record, error) {
	return event(topic, from, m, m.GetConversationId(), messageType, m.GetMessageId(), m.GetCreatedAt().AsTime(), accepted)
}

// NewView returns v as it goes into the log. It fails only on text that is not UTF-8.
func NewView(topic string, from Source, v *eventv1.MessageView, accepted time.Time) (kafka.Record, error) {
	id := v.GetMessageId() + "/" + v.GetUserId() + "/" + v.GetStatus() // the same receipt, the same event
	return event(topic, from, v, v.GetConversationId(), viewType, id, v.GetViewedAt().AsTime(), accepted)
}

func event(topic string, from Source, m proto.Message, key string, kind kafka.Header, id string, at, accepted time.Time) (kafka.Record, error) {
	value, err := proto.Marshal(m)
	if err != nil {
		return kafka.Record{}, &Error{InvalidUTF8, "", "text that is not valid UTF-8"}
	}
	headers := make([]kafka.Header, 0, 8) // two more for the trace
	headers = append(headers, contentType, specVersion, kafka.Header(from), kind,
		kafka.Header{Key: "ce_id", Value: []byte(id)},
		kafka.Header{Key: "ce_time", Value: at.UTC().AppendFormat(make([]byte, 0, len(timeLayout)), timeLayout)})
	return kafka.Record{
		Topic:     topic,
		Partition: kafka.AnyPartition,
		Timestamp: accepted,
		Key:       []byte(key),
		Value:     value,
		Headers:   headers,
	}, nil
}
