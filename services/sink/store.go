package sink

import (
	"context"
	"errors"
	"fmt"
	"time"

	ch "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/earshot/earshot/services/internal/clickhouse"
	"github.com/earshot/earshot/services/internal/kafka"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/errgroup"
)

// insertSettings: an INSERT is acknowledged once its part is written, and never dropped as one seen before. ClickHouse 26.7 has both the other way
// round, and a crash between its deduplication log and the part would then lose rows that the repeated INSERT was meant to bring.
var insertSettings = ch.Settings{"async_insert": 0, "deduplicate_insert": "disable"}

// retryFirst is the pause after a first failure; it doubles up to Config.RetryWait.
const retryFirst = 50 * time.Millisecond

// store inserts a batch and sends its dead letters. It tries for ever, so that it returns an error only when ctx ends.
func (s *Service) store(ctx context.Context, b *batch, letters *kafka.Producer) error {
	jobs := b.jobs()
	ctx, span := s.startBatch(ctx, b, jobs)
	defer span.End()
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(s.cfg.Inserts)
	for _, j := range jobs {
		g.Go(func() error {
			return s.untilDone(ctx, func(ctx context.Context) error { return s.insert(ctx, j) })
		})
	}
	g.Go(func() error { return s.bury(ctx, b, letters) })
	if err := g.Wait(); err != nil {
		span.SetStatus(codes.Error, "given up")
		return err
	}
	s.state.fail(nil)
	return nil
}

// untilDone repeats try, with growing pauses, until it succeeds or ctx ends.
func (s *Service) untilDone(ctx context.Context, try func(context.Context) error) error {
	for wait := retryFirst; ; wait = min(2*wait, s.cfg.RetryWait) {
		err := try(ctx)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		s.state.fail(err)
		s.m.retries.Add(ctx, 1)
		s.tel.Log.WarnContext(ctx, "sink tries again", "wait", wait, "err", err)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// insert sends one INSERT.
func (s *Service) insert(ctx context.Context, j job) (err error) {
	ctx, span := s.startInsert(ctx, j)
	began := time.Now()
	defer func() {
		s.m.inserted(ctx, j, time.Since(began), err)
		if err != nil {
			span.SetStatus(codes.Error, err.Error())
		}
		span.End()
	}()
	ctx, cancel := context.WithTimeout(ctx, s.cfg.InsertTimeout)
	defer cancel()
	fail := func(err error) error {
		if code := clickhouse.Code(err); code != 0 {
			span.SetAttributes(attribute.String("db.response.status_code", fmt.Sprint(code)))
		}
		return fmt.Errorf("insert %d rows into %s: %w", len(j.rows), j.table.name, err)
	}
	ctx = ch.Context(ctx, ch.WithSettings(insertSettings), ch.WithSpan(span.SpanContext()))
	b, err := s.db.PrepareBatch(ctx, j.table.insert())
	if err != nil {
		return fail(err)
	}
	defer func() { _ = b.Abort() }() // gives up the connection, unless the batch was sent
	if err := j.table.fill(b, j.rows); err != nil {
		return fail(err)
	}
	if err := b.Send(); err != nil {
		return fail(err)
	}
	return nil
}

// bury sends a batch's dead letters and waits until they are acknowledged.
func (s *Service) bury(ctx context.Context, b *batch, to *kafka.Producer) error {
	letters, reasons := b.letters()
	if len(letters) == 0 {
		return nil
	}
	err := s.untilDone(ctx, func(ctx context.Context) error {
		err := to.Produce(ctx, letters...)
		if !errors.Is(err, kafka.ErrRefused) {
			return wrap(err, "send %d dead letters", len(letters))
		}
		return s.buryEach(ctx, letters, to)
	})
	if err != nil {
		return err
	}
	for i := range letters {
		s.m.buried(ctx, letters[i].Header(kafka.HeaderDeadTopic), reasons[i])
	}
	return nil
}

// buryEach sends letters one by one. One that brokers refuse, since with the headers that say why it is too large, goes without its value: its
// place in the source topic is among those headers, and the alternative is that one record stops everything.
func (s *Service) buryEach(ctx context.Context, letters []kafka.Record, to *kafka.Producer) error {
	for _, l := range letters {
		err := to.Produce(ctx, l)
		if errors.Is(err, kafka.ErrRefused) {
			s.tel.Log.ErrorContext(ctx, "dead letter is refused and goes without its value", "topic", l.Topic, "partition", l.Partition, "err", err)
			l.Headers = append(l.Headers, kafka.Header{Key: "earshot-dlq-value-bytes", Value: fmt.Append(nil, len(l.Value))})
			l.Value = nil
			err = to.Produce(ctx, l)
		}
		if err != nil {
			return wrap(err, "send a dead letter to %s", l.Topic)
		}
	}
	return nil
}

func wrap(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf(format+": %w", append(args, err)...)
}

// startBatch opens the span of a batch, in the trace of its first record.
func (s *Service) startBatch(ctx context.Context, b *batch, jobs []job) (context.Context, trace.Span) {
	var rows []*row
	for _, j := range jobs {
		rows = append(rows, j.rows...)
		if len(rows) > 4*maxLinks {
			break
		}
	}
	parent, links := lineage(rows, trace.SpanContext{})
	if parent != nil {
		ctx = trace.ContextWithRemoteSpanContext(ctx, *parent)
	}
	return s.tel.Tracer.Start(ctx, "process "+Group, trace.WithSpanKind(trace.SpanKindConsumer), trace.WithLinks(links...), trace.WithAttributes(
		attribute.String("messaging.system", "kafka"),
		attribute.String("messaging.operation.name", "process"),
		attribute.String("messaging.operation.type", "process"),
		attribute.String("messaging.consumer.group.name", Group),
		attribute.Int("messaging.batch.message_count", b.records),
	))
}

// startInsert opens the span of an INSERT. It is a child of its first record's span, so that a message's trace ends where the message does, and
// links to the batch and to the other records.
func (s *Service) startInsert(ctx context.Context, j job) (context.Context, trace.Span) {
	parent, links := lineage(j.rows, trace.SpanContextFromContext(ctx))
	if parent != nil {
		ctx = trace.ContextWithRemoteSpanContext(ctx, *parent)
	}
	return s.tel.Tracer.Start(ctx, "INSERT "+j.table.name, trace.WithSpanKind(trace.SpanKindClient), trace.WithLinks(links...), trace.WithAttributes(
		attribute.String("db.system.name", "clickhouse"),
		attribute.String("db.namespace", clickhouse.Database),
		attribute.String("db.collection.name", j.table.name),
		attribute.String("db.operation.name", "INSERT"),
		attribute.Int("db.operation.batch.size", len(j.rows)),
		attribute.String("db.query.summary", "INSERT "+j.table.name),
	))
}

// lineage returns the span of the first of rows that has one, and links to the batch and the others.
func lineage(rows []*row, batch trace.SpanContext) (parent *trace.SpanContext, links []trace.Link) {
	for _, r := range rows {
		switch {
		case r.span == nil:
		case parent == nil:
			parent = r.span
			if batch.IsValid() {
				links = append(links, trace.Link{SpanContext: batch})
			}
		case len(links) < maxLinks:
			links = append(links, trace.Link{SpanContext: *r.span})
		default:
			return parent, links
		}
	}
	return parent, links
}
