package query_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	ch "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	apiv1 "github.com/earshot/earshot/gen/earshot/api/v1"
	eventv1 "github.com/earshot/earshot/gen/earshot/event/v1"
	"github.com/earshot/earshot/services/embedded"
	"github.com/earshot/earshot/services/internal/ident"
	"github.com/earshot/earshot/services/internal/kafka"
	"github.com/earshot/earshot/services/internal/telemetry"
	"github.com/earshot/earshot/services/query"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"
)

func history(db driver.Conn, cfg query.Config) *query.Service {
	return query.New(cfg, kafka.DefaultConfig(), db, telemetry.Nop())
}

var day0 = time.Date(2026, 11, 20, 23, 59, 59, 0, time.UTC)

// insertMessages writes n messages of a conversation, two to a millisecond, over two days, against their order in the log.
func insertMessages(t *testing.T, db driver.Conn, conversation string, n int) {
	t.Helper()
	batch, err := db.PrepareBatch(t.Context(), `INSERT INTO message_db.message_rows (conversation_id, created_at, message_id, sender_id, receiver_id,
		content, message_type, backfill, _partition, _offset, accepted_at, read_status, touched_at)`)
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		at := day0.Add(time.Duration(i/2) * 20 * time.Millisecond)
		id := ident.Hashed(at, conversation, fmt.Sprint(i)).MessageID()
		text := func(s string) *string { return &s }
		part, offset, backfill := int32(1), int64(1000+i), true
		if err := batch.Append(conversation, at, id, text(fmt.Sprintf("user-%d", i%3)), text(""), text(fmt.Sprintf("text %d", i)), text("text"),
			&backfill, &part, &offset, &at, "sent", at); err != nil {
			t.Fatal(err)
		}
	}
	if err := batch.Send(); err != nil {
		t.Fatal(err)
	}
}

func TestConversationHistory(t *testing.T) {
	db := database(t)
	s := history(db, query.DefaultConfig())
	const n = 125
	insertMessages(t, db, "conv-pages", n)
	insertMessages(t, db, "conv-pages", n) // copies
	insertMessages(t, db, "conv-other", 3)
	first := ident.Hashed(day0, "conv-pages", "0").MessageID()
	run(t, db, fmt.Sprintf(`INSERT INTO message_db.message_rows (conversation_id, created_at, message_id, read_status, read_at, touched_at) VALUES
		('conv-pages', '2026-11-20 23:59:59.000', '%s', 'read', '2026-11-21 08:00:00.123', '2026-11-21 08:00:01')`, first))

	var got []*apiv1.ConversationMessage
	req := &apiv1.ListConversationMessagesRequest{ConversationId: "conv-pages", PageSize: 40}
	pages := 0
	for {
		res, err := s.ListConversationMessages(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		pages++
		got = append(got, res.GetMessages()...)
		if req.PageToken = res.GetNextPageToken(); req.PageToken == "" {
			break
		}
		req.PageSize++ // may change from page to page
	}
	if len(got) != n || pages != 4 {
		t.Fatalf("%d messages on %d pages, want %d on 4", len(got), pages, n)
	}
	for i, m := range got {
		want := fmt.Sprintf("text %d", i) // the order of the log within a millisecond
		if m.GetContent() != want || m.GetConversationId() != "conv-pages" || !m.GetCreatedAt().AsTime().Equal(day0.Add(time.Duration(i/2)*20*time.Millisecond)) {
			t.Fatalf("message %d is %v", i, m)
		}
	}
	if m := got[0]; m.GetMessageId() != first || m.GetReadStatus() != "read" || m.GetReadAt().AsTime() != time.Date(2026, 11, 21, 8, 0, 0, 123e6, time.UTC) {
		t.Errorf("read message is %v", m)
	}
	if m := got[1]; m.GetReadStatus() != "sent" || m.ReadAt != nil {
		t.Errorf("unread message is %v", m)
	}

	count := func(req *apiv1.ListConversationMessagesRequest) int {
		t.Helper()
		req.ConversationId = "conv-pages"
		res, err := s.ListConversationMessages(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		return len(res.GetMessages())
	}
	for name, c := range map[string]struct{ got, want int }{
		"default":          {count(&apiv1.ListConversationMessagesRequest{}), 50},
		"too large is cut": {count(&apiv1.ListConversationMessagesRequest{PageSize: 1 << 30}), n},
		"from":             {count(&apiv1.ListConversationMessagesRequest{PageSize: 200, StartTime: timestamppb.New(day0.Add(20 * time.Millisecond))}), n - 2},
		"just after":       {count(&apiv1.ListConversationMessagesRequest{PageSize: 200, StartTime: timestamppb.New(day0.Add(20*time.Millisecond + 1))}), n - 4},
		"until":            {count(&apiv1.ListConversationMessagesRequest{PageSize: 200, EndTime: timestamppb.New(day0.Add(20 * time.Millisecond))}), 2},
		"just until":       {count(&apiv1.ListConversationMessagesRequest{PageSize: 200, EndTime: timestamppb.New(day0.Add(20*time.Millisecond + 1))}), 4},
	} {
		if c.got != c.want {
			t.Errorf("%s: %d messages, want %d", name, c.got, c.want)
		}
	}
}

func TestHistoryRefusesWrongRequests(t *testing.T) {
	db := database(t)
	s := history(db, query.DefaultConfig())
	insertMessages(t, db, "conv-wrong", 10)
	res, err := s.ListConversationMessages(t.Context(), &apiv1.ListConversationMessagesRequest{ConversationId: "conv-wrong", PageSize: 2})
	if err != nil {
		t.Fatal(err)
	}
	token := res.GetNextPageToken()
	forged := token[:5] + string(rune('A'+(token[5]-'A'+1)%26)) + token[6:]
	at := timestamppb.New
	for name, c := range map[string]struct {
		reason string
		req    *apiv1.ListConversationMessagesRequest
	}{
		"negative size":      {"FIELD_INVALID", &apiv1.ListConversationMessagesRequest{PageSize: -1}},
		"empty range":        {"FIELD_INVALID", &apiv1.ListConversationMessagesRequest{StartTime: at(day0), EndTime: at(day0)}},
		"turned range":       {"FIELD_INVALID", &apiv1.ListConversationMessagesRequest{StartTime: at(day0.Add(1)), EndTime: at(day0)}},
		"time before 1970":   {"TIME_OUT_OF_RANGE", &apiv1.ListConversationMessagesRequest{StartTime: at(time.Unix(-1, 0))}},
		"nanos out of range": {"TIME_OUT_OF_RANGE", &apiv1.ListConversationMessagesRequest{EndTime: &timestamppb.Timestamp{Seconds: 1, Nanos: -1}}},
		"garbage token":      {"TOKEN_INVALID", &apiv1.ListConversationMessagesRequest{PageToken: "garbage"}},
		"forged token":       {"TOKEN_INVALID", &apiv1.ListConversationMessagesRequest{PageToken: forged}},
		"cut token":          {"TOKEN_INVALID", &apiv1.ListConversationMessagesRequest{PageToken: token[:len(token)-2]}},
		"token, other range": {"TOKEN_INVALID", &apiv1.ListConversationMessagesRequest{PageToken: token, StartTime: at(day0)}},
	} {
		t.Run(name, func(t *testing.T) {
			c.req.ConversationId = "conv-wrong"
			_, err := s.ListConversationMessages(t.Context(), c.req)
			wantError(t, err, codes.InvalidArgument, c.reason)
		})
	}
	_, err = s.ListConversationMessages(t.Context(), &apiv1.ListConversationMessagesRequest{ConversationId: "conv-other", PageToken: token})
	wantError(t, err, codes.InvalidArgument, "TOKEN_INVALID")
	_, err = s.GetConversationMetrics(t.Context(), &apiv1.GetConversationMetricsRequest{ConversationId: "conv-wrong", PageToken: token})
	wantError(t, err, codes.InvalidArgument, "TOKEN_INVALID")
}

func insertAlert(t *testing.T, db driver.Conn, id, user, state string, at time.Time, count int) {
	t.Helper()
	run(t, db, fmt.Sprintf(`INSERT INTO message_db.alert_rows (user_id, triggered_at, alert_id, state, count, threshold, span_seconds, window_start, window_end,
		message_ids, positions, conversation_ids, superseded_by, revision, rule, _partition, _offset, accepted_at) VALUES
		('%s', fromUnixTimestamp64Milli(toInt64(%d), 'UTC'), '%s', '%s', %d, 8, 60, '2026-11-22 10:00:00.000', '2026-11-22 10:01:00.500',
		 ['msg-1', 'msg-2'], [(1, 11), (2, 22)], ['conv-a', 'conv-%s'], (0, ''), %d, 'burst/1', 0, 5, '2026-11-22 10:02:00')`, user, at.UnixMilli(), id, state, count, user, count))
}

func TestAlertHistory(t *testing.T) {
	db := database(t)
	s := history(db, query.DefaultConfig())
	run(t, db, "TRUNCATE TABLE message_db.alert_rows")
	for i := range 7 {
		at := day0.Add(time.Duration(i/2) * time.Second) // pairs share their time
		insertAlert(t, db, fmt.Sprintf("alert-%d", i), fmt.Sprintf("user-%d", i%2), "open", at, 8)
	}
	insertAlert(t, db, "alert-3", "user-1", "resolved", day0.Add(time.Second), 12)
	insertAlert(t, db, "alert-3", "user-1", "open", day0.Add(time.Second), 9) // late; the furthest state and the largest count stay

	list := func(req *apiv1.ListAlertsRequest) string {
		t.Helper()
		var ids []string
		for {
			res, err := s.ListAlerts(t.Context(), req)
			if err != nil {
				t.Fatal(err)
			}
			for _, a := range res.GetAlerts() {
				ids = append(ids, strings.TrimPrefix(a.GetAlertId(), "alert-"))
			}
			if req.PageToken = res.GetNextPageToken(); req.PageToken == "" {
				return strings.Join(ids, "")
			}
		}
	}
	open, resolved := eventv1.AlertState_ALERT_STATE_OPEN, eventv1.AlertState_ALERT_STATE_RESOLVED
	for name, c := range map[string]struct {
		want string
		req  *apiv1.ListAlertsRequest
	}{
		"newest first":    {"6543210", &apiv1.ListAlertsRequest{}},
		"pages of one":    {"6543210", &apiv1.ListAlertsRequest{PageSize: 1}},
		"pages of three":  {"6543210", &apiv1.ListAlertsRequest{PageSize: 3}},
		"exactly a page":  {"6543210", &apiv1.ListAlertsRequest{PageSize: 7}},
		"user":            {"531", &apiv1.ListAlertsRequest{UserId: "user-1", PageSize: 2}},
		"conversation":    {"6420", &apiv1.ListAlertsRequest{ConversationId: "conv-user-0"}},
		"state":           {"3", &apiv1.ListAlertsRequest{States: []eventv1.AlertState{resolved}}},
		"states":          {"6543210", &apiv1.ListAlertsRequest{States: []eventv1.AlertState{resolved, open}}},
		"times":           {"5432", &apiv1.ListAlertsRequest{StartTime: timestamppb.New(day0.Add(1)), EndTime: timestamppb.New(day0.Add(2001 * time.Millisecond)), PageSize: 3}},
		"nothing matches": {"", &apiv1.ListAlertsRequest{UserId: "nobody"}},
	} {
		if got := list(c.req); got != c.want {
			t.Errorf("%s: got %s, want %s", name, got, c.want)
		}
	}
	res, err := s.GetAlert(t.Context(), &apiv1.GetAlertRequest{AlertId: "alert-3"})
	if err != nil {
		t.Fatal(err)
	}
	a := res.GetAlert()
	if a.GetState() != resolved || a.GetCount() != 12 || a.GetUserId() != "user-1" || a.GetThreshold() != 8 || a.GetSpanSeconds() != 60 ||
		!a.GetTriggeredAt().AsTime().Equal(day0.Add(time.Second)) || len(a.GetMessageIds()) != 2 || len(a.GetPositions()) != 2 ||
		a.GetPositions()[1].GetPartition() != 2 || a.GetPositions()[1].GetOffset() != 22 || a.GetConversationIds()[1] != "conv-user-1" || a.GetRule() != "burst/1" ||
		a.GetWindowEnd().AsTime().Format(time.RFC3339Nano) != "2026-11-22T10:01:00.5Z" {
		t.Errorf("got %v", a)
	}
	_, err = s.GetAlert(t.Context(), &apiv1.GetAlertRequest{AlertId: "alert-77"})
	wantError(t, err, codes.NotFound, "NOT_FOUND")
}

func TestTrendHistory(t *testing.T) {
	db := database(t)
	s := history(db, query.DefaultConfig())
	run(t, db, "TRUNCATE TABLE message_db.trend_rows")
	batch, err := db.PrepareBatch(t.Context(), `INSERT INTO message_db.trend_rows (window_start, window_end, term, count, senders, score, baseline, state,
		approximate, revision, _partition, _offset, accepted_at)`)
	if err != nil {
		t.Fatal(err)
	}
	for w := range 3 {
		for i := range 30 {
			start := day0.Add(time.Duration(w) * 30 * time.Second)
			state := []string{"provisional", "closed"}[i%2]
			if err := batch.Append(start, start.Add(2*time.Minute), fmt.Sprintf("word%d", i), uint32(3+i), uint32(2), 0.1*float64(i/3), 1.5, state, i == 4, uint32(6), int32(0), int64(i), start); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := batch.Send(); err != nil {
		t.Fatal(err)
	}
	list := func(req *apiv1.ListTrendsRequest) (all []*eventv1.Trend) {
		t.Helper()
		for {
			res, err := s.ListTrends(t.Context(), req)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, res.GetTrends()...)
			if req.PageToken = res.GetNextPageToken(); req.PageToken == "" {
				return all
			}
		}
	}
	for _, size := range []int32{1, 7, 200} {
		all := list(&apiv1.ListTrendsRequest{PageSize: size})
		if len(all) != 90 {
			t.Fatalf("%d trends in pages of %d, want 90", len(all), size)
		}
		for i, b := range all[1:] {
			a := all[i]
			if at, bt := a.GetWindowStart().AsTime(), b.GetWindowStart().AsTime(); at.Before(bt) || at.Equal(bt) && a.GetScore() < b.GetScore() {
				t.Fatalf("%v before %v", a, b)
			}
		}
	}
	for name, c := range map[string]struct {
		want int
		req  *apiv1.ListTrendsRequest
	}{
		"term":      {3, &apiv1.ListTrendsRequest{Term: "WORD7"}},
		"state":     {45, &apiv1.ListTrendsRequest{State: eventv1.WindowState_WINDOW_STATE_CLOSED, PageSize: 10}},
		"min score": {3 * 21, &apiv1.ListTrendsRequest{MinScore: 0.1 * float64(3)}}, // the very bits that were stored
		"times":     {30, &apiv1.ListTrendsRequest{StartTime: timestamppb.New(day0.Add(time.Second)), EndTime: timestamppb.New(day0.Add(time.Minute))}},
	} {
		if got := list(c.req); len(got) != c.want {
			t.Errorf("%s: %d trends, want %d", name, len(got), c.want)
		}
	}
	one := list(&apiv1.ListTrendsRequest{Term: "word4", StartTime: timestamppb.New(day0.Add(time.Minute))})[0]
	if one.GetCount() != 7 || one.GetSenders() != 2 || one.GetScore() != 0.1 || one.GetBaseline() != 1.5 || !one.GetApproximate() || one.GetRevision() != 6 ||
		one.GetState() != eventv1.WindowState_WINDOW_STATE_PROVISIONAL || !one.GetWindowEnd().AsTime().Equal(day0.Add(3*time.Minute)) {
		t.Errorf("got %v", one)
	}
}

func TestConversationAndUserNumbers(t *testing.T) {
	db := database(t)
	s := history(db, query.DefaultConfig())
	insertMessages(t, db, "conv-numbers", 10)
	for i := range 5 {
		end := day0.Add(time.Duration(i) * 5 * time.Second).UnixMilli()
		for rev := range 2 { // of two revisions the larger counts
			run(t, db, fmt.Sprintf(`INSERT INTO message_db.conversation_window_rows VALUES ('conv-numbers', fromUnixTimestamp64Milli(toInt64(%d),'UTC'), fromUnixTimestamp64Milli(toInt64(%d),'UTC'),
				%d, 2, 0.5, 3, 1.25, 4, 'closed', %d, 0, %d, '2026-11-22 10:00:00')`, end, end-30_000, 10*i+rev, 2*(10*i+rev)+1, i))
			run(t, db, fmt.Sprintf(`INSERT INTO message_db.user_activity_rows VALUES ('numbers', fromUnixTimestamp64Milli(toInt64(%d),'UTC'), fromUnixTimestamp64Milli(toInt64(%d),'UTC'),
				%d, 2, '2026-11-20 10:00:00', 'closed', %d, 0, %d, '2026-11-22 10:00:00')`, end, end+60_000, 10*i+rev, 2*(10*i+rev)+1, i))
		}
	}
	var counts []uint32
	req := &apiv1.GetConversationMetricsRequest{ConversationId: "conv-numbers", PageSize: 2}
	for {
		res, err := s.GetConversationMetrics(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		if res.GetMessageCount() != 10 || res.GetParticipantCount() != 3 || !res.GetCreatedAt().AsTime().Equal(day0) || !res.GetLastMessageAt().AsTime().Equal(day0.Add(80*time.Millisecond)) {
			t.Errorf("got %v", res)
		}
		for _, w := range res.GetWindows() {
			counts = append(counts, w.GetMessageCount())
			if w.GetRate() != 0.5 || w.GetReplySeconds() != 1.25 || w.GetReplies() != 4 || w.GetState() != eventv1.WindowState_WINDOW_STATE_CLOSED {
				t.Errorf("got %v", w)
			}
		}
		if req.PageToken = res.GetNextPageToken(); req.PageToken == "" {
			break
		}
	}
	if fmt.Sprint(counts) != "[41 31 21 11 1]" {
		t.Errorf("windows %v", counts)
	}

	counts = nil
	ureq := &apiv1.GetUserActivityRequest{UserId: "numbers", PageSize: 3}
	for {
		res, err := s.GetUserActivity(t.Context(), ureq)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range res.GetMinutes() {
			counts = append(counts, m.GetMessageCount())
		}
		if ureq.PageToken = res.GetNextPageToken(); ureq.PageToken == "" {
			break
		}
	}
	if fmt.Sprint(counts) != "[41 31 21 11 1]" {
		t.Errorf("minutes %v", counts)
	}
	run(t, db, `INSERT INTO message_db.message_rows (conversation_id, created_at, message_id, sender_id, receiver_id, content, message_type, backfill, _partition, _offset, accepted_at)
		VALUES ('c1', '2026-11-20 10:00:00', 'msg-x', 'counted', '', 'x', 'text', false, 0, 1, '2026-11-20 10:00:00'), ('c2', '2026-11-20 10:00:01', 'msg-y', 'counted', '', 'x', 'text', false, 0, 2, '2026-11-20 10:00:00')`)
	res, err := s.GetUserActivity(t.Context(), &apiv1.GetUserActivityRequest{UserId: "counted"})
	if err != nil {
		t.Fatal(err)
	}
	if res.GetMessageCount() != 2 || res.GetActiveConversations() != 2 || res.GetLastActive().GetSeconds()-res.GetCreatedAt().GetSeconds() != 1 {
		t.Errorf("got %v", res)
	}
	_, err = s.GetConversationMetrics(t.Context(), &apiv1.GetConversationMetricsRequest{ConversationId: "conv-none"})
	wantError(t, err, codes.NotFound, "NOT_FOUND")
	_, err = s.GetUserActivity(t.Context(), &apiv1.GetUserActivityRequest{UserId: "none"})
	wantError(t, err, codes.NotFound, "NOT_FOUND")
}

// Whatever callers give stays a value: it finds what is so named, and nothing else.
func TestHostileStringsAreValues(t *testing.T) {
	db := database(t)
	run(t, db, "TRUNCATE TABLE message_db.alert_rows")
	hostile := []string{
		`'`, `''`, `\`, `\\`, `\'`, `"`, "`", `' OR 1=1 --`, `\N`, `NULL`, `{user_id:String}`, "a\tb", "a\nb", "a\rb", "a\x00b", "a\bb", `\t`, `\0`, `%27`, `;DROP TABLE messages`,
		"/*", "ünï", "日本", "🚨", "\u202e", `\x41`, `[1]`, `('a','b')`, " ", "a b ", "true", "1", "inf",
	}
	for i, h := range hostile {
		if err := db.Exec(t.Context(), `INSERT INTO message_db.alert_rows (user_id, triggered_at, alert_id, state, count, revision) SELECT {u:String}, '2001-01-01 00:00:00', concat('hostile-', {i:String}), 'open', 8, 1`,
			ch.Named("u", h), ch.Named("i", fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	for _, protocol := range []string{"native", "http"} {
		t.Run(protocol, func(t *testing.T) {
			conn := db
			if protocol == "http" {
				conn = connect(t, "http://"+engine.HTTPAddr())
			}
			s := history(conn, query.DefaultConfig())
			end := timestamppb.New(time.Date(2002, 1, 1, 0, 0, 0, 0, time.UTC))
			for i, h := range hostile {
				res, err := s.ListAlerts(t.Context(), &apiv1.ListAlertsRequest{UserId: h, EndTime: end})
				if err != nil {
					t.Errorf("%q: %v", h, err)
					continue
				}
				if len(res.GetAlerts()) != 1 || res.GetAlerts()[0].GetAlertId() != fmt.Sprintf("hostile-%d", i) || res.GetAlerts()[0].GetUserId() != h {
					t.Errorf("%q found %v", h, res.GetAlerts())
				}
				for name, ask := range map[string]func() error{
					"conversation": func() error {
						_, err := s.ListAlerts(t.Context(), &apiv1.ListAlertsRequest{ConversationId: h})
						return err
					},
					"term": func() error { _, err := s.ListTrends(t.Context(), &apiv1.ListTrendsRequest{Term: h}); return err },
					"messages": func() error {
						_, err := s.ListConversationMessages(t.Context(), &apiv1.ListConversationMessagesRequest{ConversationId: h})
						return err
					},
				} {
					if err := ask(); err != nil {
						t.Errorf("%s %q: %v", name, h, err)
					}
				}
			}
		})
	}
}

func TestHistoryWithoutAnswer(t *testing.T) {
	db := connect(t, "127.0.0.1:1") // nobody listens
	s := history(db, query.DefaultConfig())
	_, err := s.ListAlerts(t.Context(), &apiv1.ListAlertsRequest{})
	wantError(t, err, codes.Unavailable, "UNAVAILABLE")
	if err := s.ReadyHistory(t.Context()); err == nil {
		t.Error("ready without a database")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.ListAlerts(ctx, &apiv1.ListAlertsRequest{}); err == nil {
		t.Error("answered after the caller went away")
	}
}

func TestHistoryStaysWithinItsBounds(t *testing.T) {
	db := database(t)
	insertMessages(t, db, "conv-bounds", 5000)
	cfg := query.DefaultConfig()
	cfg.QueryRows = 1000
	_, err := history(db, cfg).GetUserActivity(t.Context(), &apiv1.GetUserActivityRequest{UserId: "user-1"})
	wantError(t, err, codes.ResourceExhausted, "OVER_CAPACITY")
	if _, err := history(db, query.DefaultConfig()).GetUserActivity(t.Context(), &apiv1.GetUserActivityRequest{UserId: "user-1"}); err != nil {
		t.Fatal(err)
	}
}

// A user who may only read is enough, over either protocol.
func TestReaderIsEnough(t *testing.T) {
	db := database(t)
	run(t, db, "TRUNCATE TABLE message_db.alert_rows")
	insertAlert(t, db, "alert-r", "user-r", "confirmed", day0, 8)
	for _, addr := range []string{engine.Addr(), "http://" + engine.HTTPAddr()} {
		s := history(connectAs(t, addr, embedded.ReaderUser), query.DefaultConfig())
		if err := s.ReadyHistory(t.Context()); err != nil {
			t.Fatal(err)
		}
		res, err := s.ListAlerts(t.Context(), &apiv1.ListAlertsRequest{
			States: []eventv1.AlertState{eventv1.AlertState_ALERT_STATE_CONFIRMED, eventv1.AlertState_ALERT_STATE_OPEN}, StartTime: timestamppb.New(day0), PageSize: 1,
		})
		if err != nil || len(res.GetAlerts()) != 1 || len(res.GetAlerts()[0].GetPositions()) != 2 {
			t.Errorf("over %s: %v, %v", addr, res, err)
		}
	}
}
