package ingest

import (
	"context"
	"net"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	apiv1 "github.com/earshot/earshot/gen/earshot/api/v1"
	"github.com/earshot/earshot/services/internal/kafka"
	"github.com/earshot/earshot/services/internal/server"
	"github.com/earshot/earshot/services/internal/telemetry"
)

// instant acknowledges at once: what is measured is ours.
type instant struct{}

func (instant) Send(_ context.Context, r kafka.Record, done func(kafka.Record, error)) { done(r, nil) }

func (instant) Missing(context.Context, []kafka.Topic) ([]string, error) { return nil, nil }

func BenchmarkAccept(b *testing.B) {
	s := New(DefaultConfig(), instant{}, instant{}, telemetry.Nop())
	in := message("Hello Bob! Let's discuss the project deadline.")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.SendMessage(b.Context(), in); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkUnary(b *testing.B) {
	g := server.NewGRPC(server.DefaultConfig(), telemetry.Nop(), server.Instruments{})
	apiv1.RegisterMessageServiceServer(g, New(DefaultConfig(), instant{}, instant{}, telemetry.Nop()))
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- g.Serve(ctx, lis) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			b.Error(err)
		}
	}()
	conn, err := grpc.NewClient(lis.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		b.Fatal(err)
	}
	defer conn.Close()
	client := apiv1.NewMessageServiceClient(conn)
	in := message("Hello Bob! Let's discuss the project deadline.")
	b.ReportAllocs()
	b.SetParallelism(64)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := client.SendMessage(ctx, in); err != nil {
				b.Error(err)
				return
			}
		}
	})
}
