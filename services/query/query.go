// Package query answers what is asked of results: live streams from the result topics, and history from ClickHouse.
//
//	anomaly-alerts, trending-words, ... --> feed (one reader a process, one ring of recent records) --> subscribers
//	ClickHouse views of message_db      --> List and Get, page by page
//
// A feed reads its topic without a group, so any replica serves any subscriber, and keeps the latest records in a ring. A subscriber is a cursor into
// that ring: it costs the feed nothing, filters on its own goroutine, and is ended, with a token to go on from, once the ring has overtaken it. One who
// resumes further back than the ring reaches reads the log by itself until it meets the ring.
//
// It may import gen and internal packages only.
package query

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	apiv1 "github.com/earshot/earshot/gen/earshot/api/v1"
	eventv1 "github.com/earshot/earshot/gen/earshot/event/v1"
	"github.com/earshot/earshot/services/internal/kafka"
	"github.com/earshot/earshot/services/internal/telemetry"
	"golang.org/x/sync/semaphore"
	"google.golang.org/grpc"
)

// Config says how many are served and how far they may lag. Start from DefaultConfig.
type Config struct {
	MaxStreams   int           `yaml:"max_streams"`    // open streams of all kinds; more are refused; at least 1
	MaxCatchUps  int           `yaml:"max_catch_ups"`  // streams that read the log by themselves, with a client each; more are refused; at least 1
	Buffer       int           `yaml:"buffer"`         // records of a topic a subscriber may fall behind before it is ended; at least 16
	Heartbeat    time.Duration `yaml:"heartbeat"`      // longest silence on a stream; 10ms to 10s
	SendTimeout  time.Duration `yaml:"send_timeout"`   // longest a subscriber may take over one frame; at least 10ms
	Refresh      time.Duration `yaml:"refresh"`        // how often brokers are asked for new partitions and ends; 10ms to 10s
	QueryTimeout time.Duration `yaml:"query_timeout"`  // longest a history query may run; 10ms to 60s
	QueryMemory  int64         `yaml:"query_memory"`   // bytes a history query may use in ClickHouse; at least 16 MiB
	QueryRows    int64         `yaml:"query_max_rows"` // rows a history query may read in ClickHouse; at least 1,000
}

// DefaultConfig returns the settings for a laptop or a small pod.
func DefaultConfig() Config {
	return Config{
		MaxStreams:   1000,
		MaxCatchUps:  64,   // each has a client of its own that reads ahead up to 1 MiB
		Buffer:       8192, // a burst, such as a minute's end of all users, fits; with 0.5 to 2 KiB each, that is 4 to 16 MiB a topic when full
		Heartbeat:    5 * time.Second,
		SendTimeout:  15 * time.Second,
		Refresh:      5 * time.Second,
		QueryTimeout: 8 * time.Second, // within the 10 s of a unary call
		QueryMemory:  1 << 30,
		QueryRows:    500_000_000,
	}
}

// Validate returns every fault at once, by its setting.
func (c Config) Validate() error {
	var errs []error
	atLeast := func(name string, got, want int64) {
		if got < want {
			errs = append(errs, fmt.Errorf("query.%s: got %d, want at least %d", name, got, want))
		}
	}
	within := func(name string, got, low, high time.Duration) {
		if got < low || got > high {
			errs = append(errs, fmt.Errorf("query.%s: got %v, want %v to %v", name, got, low, high))
		}
	}
	atLeast("max_streams", int64(c.MaxStreams), 1)
	atLeast("max_catch_ups", int64(c.MaxCatchUps), 1)
	atLeast("buffer", int64(c.Buffer), 16)
	within("heartbeat", c.Heartbeat, 10*time.Millisecond, 10*time.Second)
	within("send_timeout", c.SendTimeout, 10*time.Millisecond, time.Hour)
	within("refresh", c.Refresh, 10*time.Millisecond, 10*time.Second)
	within("query_timeout", c.QueryTimeout, 10*time.Millisecond, time.Minute)
	atLeast("query_memory", c.QueryMemory, 16<<20)
	atLeast("query_max_rows", c.QueryRows, 1000)
	return errors.Join(errs...)
}

// Service serves AlertService, TrendService, ConversationService and UserService. Its methods are safe for concurrent use.
type Service struct {
	apiv1.UnimplementedAlertServiceServer
	apiv1.UnimplementedTrendServiceServer
	apiv1.UnimplementedConversationServiceServer
	apiv1.UnimplementedUserServiceServer

	cfg     Config
	kafka   kafka.Config
	tel     telemetry.T
	history history

	streams  *semaphore.Weighted // MaxStreams
	catchUps *semaphore.Weighted // MaxCatchUps

	alerts        *feed[*eventv1.Alert]
	trends        *feed[*eventv1.Trend]
	conversations *feed[*eventv1.ConversationMetrics]
	users         *feed[*eventv1.UserActivity]
}

// New returns a service that reads the result topics of kafkaCfg and asks db. Nothing is dialled before Run. db stays the caller's to close.
func New(cfg Config, kafkaCfg kafka.Config, db driver.Conn, tel telemetry.T) *Service {
	s := &Service{
		cfg: cfg, kafka: kafkaCfg, tel: tel,
		streams:  semaphore.NewWeighted(int64(cfg.MaxStreams)),
		catchUps: semaphore.NewWeighted(int64(cfg.MaxCatchUps)),
	}
	m := newMetrics(tel)
	s.history = history{cfg: cfg, db: db, tel: tel, metrics: m}
	topics := kafkaCfg.Topics
	s.alerts = newFeed(s, m, "alerts", topics.Alerts.Name, func() *eventv1.Alert { return new(eventv1.Alert) })
	s.trends = newFeed(s, m, "trends", topics.Trends.Name, func() *eventv1.Trend { return new(eventv1.Trend) })
	s.conversations = newFeed(s, m, "conversations", topics.ConversationMetrics.Name, func() *eventv1.ConversationMetrics { return new(eventv1.ConversationMetrics) })
	s.users = newFeed(s, m, "users", topics.UserActivity.Name, func() *eventv1.UserActivity { return new(eventv1.UserActivity) })
	return s
}

// Register adds the four services to a server.
func (s *Service) Register(r grpc.ServiceRegistrar) {
	apiv1.RegisterAlertServiceServer(r, s)
	apiv1.RegisterTrendServiceServer(r, s)
	apiv1.RegisterConversationServiceServer(r, s)
	apiv1.RegisterUserServiceServer(r, s)
}

// Run reads the result topics until ctx ends; then it ends every stream with UNAVAILABLE and a resume token, and returns nil. Brokers that are away are
// waited for. It may be called once.
func (s *Service) Run(ctx context.Context) error {
	admin, err := kafka.NewAdmin(s.kafka)
	if err != nil {
		return fmt.Errorf("query: %w", err)
	}
	defer admin.Close() // after every feed, and so every subscriber, has ended
	var feeds sync.WaitGroup
	feeds.Go(func() { s.alerts.run(ctx, admin) })
	feeds.Go(func() { s.trends.run(ctx, admin) })
	feeds.Go(func() { s.conversations.run(ctx, admin) })
	feeds.Go(func() { s.users.run(ctx, admin) })
	feeds.Wait()
	return nil
}

// Ready returns nil once every stream can be served and ClickHouse answers; otherwise it says what is missing.
func (s *Service) Ready(ctx context.Context) error {
	return errors.Join(s.ReadyLive(), s.ReadyHistory(ctx))
}

// ReadyLive returns nil while all result topics are read and the brokers answer.
func (s *Service) ReadyLive() error {
	return errors.Join(s.alerts.state(), s.trends.state(), s.conversations.state(), s.users.state())
}

// ReadyHistory returns nil when ClickHouse answers.
func (s *Service) ReadyHistory(ctx context.Context) error { return s.history.ping(ctx) }
