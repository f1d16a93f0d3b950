package sink

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	eventv1 "github.com/earshot/earshot/gen/earshot/event/v1"
	"github.com/earshot/earshot/services/internal/kafka"
	"github.com/earshot/earshot/services/internal/kafka/kafkatest"
	"github.com/earshot/earshot/services/internal/telemetry"
	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"google.golang.org/protobuf/proto"
)

var update = flag.Bool("update", false, "write the golden files anew")

// One record of each kind, as it goes into its columns.
func TestRowsGolden(t *testing.T) {
	at := time.UnixMilli(1_530_000_000_123).UTC()
	m := chat("conv-1", "alice", at, "see you at ten")
	m.Backfill = true
	group := chat("conv-1", "carol", at, "in a group")
	group.ReceiverId = ""
	retracted := alertEvent(at)
	retracted.State, retracted.SupersededBy, retracted.Revision = eventv1.AlertState_ALERT_STATE_RETRACTED, "alert-0", 4
	recs := []kafka.Record{
		messageRec(m), messageRec(group),
		viewRec(m, "bob", "delivered", at.Add(time.Second)), viewRec(m, "bob", "read", at.Add(2*time.Second)),
		rec(topics.Alerts, "mallory", alertEvent(at)), rec(topics.Alerts, "mallory", retracted),
		rec(topics.Trends, "deadline", trendEvent(at)),
		rec(topics.ConversationMetrics, "c", windowEvent(at)),
		rec(topics.UserActivity, "alice", activityEvent(at)),
	}
	b := newBatch()
	read := readers(topics)
	for i := range recs {
		r := &recs[i]
		r.Partition, r.Offset, r.Timestamp = 3, int64(100+i), at.Add(time.Minute)
		rows, err := read[r.Topic](r, nil)
		if err != nil {
			t.Fatal(err)
		}
		b.take(&owned{tp: r.TopicPartition()}, r, rows, nil, "", at)
	}
	jobs := b.jobs()
	slices.SortFunc(jobs, func(a, b job) int { return strings.Compare(a.table.name, b.table.name) })
	var out strings.Builder
	for _, j := range jobs {
		fmt.Fprintln(&out, j.table.insert())
		for i := range j.rows {
			for _, c := range j.table.columns {
				text, err := json.Marshal(reflect.ValueOf(c.of(j.rows)).Index(i).Interface())
				if err != nil {
					t.Fatal(err)
				}
				fmt.Fprintf(&out, "  %s = %s\n", c.name, text)
			}
			fmt.Fprintln(&out)
		}
	}
	const golden = "testdata/rows.golden"
	if *update {
		if err := os.WriteFile(golden, []byte(out.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), out.String()); diff != "" {
		t.Errorf("rows (-want +got; -update writes them anew):\n%s", diff)
	}
}

// Every column of each physical table is filled.
func TestColumnsAreThoseOfTheSchema(t *testing.T) {
	db := fresh(t)
	for _, table := range allTables {
		want := one[[]string](t, db, "SELECT arraySort(groupArray(name)) FROM system.columns WHERE database = 'message_db' AND table = '"+table.name+"'")
		var got []string
		for _, c := range table.columns {
			got = append(got, c.name)
		}
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-schema +sink):\n%s", table.name, diff)
		}
	}
}

func TestEveryTopicReachesItsTable(t *testing.T) {
	for _, url := range []string{server.Addr(), "http://" + server.HTTPAddr()} {
		t.Run(strings.SplitN(url, ":", 2)[0], func(t *testing.T) {
			fresh(t)
			db := connect(t, url)
			kcfg := kafkatest.Start(t)
			now := time.Now().UTC().Truncate(time.Second)
			m := chat("c", "alice", now, "hello")
			produce(t, kcfg,
				viewRec(m, "bob", "read", now.Add(time.Second)), // before its message, perhaps
				messageRec(m),
				rec(topics.Alerts, "mallory", alertEvent(now)),
				rec(topics.Trends, "deadline", trendEvent(now)),
				rec(topics.ConversationMetrics, "c", windowEvent(now)),
				rec(topics.UserActivity, "alice", activityEvent(now)),
			)
			s, stop := start(t, quick(), kcfg, db, telemetry.Nop())
			for _, view := range []string{"messages WHERE read_status = 'read'", "message_views", "alerts", "trends", "conversation_windows", "user_activity", "user_stats", "conversation_metrics", "realtime_user_activity"} {
				rows(t, db, 1, "message_db."+view)
			}
			if err := s.Ready(t.Context()); err != nil {
				t.Errorf("not ready: %v", err)
			}
			if err := stop(); err != nil {
				t.Error(err)
			}
			got := one[string](t, db, "SELECT toString((alert_id, user_id, state, count, threshold, span_seconds, message_ids, positions, conversation_ids, superseded_by, revision, rule)) FROM message_db.alerts")
			if want := "('alert-1','mallory','open',8,8,60,['m1','m2'],[(1,10),(2,20)],['c','d'],'',1,'rate/1')"; got != want {
				t.Errorf("alert:\ngot  %s\nwant %s", got, want)
			}
			got = one[string](t, db, "SELECT toString((term, count, senders, score, baseline, state, approximate, revision)) FROM message_db.trends")
			if want := "('deadline',8,5,6.5,1,'closed',true,17)"; got != want {
				t.Errorf("trend:\ngot  %s\nwant %s", got, want)
			}
		})
	}
}

// answer renders a query's answer.
func answer(t *testing.T, db driver.Conn, sql string) []string {
	t.Helper()
	found, err := db.Query(t.Context(), sql)
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	defer func() { _ = found.Close() }()
	var out []string
	for found.Next() {
		values := make([]any, len(found.ColumnTypes()))
		for i, c := range found.ColumnTypes() {
			values[i] = reflect.New(c.ScanType()).Interface()
		}
		if err := found.Scan(values...); err != nil {
			t.Fatal(err)
		}
		var line []string
		for _, v := range values {
			v = reflect.ValueOf(v).Elem().Interface()
			if at, ok := v.(time.Time); ok {
				v = at.UTC().Format(time.RFC3339Nano)
			}
			line = append(line, fmt.Sprint(v))
		}
		out = append(out, strings.Join(line, " "))
	}
	if err := found.Err(); err != nil {
		t.Fatal(err)
	}
	return out
}

// The sample queries of the original message-tracking briefs, to the letter.
const (
	mostActive = `SELECT 
    user_id,
    count(*) as message_count,
    max(created_at) as last_activity
FROM message_db.messages 
WHERE created_at >= now() - 3600
GROUP BY user_id 
ORDER BY message_count DESC;`
	health = `SELECT 
    conversation_id,
    count(*) as total_messages,
    countDistinct(sender_id) as participants
FROM message_db.messages
GROUP BY conversation_id
ORDER BY total_messages DESC;`
	spam = `SELECT 
    user_id,
    count(*) as messages_last_5min
FROM message_db.messages 
WHERE created_at >= now() - 300
GROUP BY user_id
HAVING messages_last_5min > 20;`
	hourly = `SELECT toStartOfHour(created_at) AS hour, count(*) AS messages
FROM message_db.messages GROUP BY hour ORDER BY hour DESC;`
	readRate = `SELECT sender_id,
       count(*) AS sent,
       countIf(read_status = 'read') AS read_count,
       round(read_count * 100.0 / sent, 2) AS read_rate
FROM message_db.messages GROUP BY sender_id;`
)

// Right after duplicates, copies with other content, a replay, and receipts before, after and without their message.
func TestSampleQueries(t *testing.T) {
	db := fresh(t)
	kcfg := kafkatest.Start(t)
	now := time.Now().UTC().Truncate(time.Millisecond)
	old := now.Add(-26 * time.Hour)
	var recs []kafka.Record
	var alice []*eventv1.Message
	for i := range 21 { // alice: 21 in the last minutes, in two conversations
		alice = append(alice, chat([]string{"c1", "c2"}[i%2], "alice", now.Add(-time.Duration(i)*time.Second), fmt.Sprint("a", i)))
	}
	carol := chat("c1", "carol", now.Add(-30*time.Minute), "in the hour")
	dave := chat("c3", "dave", old, "yesterday")
	recs = append(recs, viewRec(alice[3], "bob", "read", now)) // before its message
	for _, m := range append(slices.Clone(alice), carol, dave) {
		recs = append(recs, messageRec(m))
	}
	other := proto.Clone(alice[0]).(*eventv1.Message)
	other.SenderId, other.Content = "mallory", "another text"
	foreign := proto.Clone(alice[1]).(*eventv1.Message)
	foreign.ConversationId = "elsewhere" // the same id there is another message, which nobody sent
	recs = append(recs,
		messageRec(other),
		viewRec(alice[0], "bob", "delivered", now), viewRec(alice[0], "bob", "read", now.Add(-time.Second)), viewRec(alice[0], "bob", "read", now.Add(-2*time.Second)),
		viewRec(alice[0], "bob", "delivered", now.Add(time.Second)),
		viewRec(foreign, "bob", "read", now),
	)
	produce(t, kcfg, recs...)
	produce(t, kcfg, recs...) // the whole of it again
	_, stop := start(t, quick(), kcfg, db, telemetry.Nop())
	rows(t, db, 23, "message_db.messages")
	rows(t, db, 4, "message_db.message_views")
	rows(t, db, 2, "message_db.messages WHERE read_status = 'read'")
	a := admin(t, kcfg)
	eventually(t, 20*time.Second, func() (any, bool) {
		n := committed(t, a, topics.Messages.Name) + committed(t, a, topics.Views.Name)
		return fmt.Sprintf("committed %d of %d", n, 2*len(recs)), n == int64(2*len(recs))
	})
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	rfc := func(at time.Time) string { return at.Format(time.RFC3339Nano) }
	hours := map[time.Time]int{}
	for _, m := range append(slices.Clone(alice), carol, dave) {
		hours[m.GetCreatedAt().AsTime().Truncate(time.Hour)]++
	}
	var perHour []string
	for h, n := range hours {
		perHour = append(perHour, fmt.Sprint(rfc(h), " ", n))
	}
	slices.SortFunc(perHour, func(a, b string) int { return strings.Compare(b, a) })
	for _, c := range []struct {
		name, sql string
		want      []string
		sorted    bool
	}{
		{"most active", mostActive, []string{"alice 21 " + rfc(now), "carol 1 " + rfc(now.Add(-30*time.Minute))}, false},
		{"health", health, []string{"c1 12 2", "c2 10 1", "c3 1 1"}, false},
		{"spam", spam, []string{"alice 21"}, false},
		{"hourly", hourly, perHour, false},
		{"read rate", readRate, []string{"alice 21 2 9.52", "carol 1 0 0", "dave 1 0 0"}, true},
		{"user_stats", "SELECT * FROM message_db.user_stats ORDER BY user_id", []string{
			fmt.Sprint("alice 21 2 ", rfc(now), " ", rfc(now.Add(-20*time.Second))),
			fmt.Sprint("carol 1 1 ", rfc(now.Add(-30*time.Minute)), " ", rfc(now.Add(-30*time.Minute))),
			fmt.Sprint("dave 1 1 ", rfc(old), " ", rfc(old)),
		}, false},
		{"first read", "SELECT read_at FROM message_db.messages WHERE message_id = '" + alice[0].GetMessageId() + "'", nil, false},
	} {
		got := answer(t, db, strings.TrimSuffix(c.sql, ";"))
		if c.sorted {
			slices.Sort(got)
		}
		if c.want == nil {
			var at *time.Time
			if err := db.QueryRow(t.Context(), c.sql).Scan(&at); err != nil || at == nil || !at.Equal(now.Add(-2*time.Second)) {
				t.Errorf("%s: got %v, %v; want %v", c.name, at, err, now.Add(-2*time.Second))
			}
			continue
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
	perMinute := one[uint64](t, db, "SELECT sum(messages_last_minute) FROM message_db.realtime_user_activity")
	if perMinute != 23 {
		t.Errorf("minutes sum up to %d messages, want 23", perMinute)
	}
}

// A message's trace ends with its INSERT, which also names the other records.
func TestSpansAndMetrics(t *testing.T) {
	db := fresh(t)
	kcfg := kafkatest.Start(t)
	spans := tracetest.NewInMemoryExporter()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans))
	reader := sdkmetric.NewManualReader()
	tel := telemetry.Nop()
	tel.Tracer = provider.Tracer("")
	tel.Meter = sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)).Meter("")

	now := time.Now().Add(-time.Second)
	var recs []kafka.Record
	for i := range 200 {
		r := messageRec(chat("c", "alice", now, fmt.Sprint(i))) // one partition, one day
		r.Headers = []kafka.Header{{Key: "traceparent", Value: fmt.Appendf(nil, "00-%032x-%016x-01", i+1, i+1)}}
		recs = append(recs, r)
	}
	produce(t, kcfg, recs...)
	cfg := quick()
	cfg.BatchWait = 300 * time.Millisecond // all in one
	_, stop := start(t, cfg, kcfg, db, tel)
	rows(t, db, 200, "message_db.messages")
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	var inserts, batches int
	for _, s := range spans.GetSpans() {
		switch s.Name {
		case "INSERT message_rows":
			inserts++
			if !s.Parent.IsValid() || s.Parent.TraceID() != s.SpanContext.TraceID() || !s.Parent.IsRemote() {
				t.Errorf("its parent is %v, want a record", s.Parent)
			}
			if len(s.Links) > 128 {
				t.Errorf("%d links, want at most 128", len(s.Links))
			}
			for _, want := range []attribute.KeyValue{
				attribute.String("db.system.name", "clickhouse"), attribute.String("db.namespace", "message_db"),
				attribute.String("db.collection.name", "message_rows"), attribute.String("db.operation.name", "INSERT"),
				attribute.String("db.query.summary", "INSERT message_rows"),
			} {
				if !slices.Contains(s.Attributes, want) {
					t.Errorf("no attribute %v", want)
				}
			}
		case "process sink":
			batches++
		}
	}
	if inserts == 0 || batches == 0 || inserts > batches {
		t.Errorf("%d INSERT and %d process spans", inserts, batches)
	}
	var got metricdata.ResourceMetrics
	if err := reader.Collect(context.Background(), &got); err != nil {
		t.Fatal(err)
	}
	names := map[string]int64{}
	for _, sm := range got.ScopeMetrics {
		for _, m := range sm.Metrics {
			names[m.Name] = 1
			if sum, ok := m.Data.(metricdata.Sum[int64]); ok {
				names[m.Name] = sum.DataPoints[0].Value
			}
		}
	}
	if names["earshot.sink.rows"] != 200 || names["earshot.sink.insert.duration"] == 0 || names["earshot.sink.delay"] == 0 {
		t.Errorf("metrics: %v", names)
	}
}
