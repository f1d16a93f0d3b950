package processor

import (
	"fmt"
	"strconv"

	"github.com/cespare/xxhash/v2"
	eventv1 "github.com/earshot/earshot/gen/earshot/event/v1"
	"github.com/earshot/earshot/services/internal/kafka"
	"github.com/earshot/earshot/services/processor/recent"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// output is a record that a partition's state machine wants written.
type output struct {
	record    kafka.Record      // Timestamp is left to the writer
	processor string            // whose it is
	final     bool              // no dead letter can stand in for it: it is for another host, or is one
	trace     trace.SpanContext // of the message that led to it, if sampled
}

// routes says where results go: by the type of their value.
type routes map[protoreflect.FullName]kafka.Topic

// newRoutes maps every topic that hosts write.
func newRoutes(topics []kafka.Topic) (routes, error) {
	r := routes{}
	for _, t := range topics {
		name := t.Value().ProtoReflect().Descriptor().FullName()
		if other, ok := r[name]; ok {
			return nil, fmt.Errorf("topics %s and %s both hold %s: a result's type must tell its topic", other.Name, t.Name, name)
		}
		r[name] = t
	}
	return r, nil
}

// record returns the record of a result.
func (r routes) record(key string, value proto.Message) (kafka.Record, bool, error) {
	name := value.ProtoReflect().Descriptor().FullName()
	topic, ok := r[name]
	if !ok {
		return kafka.Record{}, false, fmt.Errorf("no topic holds %s; add it to the registry or to the host's outputs", name)
	}
	bytes, err := proto.MarshalOptions{Deterministic: true}.Marshal(value)
	if err != nil {
		return kafka.Record{}, false, fmt.Errorf("marshal %s: %w", name, err)
	}
	rec := kafka.Record{Topic: topic.Name, Partition: kafka.AnyPartition, Value: bytes}
	if key != "" {
		rec.Key = []byte(key)
	}
	if topic.Internal {
		if t, ok := value.(*eventv1.TermTotals); ok {
			rec.Partition = t.TermPartition
		}
		return rec, true, nil // what hosts send each other is no business of consumers, who are told by headers what a record is
	}
	rec.Headers = []kafka.Header{
		{Key: "content-type", Value: []byte("application/protobuf")},
		{Key: "ce_specversion", Value: []byte("1.0")},
		{Key: "ce_type", Value: []byte(name)},
		{Key: "ce_source", Value: []byte("/earshot/processor")},
		{Key: "ce_id", Value: []byte(eventID(value, bytes))},
	}
	return rec, false, nil
}

// eventID names what a record says: with the same source and id, CloudEvents consumers may drop one of two. So it holds the revision, and repeats of the
// same state share it.
func eventID(value proto.Message, bytes []byte) string {
	switch v := value.(type) {
	case *eventv1.Alert:
		return v.AlertId + "/" + strconv.Itoa(int(v.Revision))
	case *eventv1.ConversationMetrics:
		return fmt.Sprintf("%s/%d/%d", v.ConversationId, v.WindowEnd.AsTime().UnixMilli(), v.Revision)
	case *eventv1.UserActivity:
		return fmt.Sprintf("%s/%d/%d", v.UserId, v.WindowStart.AsTime().UnixMilli(), v.Revision)
	case *eventv1.Trend:
		return fmt.Sprintf("%s/%d/%d", v.Term, v.WindowStart.AsTime().UnixMilli(), v.Revision)
	}
	return fmt.Sprintf("%016x", xxhash.Sum64(bytes))
}

// partitionOf returns where a sender or another key of an internal topic belongs. Every host must agree, whatever its version: never change it.
func partitionOf(key string, partitions int) int32 {
	return int32(xxhash.Sum64String(key) % uint64(partitions)) //nolint:gosec // below the number of partitions
}

// noTrace is the context of what belongs to no trace.
var noTrace trace.SpanContext

// common is what the state machines of all partitions share.
type common struct {
	cfg              Config
	routes           routes
	senderTopic      string
	senderPartitions int
	write            func(output)
	problem          func(err error) // something that is a fault of a processor or of a registry; logged
}

// speaker is the part of a state machine through which its processors speak.
type speaker struct {
	*common
	stats  stats
	silent bool              // while rebuilding: what is said now was said before
	trace  trace.SpanContext // of the message at hand
}

// emit returns the function through which a processor hands over its results.
func (s *speaker) emit(processor string) recent.Emit {
	return func(key string, value proto.Message) {
		if s.silent {
			return
		}
		rec, internal, err := s.routes.record(key, value)
		if err != nil {
			s.problem(fmt.Errorf("processor %s: %w", processor, err))
			return
		}
		if s.stats.emitted == nil {
			s.stats.emitted = map[string]int64{}
		}
		s.stats.emitted[processor]++
		s.write(output{record: rec, processor: processor, final: internal, trace: s.trace})
	}
}
