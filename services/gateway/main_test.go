package gateway

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	apiv1 "github.com/earshot/earshot/gen/earshot/api/v1"
	"github.com/earshot/earshot/services/internal/apierror"
	"github.com/earshot/earshot/services/internal/server"
	"github.com/earshot/earshot/services/internal/telemetry"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreCurrent())
}

// stand stands in for the services behind: tests of services/tests/rest have the real ones. What it streams is what a test puts into frames.
type stand struct {
	apiv1.UnimplementedMessageServiceServer
	apiv1.UnimplementedAlertServiceServer
	apiv1.UnimplementedTrendServiceServer
	apiv1.UnimplementedConversationServiceServer
	apiv1.UnimplementedUserServiceServer

	frames chan *apiv1.StreamAlertsResponse
	ending error // of a stream, once frames is closed

	mu     sync.Mutex
	asked  *apiv1.StreamAlertsRequest
	sent   metadata.MD // with the last SendMessage
	active int
}

func newStand() *stand {
	return &stand{frames: make(chan *apiv1.StreamAlertsResponse, 16), ending: apierror.Exhausted(apierror.ReasonSlowSubscriber, "too slow", map[string]string{"resume_token": "t9"})}
}

func (s *stand) register(r grpc.ServiceRegistrar) {
	apiv1.RegisterMessageServiceServer(r, s)
	apiv1.RegisterAlertServiceServer(r, s)
	apiv1.RegisterTrendServiceServer(r, s)
	apiv1.RegisterConversationServiceServer(r, s)
	apiv1.RegisterUserServiceServer(r, s)
}

func (s *stand) SendMessage(ctx context.Context, m *apiv1.SendMessageRequest) (*apiv1.SendMessageResponse, error) {
	s.mu.Lock()
	s.sent, _ = metadata.FromIncomingContext(ctx)
	s.mu.Unlock()
	switch m.GetSenderId() {
	case "panic":
		panic("secret")
	case "broken":
		return nil, errors.New("secret")
	}
	return &apiv1.SendMessageResponse{Status: "success", MessageId: m.GetMessageId(), ConversationId: m.GetConversationId()}, nil
}

func (s *stand) ListAlerts(ctx context.Context, _ *apiv1.ListAlertsRequest) (*apiv1.ListAlertsResponse, error) {
	if _, ok := ctx.Deadline(); !ok {
		return nil, errors.New("no deadline")
	}
	return &apiv1.ListAlertsResponse{}, nil
}

func (s *stand) GetAlert(_ context.Context, r *apiv1.GetAlertRequest) (*apiv1.GetAlertResponse, error) {
	return nil, apierror.NotFound("alert", r.GetAlertId())
}

func (s *stand) StreamAlerts(r *apiv1.StreamAlertsRequest, out grpc.ServerStreamingServer[apiv1.StreamAlertsResponse]) error {
	s.mu.Lock()
	s.asked = r
	s.active++
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.active--
		s.mu.Unlock()
	}()
	for {
		select {
		case f, ok := <-s.frames:
			if !ok {
				return s.ending
			}
			if err := out.Send(f); err != nil {
				return err
			}
		case <-out.Context().Done():
			return out.Context().Err()
		}
	}
}

func (s *stand) running() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.active
}

// serve serves a gateway in front of s, in process.
func serve(t *testing.T, s *stand, change func(*Config, *Backends)) *httptest.Server {
	t.Helper()
	tel := telemetry.Nop()
	local := NewLocal(server.Unary(tel), server.Stream(tel), time.Second)
	s.register(local)
	cfg, back := DefaultConfig(), Backends{Ingest: local, Query: local}
	cfg.ProbeEvery, cfg.ProbeWait = 10*time.Millisecond, 100*time.Millisecond
	if change != nil {
		change(&cfg, &back)
	}
	g, err := New(cfg, back, tel)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(g.Handler())
	t.Cleanup(srv.Close)
	return srv
}

type answer struct {
	code   int
	header http.Header
	text   string
}

func do(t *testing.T, srv *httptest.Server, method, path, body string, header ...string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, srv.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
		if header[i] == "Host" {
			req.Host = header[i+1]
		}
	}
	res, err := srv.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{res.StatusCode, res.Header, string(b)}
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(10 * time.Second); !ok(); <-tick.C {
		if time.Now().After(deadline) {
			t.Fatalf("not %s after 10s", what)
		}
	}
}
