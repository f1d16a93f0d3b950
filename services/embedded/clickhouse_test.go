package embedded

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

func startClickHouse(t *testing.T, cfg ClickHouseConfig) *ClickHouse {
	t.Helper()
	cfg.Library = library(t)
	c, err := StartClickHouse(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// Not t.Context(), which has ended by now.
		if err := c.Stop(context.Background()); err != nil {
			t.Errorf("stop: %v", err)
		}
	})
	return c
}

func connect(t *testing.T, addr, user string) driver.Conn {
	t.Helper()
	conn, err := clickhouse.Open(&clickhouse.Options{Addr: []string{addr}, Auth: clickhouse.Auth{Username: user}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func exec1(t *testing.T, conn driver.Conn, query string) {
	t.Helper()
	if err := conn.Exec(t.Context(), query); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
}

func scan[T any](t *testing.T, conn driver.Conn, query string) (got T) {
	t.Helper()
	if err := conn.QueryRow(t.Context(), query).Scan(&got); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return got
}

func TestClickHouseServesAsPromised(t *testing.T) {
	dir := t.TempDir()
	c := startClickHouse(t, ClickHouseConfig{DataDir: dir})
	conn := connect(t, c.Addr(), "default")
	for query, want := range map[string]string{
		"SELECT extract(version(), '^[0-9]+[.][0-9]+')":                                              "26.7",
		"SELECT timezone()":                                                                          "UTC",
		"SELECT formatDateTime(toDateTime('2018-01-01 00:00:00'), '%T')":                             "00:00:00",
		"SELECT value FROM system.server_settings WHERE name = 'max_server_memory_usage'":            fmt.Sprint(int64(defaultMemory)),
		"SELECT value FROM system.server_settings WHERE name = 'background_pool_size'":               "4",
		"SELECT toString(count()) FROM system.tables WHERE name = 'opentelemetry_span_log'":          "0",
		"SELECT toString(count()) FROM system.users WHERE name IN ('default', '" + ReaderUser + "')": "2",
	} {
		if got := scan[string](t, conn, query); got != want {
			t.Errorf("%s: got %q, want %q", query, got, want)
		}
	}
	resp, err := http.Get("http://" + c.HTTPAddr() + "/?query=SELECT+1")
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("HTTP query: got status %d, want 200", resp.StatusCode)
	}
	http.DefaultClient.CloseIdleConnections()

	exec1(t, conn, "CREATE DATABASE message_db")
	exec1(t, conn, "CREATE TABLE message_db.m (id UInt64) ENGINE = MergeTree ORDER BY id")
	exec1(t, conn, "INSERT INTO message_db.m SELECT number FROM numbers(1000)")
	reader := connect(t, c.Addr(), ReaderUser)
	if n := scan[uint64](t, reader, "SELECT count() FROM message_db.m"); n != 1000 {
		t.Errorf("the reader counts %d rows, want 1000", n)
	}
	if err := reader.Exec(t.Context(), "INSERT INTO message_db.m SELECT 1"); err == nil {
		t.Error("the reader could write")
	}
	log, err := os.ReadFile(filepath.Join(dir, "clickhouse.log"))
	if err != nil || strings.Contains(string(log), "<Debug>") || strings.Contains(string(log), "<Trace>") {
		t.Errorf("log has %d bytes below warning, or %v", len(log), err)
	}
}

func TestKilledClickHouseIsStartedAgain(t *testing.T) {
	var mu sync.Mutex
	var states []State
	c := startClickHouse(t, ClickHouseConfig{DataDir: t.TempDir(), OnState: func(s State) {
		mu.Lock()
		defer mu.Unlock()
		states = append(states, s)
	}})
	conn := connect(t, c.Addr(), "default")
	exec1(t, conn, "CREATE TABLE default.m (id UInt64) ENGINE = MergeTree ORDER BY id")
	native, http := c.Addr(), c.HTTPAddr()
	for round := 1; round <= 2; round++ {
		exec1(t, conn, fmt.Sprintf("INSERT INTO default.m SELECT %d", round))
		pid := c.PID()
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		eventually(t, 15*time.Second, "another child serves", func() bool { return c.PID() != pid && c.State() == StateReady })
		if c.Addr() != native || c.HTTPAddr() != http {
			t.Fatalf("addresses after restart: got %s and %s, want %s and %s", c.Addr(), c.HTTPAddr(), native, http)
		}
		conn = connect(t, c.Addr(), "default")
		if n := scan[uint64](t, conn, "SELECT count() FROM default.m"); n != uint64(round) {
			t.Fatalf("rows after kill %d: got %d, want %d", round, n, round)
		}
	}
	if c.Restarts() != 2 {
		t.Errorf("restarts: got %d, want 2", c.Restarts())
	}
	mu.Lock()
	defer mu.Unlock()
	want := []State{StateReady, StateRestarting, StateReady, StateRestarting, StateReady}
	if fmt.Sprint(states) != fmt.Sprint(want) {
		t.Errorf("states: got %v, want %v", states, want)
	}
}

func TestStopLetsRunningQueriesFinish(t *testing.T) {
	dir := t.TempDir()
	c := startClickHouse(t, ClickHouseConfig{DataDir: dir})
	conn := connect(t, c.Addr(), "default")
	exec1(t, conn, "CREATE TABLE default.m (id UInt64) ENGINE = MergeTree ORDER BY id")
	inserted := make(chan error, 1)
	go func() {
		inserted <- conn.Exec(t.Context(), "INSERT INTO default.m SELECT sleepEachRow(0.1) FROM numbers(10)")
	}()
	watch := connect(t, c.Addr(), "default")
	eventually(t, 5*time.Second, "the insert runs", func() bool {
		return scan[uint64](t, watch, "SELECT count() FROM system.processes WHERE query LIKE 'INSERT%'") == 1
	})
	if err := c.Stop(t.Context()); err != nil {
		t.Errorf("stop: %v", err)
	}
	// Its answer may be cut off with the connection; its rows may not.
	t.Logf("the client of the insert saw: %v", <-inserted)
	if alive(c.PID()) {
		t.Errorf("child %d is alive after Stop", c.PID())
	}
	again := startClickHouse(t, ClickHouseConfig{DataDir: dir})
	if n := scan[uint64](t, connect(t, again.Addr(), "default"), "SELECT count() FROM default.m"); n != 10 {
		t.Errorf("rows of the insert that ran during Stop: got %d, want 10", n)
	}
}

func TestChildEndsWithItsKilledParent(t *testing.T) {
	lib, dir := library(t), t.TempDir()
	line, kill := startRole(t, "clickhouse", "DIR="+dir, "LIB="+lib)
	var addr string
	var pid int
	if _, err := fmt.Sscan(line, &addr, &pid); err != nil {
		t.Fatalf("parent: %s", line)
	}
	exec1(t, connect(t, addr, "default"), "CREATE TABLE default.m (id UInt64) ENGINE = MergeTree ORDER BY id")

	short, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	var inUse InUseError
	if _, err := StartClickHouse(short, ClickHouseConfig{Library: lib, DataDir: dir}); !errors.As(err, &inUse) || inUse.PID != pid {
		t.Errorf("on the directory of a living server: got %v, want InUseError by %d", err, pid)
	}
	kill()
	// At once, with no pause: the next start must wait for the dying child.
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	same, _ := strconv.Atoi(port)
	c := startClickHouse(t, ClickHouseConfig{DataDir: dir, Port: same})
	eventually(t, 5*time.Second, "the child ends after its parent", func() bool { return !alive(pid) })
	if n := scan[uint64](t, connect(t, c.Addr(), "default"), "SELECT count() FROM default.m"); n != 0 {
		t.Errorf("rows: got %d, want 0", n)
	}
}

func TestTakenClickHousePortsAreNamed(t *testing.T) {
	lib := library(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	port := ln.Addr().(*net.TCPAddr).Port
	for want, cfg := range map[string]ClickHouseConfig{
		fmt.Sprintf("clickhouse port %d is taken", port):      {Port: port},
		fmt.Sprintf("clickhouse http port %d is taken", port): {HTTPPort: port},
	} {
		cfg.Library, cfg.DataDir = lib, t.TempDir()
		if _, err := StartClickHouse(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func TestUnusableLibraryIsNamed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "libchdb.so")
	if err := os.WriteFile(file, []byte("no library"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := StartClickHouse(t.Context(), ClickHouseConfig{Library: file, DataDir: t.TempDir()})
	if err == nil || !strings.Contains(err.Error(), file) || strings.Contains(err.Error(), "\n") {
		t.Errorf("got %v, want one line that names %s", err, file)
	}
}

func TestSpanLogOnRequest(t *testing.T) {
	c := startClickHouse(t, ClickHouseConfig{DataDir: filepath.Join(t.TempDir(), "odd & <name>"), SpanLog: true})
	conn := connect(t, c.Addr(), "default")
	exec1(t, conn, "SYSTEM FLUSH LOGS opentelemetry_span_log")
	if n := scan[uint64](t, conn, "SELECT count() FROM system.tables WHERE database = 'system' AND name = 'opentelemetry_span_log'"); n != 1 {
		t.Errorf("span log tables: got %d, want 1", n)
	}
}
