package up

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	apiv1 "github.com/earshot/earshot/gen/earshot/api/v1"
	eventv1 "github.com/earshot/earshot/gen/earshot/event/v1"
	"github.com/earshot/earshot/services/internal/ident"
	"github.com/earshot/earshot/services/tests/rig"
)

// What a person sees who starts Earshot for the first time; all on one mesh.
func TestFirstLight(t *testing.T) {
	t.Parallel()
	m := start(t)
	t.Logf("ready after %v", m.took.Round(time.Millisecond))
	for _, c := range []struct {
		name string
		test func(*testing.T, *mesh)
	}{
		{"the documented curl call, history and receipts", sendAndRead},
		{"the eighth message of a burst is an alert everywhere", alertEverywhere},
		{"events resume after the last one seen", eventsResume},
		{"an old burst is resolved within seconds", oldBurst},
		{"metrics have the names that dashboards use", metricNames},
	} {
		t.Run(c.name, func(t *testing.T) {
			here := *m
			here.t = t
			c.test(t, &here)
		})
	}
}

func sendAndRead(t *testing.T, m *mesh) {
	if code, status, _ := m.health("clickhouse"); code != http.StatusOK || status != "ok" {
		t.Errorf("health: got %d %s, want 200 ok", code, status)
	}
	sent := rig.Post(t, m.url("messages/send"), `{
    "sender_id": "alice",
    "receiver_id": "bob",
    "content": "Hello Bob! Let's discuss the project deadline.",
    "message_type": "text"
  }`)
	id, _ := sent.JSON["message_id"].(string)
	conversation, _ := sent.JSON["conversation_id"].(string)
	if sent.JSON["status"] != "success" || !strings.HasPrefix(id, "msg-") || !strings.HasPrefix(conversation, "conv-") {
		t.Fatalf("send: got %s", sent.Text)
	}
	// A receipt that comes before its message.
	early := ident.New(time.Now()).MessageID()
	view := fmt.Sprintf(`{"user_id":"bob","conversation_id":%q}`, conversation)
	rig.Post(t, m.url("messages/%s/views", early), view)
	batch := rig.Post(t, m.url("messages:batch"), fmt.Sprintf(
		`{"messages":[{"sender_id":"bob","receiver_id":"alice","content":"Fine."},{"sender_id":"","content":"nobody"},{"message_id":%q,"sender_id":"alice","receiver_id":"bob","content":"Good."}]}`, early))
	results, _ := batch.JSON["results"].([]any)
	var outcome []string
	for _, r := range results {
		r, _ := r.(map[string]any)
		outcome = append(outcome, fmt.Sprint(r["status"]))
	}
	if got := strings.Join(outcome, " "); got != "success refused success" {
		t.Errorf("batch: got %q: %s", got, batch.Text)
	}
	rig.Post(t, m.url("messages/%s/views", id), fmt.Sprintf(`{"user_id":"bob","conversation_id":%q,"status":"delivered"}`, conversation))

	history := func() map[string]map[string]any {
		a := rig.Get(t, m.url("messages/conversation/%s?page_size=10", conversation))
		by := map[string]map[string]any{}
		list, _ := a.JSON["messages"].([]any)
		for _, e := range list {
			e, _ := e.(map[string]any)
			by[fmt.Sprint(e["content"])] = e
		}
		return by
	}
	var h map[string]map[string]any
	first := "Hello Bob! Let's discuss the project deadline."
	rig.Eventually(t, rig.Patience, "history", func() bool {
		h = history()
		return len(h) == 3 && h[first]["read_status"] == "delivered" && h["Good."]["read_status"] == "read"
	})
	if got := h[first]; got["message_id"] != id || got["sender_id"] != "alice" || got["receiver_id"] != "bob" || got["message_type"] != "text" || got["read_at"] != nil {
		t.Errorf("history: got %v", got)
	}
	if got := h["Fine."]["read_status"]; got != "sent" {
		t.Errorf("read_status of a message without receipts: got %v, want sent", got)
	}
	rig.Post(t, m.url("messages/%s/views", id), view)
	rig.Eventually(t, rig.Patience, "read_at", func() bool {
		h = history()
		return h[first]["read_status"] == "read" && h[first]["read_at"] != nil
	})
	if h["Good."]["read_at"] == nil {
		t.Error("a receipt that came before its message left no read_at")
	}
	if n := rig.Number(t, m.ClickHouseHTTP, fmt.Sprintf("SELECT count() AS n FROM message_db.messages WHERE conversation_id = '%s' AND read_status = 'read'", conversation)); n != 2 {
		t.Errorf("ClickHouse has %d read messages, want 2", n)
	}
}

// hear returns the first alert of a user that the stream brings.
func hear(ctx context.Context, t *testing.T, m *mesh, user string) <-chan *eventv1.Alert {
	t.Helper()
	stream, err := apiv1.NewAlertServiceClient(m.dial()).StreamAlerts(ctx, &apiv1.StreamAlertsRequest{UserIds: []string{user}})
	if err != nil {
		t.Fatal(err)
	}
	if f, err := stream.Recv(); err != nil || f.GetHeartbeat() == nil {
		t.Fatalf("first frame: got %v, %v, want a heartbeat", f, err)
	}
	heard := make(chan *eventv1.Alert, 1)
	go func() {
		defer close(heard)
		for {
			f, err := stream.Recv()
			if err != nil {
				return
			}
			if a := f.GetAlert(); a != nil {
				heard <- a
				return
			}
		}
	}()
	return heard
}

// burst sends n messages of a user, one after the other.
func burst(t *testing.T, m *mesh, user string, n int) (ids []string) {
	t.Helper()
	for i := range n {
		a := rig.Post(t, m.url("messages/send"), fmt.Sprintf(`{"sender_id":%q,"conversation_id":"room-%d","content":"again %d"}`, user, i%3, i))
		ids = append(ids, fmt.Sprint(a.JSON["message_id"]))
	}
	return ids
}

func alertEverywhere(t *testing.T, m *mesh) {
	ctx := within(t, rig.Patience)
	heard := hear(ctx, t, m, "charlie")
	ids := burst(t, m, "charlie", 7)
	select {
	case a := <-heard:
		t.Fatalf("an alert after seven messages: %v", a)
	case <-time.After(300 * time.Millisecond): // time enough for a wrong one: the right one takes a few milliseconds
	}
	began := time.Now()
	ids = append(ids, burst(t, m, "charlie", 1)...)
	a := <-heard
	t.Logf("alert heard %v after the eighth message was sent", time.Since(began).Round(time.Millisecond))
	if a.GetState() != eventv1.AlertState_ALERT_STATE_OPEN || a.GetCount() != 8 || a.GetThreshold() != 8 || a.GetSpanSeconds() != 60 || strings.Join(a.GetMessageIds(), " ") != strings.Join(ids, " ") {
		t.Errorf("alert: got %v, want open, 8 of 8 in 60 s, messages %v", a, ids)
	}
	states := map[string]bool{}
	rig.Eventually(t, rig.Patience, "the alert to be confirmed", func() bool {
		rows := rig.Rows[map[string]any](t, m.ClickHouseHTTP, fmt.Sprintf("SELECT state, count FROM message_db.alerts WHERE alert_id = '%s'", a.GetAlertId()))
		if len(rows) != 1 {
			return false
		}
		states[fmt.Sprint(rows[0]["state"])] = true
		return states["confirmed"]
	})
	if !states["open"] {
		t.Errorf("states seen in ClickHouse: %v, want open first", states)
	}
	list := rig.Get(t, m.url("alerts?user_id=charlie"))
	alerts, _ := list.JSON["alerts"].([]any)
	if len(alerts) != 1 {
		t.Fatalf("alerts of charlie: %s", list.Text)
	}
	if got, _ := alerts[0].(map[string]any); got["alert_id"] != a.GetAlertId() || got["state"] != "ALERT_STATE_CONFIRMED" {
		t.Errorf("list: got %v, want %s confirmed", got, a.GetAlertId())
	}
}

// event is one of a stream of server-sent events.
type event struct{ kind, id, data string }

// events opens a stream and hands out its events until ctx ends.
func events(ctx context.Context, t *testing.T, m *mesh, path, last string) <-chan event {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, m.url("%s", path), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "text/event-stream")
	if last != "" {
		req.Header.Set("Last-Event-ID", last)
	}
	resp, err := http.DefaultClient.Do(req) //nolint:bodyclose // by the goroutine below, at the stream's end
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("%s: got %d, %s", path, resp.StatusCode, resp.Header.Get("Content-Type"))
	}
	out := make(chan event, 100)
	go func() {
		defer close(out)
		defer resp.Body.Close()
		var e event
		for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
			key, value, _ := strings.Cut(lines.Text(), ": ")
			switch key {
			case "event":
				e.kind = value
			case "id":
				e.id = value
			case "data":
				e.data += value
			case "":
				select {
				case out <- e:
				case <-ctx.Done():
					return
				}
				e = event{}
			}
		}
	}()
	return out
}

func eventsResume(t *testing.T, m *mesh) {
	ctx := within(t, rig.Patience)
	one, leave := context.WithCancel(ctx)
	defer leave()
	first := <-events(one, t, m, "alerts/stream?user_ids=dora", "")
	if first.kind != "heartbeat" || first.id == "" {
		t.Fatalf("first event: got %+v, want a heartbeat with an id", first)
	}
	leave()
	burst(t, m, "dora", 8) // while nobody listens
	rig.Eventually(t, rig.Patience, "the alert in ClickHouse", func() bool {
		return rig.Number(t, m.ClickHouseHTTP, "SELECT count() AS n FROM message_db.alerts WHERE user_id = 'dora'") == 1
	})
	for e := range events(ctx, t, m, "alerts/stream?user_ids=dora", first.id) {
		if e.kind == "" {
			if !strings.HasPrefix(e.data, `{"alert":{`) || !strings.Contains(e.data, `"user_id":"dora"`) {
				t.Errorf("event: got %s", e.data)
			}
			return
		}
	}
	t.Error("the alert was not heard after resuming")
}

func oldBurst(t *testing.T, m *mesh) {
	conn := m.dial()
	client, alerts := apiv1.NewMessageServiceClient(conn), apiv1.NewAlertServiceClient(conn)
	at := time.Date(2018, 5, 4, 12, 0, 0, 0, time.UTC)
	batch := &apiv1.SendMessagesRequest{Backfill: true}
	for i := range 10 {
		batch.Messages = append(batch.Messages, &apiv1.SendMessageRequest{
			SenderId: "erin", ConversationId: fmt.Sprint("old-", i%2), Content: "as recorded", CreatedAt: timestamppb.New(at.Add(time.Duration(i) * time.Second)),
		})
	}
	if resp, err := client.SendMessages(within(t, rig.Patience), batch); err != nil || resp.GetResults()[9].GetStatus() != "success" {
		t.Fatalf("send: %v, %v", resp, err)
	}
	alert := &eventv1.Alert{}
	// The ninth message may have been read before the eighth, from another partition; such an alert is retracted.
	standing := []eventv1.AlertState{eventv1.AlertState_ALERT_STATE_OPEN, eventv1.AlertState_ALERT_STATE_CONFIRMED, eventv1.AlertState_ALERT_STATE_RESOLVED}
	rig.Eventually(t, rig.Patience, "the alert to be resolved", func() bool {
		resp, err := alerts.ListAlerts(within(t, rig.Patience), &apiv1.ListAlertsRequest{UserId: "erin", States: standing})
		if err != nil {
			t.Fatal(err)
		}
		if len(resp.GetAlerts()) == 1 {
			alert = resp.GetAlerts()[0]
		}
		return alert.GetState() == eventv1.AlertState_ALERT_STATE_RESOLVED
	})
	if got := alert.GetTriggeredAt().AsTime(); alert.GetCount() != 10 || !got.Equal(at.Add(7*time.Second)) {
		t.Errorf("alert: got %d messages, triggered at %v, want 10 and the eighth's time", alert.GetCount(), got)
	}
}

// dashboardMetrics are the names that the dashboards' test allows in panels, without those of Prometheus itself.
var dashboardMetrics = []string{
	"earshot_ingest_messages_total", "earshot_ingest_bytes_total", "earshot_ingest_ack_duration_seconds",
	"earshot_processor_records_total", "earshot_processor_watermark_seconds", "earshot_processor_late_total",
	"earshot_processor_remembered", "earshot_processor_waiting", "earshot_processor_outstanding", "earshot_processor_rebuild_duration_seconds",
	"earshot_sink_rows_total", "earshot_sink_insert_duration_seconds", "earshot_sink_delay_seconds",
	"earshot_kafka_lag_records", "earshot_freshness_seconds",
	"earshot_query_subscribers", "earshot_query_duration_seconds",
	"rpc_server_call_duration_seconds",
	"go_goroutines", "go_memstats_alloc_bytes_total", "process_resident_memory_bytes",
}

func metricNames(t *testing.T, m *mesh) {
	// A message that was accepted long after it was written, and without backfill, is late.
	old := time.Now().Add(-10 * time.Minute).UTC().Format(time.RFC3339)
	rig.Post(t, m.url("messages/send"), fmt.Sprintf(`{"sender_id":"late","conversation_id":"room-1","content":"sorry","created_at":%q}`, old))
	if _, err := apiv1.NewMessageServiceClient(m.dial()).SendMessage(within(t, rig.Patience), &apiv1.SendMessageRequest{SenderId: "a", ReceiverId: "b", Content: "over gRPC"}); err != nil {
		t.Fatal(err)
	}
	var missing []string
	all := func() bool {
		text := "\n" + rig.Get(t, "http://"+m.Metrics+"/metrics").Text
		missing = nil
		for _, name := range dashboardMetrics {
			found := false
			for _, end := range []string{"{", " ", "_bucket{", "_count{"} {
				found = found || strings.Contains(text, "\n"+name+end)
			}
			if !found {
				missing = append(missing, name)
			}
		}
		return len(missing) == 0
	}
	for deadline := time.Now().Add(rig.Patience); !all(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("/metrics does not have %v", missing)
		}
	}
}
