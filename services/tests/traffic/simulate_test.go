package traffic

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	apiv1 "github.com/earshot/earshot/gen/earshot/api/v1"
	eventv1 "github.com/earshot/earshot/gen/earshot/event/v1"
	"github.com/earshot/earshot/services/gateway"
	"github.com/earshot/earshot/services/internal/clickhouse"
	"github.com/earshot/earshot/services/internal/kafka"
	"github.com/earshot/earshot/services/internal/record"
	"github.com/earshot/earshot/services/internal/server"
	"github.com/earshot/earshot/services/internal/telemetry"
	"github.com/earshot/earshot/services/processor"
	"github.com/earshot/earshot/services/processor/anomaly"
	"github.com/earshot/earshot/services/processor/trend"
	"github.com/earshot/earshot/services/query"
	"github.com/earshot/earshot/services/simulator"
	"github.com/earshot/earshot/services/tests/rig"
	"google.golang.org/grpc"
)

// analyse adds the processor and the live half of query, and returns a connection to the latter and the address of a gateway.
func (m *mesh) analyse() (streams grpc.ClientConnInterface, url string) {
	t, tel := m.t, telemetry.Nop()
	pcfg, tcfg := processor.DefaultConfig(), trend.DefaultConfig()
	pcfg.CommitEvery = time.Second
	pcfg.ConversationKeep, pcfg.TermKeep = tcfg.Keep(), tcfg.KeepTotals()
	terms := m.kafka.Topics.TermTotals.Partitions
	host := processor.New(pcfg, m.kafka, tel,
		[]processor.ConversationFactory{{Name: "trend", New: func(p int32) processor.ByConversation { return trend.NewCounter(tcfg, p, terms) }}},
		[]processor.SenderFactory{{Name: "anomaly", New: func(int32) processor.BySender { return anomaly.New(anomaly.DefaultConfig()) }}},
		processor.WithTerms(processor.TermFactory{Name: "trend", New: func(int32) processor.ByTerm { return trend.NewRanker(tcfg) }}))
	run(t, host.Run)
	db, err := clickhouse.Open(clickhouse.Config{URL: "127.0.0.1:1", User: "default", MaxConns: 1}) // nobody is there
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	q := query.New(query.DefaultConfig(), m.kafka, db, tel)
	run(t, q.Run)
	local := gateway.NewLocal(server.Unary(tel), server.Stream(tel), 10*time.Second)
	apiv1.RegisterMessageServiceServer(local, m.service)
	q.Register(local)
	gw, err := gateway.New(gateway.DefaultConfig(), gateway.Backends{Ingest: local, Query: local}, tel)
	if err != nil {
		t.Fatal(err)
	}
	lis, err := server.Listen(t.Context(), server.HTTPPort, "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	web := server.NewHTTP(server.DefaultHTTPConfig(), gw.Handler(), tel)
	run(t, func(ctx context.Context) error { return web.Serve(ctx, lis) })
	rig.Eventually(t, 30*time.Second, "processor and streams", func() bool { return host.Ready(t.Context()) == nil && q.ReadyLive() == nil })
	return local, "http://" + lis.Addr().String()
}

// ways splits what a simulator calls: messages go to ingest, streams are heard from query.
type ways struct{ ingest, streams grpc.ClientConnInterface }

func (w ways) Invoke(ctx context.Context, method string, in, out any, opts ...grpc.CallOption) error {
	return w.ingest.Invoke(ctx, method, in, out, opts...)
}

func (w ways) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	return w.streams.NewStream(ctx, desc, method, opts...)
}

// truth is a truth file, by kind of line.
type truth struct {
	messages, views []string
	alerts          []string
	words           map[string]int
}

func readTruth(t *testing.T, file string) truth {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	tr := truth{words: map[string]int{}}
	for _, text := range strings.Split(strings.TrimSpace(string(b)), "\n") {
		var l struct {
			Kind           string    `json:"kind"`
			MessageID      string    `json:"message_id"`
			ConversationID string    `json:"conversation_id"`
			SenderID       string    `json:"sender_id"`
			ReceiverID     string    `json:"receiver_id"`
			UserID         string    `json:"user_id"`
			Status         string    `json:"status"`
			Outcome        string    `json:"outcome"`
			CreatedAt      time.Time `json:"created_at"`
			ViewedAt       time.Time `json:"viewed_at"`
			TriggeredAt    time.Time `json:"triggered_at"`
			MessageIDs     []string  `json:"message_ids"`
			Term           string    `json:"term"`
			Count          int       `json:"count"`
		}
		if err := json.Unmarshal([]byte(text), &l); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		switch l.Kind {
		case "message":
			tr.messages = append(tr.messages, fmt.Sprint(l.MessageID, l.ConversationID, l.SenderID, l.ReceiverID, l.CreatedAt.UnixMilli(), l.Outcome))
		case "view":
			tr.views = append(tr.views, fmt.Sprint(l.MessageID, l.ConversationID, l.UserID, l.Status, l.ViewedAt.UnixMilli(), l.Outcome))
		case "alert":
			tr.alerts = append(tr.alerts, fmt.Sprint(l.UserID, l.TriggeredAt.UnixMilli(), l.MessageIDs))
		case "word":
			tr.words[l.Term] = l.Count
		}
	}
	return tr
}

// What the truth says is what arrived, whichever way it took, and what the processors find.
func TestSimulatedTruthIsFound(t *testing.T) {
	for i, mode := range []string{"kafka", "grpc", "rest"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			m := newMesh(t)
			streams, url := m.analyse()
			var out lockedBuffer
			o := simulator.DefaultOptions()
			o.Mode, o.Kafka, o.GRPC, o.RESTURL, o.Out = mode, m.kafka, ways{m.conn, streams}, url, &out
			o.Seed, o.Rate, o.Duration, o.Truth = uint64(i), 40, 12*time.Second, filepath.Join(t.TempDir(), "truth.jsonl")
			total, err := simulator.Run(t.Context(), o)
			if err != nil || total.Refused+total.Unknown > 0 || total.Messages != 480 {
				t.Fatalf("%v: %v", total, err)
			}
			want := readTruth(t, o.Truth)

			var got truth
			for _, r := range m.messages() {
				got.messages = append(got.messages, fmt.Sprint(r.GetMessageId(), r.GetConversationId(), r.GetSenderId(), r.GetReceiverId(), r.GetCreatedAt().AsTime().UnixMilli(), "acknowledged"))
			}
			for _, v := range read(m, m.kafka.Topics.Views, func(b []byte) (*eventv1.MessageView, error) { v, _, err := record.View(b); return v, err }) {
				got.views = append(got.views, fmt.Sprint(v.GetMessageId(), v.GetConversationId(), v.GetUserId(), v.GetStatus(), v.GetViewedAt().AsTime().UnixMilli(), "acknowledged"))
			}
			same(t, "messages", got.messages, want.messages)
			same(t, "receipts", got.views, want.views)

			rig.Eventually(t, 30*time.Second, "the alerts of the truth", func() bool {
				found := map[string]bool{}
				for _, a := range read(m, m.kafka.Topics.Alerts, record.Alert) {
					found[fmt.Sprint(a.GetUserId(), a.GetTriggeredAt().AsTime().UnixMilli(), a.GetMessageIds())] = true
				}
				return cmp.Equal(slices.Sorted(maps.Keys(found)), slices.Sorted(slices.Values(want.alerts)))
			})
			rig.Eventually(t, 30*time.Second, "the rising words of the truth", func() bool {
				most := map[string]int{}
				for _, tr := range read(m, m.kafka.Topics.Trends, record.Trend) {
					if n := int(tr.GetCount()); want.words[tr.GetTerm()] > 0 && n > most[tr.GetTerm()] {
						most[tr.GetTerm()] = n
					}
				}
				return cmp.Equal(most, want.words)
			})
			for _, sample := range []string{"💬 [", " → ", "👀 Message view: msg-", "🚨 ANOMALY: charlie sent 8 messages/min"} {
				if !strings.Contains(out.String(), sample) {
					t.Errorf("no %q in\n%s", sample, out.String())
				}
			}
		})
	}
}

func same(t *testing.T, what string, got, want []string) {
	t.Helper()
	slices.Sort(got)
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" || len(want) == 0 {
		t.Errorf("%d %s arrived, the truth has %d (-truth +log):\n%.2000s", len(got), what, len(want), diff)
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// Traffic goes on after the server was away, and nothing is stored twice or lost.
func TestSimulationOutlivesARestart(t *testing.T) {
	m := newMesh(t)
	restarted := make(chan struct{})
	go func() {
		defer close(restarted)
		rig.Eventually(t, 30*time.Second, "traffic", func() bool { return len(m.messages()) > 20 })
		m.stop()
		time.Sleep(time.Second) // how long it is away
		m.start()
	}()
	o := simulator.DefaultOptions()
	o.Mode, o.GRPC, o.Rate, o.Duration, o.Patience = "grpc", m.conn, 50, 5*time.Second, 0
	total, err := simulator.Run(t.Context(), o)
	<-restarted
	if err != nil || total.Messages != 250 || total.Unknown+total.Refused > 0 {
		t.Errorf("%v: %v", total, err)
	}
	if n := len(m.identities()); n != 250 {
		t.Errorf("%d messages stored, want 250", n)
	}
}

func TestSimulationNamesAMissingBroker(t *testing.T) {
	o := simulator.DefaultOptions()
	o.Mode, o.Kafka, o.Patience, o.Duration = "kafka", kafka.DefaultConfig(), 500*time.Millisecond, time.Minute
	o.Kafka.Brokers = []string{rig.Addr(rig.FreePort(t))}
	_, err := simulator.Run(t.Context(), o)
	if err == nil || errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "no acknowledgement for 500ms") {
		t.Errorf("got %v", err)
	}
}
