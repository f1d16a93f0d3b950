// Package schema holds the tables and views of ClickHouse, one object a file, and applies them.
//
// Physical tables end in _rows and hold every copy and revision; readers use the views, which collapse them. A file that was released is never
// edited: a change is a new file with the next number. It may import services/internal packages only.
package schema

import (
	"cmp"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ClickHouse/ch-go/proto"
	ch "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/earshot/earshot/services/internal/clickhouse"
)

//go:embed *.sql
var files embed.FS

// Options of Apply.
type Options struct {
	Retention time.Duration // how long rows are kept after acceptance, in whole seconds; 0 keeps them for ever
}

// Applied says what Apply did to a file or table.
type Applied struct {
	Name string // file, or table for a change of its TTL
	Did  string // "applied", "unchanged" or what was changed, such as "ttl none -> 720h0m0s"
}

// ttls are the tables whose rows end, and the time of acceptance that counts. A message counts from its first copy; a receipt without a message
// from its newest record, so that a receipt neither shortens nor prolongs the life of its message.
var ttls = []struct{ table, from string }{
	{"message_rows", "ifNull(accepted_at, touched_at)"},
	{"message_view_rows", "accepted_at"},
	{"alert_rows", "accepted_at"},
	{"trend_rows", "accepted_at"},
	{"conversation_window_rows", "accepted_at"},
	{"user_activity_rows", "accepted_at"},
}

const (
	createDatabase = "CREATE DATABASE IF NOT EXISTS " + clickhouse.Database
	createVersions = `CREATE TABLE IF NOT EXISTS message_db.schema_versions
(
    version    UInt32 COMMENT 'Number of the file.',
    name       String COMMENT 'Name of the file.',
    sha256     String COMMENT 'Hash of the file as it was applied.',
    applied_at DateTime64(3, 'UTC') COMMENT 'When.'
)
ENGINE = ReplacingMergeTree
ORDER BY version
COMMENT 'Schema files that were applied.'`
)

// file is one versioned statement.
type file struct {
	version uint32
	name    string
	sql     string
	hash    string
}

var fileName = regexp.MustCompile(`^(\d{4})_[a-z0-9_]+\.sql$`)

// read returns the files in the order of their numbers, which must run from 1 without a gap.
func read(from fs.FS) ([]file, error) {
	entries, err := fs.Glob(from, "*.sql")
	if err != nil {
		return nil, err
	}
	slices.Sort(entries)
	all := make([]file, 0, len(entries))
	for i, name := range entries {
		m := fileName.FindStringSubmatch(name)
		if m == nil {
			return nil, fmt.Errorf("schema file %s: want a name like 0001_messages.sql", name)
		}
		version, err := strconv.ParseUint(m[1], 10, 32)
		if err != nil || int(version) != i+1 { //nolint:gosec // four digits
			return nil, fmt.Errorf("schema file %s: want number %04d next", name, i+1)
		}
		text, err := fs.ReadFile(from, name)
		if err != nil {
			return nil, fmt.Errorf("schema file %s: %w", name, err)
		}
		sum := sha256.Sum256(text)
		all = append(all, file{uint32(version), name, strings.TrimSpace(string(text)), hex.EncodeToString(sum[:])})
	}
	return all, nil
}

// Print writes the schema as SQL, in the order in which Apply runs it.
func Print(w io.Writer) error {
	all, err := read(files)
	if err != nil {
		return err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s;\n\n%s;\n", createDatabase, createVersions)
	for _, f := range all {
		fmt.Fprintf(&b, "\n-- %s\n%s;\n", f.name, f.sql)
	}
	b.WriteString("\n-- The retention setting decides the TTL of:\n")
	for _, t := range ttls {
		fmt.Fprintf(&b, "--   %s.%s: %s + retention\n", clickhouse.Database, t.table, t.from)
	}
	_, err = io.WriteString(w, b.String())
	return err
}

// Apply brings the schema up to date and sets the TTLs. It is safe to run again and from several processes at once: every file is idempotent. A
// file that was applied with another text is an error that names it. Versions beyond those known are left alone.
func Apply(ctx context.Context, conn driver.Conn, o Options) ([]Applied, error) {
	return apply(ctx, conn, files, o)
}

func apply(ctx context.Context, conn driver.Conn, from fs.FS, o Options) ([]Applied, error) {
	if o.Retention < 0 || o.Retention%time.Second != 0 {
		return nil, fmt.Errorf("retention: got %v, want whole seconds, or 0 to keep for ever", o.Retention)
	}
	all, err := read(from)
	if err != nil {
		return nil, err
	}
	for _, sql := range []string{createDatabase, createVersions} {
		if err := exec(ctx, conn, sql); err != nil {
			return nil, fmt.Errorf("prepare database %s: %w", clickhouse.Database, err)
		}
	}
	have, err := versions(ctx, conn)
	if err != nil {
		return nil, err
	}
	if err := compare(all, have); err != nil {
		return nil, err // before anything is changed
	}
	var done []Applied
	for _, f := range all {
		did := "unchanged"
		if _, ok := have[f.version]; !ok {
			did = "applied"
			if err := exec(ctx, conn, f.sql); err != nil {
				return done, fmt.Errorf("apply schema file %s: %w", f.name, err)
			}
			if err := note(ctx, conn, f); err != nil {
				return done, err
			}
		}
		done = append(done, Applied{f.name, did})
	}
	for _, t := range ttls {
		did, err := setTTL(ctx, conn, t.table, t.from, o.Retention)
		if err != nil {
			return done, fmt.Errorf("set the TTL of %s: %w", t.table, err)
		}
		done = append(done, Applied{t.table, did})
	}
	return done, nil
}

// ErrMissing says that the schema is not, or not wholly, applied.
var ErrMissing = errors.New("schema is not up to date; run: earshot schema apply")

// Check returns ErrMissing when a file is not applied, and an error that names it when one was applied with another text. It changes nothing.
func Check(ctx context.Context, conn driver.Conn) error {
	all, err := read(files)
	if err != nil {
		return err
	}
	have, err := versions(ctx, conn)
	if code := proto.Error(clickhouse.Code(err)); code == proto.ErrUnknownTable || code == proto.ErrUnknownDatabase {
		return ErrMissing
	}
	if err != nil {
		return err
	}
	if err := compare(all, have); err != nil {
		return err
	}
	for _, f := range all {
		if _, ok := have[f.version]; !ok {
			return fmt.Errorf("%s: %w", f.name, ErrMissing)
		}
	}
	return nil
}

func versions(ctx context.Context, conn driver.Conn) (map[uint32]string, error) {
	rows, err := conn.Query(ctx, "SELECT version, sha256 FROM message_db.schema_versions FINAL")
	if err != nil {
		return nil, fmt.Errorf("read schema_versions: %w", err)
	}
	defer func() { _ = rows.Close() }()
	have := map[uint32]string{}
	for rows.Next() {
		var version uint32
		var hash string
		if err := rows.Scan(&version, &hash); err != nil {
			return nil, fmt.Errorf("read schema_versions: %w", err)
		}
		have[version] = hash
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read schema_versions: %w", err)
	}
	return have, nil
}

func compare(all []file, have map[uint32]string) error {
	for _, f := range all {
		if hash, ok := have[f.version]; ok && hash != f.hash {
			return fmt.Errorf("schema file %s has changed since it was applied (hash %.12s, was %.12s); put it back and make the change in a new file", f.name, f.hash, hash)
		}
	}
	return nil
}

func note(ctx context.Context, conn driver.Conn, f file) error {
	ctx = ch.Context(ctx, ch.WithSettings(ch.Settings{"async_insert": 0}))
	err := conn.Exec(ctx, "INSERT INTO message_db.schema_versions (version, name, sha256, applied_at) VALUES (?, ?, ?, fromUnixTimestamp64Milli(?))",
		f.version, f.name, f.hash, time.Now().UnixMilli())
	if err != nil {
		return fmt.Errorf("note schema file %s as applied: %w", f.name, err)
	}
	return nil
}

// setTTL alters a table's TTL when it is not the one wanted.
func setTTL(ctx context.Context, conn driver.Conn, table, from string, keep time.Duration) (string, error) {
	var engine string
	var parts uint64
	err := conn.QueryRow(ctx, "SELECT engine_full, (SELECT count() FROM system.parts WHERE database = 'message_db' AND table = ? AND active) "+
		"FROM system.tables WHERE database = 'message_db' AND name = ?", table, table).Scan(&engine, &parts)
	if err != nil {
		return "", err
	}
	was := ttlOf(engine)
	// As ClickHouse itself writes it, so that it can be compared.
	want := ""
	if keep > 0 {
		want = fmt.Sprintf("toDateTime(%s) + toIntervalSecond(%d)", from, keep/time.Second)
	}
	if was == want {
		return "unchanged", nil
	}
	sql := fmt.Sprintf("ALTER TABLE %s.%s REMOVE TTL", clickhouse.Database, table)
	if want != "" {
		sql = fmt.Sprintf("ALTER TABLE %s.%s MODIFY TTL %s", clickhouse.Database, table, want)
	}
	// Rows that are there get the new TTL by a mutation, in the background; an empty table needs none.
	ctx = ch.Context(ctx, ch.WithSettings(ch.Settings{"materialize_ttl_after_modify": min(parts, 1), "mutations_sync": 0}))
	if err := exec(ctx, conn, sql); err != nil {
		if proto.Error(clickhouse.Code(err)) != proto.ErrBadArguments || want != "" || ttlNow(ctx, conn, table) != "" {
			return "", err
		}
		return "unchanged", nil // somebody else removed it meanwhile
	}
	return fmt.Sprintf("ttl %s -> %s", cmp.Or(was, "none"), cmp.Or(want, "none")), nil
}

func ttlNow(ctx context.Context, conn driver.Conn, table string) string {
	var engine string
	if err := conn.QueryRow(ctx, "SELECT engine_full FROM system.tables WHERE database = 'message_db' AND name = ?", table).Scan(&engine); err != nil {
		return err.Error()
	}
	return ttlOf(engine)
}

// ttlOf cuts the TTL out of a table's engine clause.
func ttlOf(engine string) string {
	_, ttl, _ := strings.Cut(engine, " TTL ")
	ttl, _, _ = strings.Cut(ttl, " SETTINGS ")
	return ttl
}

// exec runs one statement. Two processes that make the same object at once can trip over each other in spite of IF NOT EXISTS: then again.
func exec(ctx context.Context, conn driver.Conn, sql string) error {
	for try := 1; ; try++ {
		err := conn.Exec(ctx, sql)
		switch proto.Error(clickhouse.Code(err)) {
		case proto.ErrTableAlreadyExists, proto.ErrDatabaseAlreadyExists, proto.ErrTableIsBeingRestarted:
			if try < 10 {
				select {
				case <-time.After(time.Duration(try) * 20 * time.Millisecond):
					continue
				case <-ctx.Done():
				}
			}
		}
		return err
	}
}
