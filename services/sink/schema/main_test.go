package schema

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	ch "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/earshot/earshot/services/embedded"
	"github.com/earshot/earshot/services/internal/clickhouse"
	"go.uber.org/goleak"
)

// server is one ClickHouse for all tests here; each begins with an empty database.
var server *embedded.ClickHouse

func TestMain(m *testing.M) {
	embedded.RunChildIfAsked()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute) // the engine may have to be fetched
	defer cancel()
	dir, err := os.MkdirTemp("", "schema")
	if err == nil {
		defer func() { _ = os.RemoveAll(dir) }()
		var lib string
		if lib, err = embedded.EnsureEngine(ctx, embedded.EngineConfig{Progress: os.Stderr}); err == nil {
			server, err = embedded.StartClickHouse(ctx, embedded.ClickHouseConfig{Library: lib, DataDir: dir})
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

// open connects to the server.
func open(t *testing.T) driver.Conn {
	t.Helper()
	cfg := clickhouse.DefaultConfig()
	cfg.URL = server.Addr()
	conn, err := clickhouse.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// empty is open with no database.
func empty(t *testing.T) driver.Conn {
	t.Helper()
	conn := open(t)
	do(t, conn, "DROP DATABASE IF EXISTS message_db SYNC")
	return conn
}

// applied is empty with the whole schema, and no merges but those a test asks for.
func applied(t *testing.T) driver.Conn {
	t.Helper()
	conn := empty(t)
	if _, err := Apply(t.Context(), conn, Options{Retention: 720 * time.Hour}); err != nil {
		t.Fatal(err)
	}
	for _, table := range ttls {
		do(t, conn, "SYSTEM STOP MERGES message_db."+table.table)
	}
	return conn
}

func do(t *testing.T, conn driver.Conn, sql string, args ...any) {
	t.Helper()
	ctx := ch.Context(t.Context(), ch.WithSettings(ch.Settings{"async_insert": 0, "deduplicate_insert": "disable"}))
	if err := conn.Exec(ctx, sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// one returns the only value of a query's only row.
func one[T any](t *testing.T, conn driver.Conn, sql string, args ...any) T {
	t.Helper()
	var v T
	if err := conn.QueryRow(t.Context(), sql, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}
