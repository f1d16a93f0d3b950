package sink

import (
	"bytes"
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	eventv1 "github.com/earshot/earshot/gen/earshot/event/v1"
	"github.com/earshot/earshot/services/internal/clickhouse"
	"github.com/earshot/earshot/services/internal/record"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// table says how rows become columns of a physical table (schema/*_rows.sql).
type table struct {
	name    string
	columns []column
	// compare orders rows by the table's sort key. Equal ones stay in the order of the log.
	compare func(a, b *row) int
	// part tells the table's partition of a row: an INSERT has rows of one only.
	part func(*row) int
}

// column gives the values of one column, as a slice, for rows.
type column struct {
	name string
	of   func(rows []*row) any
}

// insert returns the statement that inserts into t.
func (t *table) insert() string {
	names := make([]string, len(t.columns))
	for i, c := range t.columns {
		names[i] = c.name
	}
	return "INSERT INTO " + clickhouse.Database + "." + t.name + " (" + strings.Join(names, ", ") + ")"
}

// fill appends rows to b, column by column.
func (t *table) fill(b driver.Batch, rows []*row) error {
	for i, c := range t.columns {
		if err := b.Column(i).Append(c.of(rows)); err != nil {
			return err
		}
	}
	return nil
}

// sort brings rows into the order of the table's key, copies in the order of the log.
func (t *table) sort(rows []*row) {
	slices.SortFunc(rows, func(a, b *row) int {
		if c := t.compare(a, b); c != 0 {
			return c
		}
		return cmp.Or(boolCompare(isReceipt(a), isReceipt(b)), cmp.Compare(a.partition, b.partition), cmp.Compare(a.offset, b.offset))
	})
}

func boolCompare(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// col is a column of T, from the row.
func col[T any](name string, of func(*row) T) column {
	return column{name, func(rows []*row) any {
		out := make([]T, len(rows))
		for i, r := range rows {
			out[i] = of(r)
		}
		return out
	}}
}

// ev is a column of T, from the row's event.
func ev[E proto.Message, T any](name string, of func(E) T) column {
	return col(name, func(r *row) T { return of(r.event.(E)) })
}

// opt is a nullable column of a message; of a receipt it is NULL.
func opt[T any](name string, of func(r *row, m *eventv1.Message) T) column {
	return column{name, func(rows []*row) any {
		out := make([]*T, len(rows))
		values := make([]T, len(rows))
		for i, r := range rows {
			if m, ok := r.event.(*eventv1.Message); ok {
				values[i] = of(r, m)
				out[i] = &values[i]
			}
		}
		return out
	}}
}

var (
	keyOf      = func(r *row) string { return r.key }
	atOf       = func(r *row) int64 { return r.at }
	partition  = col("_partition", func(r *row) int32 { return r.partition })
	offset     = col("_offset", func(r *row) int64 { return r.offset })
	acceptedAt = col("accepted_at", func(r *row) int64 { return r.accepted })
)

const dayMillis = 24 * 60 * 60 * 1000

// byDay is toYYYYMMDD as a number of days, and byMonth is toYYYYMM: only equality counts.
func byDay(r *row) int { return int(r.at / dayMillis) }

func byMonth(r *row) int {
	t := time.UnixMilli(r.at).UTC()
	return t.Year()*12 + int(t.Month())
}

var messageRows = &table{
	name: "message_rows",
	part: byDay,
	compare: func(a, b *row) int {
		return cmp.Or(strings.Compare(a.key, b.key), cmp.Compare(a.at, b.at), bytes.Compare(a.id[:], b.id[:]))
	},
	columns: []column{
		col("conversation_id", keyOf),
		col("created_at", atOf),
		col("message_id", messageID),
		opt("sender_id", func(_ *row, m *eventv1.Message) string { return m.GetSenderId() }),
		opt("receiver_id", func(_ *row, m *eventv1.Message) string { return m.GetReceiverId() }),
		opt("content", func(_ *row, m *eventv1.Message) string { return m.GetContent() }),
		opt("message_type", func(_ *row, m *eventv1.Message) string { return m.GetMessageType() }),
		opt("backfill", func(_ *row, m *eventv1.Message) bool { return m.GetBackfill() }),
		opt("_partition", func(r *row, _ *eventv1.Message) int32 { return r.partition }),
		opt("_offset", func(r *row, _ *eventv1.Message) int64 { return r.offset }),
		opt("accepted_at", func(r *row, _ *eventv1.Message) int64 { return r.accepted }),
		col("read_status", func(r *row) string {
			if v, ok := r.event.(*eventv1.MessageView); ok {
				return v.GetStatus()
			}
			return record.Sent
		}),
		col("read_at", func(r *row) *int64 {
			if v, ok := r.event.(*eventv1.MessageView); ok && v.GetStatus() == record.Read {
				ms := record.Millis(v.GetViewedAt())
				return &ms
			}
			return nil
		}),
		col("touched_at", func(r *row) int64 { return r.accepted }),
	},
}

func messageID(r *row) string {
	switch e := r.event.(type) {
	case *eventv1.Message:
		return e.GetMessageId()
	case *eventv1.MessageView:
		return e.GetMessageId()
	}
	return ""
}

var viewRows = &table{
	name: "message_view_rows",
	part: byDay,
	compare: func(a, b *row) int {
		if c := messageRows.compare(a, b); c != 0 {
			return c
		}
		v, w := a.event.(*eventv1.MessageView), b.event.(*eventv1.MessageView)
		return cmp.Or(strings.Compare(v.GetUserId(), w.GetUserId()), strings.Compare(v.GetStatus(), w.GetStatus()))
	},
	columns: []column{
		col("conversation_id", keyOf),
		col("message_created_at", atOf),
		col("message_id", messageID),
		ev("user_id", (*eventv1.MessageView).GetUserId),
		ev("status", (*eventv1.MessageView).GetStatus),
		ev("viewed_at", at((*eventv1.MessageView).GetViewedAt)),
		partition, offset, acceptedAt,
	},
}

var alertRows = &table{
	name: "alert_rows",
	part: byMonth,
	compare: func(a, b *row) int {
		return cmp.Or(strings.Compare(a.key, b.key), cmp.Compare(a.at, b.at),
			strings.Compare(a.event.(*eventv1.Alert).GetAlertId(), b.event.(*eventv1.Alert).GetAlertId()))
	},
	columns: []column{
		col("user_id", keyOf),
		col("triggered_at", atOf),
		ev("alert_id", (*eventv1.Alert).GetAlertId),
		ev("state", func(a *eventv1.Alert) string { return word(a.GetState().String(), "ALERT_STATE_") }),
		ev("count", (*eventv1.Alert).GetCount),
		ev("threshold", (*eventv1.Alert).GetThreshold),
		ev("span_seconds", (*eventv1.Alert).GetSpanSeconds),
		ev("window_start", at((*eventv1.Alert).GetWindowStart)),
		ev("window_end", at((*eventv1.Alert).GetWindowEnd)),
		ev("message_ids", (*eventv1.Alert).GetMessageIds),
		ev("positions", func(a *eventv1.Alert) [][]any {
			out := make([][]any, len(a.GetPositions()))
			for i, p := range a.GetPositions() {
				out[i] = []any{p.GetPartition(), p.GetOffset()}
			}
			return out
		}),
		ev("conversation_ids", (*eventv1.Alert).GetConversationIds),
		ev("superseded_by", func(a *eventv1.Alert) []any {
			if a.GetSupersededBy() == "" {
				return []any{uint32(0), ""}
			}
			return []any{a.GetRevision(), a.GetSupersededBy()}
		}),
		ev("revision", (*eventv1.Alert).GetRevision),
		ev("rule", (*eventv1.Alert).GetRule),
		partition, offset, acceptedAt,
	},
}

var trendRows = &table{
	name: "trend_rows",
	part: byDay,
	compare: func(a, b *row) int {
		t, u := a.event.(*eventv1.Trend), b.event.(*eventv1.Trend)
		return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(record.Millis(t.GetWindowEnd()), record.Millis(u.GetWindowEnd())), strings.Compare(a.key, b.key))
	},
	columns: []column{
		col("window_start", atOf),
		ev("window_end", at((*eventv1.Trend).GetWindowEnd)),
		col("term", keyOf),
		ev("count", (*eventv1.Trend).GetCount),
		ev("senders", (*eventv1.Trend).GetSenders),
		ev("score", (*eventv1.Trend).GetScore),
		ev("baseline", (*eventv1.Trend).GetBaseline),
		ev("state", func(t *eventv1.Trend) string { return windowState(t.GetState()) }),
		ev("approximate", (*eventv1.Trend).GetApproximate),
		ev("revision", (*eventv1.Trend).GetRevision),
		partition, offset, acceptedAt,
	},
}

var conversationRows = &table{
	name: "conversation_window_rows",
	part: byDay,
	compare: func(a, b *row) int {
		c, d := a.event.(*eventv1.ConversationMetrics), b.event.(*eventv1.ConversationMetrics)
		return cmp.Or(strings.Compare(a.key, b.key), cmp.Compare(a.at, b.at), cmp.Compare(record.Millis(c.GetWindowStart()), record.Millis(d.GetWindowStart())))
	},
	columns: []column{
		col("conversation_id", keyOf),
		col("window_end", atOf),
		ev("window_start", at((*eventv1.ConversationMetrics).GetWindowStart)),
		ev("message_count", (*eventv1.ConversationMetrics).GetMessageCount),
		ev("participant_count", (*eventv1.ConversationMetrics).GetParticipantCount),
		ev("rate", (*eventv1.ConversationMetrics).GetRate),
		ev("peak", (*eventv1.ConversationMetrics).GetPeak),
		ev("reply_seconds", (*eventv1.ConversationMetrics).GetReplySeconds),
		ev("replies", (*eventv1.ConversationMetrics).GetReplies),
		ev("state", func(c *eventv1.ConversationMetrics) string { return windowState(c.GetState()) }),
		ev("revision", (*eventv1.ConversationMetrics).GetRevision),
		partition, offset, acceptedAt,
	},
}

var activityRows = &table{
	name: "user_activity_rows",
	part: byDay,
	compare: func(a, b *row) int {
		c, d := a.event.(*eventv1.UserActivity), b.event.(*eventv1.UserActivity)
		return cmp.Or(strings.Compare(a.key, b.key), cmp.Compare(a.at, b.at), cmp.Compare(record.Millis(c.GetWindowEnd()), record.Millis(d.GetWindowEnd())))
	},
	columns: []column{
		col("user_id", keyOf),
		col("window_start", atOf),
		ev("window_end", at((*eventv1.UserActivity).GetWindowEnd)),
		ev("message_count", (*eventv1.UserActivity).GetMessageCount),
		ev("active_conversations", (*eventv1.UserActivity).GetActiveConversations),
		ev("last_active", at((*eventv1.UserActivity).GetLastActive)),
		ev("state", func(a *eventv1.UserActivity) string { return windowState(a.GetState()) }),
		ev("revision", (*eventv1.UserActivity).GetRevision),
		partition, offset, acceptedAt,
	},
}

// allTables are the tables the sink fills.
var allTables = []*table{messageRows, viewRows, alertRows, trendRows, conversationRows, activityRows}

// at makes a column's getter of a timestamp's. Times go to ClickHouse as milliseconds.
func at[E any](of func(E) *timestamppb.Timestamp) func(E) int64 {
	return func(e E) int64 { return record.Millis(of(e)) }
}

// word is how tables write an enum's value.
func word(name, prefix string) string { return strings.ToLower(strings.TrimPrefix(name, prefix)) }

func windowState(s eventv1.WindowState) string { return word(s.String(), "WINDOW_STATE_") }
