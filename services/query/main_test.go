package query_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	apiv1 "github.com/earshot/earshot/gen/earshot/api/v1"
	eventv1 "github.com/earshot/earshot/gen/earshot/event/v1"
	"github.com/earshot/earshot/services/embedded"
	"github.com/earshot/earshot/services/internal/clickhouse"
	"github.com/earshot/earshot/services/internal/kafka"
	"github.com/earshot/earshot/services/internal/server"
	"github.com/earshot/earshot/services/internal/telemetry"
	"github.com/earshot/earshot/services/query"
	"go.uber.org/goleak"
	"golang.org/x/sync/errgroup"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

func TestMain(m *testing.M) {
	embedded.RunChildIfAsked()
	code := m.Run()
	stopEngine()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// soon is the longest that anything in these tests takes on a busy machine.
const soon = 20 * time.Second

func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(soon); !cond(); {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", soon, what)
		}
		time.Sleep(5 * time.Millisecond) // between looks, not for order
	}
}

func testConfig() query.Config {
	cfg := query.DefaultConfig()
	cfg.Heartbeat = 200 * time.Millisecond
	cfg.Refresh = 100 * time.Millisecond
	return cfg
}

// mesh is a running service behind the gRPC server that it has in production.
type mesh struct {
	svc  *query.Service
	addr string
	stop func()
}

func serve(t testing.TB, cfg query.Config, kcfg kafka.Config) *mesh {
	t.Helper()
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	return serveWith(t, query.New(cfg, kcfg, nil, telemetry.Nop()))
}

func serveWith(t testing.TB, svc *query.Service) *mesh {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := server.NewGRPC(server.DefaultConfig(), telemetry.Nop(), server.Instruments{})
	svc.Register(g)
	var both errgroup.Group
	both.Go(func() error { return svc.Run(ctx) })
	both.Go(func() error { return g.Serve(ctx, lis) })
	m := &mesh{svc: svc, addr: lis.Addr().String(), stop: sync.OnceFunc(func() {
		cancel()
		if err := both.Wait(); err != nil {
			t.Error(err)
		}
	})}
	t.Cleanup(m.stop)
	eventually(t, "live streams ready", func() bool { return svc.ReadyLive() == nil })
	return m
}

func dial(t testing.TB, s *mesh, opts ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(s.addr, append(opts, grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func newProducer(t testing.TB, cfg kafka.Config) *kafka.Producer {
	t.Helper()
	p, err := kafka.NewProducer(cfg, telemetry.Nop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

func record(t testing.TB, topic kafka.Topic, key string, value proto.Message) kafka.Record {
	t.Helper()
	b, err := proto.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return kafka.Record{Topic: topic.Name, Partition: kafka.AnyPartition, Key: []byte(key), Value: b, Timestamp: time.Now()}
}

func produce(t testing.TB, p *kafka.Producer, recs ...kafka.Record) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	if err := p.Produce(ctx, recs...); err != nil {
		t.Fatalf("produce: %v", err)
	}
}

// alert returns the n-th alert of a user.
func alert(user string, n int) *eventv1.Alert {
	return &eventv1.Alert{
		AlertId: fmt.Sprintf("%s-%06d", user, n), UserId: user, State: eventv1.AlertState_ALERT_STATE_OPEN, Count: 8, Threshold: 8, SpanSeconds: 60,
		TriggeredAt: timestamppb.New(time.UnixMilli(1_700_000_000_000 + int64(n))), ConversationIds: []string{"conv-" + user},
	}
}

func produceAlerts(t testing.TB, p *kafka.Producer, cfg kafka.Config, users, from, to int) {
	t.Helper()
	var recs []kafka.Record
	for n := from; n < to; n++ {
		for u := range users {
			user := fmt.Sprintf("user-%d", u)
			recs = append(recs, record(t, cfg.Topics.Alerts, user, alert(user, n)))
		}
	}
	produce(t, p, recs...)
}

// listener reads a stream of alerts.
type listener struct {
	t      testing.TB
	conn   *grpc.ClientConn
	stream grpc.ServerStreamingClient[apiv1.StreamAlertsResponse]
	cancel context.CancelFunc
	token  string // of the last frame
	seen   map[string]int
	last   map[string]string // newest alert id by user, to check the order
	beats  int
}

// listen opens a stream and reads its first frame.
func listen(t testing.TB, conn *grpc.ClientConn, req *apiv1.StreamAlertsRequest) *listener {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*soon)
	t.Cleanup(cancel)
	stream, err := apiv1.NewAlertServiceClient(conn).StreamAlerts(ctx, req)
	if err != nil {
		t.Fatal(err)
	}
	l := &listener{t: t, conn: conn, stream: stream, cancel: cancel, seen: map[string]int{}, last: map[string]string{}}
	if f := l.next(); f.GetHeartbeat() == nil {
		t.Fatalf("first frame is no heartbeat: %v", f)
	}
	return l
}

func (l *listener) recv() (*apiv1.StreamAlertsResponse, error) {
	f, err := l.stream.Recv()
	if err != nil {
		return nil, err
	}
	if f.GetResumeToken() == "" {
		return nil, errors.New("a frame without a resume token")
	}
	l.token = f.GetResumeToken()
	if b := f.GetHeartbeat(); b != nil {
		l.beats++
		if b.GetResumeToken() != l.token {
			return nil, errors.New("heartbeat and frame carry different tokens")
		}
	}
	if a := f.GetAlert(); a != nil {
		l.seen[a.GetAlertId()]++
		if was := l.last[a.GetUserId()]; was >= a.GetAlertId() {
			return nil, fmt.Errorf("alert %s after %s", a.GetAlertId(), was)
		}
		l.last[a.GetUserId()] = a.GetAlertId()
	}
	return f, nil
}

func (l *listener) next() *apiv1.StreamAlertsResponse {
	l.t.Helper()
	f, err := l.recv()
	if err != nil {
		l.t.Fatalf("stream: %v", err)
	}
	return f
}

// hear reads until n different alerts were heard.
func (l *listener) hear(n int) {
	l.t.Helper()
	for len(l.seen) < n {
		l.next()
	}
}

// end reads until the stream ends.
func (l *listener) end() error {
	for {
		if _, err := l.recv(); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
	}
}

// refused opens a stream and returns the error it ends with at once.
func refused(t *testing.T, conn *grpc.ClientConn, req *apiv1.StreamAlertsRequest) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()
	stream, err := apiv1.NewAlertServiceClient(conn).StreamAlerts(ctx, req)
	if err != nil {
		return err
	}
	_, err = stream.Recv()
	return err
}

// wantError checks code and reason, and returns the ErrorInfo's metadata.
func wantError(t *testing.T, err error, code codes.Code, reason string) map[string]string {
	t.Helper()
	st := status.Convert(err)
	if st.Code() != code {
		t.Fatalf("got %v, want code %v", err, code)
	}
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			if info.GetReason() != reason {
				t.Fatalf("got reason %s (%v), want %s", info.GetReason(), err, reason)
			}
			return info.GetMetadata()
		}
	}
	t.Fatalf("no ErrorInfo in %v", err)
	return nil
}

// engine is one ClickHouse for the package's tests, started by the first that needs it.
var engine struct {
	sync.Mutex
	*embedded.ClickHouse
	dir string
}

// database returns a connection to a ClickHouse that holds the sink's schema.
func database(t *testing.T) driver.Conn {
	t.Helper()
	engine.Lock()
	defer engine.Unlock()
	if engine.ClickHouse == nil {
		startEngine(t)
	}
	return connect(t, engine.Addr())
}

func connect(t *testing.T, addr string) driver.Conn {
	t.Helper()
	return connectAs(t, addr, "default")
}

func connectAs(t *testing.T, addr, user string) driver.Conn {
	t.Helper()
	cfg := clickhouse.DefaultConfig()
	cfg.URL, cfg.User = addr, user
	conn, err := clickhouse.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func startEngine(t *testing.T) {
	library, err := embedded.EnsureEngine(t.Context(), embedded.EngineConfig{Progress: os.Stderr})
	if err != nil {
		if _, missing := exec.LookPath("npm"); missing != nil && os.Getenv("CI") != "true" {
			t.Skipf("NOT TESTED: the ClickHouse engine can not be fetched: %v", err)
		}
		t.Fatal(err)
	}
	if engine.dir, err = os.MkdirTemp("", "earshot-query-"); err != nil {
		t.Fatal(err)
	}
	if engine.ClickHouse, err = embedded.StartClickHouse(t.Context(), embedded.ClickHouseConfig{Library: library, DataDir: engine.dir}); err != nil {
		t.Fatal(err)
	}
	conn := connect(t, engine.Addr())
	run(t, conn, "CREATE DATABASE IF NOT EXISTS message_db")
	files, err := filepath.Glob("../sink/schema/*.sql") // in the order of their numbers
	if err != nil || len(files) == 0 {
		t.Fatalf("no schema files: %v", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		run(t, conn, string(text))
	}
}

func stopEngine() {
	if engine.ClickHouse != nil {
		ctx, cancel := context.WithTimeout(context.Background(), soon)
		defer cancel()
		if err := engine.Stop(ctx); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
	if engine.dir != "" {
		_ = os.RemoveAll(engine.dir)
	}
}

func run(t *testing.T, conn driver.Conn, sql string) {
	t.Helper()
	if err := conn.Exec(t.Context(), sql); err != nil {
		t.Fatalf("%v in\n%s", err, sql)
	}
}
