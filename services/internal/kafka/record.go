package kafka

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	ck "github.com/confluentinc/confluent-kafka-go/v2/kafka"
	"go.opentelemetry.io/otel/propagation"
)

// AnyPartition lets the key choose a record's partition.
const AnyPartition int32 = -1

// TopicPartition names a partition.
type TopicPartition struct {
	Topic     string
	Partition int32
}

func (tp TopicPartition) String() string { return tp.Topic + "/" + strconv.Itoa(int(tp.Partition)) }

// Header is one header of a record.
type Header struct {
	Key   string
	Value []byte
}

// Record is a record read or to be written. Key and Value are not shared with the client: they stay valid.
type Record struct {
	Topic     string
	Partition int32 // AnyPartition to be chosen by Key
	Offset    int64 // of a record that was read or acknowledged
	Timestamp time.Time
	Key       []byte
	Value     []byte
	Headers   []Header
}

// TopicPartition returns where r lies.
func (r *Record) TopicPartition() TopicPartition { return TopicPartition{r.Topic, r.Partition} }

// Header returns the last value of that header, or "".
func (r *Record) Header(key string) string {
	for i := len(r.Headers) - 1; i >= 0; i-- {
		if r.Headers[i].Key == key {
			return string(r.Headers[i].Value)
		}
	}
	return ""
}

// Errors of producing. Compare with errors.Is.
var (
	// ErrBufferFull: nothing was sent; retry later.
	ErrBufferFull = errors.New("producer buffer is full")
	// ErrUnacknowledged: the record may or may not be in the log, or its topic is not there yet. Try again.
	ErrUnacknowledged = errors.New("not acknowledged, outcome unknown")
	// ErrRefused: the brokers will never take this record, such as one that is too large.
	ErrRefused = errors.New("refused by the broker")
	// ErrClosed: the producer was closed.
	ErrClosed = errors.New("closed")
)

func produceError(err error) error {
	var kerr ck.Error
	if !errors.As(err, &kerr) {
		return fmt.Errorf("%w: %w", ErrUnacknowledged, err)
	}
	switch kerr.Code() {
	case ck.ErrQueueFull:
		return fmt.Errorf("%w: %w", ErrBufferFull, err)
	case ck.ErrMsgSizeTooLarge, ck.ErrInvalidMsg, ck.ErrInvalidMsgSize, ck.ErrRecordListTooLarge, ck.ErrInvalidRecord, ck.ErrInvalidTimestamp,
		ck.ErrTopicException, ck.ErrTopicAuthorizationFailed:
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return fmt.Errorf("%w: %w", ErrUnacknowledged, err)
}

func fromClient(m *ck.Message) Record {
	r := Record{Partition: m.TopicPartition.Partition, Offset: int64(m.TopicPartition.Offset), Timestamp: m.Timestamp, Key: m.Key, Value: m.Value}
	if m.TopicPartition.Topic != nil {
		r.Topic = *m.TopicPartition.Topic
	}
	if len(m.Headers) > 0 {
		r.Headers = make([]Header, len(m.Headers))
		for i, h := range m.Headers {
			r.Headers[i] = Header{h.Key, h.Value}
		}
	}
	return r
}

// propagator writes W3C trace context, whatever the process has configured: the log outlives a setting.
var propagator = propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{})

// carrier adapts headers to the propagator.
type carrier struct{ headers *[]Header }

func (c carrier) Get(key string) string {
	r := Record{Headers: *c.headers}
	return r.Header(key)
}

func (c carrier) Set(key, value string) {
	for i := range *c.headers {
		if (*c.headers)[i].Key == key {
			(*c.headers)[i].Value = []byte(value)
			return
		}
	}
	*c.headers = append(*c.headers, Header{key, []byte(value)})
}

func (c carrier) Keys() []string {
	keys := make([]string, 0, len(*c.headers))
	for _, h := range *c.headers {
		keys = append(keys, h.Key)
	}
	return keys
}

// Context returns ctx with the trace context that r carries, if any.
func Context(ctx context.Context, r *Record) context.Context {
	return propagator.Extract(ctx, carrier{&r.Headers})
}
