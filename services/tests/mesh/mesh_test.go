// Package mesh holds the end-to-end test of the mesh as it runs in production: three real Apache Kafka brokers, a ClickHouse server, and every service
// as a process of its own.
package mesh

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	apiv1 "github.com/earshot/earshot/gen/earshot/api/v1"
	eventv1 "github.com/earshot/earshot/gen/earshot/event/v1"
	"github.com/earshot/earshot/services/embedded"
	"github.com/earshot/earshot/services/tests/rig"
)

func TestMain(m *testing.M) {
	embedded.RunChildIfAsked()
	goleak.VerifyTestMain(rig.Tests{M: m}, goleak.Cleanup(func(code int) {
		rig.Cleanup()
		os.Exit(code)
	}))
}

// service is an earshot process.
type service struct {
	*rig.Process
	name, addr, metrics string
	env                 []string
}

// mesh is all of them.
type mesh struct {
	t          *testing.T
	kafka      *rig.Kafka
	clickhouse *embedded.ClickHouse
	env        []string
	services   []*service // in order of start
}

func startParts(t *testing.T) *mesh {
	t.Helper()
	library, err := embedded.EnsureEngine(t.Context(), embedded.EngineConfig{Progress: os.Stderr})
	if err != nil {
		rig.Missing(t, "the ClickHouse engine", err)
	}
	ch, err := embedded.StartClickHouse(t.Context(), embedded.ClickHouseConfig{Library: library, DataDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ch.Stop(context.Background()); err != nil { // not t.Context(), which has ended by now
			t.Errorf("stop ClickHouse: %v", err)
		}
	})
	m := &mesh{t: t, kafka: rig.StartKafka(t, 3), clickhouse: ch}
	m.env = []string{
		"EARSHOT_CONFIG=", "KAFKA_BROKERS=" + strings.Join(m.kafka.Brokers(), ","), "CLICKHOUSE_URL=" + ch.Addr(), "LOG_LEVEL=warn",
		"KAFKA_SESSION_TIMEOUT=6s", // a killed process is missed sooner
	}
	return m
}

// tool runs an earshot command that ends by itself and returns what it printed.
func (m *mesh) tool(args ...string) string {
	m.t.Helper()
	p := rig.Start(m.t, args[0], m.env, rig.Earshot(m.t), args...)
	if code := p.Wait(rig.Patience); code != 0 {
		m.t.Fatalf("earshot %v: exit code %d:\n%s", args, code, p.Output())
	}
	return p.Output()
}

// start starts a service; env tells it about others.
func (m *mesh) start(name string, env ...string) *service {
	m.t.Helper()
	s := &service{name: name, addr: rig.Addr(rig.FreePort(m.t)), metrics: rig.Addr(rig.FreePort(m.t))}
	port := s.addr[strings.LastIndex(s.addr, ":")+1:]
	s.env = slices.Concat(m.env, env, []string{"GRPC_PORT=" + port, "SERVER_PORT=" + port, "METRICS_PORT=" + s.metrics[strings.LastIndex(s.metrics, ":")+1:]})
	m.services = append(m.services, s)
	m.again(s)
	return s
}

// again starts a service that has ended, on the same ports.
func (m *mesh) again(s *service) { s.Process = rig.Start(m.t, s.name, s.env, rig.Earshot(m.t), s.name) }

// await returns once every service that runs is ready.
func (m *mesh) await() {
	m.t.Helper()
	for _, s := range m.services {
		rig.Eventually(m.t, rig.Patience, s.name+" to be ready", func() bool {
			a, err := rig.Do(http.MethodGet, "http://"+s.metrics+"/readyz", "")
			return !s.Running() || err == nil && a.Code == http.StatusOK
		})
	}
}

// stop ends services in order; each must end with 0.
func (m *mesh) stop(list ...*service) {
	m.t.Helper()
	for _, s := range list {
		began := time.Now()
		if code := s.Stop(); code != 0 {
			m.t.Errorf("stop %s: exit code %d:\n%s", s.name, code, s.Output())
		}
		m.t.Logf("%s stopped after %v", s.name, time.Since(began).Round(time.Millisecond))
	}
}

func TestMeshOnRealParts(t *testing.T) {
	began := time.Now()
	m := startParts(t)
	m.tool("topics", "apply")
	m.tool("schema", "apply")
	query := m.start("query")
	sinks := []*service{m.start("sink"), m.start("sink")}
	hosts := []*service{m.start("processor"), m.start("processor"), m.start("processor")}
	ingest := m.start("ingest")
	gateway := m.start("gateway", "INGEST_ADDR="+ingest.addr, "QUERY_ADDR="+query.addr)
	m.await()
	t.Logf("all parts ready after %v", time.Since(began).Round(100*time.Millisecond))

	m.alertIsHeard(ingest, query, gateway)

	// Three hosts, and a blow against a part of each kind while messages come.
	load := rig.StartLoad(t, ingest.addr, gateway.addr, "load", 300)
	chat := rig.GenerateChat(1).Named("three-")
	replay := m.replay(chat, ingest.addr, 12*time.Second)
	goesOn := func(what string) {
		t.Helper()
		before := load.Acked()
		rig.Eventually(t, rig.Patience, "messages to be taken "+what, func() bool { return load.Acked() > before+100 })
	}
	goesOn("at first")
	m.kafka.Broker(0).Kill()
	goesOn("with two brokers of three")
	hosts[1].Kill()
	sinks[1].Kill()
	goesOn("with a processor and a sink gone")
	m.again(hosts[1])
	m.again(sinks[1])
	m.kafka.Restart(0)
	m.kafka.Await()
	goesOn("after all are back")
	m.finish(replay, len(chat))
	load.Audit(t, m.clickhouse.HTTPAddr(), "load")
	m.await()
	m.alertsEqual(chat, "three-", "three hosts")

	// One host, which takes over what the others had.
	m.stop(hosts[1:]...)
	chat = rig.GenerateChat(2).Named("one-")
	m.finish(m.replay(chat, ingest.addr, 0), len(chat))
	m.alertsEqual(chat, "one-", "one host")

	m.kcatReads()

	// An orderly stop of everything repeats nothing that can be seen.
	rig.Eventually(t, rig.Patience, "windows to be closed", func() bool {
		return rig.Number(t, m.clickhouse.HTTPAddr(), `SELECT (SELECT count() FROM message_db.trends WHERE state = 'provisional' AND `+recorded+`) +
			(SELECT count() FROM message_db.user_activity WHERE state = 'provisional' AND `+recorded+`) AS n`) == 0
	})
	before := m.seen()
	everything := []*service{gateway, ingest, hosts[0], sinks[0], sinks[1], query}
	m.stop(everything...)
	for _, s := range slices.Backward(everything) {
		m.again(s)
	}
	m.await()
	rig.Post(t, "http://"+gateway.addr+"/api/v1/messages/send", `{"sender_id":"last","receiver_id":"bob","content":"Still here?"}`)
	rig.Eventually(t, rig.Patience, "the message after the restart", func() bool {
		return rig.Number(t, m.clickhouse.HTTPAddr(), "SELECT count() AS n FROM message_db.messages WHERE sender_id = 'last'") == 1
	})
	if diff := cmp.Diff(before, m.seen()); diff != "" {
		t.Errorf("what can be seen before and after a restart (-before +after):\n%s", diff)
	}
	m.stop(everything...)
}

// alertIsHeard sends a burst half over gRPC and half over REST; the alert comes over gRPC and is in ClickHouse.
func (m *mesh) alertIsHeard(ingest, query, gateway *service) {
	t := m.t
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), rig.Patience)
	defer cancel()
	read, err := rig.Dial(query.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	write, err := rig.Dial(ingest.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer write.Close()
	stream, err := apiv1.NewAlertServiceClient(read).StreamAlerts(ctx, &apiv1.StreamAlertsRequest{UserIds: []string{"charlie"}})
	if err != nil {
		t.Fatal(err)
	}
	if f, err := stream.Recv(); err != nil || f.GetHeartbeat() == nil {
		t.Fatalf("first frame: got %v, %v, want a heartbeat", f, err)
	}
	var began time.Time
	for i := range 8 {
		began = time.Now()
		if i%2 == 0 {
			_, err := apiv1.NewMessageServiceClient(write).SendMessage(ctx, &apiv1.SendMessageRequest{SenderId: "charlie", ConversationId: fmt.Sprint("room-", i), Content: "over gRPC"})
			if err != nil {
				t.Fatal(err)
			}
			continue
		}
		rig.Post(t, "http://"+gateway.addr+"/api/v1/messages/send", fmt.Sprintf(`{"sender_id":"charlie","conversation_id":"room-%d","content":"over REST"}`, i))
	}
	var alert *eventv1.Alert
	for alert == nil {
		f, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		alert = f.GetAlert()
	}
	t.Logf("alert heard %v after the eighth message was sent", time.Since(began).Round(time.Millisecond))
	if alert.GetUserId() != "charlie" || alert.GetCount() != 8 || len(alert.GetConversationIds()) != 8 {
		t.Errorf("alert: got %v, want charlie's with 8 messages in 8 conversations", alert)
	}
	rig.Eventually(t, rig.Patience, "the alert in ClickHouse", func() bool {
		return rig.Number(t, m.clickhouse.HTTPAddr(), fmt.Sprintf("SELECT count() AS n FROM message_db.alerts WHERE alert_id = '%s' AND count = 8", alert.GetAlertId())) == 1
	})
}

// replay starts a replay that takes about as long as it is told, or as fast as it can.
func (m *mesh) replay(chat rig.Chat, addr string, takes time.Duration) *rig.Process {
	m.t.Helper()
	speed := "max"
	if takes > 0 {
		speed = fmt.Sprint(int(chat[len(chat)-1].CreatedAt.Sub(chat[0].CreatedAt) / takes))
	}
	env := slices.Concat(m.env, []string{"XDG_CACHE_HOME=" + m.t.TempDir()})
	return rig.Start(m.t, "replay", env, rig.Earshot(m.t), "replay", chat.File(m.t), "--addr", addr, "--speed", speed)
}

func (m *mesh) finish(p *rig.Process, lines int) {
	m.t.Helper()
	if code := p.Wait(rig.Patience); code != 0 || !strings.Contains(p.Output(), fmt.Sprintf(" %d acknowledged, 0 refused, 0 skipped", lines)) {
		m.t.Fatalf("replay: exit code %d:\n%s", code, p.Output())
	}
	m.t.Log(strings.TrimSpace(p.Output()))
}

// alertsEqual compares the alerts of the users of a chat with the slow reference.
func (m *mesh) alertsEqual(chat rig.Chat, prefix, how string) {
	t, at := m.t, m.clickhouse.HTTPAddr()
	t.Helper()
	var messages []rig.Message
	rig.Eventually(t, rig.Patience, "the chat in ClickHouse", func() bool {
		messages = rig.Rows[rig.Message](t, at, fmt.Sprintf("SELECT message_id, conversation_id, sender_id, content, created_at FROM message_db.messages WHERE startsWith(sender_id, '%s')", prefix))
		return len(messages) >= len(chat)
	})
	if len(messages) != len(chat) {
		t.Errorf("%d messages are stored of a chat of %d", len(messages), len(chat))
	}
	want := rig.Episodes(messages, 8)
	type row struct {
		rig.Episode
		State string `json:"state"`
	}
	var got []rig.Episode
	retracted := 0
	rig.Eventually(t, rig.Patience, "alerts to be resolved", func() bool {
		got, retracted = nil, 0
		for _, r := range rig.Rows[row](t, at, fmt.Sprintf("SELECT state, user_id, triggered_at, window_end, count, message_ids FROM message_db.alerts WHERE startsWith(user_id, '%s')", prefix)) {
			switch r.State {
			case "retracted":
				retracted++
			case "resolved":
				got = append(got, r.Episode)
			default:
				return false
			}
		}
		return len(got) >= len(want)
	})
	slices.SortFunc(got, rig.Episode.Compare)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s: episodes (-reference +alerts):\n%s", how, diff)
	}
	t.Logf("%s: %d messages, %d episodes, %d retracted on the way", how, len(messages), len(got), retracted)
}

// kcatReads reads the messages with a client that shares no code with ours.
func (m *mesh) kcatReads() {
	t := m.t
	t.Helper()
	path, err := exec.LookPath("kcat")
	if err != nil {
		rig.Missing(t, "kcat", err)
	}
	out, err := exec.CommandContext(t.Context(), path, "-b", strings.Join(m.kafka.Brokers(), ","), "-C", "-t", "chat.messages", "-e", "-q", "-f", "%k %h\n").Output()
	if err != nil {
		t.Fatalf("kcat: %v", err)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	stored := rig.Number(t, m.clickhouse.HTTPAddr(), "SELECT count() AS n FROM message_db.messages")
	if len(lines) < stored {
		t.Errorf("kcat read %d records, ClickHouse has %d messages", len(lines), stored)
	}
	for _, l := range lines {
		if !strings.Contains(l, "content-type=application/protobuf") {
			t.Fatalf("record without its content type: %q", l)
		}
	}
	t.Logf("kcat read %d records of chat.messages, ClickHouse has %d messages", len(lines), stored)
}

// recorded chooses windows of the replayed chats: those of live messages take minutes to close.
const recorded = "window_start < '2020-01-01'"

// seen is what queries show of the messages and alerts so far, and of the windows that are closed.
func (m *mesh) seen() map[string]int {
	out := map[string]int{}
	for what, query := range map[string]string{
		"messages":         "count() AS n FROM message_db.messages WHERE sender_id != 'last'",
		"alerts":           "count() AS n FROM message_db.alerts",
		"trends":           "count() AS n FROM message_db.trends WHERE " + recorded,
		"words in trends":  "sum(count) AS n FROM message_db.trends WHERE " + recorded,
		"user minutes":     "count() AS n FROM message_db.user_activity WHERE " + recorded,
		"messages in them": "sum(message_count) AS n FROM message_db.user_activity WHERE " + recorded,
	} {
		out[what] = rig.Number(m.t, m.clickhouse.HTTPAddr(), "SELECT "+query)
	}
	return out
}
