package ingest

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/earshot/earshot/services/internal/apierror"
	"github.com/earshot/earshot/services/internal/telemetry"
)

// metrics counts messages and views apart.
type metrics struct{ messages, views kind }

// kind counts one kind of record. What every success needs is made once, so that counting allocates nothing.
type kind struct {
	records metric.Int64Counter
	bytes   metric.Int64Counter
	ack     metric.Float64Histogram

	success []metric.AddOption
	added   []metric.AddOption
	timed   []metric.RecordOption
}

func newMetrics(tel telemetry.T) metrics {
	return metrics{messages: newKind(tel, "message"), views: newKind(tel, "view")}
}

func newKind(tel telemetry.T, name string) kind {
	counter := func(what, unit, text string) metric.Int64Counter {
		c, err := tel.Meter.Int64Counter("earshot.ingest."+what, metric.WithUnit(unit), metric.WithDescription(text))
		if err != nil {
			tel.Log.Error("metric is not counted", "metric", "earshot.ingest."+what, "err", err)
		}
		return c
	}
	ack, err := tel.Meter.Float64Histogram("earshot.ingest.ack.duration", metric.WithUnit("s"),
		metric.WithDescription("From sending a record, or a batch, to Kafka until all of it is acknowledged."),
		metric.WithExplicitBucketBoundaries(.0005, .001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10))
	if err != nil {
		tel.Log.Error("metric is not counted", "metric", "earshot.ingest.ack.duration", "err", err)
	}
	set := metric.WithAttributeSet(attribute.NewSet(attribute.String("kind", name)))
	return kind{
		records: counter(name+"s", "{"+name+"}", "Records by outcome: success, refused, unknown; and the reason of the last two."),
		bytes:   counter("bytes", "By", "Bytes of acknowledged records, without keys and headers."),
		ack:     ack,
		success: []metric.AddOption{metric.WithAttributeSet(attribute.NewSet(attribute.String("outcome", success)))},
		added:   []metric.AddOption{set},
		timed:   []metric.RecordOption{set},
	}
}

func (k *kind) stored(bytes, records int, took time.Duration) {
	ctx := context.Background() // exemplars are not worth what a context costs here
	k.records.Add(ctx, int64(records), k.success...)
	k.bytes.Add(ctx, int64(bytes), k.added...)
	k.ack.Record(ctx, took.Seconds(), k.timed...)
}

// failed counts a record that is not stored, or not surely.
func (k *kind) failed(ctx context.Context, why apierror.Reason) {
	// Without its end: OpenTelemetry drops what is counted under a context that has ended, as it has when an acknowledgement is late.
	k.records.Add(context.WithoutCancel(ctx), 1, metric.WithAttributes(attribute.String("outcome", outcomeOf(why)), attribute.String("reason", string(why))))
}
