// Package sink stores all topics in ClickHouse: chat, receipts and what the processors found.
//
//	stored topics --Poll--> rows per partition --INSERT per table and day--> ClickHouse --then--> commit
//	unreadable records ------------------------> dead letters
//
// It reads every stored topic once, as the group "sink". Rows are inserted before offsets are committed, so that nothing is lost; what is inserted
// twice collapses, since a row depends on its record alone (docs/adr/0004-sink-idempotence.md). It may import services/internal packages and gen.
package sink

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/earshot/earshot/services/internal/clickhouse"
	"github.com/earshot/earshot/services/internal/kafka"
	"github.com/earshot/earshot/services/internal/telemetry"
)

// Group is the consumer group of all sinks.
const Group = "sink"

// Config says when the sink inserts. Start from DefaultConfig.
type Config struct {
	BatchRows     int           // records that start an insert; at least 1. Two such batches are in memory at most
	BatchBytes    int           // bytes of records that start an insert; at least 1024
	BatchWait     time.Duration // longest a record waits for an insert to start; 1ms to 1m
	Inserts       int           // INSERTs of one batch that run at once; 1 to 16
	InsertTimeout time.Duration // after which an INSERT counts as failed and is repeated; at least 1s
	RetryWait     time.Duration // longest pause between two tries; at least 10ms
	DrainWait     time.Duration // longest that a stop, or handing over partitions, waits for ClickHouse; at least 1ms
	PoisonRun     int           // unreadable records in a row, in one partition, that stop the sink; at least 1
}

// DefaultConfig returns settings by which a message can be queried within a second.
func DefaultConfig() Config {
	return Config{
		BatchRows: 50_000, BatchBytes: 16 << 20, BatchWait: 250 * time.Millisecond,
		Inserts: 2, InsertTimeout: 30 * time.Second, RetryWait: 5 * time.Second, DrainWait: 5 * time.Second,
		PoisonRun: 1000,
	}
}

// Validate returns every fault at once, by its setting.
func (c Config) Validate() error {
	var errs []error
	check := func(ok bool, setting string, got any, want string) {
		if !ok {
			errs = append(errs, fmt.Errorf("sink.%s: got %v, want %s", setting, got, want))
		}
	}
	check(c.BatchRows >= 1, "batch_rows", c.BatchRows, "at least 1")
	check(c.BatchBytes >= 1024, "batch_bytes", c.BatchBytes, "at least 1024")
	check(c.BatchWait >= time.Millisecond && c.BatchWait <= time.Minute, "batch_wait", c.BatchWait, "1ms to 1m")
	check(c.Inserts >= 1 && c.Inserts <= 16, "inserts", c.Inserts, "1 to 16")
	check(c.InsertTimeout >= time.Second, "insert_timeout", c.InsertTimeout, "at least 1s")
	check(c.RetryWait >= 10*time.Millisecond, "retry_wait", c.RetryWait, "at least 10ms")
	check(c.DrainWait >= time.Millisecond, "drain_wait", c.DrainWait, "at least 1ms")
	check(c.PoisonRun >= 1, "poison_run", c.PoisonRun, "at least 1")
	return errors.Join(errs...)
}

// Service is a sink. Make one with New; Run it once. Ready is safe for concurrent use.
type Service struct {
	cfg   Config
	kafka kafka.Config
	db    driver.Conn
	tel   telemetry.T
	read  map[string]reader // by topic
	m     *metrics
	state state
}

// New returns a sink that inserts through db, whose schema must be applied (package schema) for it to get on. It neither dials nor starts anything.
func New(cfg Config, kafkaCfg kafka.Config, db driver.Conn, tel telemetry.T) *Service {
	return &Service{cfg: cfg, kafka: kafkaCfg, db: db, tel: tel, read: readers(kafkaCfg.Topics), m: newMetrics(tel)}
}

// ErrStopped says that the sink has stopped for good and wants a person.
var ErrStopped = errors.New("sink has stopped")

// Run stores records until ctx ends, then finishes what it has begun, within Config.DrainWait. Trouble with Kafka or ClickHouse is waited out. On
// a run of unreadable records, or when wanted records are gone, it stops reading, Ready says why, and Run returns an ErrStopped once ctx ends: the
// rest of the process is better off alive.
func (s *Service) Run(ctx context.Context) error {
	letters, err := kafka.NewProducer(s.kafka, s.tel)
	if err != nil {
		return fmt.Errorf("sink: %w", err)
	}
	defer letters.Close()
	stopLag := s.watchLag(ctx)
	defer stopLag()
	for wait := retryFirst; ; wait = min(2*wait, s.cfg.RetryWait) {
		began := time.Now()
		err := s.session(ctx, letters)
		switch {
		case ctx.Err() != nil:
			if errors.Is(err, context.Canceled) {
				return nil
			}
			return err
		case errors.Is(err, ErrStopped):
			s.state.stop(err)
			s.tel.Log.ErrorContext(ctx, "sink stopped; it wants a person", "err", err)
			<-ctx.Done()
			return err
		}
		s.state.fail(fmt.Errorf("read from kafka: %w", err))
		s.tel.Log.WarnContext(ctx, "sink leaves its group and joins again", "err", err)
		if time.Since(began) > s.cfg.RetryWait {
			wait = retryFirst
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil
		}
	}
}

// Ready returns nil when records are stored as they come, or the reason why they are not.
func (s *Service) Ready(ctx context.Context) error {
	if err := s.state.trouble(); err != nil {
		return err
	}
	return clickhouse.Ping(ctx, s.db)
}

// state is what Ready tells. Safe for concurrent use.
type state struct {
	mu      sync.Mutex
	stopped error // for good
	last    error // of the latest try
}

func (s *state) stop(err error) { s.mu.Lock(); s.stopped = err; s.mu.Unlock() }
func (s *state) fail(err error) { s.mu.Lock(); s.last = err; s.mu.Unlock() }

func (s *state) trouble() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped != nil {
		return s.stopped
	}
	return s.last
}
