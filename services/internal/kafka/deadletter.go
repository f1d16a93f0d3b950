package kafka

import (
	"strconv"
	"time"
)

const deadLetterSuffix = ".dlq"

// Headers of a dead letter, beside those of the record itself.
const (
	HeaderDeadTopic     = "earshot-dlq-topic"     // topic the record was read from
	HeaderDeadPartition = "earshot-dlq-partition" // its partition
	HeaderDeadOffset    = "earshot-dlq-offset"    // its offset
	HeaderDeadTime      = "earshot-dlq-time"      // its own timestamp, RFC 3339
	HeaderDeadService   = "earshot-dlq-service"   // who could not handle it
	HeaderDeadReason    = "earshot-dlq-reason"    // a constant such as BAD_PROTOBUF
	HeaderDeadError     = "earshot-dlq-error"     // what failed, without content
)

// DeadLetter returns the record that keeps r, byte by byte and in the same partition, in its topic's dead-letter topic. err must not hold content.
func DeadLetter(r Record, service, reason string, err error) Record {
	text := ""
	if err != nil {
		text = err.Error()
	}
	headers := make([]Header, 0, len(r.Headers)+7)
	headers = append(headers, r.Headers...)
	headers = append(headers,
		Header{HeaderDeadTopic, []byte(r.Topic)},
		Header{HeaderDeadPartition, strconv.AppendInt(nil, int64(r.Partition), 10)},
		Header{HeaderDeadOffset, strconv.AppendInt(nil, r.Offset, 10)},
		Header{HeaderDeadTime, []byte(r.Timestamp.UTC().Format(time.RFC3339Nano))},
		Header{HeaderDeadService, []byte(service)},
		Header{HeaderDeadReason, []byte(reason)},
		Header{HeaderDeadError, []byte(text)},
	)
	return Record{Topic: r.Topic + deadLetterSuffix, Partition: r.Partition, Key: r.Key, Value: r.Value, Headers: headers}
}
