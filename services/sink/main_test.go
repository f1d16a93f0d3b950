package sink

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/earshot/earshot/services/embedded"
	"github.com/earshot/earshot/services/internal/clickhouse"
	"github.com/earshot/earshot/services/internal/kafka"
	"github.com/earshot/earshot/services/internal/telemetry"
	"github.com/earshot/earshot/services/sink/schema"
	"go.uber.org/goleak"
)

// library is the engine, and server one ClickHouse for all tests that do not harm it.
var (
	library string
	server  *embedded.ClickHouse
)

func TestMain(m *testing.M) {
	embedded.RunChildIfAsked()
	if os.Getenv(childBroker) != "" {
		runChild()
		return
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute) // the engine may have to be fetched
	defer cancel()
	dir, err := os.MkdirTemp("", "sink")
	if err == nil {
		defer func() { _ = os.RemoveAll(dir) }()
		if library, err = embedded.EnsureEngine(ctx, embedded.EngineConfig{Progress: os.Stderr}); err == nil {
			server, err = embedded.StartClickHouse(ctx, embedded.ClickHouseConfig{Library: library, DataDir: dir})
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "start ClickHouse:", err)
		return 1
	}
	code := m.Run()
	if err := server.Stop(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "stop ClickHouse:", err)
		code = 1
	}
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	return code
}

// connect returns a connection to url that ends with the test.
func connect(t testing.TB, url string) driver.Conn {
	t.Helper()
	cfg := clickhouse.DefaultConfig()
	cfg.URL, cfg.DialTimeout = url, time.Second
	conn, err := clickhouse.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// fresh is a connection to the shared server, with an empty schema.
func fresh(t testing.TB) driver.Conn {
	t.Helper()
	conn := connect(t, server.Addr())
	do(t, conn, "DROP DATABASE IF EXISTS message_db SYNC")
	applySchema(t, conn)
	return conn
}

func applySchema(t testing.TB, conn driver.Conn) {
	t.Helper()
	if _, err := schema.Apply(t.Context(), conn, schema.Options{Retention: 720 * time.Hour}); err != nil {
		t.Fatal(err)
	}
}

func do(t testing.TB, conn driver.Conn, sql string) {
	t.Helper()
	if err := conn.Exec(t.Context(), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// one returns the only value of a query's only row.
func one[T any](t testing.TB, conn driver.Conn, sql string) T {
	t.Helper()
	var v T
	if err := conn.QueryRow(t.Context(), sql).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

// eventually polls until ok, or fails with what it last saw.
func eventually(t testing.TB, within time.Duration, ok func() (seen any, done bool)) {
	t.Helper()
	for end := time.Now().Add(within); ; {
		seen, done := ok()
		if done {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("after %v: %v", within, seen)
		}
		time.Sleep(20 * time.Millisecond) // between looks
	}
}

// rows waits until a query counts n.
func rows(t testing.TB, conn driver.Conn, n uint64, from string) {
	t.Helper()
	eventually(t, 30*time.Second, func() (any, bool) {
		var got uint64
		err := conn.QueryRow(t.Context(), "SELECT count() FROM "+from).Scan(&got)
		return fmt.Sprintf("%d rows of %s, want %d (%v)", got, from, n, err), err == nil && got == n
	})
}

// quick are settings for tests: nothing waits for long.
func quick() Config {
	cfg := DefaultConfig()
	cfg.BatchWait = 20 * time.Millisecond
	cfg.RetryWait = 100 * time.Millisecond
	cfg.InsertTimeout = 5 * time.Second
	return cfg
}

// start runs a sink and returns it and a function that stops it and returns what Run did.
func start(t testing.TB, cfg Config, kcfg kafka.Config, db driver.Conn, tel telemetry.T) (*Service, func() error) {
	t.Helper()
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	s := New(cfg, kcfg, db, tel)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stop := sync.OnceValue(func() error {
		cancel()
		select {
		case err := <-done:
			return err
		case <-time.After(30 * time.Second):
			return fmt.Errorf("the sink does not stop")
		}
	})
	t.Cleanup(func() { _ = stop() })
	return s, stop
}

// committed sums what the group has committed of a topic.
func committed(t testing.TB, a *kafka.Admin, topic string) int64 {
	t.Helper()
	next, err := a.Committed(t.Context(), Group, topic)
	if err != nil {
		t.Log(err) // such as: the group does not exist yet
	}
	var n int64
	for _, o := range next {
		n += o
	}
	return n
}

func admin(t testing.TB, cfg kafka.Config) *kafka.Admin {
	t.Helper()
	a, err := kafka.NewAdmin(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	return a
}

func produce(t testing.TB, cfg kafka.Config, recs ...kafka.Record) {
	t.Helper()
	p, err := kafka.NewProducer(cfg, telemetry.Nop())
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if err := p.Produce(t.Context(), recs...); err != nil {
		t.Fatal(err)
	}
}

// logged is a log that a test looks into.
type logged struct {
	mu    sync.Mutex
	lines strings.Builder
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lines.Write(b)
}

func (l *logged) count(text string) int {
	return strings.Count(l.all(), text)
}

func (l *logged) all() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lines.String()
}

func (l *logged) telemetry() telemetry.T {
	tel := telemetry.Nop()
	tel.Log = slog.New(slog.NewTextHandler(l, nil))
	return tel
}
