package sink

import (
	"context"
	"time"

	"github.com/earshot/earshot/services/internal/kafka"
	"go.opentelemetry.io/otel/trace"
)

// owned is a spell of holding a partition. Offsets are committed only for the spell in which they were read.
type owned struct {
	tp   kafka.TopicPartition
	next int64 // offset after the last record taken; -1 before the first
	run  int   // unreadable records in a row
}

// chunk is what was read from one partition and is not yet stored.
type chunk struct {
	owner   *owned
	rows    []tableRow
	letters []kafka.Record // dead letters
	reasons []string       // why, one for each of letters
	records int
	bytes   int
	next    int64     // offset to commit once all is stored
	oldest  time.Time // timestamp of its oldest record
	spans   int       // rows that carry a span
}

// batch is a set of chunks that are stored together.
type batch struct {
	chunks  map[kafka.TopicPartition]*chunk
	records int
	bytes   int
	began   time.Time // when its first record was taken
}

func newBatch() *batch { return &batch{chunks: map[kafka.TopicPartition]*chunk{}} }

func (b *batch) empty() bool { return len(b.chunks) == 0 }

// forget drops what was read from a partition.
func (b *batch) forget(tp kafka.TopicPartition) {
	if c := b.chunks[tp]; c != nil {
		b.records -= c.records
		b.bytes -= c.bytes
		delete(b.chunks, tp)
	}
}

// maxLinks is how many records a span names; the OpenTelemetry SDKs keep 128 links.
const maxLinks = 128

// recordCost is what a record takes in memory beside its value, roughly.
const recordCost = 400

// take adds a record, whose rows are rows, or which is a dead letter.
func (b *batch) take(o *owned, r *kafka.Record, rows []tableRow, letter *kafka.Record, reason string, now time.Time) {
	c := b.chunks[o.tp]
	if c == nil {
		c = &chunk{owner: o, oldest: r.Timestamp}
		b.chunks[o.tp] = c
	}
	if b.records == 0 {
		b.began = now
	}
	size := len(r.Value) + len(r.Key) + recordCost
	b.records++
	b.bytes += size
	c.records++
	c.bytes += size
	c.next = r.Offset + 1
	if r.Timestamp.Before(c.oldest) {
		c.oldest = r.Timestamp
	}
	if letter != nil {
		c.letters = append(c.letters, *letter)
		c.reasons = append(c.reasons, reason)
		return
	}
	if c.spans <= maxLinks {
		if sc := spanOf(r); sc != nil {
			c.spans++
			for i := range rows {
				rows[i].row.span = sc
			}
		}
	}
	c.rows = append(c.rows, rows...)
}

// spanOf returns the sampled span that a record comes from, or nil.
func spanOf(r *kafka.Record) *trace.SpanContext {
	if r.Header("traceparent") == "" {
		return nil
	}
	sc := trace.SpanContextFromContext(kafka.Context(context.Background(), r))
	if !sc.IsSampled() {
		return nil
	}
	return &sc
}

// job is one INSERT: rows of one partition of one table, sorted.
type job struct {
	table *table
	rows  []*row
}

// jobs splits a batch into INSERTs. Their content depends on the batch's records alone, not on the order in which partitions were read.
func (b *batch) jobs() []job {
	type place struct {
		table *table
		part  int
	}
	groups := map[place][]*row{}
	for _, c := range b.chunks {
		for i := range c.rows {
			r := &c.rows[i]
			p := place{r.table, r.table.part(&r.row)}
			groups[p] = append(groups[p], &r.row)
		}
	}
	jobs := make([]job, 0, len(groups))
	for p, rows := range groups {
		p.table.sort(rows)
		jobs = append(jobs, job{p.table, rows})
	}
	return jobs
}

func (b *batch) letters() (letters []kafka.Record, reasons []string) {
	for _, c := range b.chunks {
		letters = append(letters, c.letters...)
		reasons = append(reasons, c.reasons...)
	}
	return letters, reasons
}
