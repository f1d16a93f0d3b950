package ingest

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	apiv1 "github.com/earshot/earshot/gen/earshot/api/v1"
	"github.com/earshot/earshot/services/internal/kafka"
	"github.com/earshot/earshot/services/internal/kafka/kafkatest"
	"github.com/earshot/earshot/services/internal/server"
	"github.com/earshot/earshot/services/internal/telemetry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is ingest on a real broker behind a real gRPC server.
type rig struct {
	apiv1.MessageServiceClient
	t       *testing.T
	conn    *grpc.ClientConn
	cfg     kafka.Config
	cluster *kfake.Cluster
	service *Service
	admin   *kafka.Admin
	log     *lockedBuffer
	metrics *sdkmetric.ManualReader
	stop    func() error // drains the server
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

type settings struct {
	ingest Config
	server server.Config
	kafka  kafka.Config
}

func start(t *testing.T, change func(*settings)) *rig {
	t.Helper()
	kcfg, cluster := kafkatest.StartBroker(t)
	set := settings{DefaultConfig(), server.DefaultConfig(), kcfg}
	set.ingest.ProbeEvery = 50 * time.Millisecond
	set.server.HealthEvery, set.server.DrainWait = 100*time.Millisecond, 5*time.Second
	if change != nil {
		change(&set)
	}
	if err := set.ingest.Validate(); err != nil {
		t.Fatal(err)
	}
	tel := telemetry.Nop()
	log := &lockedBuffer{}
	tel.Log = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	reader := sdkmetric.NewManualReader()
	tel.Meter = sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)).Meter("test")
	producer, err := kafka.NewProducer(set.kafka, tel)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(producer.Close)
	admin, err := kafka.NewAdmin(set.kafka)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(admin.Close)

	s := New(set.ingest, producer, admin, tel)
	g := server.NewGRPC(set.server, tel, server.Instruments{})
	apiv1.RegisterMessageServiceServer(g, s)
	g.HealthCheck(apiv1.MessageService_ServiceDesc.ServiceName, s.Ready)
	lis, err := server.Listen(t.Context(), server.GRPCPort, "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served, ran := make(chan error, 1), make(chan error, 1)
	go func() { served <- g.Serve(ctx, lis) }()
	go func() { ran <- s.Run(ctx) }()
	stop := sync.OnceValue(func() error {
		cancel()
		return errors.Join(<-ran, <-served)
	})
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	conn, err := grpc.NewClient(lis.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	r := &rig{apiv1.NewMessageServiceClient(conn), t, conn, set.kafka, cluster, s, admin, log, reader, stop}
	r.until("ready", func() bool { return s.Ready(t.Context()) == nil })
	return r
}

// until polls for a condition.
func (r *rig) until(what string, ok func() bool) {
	r.t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(15 * time.Second); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			r.t.Fatalf("not %s after 15s", what)
		}
	}
}

// end returns how many records a topic has.
func (r *rig) end(topic kafka.Topic) (n int64) {
	r.t.Helper()
	ends, err := r.admin.EndOffsets(r.t.Context(), topic.Name)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, o := range ends {
		n += o
	}
	return n
}

// records returns all of a topic, ordered by time of acceptance.
func (r *rig) records(topic kafka.Topic) []kafka.Record {
	r.t.Helper()
	n := int(r.end(topic))
	reader, err := kafka.NewReader(r.cfg, telemetry.Nop())
	if err != nil {
		r.t.Fatal(err)
	}
	defer reader.Close()
	at := map[kafka.TopicPartition]int64{}
	for p := range int32(topic.Partitions) { //nolint:gosec // a few
		at[kafka.TopicPartition{Topic: topic.Name, Partition: p}] = kafka.FirstOffset
	}
	if err := reader.Assign(at); err != nil {
		r.t.Fatal(err)
	}
	var all []kafka.Record
	for deadline := time.Now().Add(15 * time.Second); len(all) < n; {
		recs, err := reader.Poll(r.t.Context(), 1000, time.Second)
		if err != nil || time.Now().After(deadline) {
			r.t.Fatalf("read %d of %d records: %v", len(all), n, err)
		}
		all = append(all, recs...)
	}
	slices.SortStableFunc(all, func(a, b kafka.Record) int { return a.Timestamp.Compare(b.Timestamp) })
	return all
}

// stall makes the broker hold back acknowledgements until the returned function is called.
func (r *rig) stall() (release func()) {
	const produce = 0
	held := make(chan struct{})
	r.cluster.ControlKey(produce, func(kmsg.Request) (kmsg.Response, error, bool) {
		r.cluster.SleepControl(func() { <-held })
		return nil, nil, false
	})
	release = sync.OnceFunc(func() { close(held) })
	r.t.Cleanup(release)
	return release
}

func message(content string) *apiv1.SendMessageRequest {
	return &apiv1.SendMessageRequest{SenderId: "alice", ReceiverId: "bob", Content: content}
}

// logged says whether content reached the log.
func (r *rig) logged(content string) bool { return strings.Contains(r.log.String(), content) }

// counted returns the sum of a counter over all series that have attribute key=value.
func (r *rig) counted(name, key, value string) (n int64) {
	r.t.Helper()
	var all metricdata.ResourceMetrics
	if err := r.metrics.Collect(r.t.Context(), &all); err != nil {
		r.t.Fatal(err)
	}
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			sum, ok := m.Data.(metricdata.Sum[int64])
			if !ok || m.Name != name {
				continue
			}
			for _, p := range sum.DataPoints {
				if v, ok := p.Attributes.Value(attribute.Key(key)); ok && v.AsString() == value {
					n += p.Value
				}
			}
		}
	}
	return n
}
