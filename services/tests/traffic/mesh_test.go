// Package traffic drives real services over gRPC and REST with what services/simulator makes: replays of recorded chat, and simulated users.
package traffic

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	apiv1 "github.com/earshot/earshot/gen/earshot/api/v1"
	eventv1 "github.com/earshot/earshot/gen/earshot/event/v1"
	"github.com/earshot/earshot/services/ingest"
	"github.com/earshot/earshot/services/internal/kafka"
	"github.com/earshot/earshot/services/internal/kafka/kafkatest"
	"github.com/earshot/earshot/services/internal/record"
	"github.com/earshot/earshot/services/internal/server"
	"github.com/earshot/earshot/services/internal/telemetry"
	"github.com/earshot/earshot/services/tests/rig"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// mesh is ingest on a real broker, behind a real gRPC server that can be stopped and started again on its address.
type mesh struct {
	t       *testing.T
	kafka   kafka.Config
	service *ingest.Service
	conn    *grpc.ClientConn
	addr    string
	stop    func()
}

func newMesh(t *testing.T) *mesh {
	m := &mesh{t: t, kafka: kafkatest.Start(t)}
	producer, err := kafka.NewProducer(m.kafka, telemetry.Nop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(producer.Close)
	admin, err := kafka.NewAdmin(m.kafka)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(admin.Close)
	cfg := ingest.DefaultConfig()
	cfg.AllowBackfill, cfg.ProbeEvery = true, 50*time.Millisecond
	m.service = ingest.New(cfg, producer, admin, telemetry.Nop())
	run(t, m.service.Run)
	rig.Eventually(t, 20*time.Second, "ingest", func() bool { return m.service.Ready(t.Context()) == nil })
	m.addr = "127.0.0.1:0"
	m.start()
	t.Cleanup(func() { m.stop() })
	if m.conn, err = grpc.NewClient(m.addr, grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.conn.Close() })
	return m
}

// run runs something until the test ends.
func run(t *testing.T, f func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}

// start serves on the address it had before.
func (m *mesh) start() {
	m.t.Helper()
	var lis net.Listener
	rig.Eventually(m.t, 20*time.Second, "the port", func() (ok bool) {
		var err error
		lis, err = server.Listen(m.t.Context(), server.GRPCPort, m.addr)
		return err == nil
	})
	m.addr = lis.Addr().String()
	cfg := server.DefaultConfig()
	cfg.DrainWait = 50 * time.Millisecond // connections are cut off, as by a crash
	g := server.NewGRPC(cfg, telemetry.Nop(), server.Instruments{})
	apiv1.RegisterMessageServiceServer(g, m.service)
	apiv1.RegisterConversationServiceServer(g, history{mesh: m})
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- g.Serve(ctx, lis) }()
	m.stop = sync.OnceFunc(func() {
		cancel()
		<-served //nolint:errcheck // streams that had to be cut off are an error here
	})
}

// history answers from the log, where the mesh has ClickHouse.
type history struct {
	apiv1.UnimplementedConversationServiceServer
	mesh *mesh
}

func (h history) ListConversationMessages(_ context.Context, in *apiv1.ListConversationMessagesRequest) (*apiv1.ListConversationMessagesResponse, error) {
	resp := &apiv1.ListConversationMessagesResponse{}
	for _, m := range h.mesh.messages() {
		at := m.GetCreatedAt().AsTime()
		if m.GetConversationId() == in.GetConversationId() && !at.Before(in.GetStartTime().AsTime()) && at.Before(in.GetEndTime().AsTime()) {
			resp.Messages = append(resp.Messages, &apiv1.ConversationMessage{MessageId: m.GetMessageId()})
		}
	}
	return resp, nil
}

// messages returns what the log holds, copies and all.
func (m *mesh) messages() []*eventv1.Message {
	return read(m, m.kafka.Topics.Messages, func(b []byte) (*eventv1.Message, error) {
		v, _, err := record.Message(b)
		return v, err
	})
}

// read returns the records of a topic.
func read[T any](m *mesh, topic kafka.Topic, decode func([]byte) (T, error)) (all []T) {
	m.t.Helper()
	admin, err := kafka.NewAdmin(m.kafka)
	if err != nil {
		m.t.Fatal(err)
	}
	defer admin.Close()
	ends, err := admin.EndOffsets(context.Background(), topic.Name)
	if err != nil {
		m.t.Fatal(err)
	}
	n, at := 0, map[kafka.TopicPartition]int64{}
	for p, end := range ends {
		n += int(end)
		at[kafka.TopicPartition{Topic: topic.Name, Partition: p}] = kafka.FirstOffset
	}
	reader, err := kafka.NewReader(m.kafka, telemetry.Nop())
	if err != nil {
		m.t.Fatal(err)
	}
	defer reader.Close()
	if err := reader.Assign(at); err != nil {
		m.t.Fatal(err)
	}
	for deadline := time.Now().Add(30 * time.Second); len(all) < n; {
		recs, err := reader.Poll(context.Background(), 1000, time.Second)
		if err != nil || time.Now().After(deadline) {
			m.t.Fatalf("read %d of %d records: %v", len(all), n, err)
		}
		for _, r := range recs {
			v, err := decode(r.Value)
			if err != nil {
				m.t.Fatalf("record breaks its invariants: %v", err)
			}
			all = append(all, v)
		}
	}
	return all
}
