// Package rest holds the tests of REST over real parts: the gateway before ingest and query, in process and apart, on a broker of the test's own.
package rest

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"go.uber.org/goleak"

	apiv1 "github.com/earshot/earshot/gen/earshot/api/v1"
	"github.com/earshot/earshot/services/gateway"
	"github.com/earshot/earshot/services/ingest"
	"github.com/earshot/earshot/services/internal/clickhouse"
	"github.com/earshot/earshot/services/internal/kafka"
	"github.com/earshot/earshot/services/internal/kafka/kafkatest"
	"github.com/earshot/earshot/services/internal/server"
	"github.com/earshot/earshot/services/internal/telemetry"
	"github.com/earshot/earshot/services/query"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		http.DefaultClient.CloseIdleConnections()
		os.Exit(code)
	}))
}

// mesh is ingest and query on a broker, with a gateway in front.
type mesh struct {
	t       *testing.T
	url     string // http://127.0.0.1:port
	addr    string
	kafka   kafka.Config
	cluster *kfake.Cluster
	admin   *kafka.Admin
	out     *kafka.Producer
	log     *lockedBuffer
	stop    func() // stops the HTTP server, as SIGTERM would
}

type settings struct {
	apart   bool // services behind a gRPC server instead of in process
	gateway gateway.Config
	http    server.HTTPConfig
	ingest  ingest.Config
	query   query.Config
}

// start serves a mesh without ClickHouse until the test ends.
func start(t *testing.T, change func(*settings)) *mesh {
	t.Helper()
	kcfg, cluster := kafkatest.StartBroker(t)
	set := settings{gateway: gateway.DefaultConfig(), http: server.DefaultHTTPConfig(), ingest: ingest.DefaultConfig(), query: query.DefaultConfig()}
	set.ingest.ProbeEvery, set.query.Refresh, set.gateway.ProbeEvery = 50*time.Millisecond, 50*time.Millisecond, 50*time.Millisecond
	set.query.Heartbeat = 200 * time.Millisecond
	set.http.DrainWait = 5 * time.Second
	if change != nil {
		change(&set)
	}
	m := &mesh{t: t, kafka: kcfg, cluster: cluster, log: &lockedBuffer{}}
	tel := telemetry.Nop()
	tel.Log = slog.New(slog.NewTextHandler(m.log, &slog.HandlerOptions{Level: slog.LevelDebug}))

	var err error
	if m.out, err = kafka.NewProducer(kcfg, tel); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.out.Close)
	if m.admin, err = kafka.NewAdmin(kcfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.admin.Close)
	db, err := clickhouse.Open(clickhouse.Config{URL: "127.0.0.1:1", User: "default", Database: "message_db", MaxConns: 2}) // nobody is there
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	in := ingest.New(set.ingest, m.out, m.admin, tel)
	q := query.New(set.query, kcfg, db, tel)

	var running sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	run := func(f func(context.Context) error) {
		running.Go(func() {
			if err := f(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	run(in.Run)
	run(q.Run)

	back := gateway.Backends{
		Checks: []gateway.Check{
			{Name: "kafka", Critical: true, Probe: in.Ready},
			{Name: "streams", Probe: func(context.Context) error { return q.ReadyLive() }},
			{Name: "clickhouse", Probe: q.ReadyHistory},
		},
		Accepted: func(ctx context.Context) (int64, error) { return m.records(ctx) },
	}
	if set.apart {
		g := server.NewGRPC(server.DefaultConfig(), tel, server.Instruments{})
		apiv1.RegisterMessageServiceServer(g, in)
		q.Register(g)
		lis, err := server.Listen(ctx, server.GRPCPort, "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		run(func(ctx context.Context) error { return g.Serve(ctx, lis) })
		remote, err := gateway.Dial(lis.Addr().String(), tel)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = remote.Close() })
		back.Ingest, back.Query = remote, remote
	} else {
		local := gateway.NewLocal(server.Unary(tel), server.Stream(tel), set.gateway.CallDeadline)
		apiv1.RegisterMessageServiceServer(local, in)
		q.Register(local)
		back.Ingest, back.Query = local, local
	}
	g, err := gateway.New(set.gateway, back, tel)
	if err != nil {
		t.Fatal(err)
	}
	lis, err := server.Listen(ctx, server.HTTPPort, "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m.addr = lis.Addr().String()
	m.url = "http://" + m.addr
	serving, stop := context.WithCancel(ctx)
	served := make(chan struct{})
	run(func(context.Context) error {
		defer close(served)
		return server.NewHTTP(set.http, g.Handler(), tel).Serve(serving, lis)
	})
	m.stop = func() { stop(); <-served }
	t.Cleanup(m.stop)
	until(t, "ready", func() bool { return in.Ready(ctx) == nil && q.ReadyLive() == nil })
	return m
}

// records returns how many messages and receipts the log holds.
func (m *mesh) records(ctx context.Context) (int64, error) {
	var n int64
	for _, topic := range []string{m.kafka.Topics.Messages.Name, m.kafka.Topics.Views.Name} {
		ends, err := m.admin.EndOffsets(ctx, topic)
		if err != nil {
			return 0, err
		}
		for _, end := range ends {
			n += end
		}
	}
	return n, nil
}

func (m *mesh) count() int64 {
	m.t.Helper()
	n, err := m.records(m.t.Context())
	if err != nil {
		m.t.Fatal(err)
	}
	return n
}

// answer is what came back.
type answer struct {
	code   int
	header http.Header
	text   string
	json   map[string]any
}

func (m *mesh) do(method, path string, body io.Reader, header ...string) answer {
	m.t.Helper()
	req, err := http.NewRequestWithContext(m.t.Context(), method, m.url+path, body)
	if err != nil {
		m.t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
		if header[i] == "Host" {
			req.Host = header[i+1]
		}
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		m.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		m.t.Fatal(err)
	}
	a := answer{code: res.StatusCode, header: res.Header, text: string(b)}
	_ = json.Unmarshal(b, &a.json)
	return a
}

func (m *mesh) post(path, body string, header ...string) answer {
	m.t.Helper()
	return m.do(http.MethodPost, path, strings.NewReader(body), append([]string{"Content-Type", "application/json"}, header...)...)
}

func (m *mesh) get(path string, header ...string) answer {
	m.t.Helper()
	return m.do(http.MethodGet, path, nil, header...)
}

// reason returns the ErrorInfo's reason of an error's JSON.
func (a answer) reason() string { return detail(a.json, "google.rpc.ErrorInfo", "reason") }

// field returns the first field at fault.
func (a answer) field() string {
	for _, d := range list(a.json["details"]) {
		for _, v := range list(d["field_violations"]) {
			return v["field"].(string)
		}
	}
	return ""
}

func detail(status map[string]any, kind, key string) string {
	for _, d := range list(status["details"]) {
		if d["@type"] == "type.googleapis.com/"+kind {
			v, _ := d[key].(string)
			return v
		}
	}
	return ""
}

func list(v any) []map[string]any {
	items, _ := v.([]any)
	out := make([]map[string]any, 0, len(items))
	for _, i := range items {
		if m, ok := i.(map[string]any); ok {
			out = append(out, m)
		}
	}
	return out
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(20 * time.Second); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("not %s after 20s", what)
		}
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
