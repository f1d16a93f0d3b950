package ingest

import (
	"time"

	eventv1 "github.com/earshot/earshot/gen/earshot/event/v1"
	"github.com/earshot/earshot/services/internal/apierror"
	"github.com/earshot/earshot/services/internal/kafka"
	"github.com/earshot/earshot/services/internal/record"
)

var source = record.From("ingest")

// messageRecord returns m as it goes into the log.
func messageRecord(topic string, m *eventv1.Message, accepted time.Time) (kafka.Record, *apierror.Error) {
	return written(record.NewMessage(topic, source, m, accepted))
}

// viewRecord returns v as it goes into the log.
func viewRecord(topic string, v *eventv1.MessageView, accepted time.Time) (kafka.Record, *apierror.Error) {
	return written(record.NewView(topic, source, v, accepted))
}

func written(r kafka.Record, err error) (kafka.Record, *apierror.Error) {
	if err != nil { // only callers inside of the process get so far with text that is not UTF-8
		return kafka.Record{}, apierror.Field("request", nil, "valid UTF-8", apierror.ReasonInvalidUTF8)
	}
	return r, nil
}
