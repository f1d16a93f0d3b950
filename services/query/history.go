package query

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	ch "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/earshot/earshot/services/internal/apierror"
	"github.com/earshot/earshot/services/internal/clickhouse"
	"github.com/earshot/earshot/services/internal/telemetry"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// history asks ClickHouse. What callers give is only ever bound to a parameter such as {user_id:String}, never made part of a query.
type history struct {
	cfg     Config
	db      driver.Conn
	tel     telemetry.T
	metrics *metrics
}

func (h history) ping(ctx context.Context) error { return clickhouse.Ping(ctx, h.db) }

// question is a SELECT from one view, put together from our own text, with the caller's values beside it.
type question struct {
	view    string
	columns string
	where   []string
	args    []any
	order   string
	limit   int // 0: none
}

// only adds a condition, and the value of the parameter it names.
func (q *question) only(condition, name string, value any) {
	q.where = append(q.where, condition)
	q.bind(name, value)
}

func (q *question) bind(name string, value any) { q.args = append(q.args, ch.Named(name, value)) }

// between adds a range of times, cut to the milliseconds that columns have; either end may be absent.
func (q *question) between(column string, start, end *timestamppb.Timestamp) {
	if start != nil {
		q.only(column+" >= fromUnixTimestamp64Milli({start_time:Int64}, 'UTC')", "start_time", ceilMillis(start))
	}
	if end != nil {
		q.only(column+" < fromUnixTimestamp64Milli({end_time:Int64}, 'UTC')", "end_time", ceilMillis(end))
	}
}

// ceilMillis rounds up: among whole milliseconds, those at or after t are those at or after its ceiling, and those before likewise.
func ceilMillis(t *timestamppb.Timestamp) int64 {
	return t.AsTime().Add(time.Millisecond - time.Nanosecond).UnixMilli()
}

func (q *question) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "SELECT %s FROM %s.%s", q.columns, clickhouse.Database, q.view)
	for i, w := range q.where {
		b.WriteString([]string{" WHERE ", " AND "}[min(i, 1)])
		b.WriteString(w)
	}
	if q.order != "" {
		b.WriteString(" ORDER BY " + q.order)
	}
	if q.limit > 0 {
		fmt.Fprintf(&b, " LIMIT %d", q.limit)
	}
	return b.String()
}

// ask runs a question and calls row for each row of the answer, within the bounds of Config.
func (h history) ask(ctx context.Context, operation string, q question, row func(driver.Rows) error) (err error) {
	text := q.text()
	ctx, span := h.tel.Tracer.Start(ctx, "SELECT "+q.view, trace.WithSpanKind(trace.SpanKindClient), trace.WithAttributes(
		semconv.DBSystemNameKey.String("clickhouse"), semconv.DBNamespace(clickhouse.Database), semconv.DBCollectionName(q.view),
		semconv.DBOperationName("SELECT"), semconv.DBQuerySummary("SELECT "+q.view),
		semconv.DBQueryText(text), // values are bound, so this holds nothing of a user's
	))
	started := time.Now()
	defer func() {
		if err != nil {
			span.SetStatus(codes.Error, "")
			span.SetAttributes(attribute.String("error.type", errorType(err)))
		}
		span.End()
		h.metrics.asked(ctx, operation, started, err != nil)
	}()
	// The driver tells ClickHouse the time that is left (max_execution_time), and the end of ctx cancels the query there.
	limited, cancel := context.WithTimeout(ctx, h.cfg.QueryTimeout)
	defer cancel()
	limited = ch.Context(limited, ch.WithSpan(span.SpanContext()), ch.WithSettings(ch.Settings{
		"readonly":           2, // reads and settings only, whatever the user may do
		"max_memory_usage":   h.cfg.QueryMemory,
		"max_rows_to_read":   h.cfg.QueryRows,
		"read_overflow_mode": "throw",
	}))
	rows, err := h.db.Query(limited, text, q.args...)
	if err != nil {
		return h.explain(ctx, limited, err)
	}
	for rows.Next() {
		if err := row(rows); err != nil {
			return errors.Join(fmt.Errorf("read a row of %s: %w", q.view, err), rows.Close())
		}
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return h.explain(ctx, limited, err)
	}
	return nil
}

func errorType(err error) string {
	if code := clickhouse.Code(err); code != 0 {
		return fmt.Sprint(code)
	}
	return fmt.Sprintf("%T", err)
}

// Errors of ClickHouse that are not ours or the caller's fault in the same way, by their numbers.
const (
	codeUnknownTable     = 60
	codeUnknownDatabase  = 81
	codeTooManyRows      = 158
	codeTimeout          = 159
	codeReadonly         = 164 // the user may not change settings: its profile needs readonly = 2, not 1
	codeTooManyQueries   = 202
	codeMemoryLimit      = 241
	codeTooManyBytes     = 307
	codeAccessDenied     = 497
	codeAuthentication   = 516
	codeQueryWasCanceled = 394
)

// explain turns what went wrong with ClickHouse into what the caller sees; the cause stays wrapped for the log.
func (h history) explain(ctx, limited context.Context, err error) error {
	if ctx.Err() != nil { // the caller's own deadline, or gone
		return errors.Join(ctx.Err(), err)
	}
	var answer *apierror.Error
	switch clickhouse.Code(err) {
	case codeTooManyRows, codeTooManyBytes, codeMemoryLimit:
		answer = apierror.Exhausted(apierror.ReasonOverCapacity, "the question needs more than is allowed: narrow it, for example by start_time and end_time", nil)
	case codeTooManyQueries:
		answer = apierror.Exhausted(apierror.ReasonOverCapacity, "the database is busy", nil)
		answer.RetryAfter = time.Second
	case codeUnknownTable, codeUnknownDatabase:
		answer = apierror.Unavailable(apierror.ReasonUnavailable, "the database has no schema yet; apply it with: earshot schema apply", 5*time.Second)
	case codeAccessDenied, codeAuthentication, codeReadonly:
		answer = apierror.Unavailable(apierror.ReasonUnavailable, "the database refuses this server; its log says more", 30*time.Second)
	case 0, codeTimeout, codeQueryWasCanceled: // 0: no answer
		if limited.Err() != nil || clickhouse.Code(err) == codeTimeout {
			answer = apierror.New(apierror.ReasonDeadlineExceeded,
				fmt.Sprintf("the question took longer than %v: narrow it, for example by start_time and end_time", h.cfg.QueryTimeout))
			break
		}
		answer = apierror.Unavailable(apierror.ReasonUnavailable, "the database does not answer", 2*time.Second)
	default:
		return err
	}
	return fmt.Errorf("%w: %w", answer, err)
}
