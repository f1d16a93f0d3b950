package schema

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/google/go-cmp/cmp"
)

const rowColumns = "INSERT INTO message_db.message_rows (conversation_id, created_at, message_id, sender_id, receiver_id, content, message_type, backfill, _partition, _offset, accepted_at, read_status, read_at, touched_at) VALUES "

// copyOf is a message row: m1 in conversation c as found at offset.
func copyOf(sender, content string, offset int) string {
	return fmt.Sprintf("('c', '2026-11-20 10:00:00.123', 'm1', '%s', '', '%s', 'text', false, 1, %d, '2026-11-20 10:00:01', 'sent', NULL, '2026-11-20 10:00:01')", sender, content, offset)
}

// receipt is a receipt row for m1 of a conversation.
func receipt(conversation, status, at string) string {
	readAt := "NULL"
	if status == "read" {
		readAt = "'" + at + "'"
	}
	return fmt.Sprintf("('%s', '2026-11-20 10:00:00.123', 'm1', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '%s', %s, '2026-11-20 11:00:00')", conversation, status, readAt)
}

// seen returns how messages shows m1.
func seen(t *testing.T, conn driver.Conn) string {
	t.Helper()
	return one[string](t, conn, `SELECT arrayStringConcat(groupArray(format('{} {}: {} @{} {} {}', conversation_id, sender_id, content, toString(_offset), read_status, ifNull(toString(read_at), '-'))), '; ') FROM message_db.messages`)
}

// Whatever comes between and after, and however often, the first copy stays whole and receipts add up, without FINAL in the query, before and after
// merges. Rows of one partition are inserted in the order of the log; a sink that starts over inserts a stretch of them again.
func TestFirstCopyAndReceipts(t *testing.T) {
	const want = "c alice: hi @100 read 2026-11-20 10:04:00.000"
	log := []string{
		receipt("c", "read", "2026-11-20 10:05:00"),
		copyOf("alice", "hi", 100),
		receipt("c", "read", "2026-11-20 10:04:00"),
		copyOf("mallory", "other", 200),
		receipt("c", "delivered", "2026-11-20 10:09:00"),
		receipt("c", "read", "2026-11-20 10:08:00"),
		receipt("forged", "read", "2026-11-20 10:00:00"),
		copyOf("alice", "hi", 300),
	}
	rng := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // a repeatable test
	for round := range 6 {
		conn := applied(t)
		seenFirst := false
		insert := func(rows ...string) {
			do(t, conn, rowColumns+strings.Join(rows, ", "))
			seenFirst = seenFirst || slices.Contains(rows, log[1])
			if rng.IntN(4) == 0 {
				do(t, conn, "SYSTEM START MERGES message_db.message_rows")
				do(t, conn, "OPTIMIZE TABLE message_db.message_rows FINAL")
				do(t, conn, "SYSTEM STOP MERGES message_db.message_rows")
			}
			if got := seen(t, conn); seenFirst && !strings.HasPrefix(got, "c alice: hi @100") || strings.Contains(got, ";") || !seenFirst && got != "" {
				t.Fatalf("round %d: messages shows %q", round, got)
			}
		}
		for at := 0; at < len(log); {
			n := 1 + rng.IntN(3)
			end := min(len(log), at+n)
			insert(log[at:end]...) // one block, of any size
			if rng.IntN(3) == 0 && at > 0 {
				at = rng.IntN(at) // started over from an older commit
				continue
			}
			at = end
		}
		if got := seen(t, conn); got != want {
			t.Errorf("round %d, before merging: %q, want %q", round, got, want)
		}
		do(t, conn, "SYSTEM START MERGES message_db.message_rows")
		do(t, conn, "OPTIMIZE TABLE message_db.message_rows FINAL")
		if got := seen(t, conn); got != want {
			t.Errorf("round %d, merged: %q, want %q", round, got, want)
		}
	}
}

func TestLateDeliveredDoesNotUnread(t *testing.T) {
	conn := applied(t)
	do(t, conn, rowColumns+copyOf("alice", "hi", 1))
	if got, want := seen(t, conn), "c alice: hi @1 sent -"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	do(t, conn, rowColumns+receipt("c", "delivered", "2026-11-20 10:01:00"))
	if got, want := seen(t, conn), "c alice: hi @1 delivered -"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestAlertsCollapse(t *testing.T) {
	conn := applied(t)
	insert := func(state string, count, revision int, end, superseded string) {
		tuple := "(0, '')"
		if superseded != "" {
			tuple = fmt.Sprintf("(%d, '%s')", revision, superseded)
		}
		do(t, conn, fmt.Sprintf(`INSERT INTO message_db.alert_rows VALUES ('bob', '2026-11-20 10:00:00', 'a1', '%s', %d, 8, 60, '2026-11-20 09:59:00', '%s',
			['m1', 'm2'], [(1, 10), (2, 20)], ['c', 'd'], %s, %d, 'rate/1', 0, %d, '2026-11-20 10:00:01')`, state, count, end, tuple, revision, revision))
	}
	look := func() string {
		return one[string](t, conn, `SELECT arrayStringConcat(groupArray(format('{} {} {} {} [{}] {} {} {}', alert_id, state, toString(count), toString(window_end), superseded_by, toString(revision), toString(message_ids), toString(positions))), '; ') FROM message_db.alerts`)
	}
	insert("resolved", 12, 3, "2026-11-20 10:01:00", "")
	insert("open", 8, 1, "2026-11-20 10:00:00", "") // an old copy
	want := "a1 resolved 12 2026-11-20 10:01:00.000 [] 3 ['m1','m2'] [(1,10),(2,20)]"
	if got := look(); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	insert("retracted", 12, 5, "2026-11-20 10:01:00", "a0")
	insert("retracted", 12, 4, "2026-11-20 10:01:00", "zz") // older, though it sorts last
	insert("confirmed", 9, 2, "2026-11-20 10:00:30", "")
	want = "a1 retracted 12 2026-11-20 10:01:00.000 [a0] 5 ['m1','m2'] [(1,10),(2,20)]"
	if got := look(); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	do(t, conn, "SYSTEM START MERGES message_db.alert_rows")
	do(t, conn, "OPTIMIZE TABLE message_db.alert_rows FINAL")
	if got := look(); got != want {
		t.Errorf("merged:\ngot  %s\nwant %s", got, want)
	}
}

func TestWindowsKeepTheLargestRevision(t *testing.T) {
	conn := applied(t)
	for _, r := range []int{7, 9, 4} {
		do(t, conn, fmt.Sprintf("INSERT INTO message_db.trend_rows VALUES ('2026-11-20 10:00:00', '2026-11-20 10:02:00', 'deadline', %d, 2, 1.5, 0, 'closed', false, %d, 0, %d, '2026-11-20 10:02:01')", r/2, r, r))
		do(t, conn, fmt.Sprintf("INSERT INTO message_db.conversation_window_rows VALUES ('c', '2026-11-20 10:00:30', '2026-11-20 10:00:00', %d, 2, 0.1, 1, 0, 0, 'closed', %d, 0, %d, '2026-11-20 10:02:01')", r/2, r, r))
		do(t, conn, fmt.Sprintf("INSERT INTO message_db.user_activity_rows VALUES ('bob', '2026-11-20 10:00:00', '2026-11-20 10:01:00', %d, 2, '2026-11-20 10:00:30', 'closed', %d, 0, %d, '2026-11-20 10:02:01')", r/2, r, r))
	}
	do(t, conn, "INSERT INTO message_db.message_view_rows VALUES ('c', '2026-11-20 10:00:00', 'm1', 'bob', 'read', '2026-11-20 10:05:00', 0, 1, '2026-11-20 10:05:01')")
	do(t, conn, "INSERT INTO message_db.message_view_rows VALUES ('c', '2026-11-20 10:00:00', 'm1', 'bob', 'read', '2026-11-20 10:04:00', 0, 2, '2026-11-20 10:05:02')")
	got := []string{
		one[string](t, conn, "SELECT toString(groupArray((term, count, revision, state))) FROM message_db.trends"),
		one[string](t, conn, "SELECT toString(groupArray((conversation_id, message_count, revision, state))) FROM message_db.conversation_windows"),
		one[string](t, conn, "SELECT toString(groupArray((user_id, message_count, revision, state))) FROM message_db.user_activity"),
		one[string](t, conn, "SELECT toString(groupArray((user_id, status, viewed_at))) FROM message_db.message_views"),
	}
	want := []string{
		"[('deadline',4,9,'closed')]", "[('c',4,9,'closed')]", "[('bob',4,9,'closed')]", "[('bob','read','2026-11-20 10:04:00.000')]",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("views (-want +got):\n%s", diff)
	}
}

// Rows end by their acceptance, not by their event time; a receipt neither ends its message early nor prolongs it, and one without a message ends.
// Copies have met long before, since a day that is quiet for an hour becomes one part.
func TestTTLCountsFromAcceptance(t *testing.T) {
	conn := empty(t)
	if _, err := Apply(t.Context(), conn, Options{}); err != nil {
		t.Fatal(err)
	}
	row := func(id, sender, accepted, touched string) string {
		m := "NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL"
		if sender != "" {
			m = fmt.Sprintf("'%s', '', 'hi', 'text', true, 0, 0, %s", sender, accepted)
		}
		return fmt.Sprintf("('c', '2018-03-04 10:00:00', '%s', %s, 'sent', NULL, %s)", id, m, touched)
	}
	const fresh, old, older = "now() - 86400", "now() - 31 * 86400", "now() - 32 * 86400"
	for _, r := range []string{
		row("old-chat-today", "alice", fresh, fresh),
		row("expired", "alice", old, old),
		row("expired-read-today", "alice", old, old), row("expired-read-today", "", "", fresh),
		row("forged-before", "", "", old), row("forged-before", "alice", fresh, fresh),
		row("orphan-old", "", "", old),
		row("orphan", "", "", fresh),
		row("copy-later", "alice", older, older), row("copy-later", "alice", fresh, fresh),
	} {
		do(t, conn, rowColumns+r)
	}
	do(t, conn, "OPTIMIZE TABLE message_db.message_rows FINAL")
	if n := one[uint64](t, conn, "SELECT count() FROM message_db.message_rows"); n != 7 {
		t.Errorf("%d rows without a TTL, want 7", n)
	}
	// Rows that are there get a new TTL, too.
	if _, err := Apply(t.Context(), conn, Options{Retention: 720 * time.Hour}); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(20 * time.Second); ; {
		do(t, conn, "OPTIMIZE TABLE message_db.message_rows FINAL")
		got := one[[]string](t, conn, "SELECT arraySort(groupArray(message_id)) FROM message_db.message_rows")
		if want := []string{"forged-before", "old-chat-today", "orphan"}; slices.Equal(got, want) {
			break
		} else if time.Now().After(end) {
			t.Fatalf("kept %v, want %v", got, want)
		}
	}
	shown := one[[]string](t, conn, "SELECT arraySort(groupArray(message_id)) FROM message_db.messages")
	if want := []string{"forged-before", "old-chat-today"}; !slices.Equal(shown, want) {
		t.Errorf("messages shows %v, want %v", shown, want)
	}
}

func TestHistoryReadsLittle(t *testing.T) {
	conn := applied(t)
	do(t, conn, `INSERT INTO message_db.message_rows SELECT 'c' || toString(number % 1000), toDateTime64('2026-11-20 00:00:00', 3, 'UTC') + number % 86400, 'm' || toString(number),
		'alice', '', 'hi', 'text', false, 0, number, '2026-11-20 10:00:00', 'sent', NULL, '2026-11-20 10:00:00' FROM numbers(200000)`)
	plan := one[string](t, conn, "SELECT arrayStringConcat(groupArray(explain), '\n') FROM (EXPLAIN indexes = 1 SELECT * FROM message_db.messages WHERE conversation_id = 'c7' AND created_at >= '2026-11-20 08:00:00' ORDER BY created_at, _offset LIMIT 50)")
	if !strings.Contains(plan, "Granules: 1/") {
		t.Errorf("a page of one conversation does not use the key:\n%s", plan)
	}
	pruned := one[string](t, conn, "SELECT arrayStringConcat(groupArray(explain), '\n') FROM (EXPLAIN indexes = 1 SELECT count() FROM message_db.messages WHERE created_at >= '2026-11-21 00:00:00')")
	if !strings.Contains(pruned, "Parts: 0/1") {
		t.Errorf("a time range does not skip other days:\n%s", pruned)
	}
}
