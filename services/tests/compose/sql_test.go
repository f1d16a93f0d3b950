package compose

import (
	"context"
	"os"
	"os/exec"
	"regexp"
	"testing"
	"time"

	ch "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"go.uber.org/goleak"

	"github.com/earshot/earshot/services/embedded"
	"github.com/earshot/earshot/services/sink/schema"
)

func TestMain(m *testing.M) {
	embedded.RunChildIfAsked()
	goleak.VerifyTestMain(m)
}

// clickhouse starts the real engine with the schema in it, and connects as the user that Grafana has.
func clickhouse(t *testing.T) driver.Conn {
	t.Helper()
	library, err := embedded.EnsureEngine(t.Context(), embedded.EngineConfig{Progress: os.Stderr})
	if err != nil {
		if _, missing := exec.LookPath("npm"); missing != nil && os.Getenv("CI") != "true" {
			t.Skipf("NOT TESTED: the ClickHouse engine can not be fetched: %v", err)
		}
		t.Fatal(err)
	}
	server, err := embedded.StartClickHouse(t.Context(), embedded.ClickHouseConfig{Library: library, DataDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// Not t.Context(), which has ended by now.
		if err := server.Stop(context.Background()); err != nil {
			t.Errorf("stop: %v", err)
		}
	})
	connect := func(user string) driver.Conn {
		conn, err := ch.Open(&ch.Options{Addr: []string{server.Addr()}, Auth: ch.Auth{Username: user}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}
	if _, err := schema.Apply(t.Context(), connect("default"), schema.Options{Retention: 720 * time.Hour}); err != nil {
		t.Fatal(err)
	}
	return connect(embedded.ReaderUser)
}

// The macros of Grafana's ClickHouse plugin that the dashboards use, written as the plugin writes them for a range of an hour.
var (
	timeFilter   = regexp.MustCompile(`\$__timeFilter_ms\((\w+)\)`)
	timeInterval = regexp.MustCompile(`\$__timeInterval_ms\((\w+)\)`)
)

func expand(sql string) string {
	sql = timeFilter.ReplaceAllString(sql, "$1 >= fromUnixTimestamp64Milli(1800000000000) AND $1 <= fromUnixTimestamp64Milli(1800003600000)")
	return timeInterval.ReplaceAllString(sql, "toStartOfInterval(toDateTime64($1, 3), INTERVAL 10000 millisecond)")
}

// TestPanelsRunOnTheSchema asks the real engine what the panels ask, as the user that Grafana has.
func TestPanelsRunOnTheSchema(t *testing.T) {
	conn := clickhouse(t)
	asked := 0
	for file, d := range dashboards(t) {
		for _, p := range d.Panels {
			for _, target := range p.Targets {
				if target.RawSQL == "" {
					continue
				}
				asked++
				rows, err := conn.Query(t.Context(), expand(target.RawSQL))
				if err != nil {
					t.Errorf("%s: %s: %v", file, p.Title, err)
					continue
				}
				if columns := rows.Columns(); p.Type == "timeseries" && columns[0] != "time" {
					t.Errorf("%s: %s: first column %s, want time", file, p.Title, columns[0])
				}
				for rows.Next() { // a panel of an empty range is empty, or zero
				}
				if err := rows.Err(); err != nil {
					t.Errorf("%s: %s: %v", file, p.Title, err)
				}
				if err := rows.Close(); err != nil {
					t.Errorf("%s: %s: %v", file, p.Title, err)
				}
			}
		}
	}
	if asked == 0 {
		t.Fatal("no panel has SQL")
	}
}
