package sink

import (
	"fmt"

	eventv1 "github.com/earshot/earshot/gen/earshot/event/v1"
	"github.com/earshot/earshot/services/internal/ident"
	"github.com/earshot/earshot/services/internal/kafka"
	"github.com/earshot/earshot/services/internal/record"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/proto"
)

// row is a record on its way into a table. What its columns hold depends on the record alone.
type row struct {
	event     proto.Message
	key       string     // id in the table's sort key
	id        ident.UUID // of the message; set for messages and receipts
	at        int64      // event time in the sort key, in milliseconds
	partition int32
	offset    int64
	accepted  int64              // record time in milliseconds
	span      *trace.SpanContext // of the record; nil for most
}

// tableRow is a row and where it belongs.
type tableRow struct {
	table *table
	row   row
}

// reader turns a record into rows, appended to buf. Its error is a *record.Error.
type reader func(r *kafka.Record, buf []tableRow) ([]tableRow, error)

// readers returns the reader of each stored topic.
func readers(t kafka.Topics) map[string]reader {
	return map[string]reader{
		t.Messages.Name:            checked(readMessage),
		t.Views.Name:               checked(readView),
		t.Alerts.Name:              checked(readAlert),
		t.Trends.Name:              checked(readTrend),
		t.ConversationMetrics.Name: checked(readConversation),
		t.UserActivity.Name:        checked(readActivity),
	}
}

// checked refuses records without a usable timestamp, from which retention counts.
func checked(read reader) reader {
	return func(r *kafka.Record, buf []tableRow) ([]tableRow, error) {
		if r.Timestamp.Before(ident.MinTime) || !r.Timestamp.Before(ident.MaxTime) {
			return buf, &record.Error{Reason: record.TimeOutOfRange, Text: fmt.Sprintf("the record's timestamp is %d ms, which is no time of acceptance", r.Timestamp.UnixMilli())}
		}
		return read(r, buf)
	}
}

func newRow(r *kafka.Record, event proto.Message, key string, at int64) row {
	return row{event: event, key: key, at: at, partition: r.Partition, offset: r.Offset, accepted: r.Timestamp.UnixMilli()}
}

func readMessage(r *kafka.Record, buf []tableRow) ([]tableRow, error) {
	m, id, err := record.Message(r.Value)
	if err != nil {
		return buf, err
	}
	if err := record.Key(r.Key, m.GetConversationId()); err != nil {
		return buf, err
	}
	if err := record.Ahead("created_at", id.Time(), r.Timestamp); err != nil {
		return buf, err
	}
	row := newRow(r, m, m.GetConversationId(), id.Millis())
	row.id = id
	return append(buf, tableRow{messageRows, row}), nil
}

// readView gives two rows: the receipt itself, and what it says of its message.
func readView(r *kafka.Record, buf []tableRow) ([]tableRow, error) {
	v, id, err := record.View(r.Value)
	if err != nil {
		return buf, err
	}
	if err := record.Key(r.Key, v.GetConversationId()); err != nil {
		return buf, err
	}
	if err := record.Ahead("viewed_at", record.Time(v.GetViewedAt()), r.Timestamp); err != nil {
		return buf, err
	}
	if err := record.Ahead("message_id", id.Time(), r.Timestamp); err != nil {
		return buf, err
	}
	row := newRow(r, v, v.GetConversationId(), id.Millis())
	row.id = id
	return append(buf, tableRow{viewRows, row}, tableRow{messageRows, row}), nil
}

func readAlert(r *kafka.Record, buf []tableRow) ([]tableRow, error) {
	a, err := record.Alert(r.Value)
	if err != nil {
		return buf, err
	}
	if err := record.Key(r.Key, a.GetUserId()); err != nil {
		return buf, err
	}
	return append(buf, tableRow{alertRows, newRow(r, a, a.GetUserId(), record.Millis(a.GetTriggeredAt()))}), nil
}

func readTrend(r *kafka.Record, buf []tableRow) ([]tableRow, error) {
	t, err := record.Trend(r.Value)
	if err != nil {
		return buf, err
	}
	if err := record.Key(r.Key, t.GetTerm()); err != nil {
		return buf, err
	}
	return append(buf, tableRow{trendRows, newRow(r, t, t.GetTerm(), record.Millis(t.GetWindowStart()))}), nil
}

func readConversation(r *kafka.Record, buf []tableRow) ([]tableRow, error) {
	c, err := record.ConversationMetrics(r.Value)
	if err != nil {
		return buf, err
	}
	if err := record.Key(r.Key, c.GetConversationId()); err != nil {
		return buf, err
	}
	return append(buf, tableRow{conversationRows, newRow(r, c, c.GetConversationId(), record.Millis(c.GetWindowEnd()))}), nil
}

func readActivity(r *kafka.Record, buf []tableRow) ([]tableRow, error) {
	a, err := record.UserActivity(r.Value)
	if err != nil {
		return buf, err
	}
	if err := record.Key(r.Key, a.GetUserId()); err != nil {
		return buf, err
	}
	return append(buf, tableRow{activityRows, newRow(r, a, a.GetUserId(), record.Millis(a.GetWindowStart()))}), nil
}

func isReceipt(r *row) bool {
	_, ok := r.event.(*eventv1.MessageView)
	return ok
}
