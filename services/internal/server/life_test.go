package server

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	apiv1 "github.com/earshot/earshot/gen/earshot/api/v1"
	"github.com/earshot/earshot/services/internal/apierror"
)

func TestHealthAndReflection(t *testing.T) {
	var mu sync.Mutex
	var down error
	r := start(t, &service{}, nil, func(s *GRPC) {
		s.HealthCheck("earshot.api.v1.MessageService", func(context.Context) error {
			mu.Lock()
			defer mu.Unlock()
			return down
		})
	})
	client := healthv1.NewHealthClient(r.conn)
	until := func(service string, want healthv1.HealthCheckResponse_ServingStatus) {
		t.Helper()
		deadline := time.Now().Add(5 * time.Second)
		for {
			res, err := client.Check(t.Context(), &healthv1.HealthCheckRequest{Service: service})
			if err == nil && res.GetStatus() == want {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%q: got %v, %v, want %v", service, res, err, want)
			}
		}
	}
	const ingest = "earshot.api.v1.MessageService"
	until(ingest, healthv1.HealthCheckResponse_SERVING)
	until("", healthv1.HealthCheckResponse_SERVING)
	mu.Lock()
	down = errors.New("no broker")
	mu.Unlock()
	until(ingest, healthv1.HealthCheckResponse_NOT_SERVING)
	until("", healthv1.HealthCheckResponse_NOT_SERVING)
	until("earshot.api.v1.AlertService", healthv1.HealthCheckResponse_SERVING)

	stream, err := reflectionv1.NewServerReflectionClient(r.conn).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	res, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range res.GetListServicesResponse().GetService() {
		names = append(names, s.GetName())
	}
	if got, want := fmt.Sprint(names), "[earshot.api.v1.AlertService earshot.api.v1.MessageService]"; got != want {
		t.Errorf("listed %s, want %s", got, want)
	}
}

func TestDrain(t *testing.T) {
	begun, release := make(chan struct{}), make(chan struct{})
	r := start(t, &service{
		send: func(context.Context, *apiv1.SendMessageRequest) error { close(begun); <-release; return nil },
		alert: func(s grpc.ServerStreamingServer[apiv1.StreamAlertsResponse]) error {
			if err := s.Send(&apiv1.StreamAlertsResponse{}); err != nil {
				return err
			}
			<-Draining(s.Context())
			return apierror.Unavailable(apierror.ReasonUnavailable, "the server is stopping", time.Second)
		},
	}, nil)
	watch, err := healthv1.NewHealthClient(r.conn).Watch(t.Context(), &healthv1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Recv(); err != nil {
		t.Fatal(err)
	}
	alerts, err := apiv1.NewAlertServiceClient(r.conn).StreamAlerts(t.Context(), &apiv1.StreamAlertsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := alerts.Recv(); err != nil {
		t.Fatal(err)
	}
	sent := make(chan error, 1)
	go func() {
		_, err := apiv1.NewMessageServiceClient(r.conn).SendMessage(context.Background(), message())
		sent <- err
	}()
	<-begun
	stopped := make(chan error, 1)
	go func() { stopped <- r.stop() }()
	if _, err := alerts.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("stream ended with %v", err)
	}
	for {
		res, err := watch.Recv()
		if err != nil {
			break
		}
		_ = res
	}
	select {
	case err := <-stopped:
		t.Fatalf("stopped before the call under way ended: %v", err)
	default:
	}
	close(release)
	if err := <-sent; err != nil {
		t.Errorf("call under way: %v", err)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

func TestDrainCutsOff(t *testing.T) {
	begun := make(chan struct{})
	r := start(t, &service{send: func(ctx context.Context, _ *apiv1.SendMessageRequest) error {
		close(begun)
		<-ctx.Done()
		return ctx.Err()
	}}, func(c *Config) { c.DrainWait = 100 * time.Millisecond })
	sent := make(chan error, 1)
	go func() {
		_, err := apiv1.NewMessageServiceClient(r.conn).SendMessage(context.Background(), message())
		sent <- err
	}()
	<-begun
	if err := r.stop(); err != nil {
		t.Error(err)
	}
	if err := <-sent; status.Code(err) != codes.Unavailable {
		t.Errorf("got %v", err)
	}
}
