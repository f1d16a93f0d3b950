package schema

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"
)

func TestApplyIsSafeFromManyAtOnce(t *testing.T) {
	empty(t)
	const appliers = 4
	var wg sync.WaitGroup
	errs := make([]error, appliers)
	for i := range appliers {
		conn := open(t) // as another process would
		wg.Go(func() { _, errs[i] = Apply(t.Context(), conn, Options{Retention: time.Hour}) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	conn := open(t)
	did, err := Apply(t.Context(), conn, Options{Retention: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range did {
		if d.Did != "unchanged" {
			t.Errorf("%s: %s, though it had been applied", d.Name, d.Did)
		}
	}
	if err := Check(t.Context(), conn); err != nil {
		t.Error(err)
	}
	if n := one[uint64](t, conn, "SELECT count() FROM message_db.schema_versions FINAL"); n != 15 {
		t.Errorf("%d versions are noted, want 15", n)
	}
	if n := one[uint64](t, conn, "SELECT count() FROM system.mutations WHERE database = 'message_db'"); n != 0 {
		t.Errorf("a fresh schema made %d mutations", n)
	}
}

func TestCheckSaysWhatIsMissing(t *testing.T) {
	conn := empty(t)
	if err := Check(t.Context(), conn); !errors.Is(err, ErrMissing) {
		t.Errorf("without a database: %v", err)
	}
	if _, err := Apply(t.Context(), conn, Options{}); err != nil {
		t.Fatal(err)
	}
	do(t, conn, "DELETE FROM message_db.schema_versions WHERE version = 9 SETTINGS mutations_sync = 1")
	if err := Check(t.Context(), conn); !errors.Is(err, ErrMissing) || !strings.Contains(err.Error(), "0009_alerts.sql") {
		t.Errorf("without file 9: %v", err)
	}
}

func TestAChangedFileIsNamed(t *testing.T) {
	conn := empty(t)
	file := func(text string) fstest.MapFS { return fstest.MapFS{"0001_x.sql": {Data: []byte(text)}} }
	x := "CREATE TABLE IF NOT EXISTS message_db.x (a Int8) ENGINE = MergeTree ORDER BY a"
	// The TTLs fail, for their tables are not there; the file is applied before.
	_, _ = apply(t.Context(), conn, file(x), Options{Retention: time.Hour})
	if n := one[uint64](t, conn, "SELECT count() FROM message_db.x"); n != 0 {
		t.Fatalf("x has %d rows", n)
	}
	_, err := apply(t.Context(), conn, file(x+" -- changed"), Options{Retention: time.Hour})
	if err == nil || !strings.Contains(err.Error(), "0001_x.sql has changed") {
		t.Errorf("got %v", err)
	}
}

func TestFilesAreNumbered(t *testing.T) {
	for name, fs := range map[string]fstest.MapFS{
		"gap":   {"0001_a.sql": {}, "0003_c.sql": {}},
		"twice": {"0001_a.sql": {}, "0001_b.sql": {}},
		"name":  {"1_a.sql": {}},
	} {
		if _, err := read(fs); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	all, err := read(files)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		if strings.Contains(f.sql, ";\n") || strings.HasSuffix(f.sql, ";") {
			t.Errorf("%s: ends a statement with a semicolon, but a file is one statement without", f.name)
		}
		if strings.Contains(strings.ToLower(f.sql), "now()") {
			t.Errorf("%s: no value comes from the server's clock", f.name)
		}
	}
}

func TestRetentionSetsAndChangesTTLs(t *testing.T) {
	conn := empty(t)
	engine := func(table string) string {
		return one[string](t, conn, "SELECT engine_full FROM system.tables WHERE database = 'message_db' AND name = ?", table)
	}
	for _, step := range []struct {
		keep time.Duration
		want string
	}{{0, ""}, {720 * time.Hour, "toIntervalSecond(2592000)"}, {90 * time.Second, "toIntervalSecond(90)"}, {0, ""}} {
		if _, err := Apply(t.Context(), conn, Options{Retention: step.keep}); err != nil {
			t.Fatal(err)
		}
		for _, x := range ttls {
			got := engine(x.table)
			if !strings.Contains(got, step.want) || strings.Contains(got, " TTL ") != (step.want != "") {
				t.Errorf("retention %v: %s is %s", step.keep, x.table, got)
			}
		}
		did, err := Apply(t.Context(), conn, Options{Retention: step.keep})
		if err != nil || slices.ContainsFunc(did, func(d Applied) bool { return d.Did != "unchanged" }) {
			t.Errorf("retention %v again: %v, %v", step.keep, did, err)
		}
	}
	for _, bad := range []time.Duration{-time.Second, 1500 * time.Millisecond} {
		if _, err := Apply(t.Context(), conn, Options{Retention: bad}); err == nil {
			t.Errorf("retention %v was taken", bad)
		}
	}
}

// A table for each TTL, and a TTL for each table with rows.
func TestEveryRowTableHasATTL(t *testing.T) {
	conn := applied(t)
	tables := one[[]string](t, conn, "SELECT groupArray(name) FROM (SELECT name FROM system.tables WHERE database = 'message_db' AND name LIKE '%\\_rows' ORDER BY name)")
	var want []string
	for _, x := range ttls {
		want = append(want, x.table)
	}
	slices.Sort(want)
	if !slices.Equal(tables, want) {
		t.Errorf("tables %v, TTLs %v", tables, want)
	}
}

func TestEverythingHasAComment(t *testing.T) {
	conn := applied(t)
	if bare := one[[]string](t, conn, "SELECT groupArray(name) FROM system.tables WHERE database = 'message_db' AND comment = ''"); len(bare) > 0 {
		t.Errorf("tables without a comment: %v", bare)
	}
	if bare := one[[]string](t, conn, "SELECT groupArray(table || '.' || name) FROM system.columns WHERE database = 'message_db' AND comment = ''"); len(bare) > 0 {
		t.Errorf("columns without a comment: %v", bare)
	}
	notUTC := one[[]string](t, conn, "SELECT groupArray(table || '.' || name) FROM system.columns WHERE database = 'message_db' AND type LIKE '%Date%' AND type NOT LIKE '%DateTime64(3, \\'UTC\\')%'")
	if len(notUTC) > 0 {
		t.Errorf("time columns that are not DateTime64(3, 'UTC'): %v", notUTC)
	}
}

func TestPrint(t *testing.T) {
	var b bytes.Buffer
	if err := Print(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"CREATE DATABASE", "schema_versions", "-- 0001_message_rows.sql", "-- 0015_user_activity.sql", "alert_rows: accepted_at + retention"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q is not printed", want)
		}
	}
}

func TestApplyEndsWithItsContext(t *testing.T) {
	conn := empty(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Apply(ctx, conn, Options{}); err == nil {
		t.Error("no error")
	}
}
