package gateway

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	apiv1 "github.com/earshot/earshot/gen/earshot/api/v1"
	eventv1 "github.com/earshot/earshot/gen/earshot/event/v1"
	"github.com/earshot/earshot/services/internal/server"
	"github.com/earshot/earshot/services/internal/telemetry"
)

func heartbeat(token string) *apiv1.StreamAlertsResponse {
	return &apiv1.StreamAlertsResponse{ResumeToken: token, Frame: &apiv1.StreamAlertsResponse_Heartbeat{Heartbeat: &apiv1.Heartbeat{LagRecords: 2, ResumeToken: token}}}
}

func alert(token, id string) *apiv1.StreamAlertsResponse {
	return &apiv1.StreamAlertsResponse{ResumeToken: token, Frame: &apiv1.StreamAlertsResponse_Alert{Alert: &eventv1.Alert{AlertId: id, UserId: "a\nb"}}}
}

const (
	beatJSON  = `{"heartbeat":{"sent_at":null,"lag_records":2,"lag_ms":0,"resume_token":"t1"}`
	alertJSON = `{"alert":{"alert_id":"x","user_id":"a\nb","state":"ALERT_STATE_UNSPECIFIED","triggered_at":null,"count":0,"threshold":0,"span_seconds":0,` +
		`"window_start":null,"window_end":null,"message_ids":[],"positions":[],"conversation_ids":[],"superseded_by":"","revision":0,"rule":""}`
	errorJSON = `{"error":{"code":8,"message":"too slow","details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"SLOW_SUBSCRIBER","domain":"earshot",` +
		`"metadata":{"resume_token":"t9"}}]},"resume_token":"t3"}`
)

func TestFraming(t *testing.T) {
	for accept, want := range map[string]string{
		"text/event-stream": "retry: 1000\nevent: heartbeat\nid: t1\ndata: " + beatJSON + "}\n\nid: t2\ndata: " + alertJSON + "}\n\nevent: error\ndata: " + errorJSON + "\n\n",
		"*/*":               beatJSON + "}\n" + alertJSON + `,"resume_token":"t2"}` + "\n" + errorJSON + "\n",
	} {
		s := newStand()
		srv := serve(t, s, nil)
		s.frames <- heartbeat("t1")
		s.frames <- alert("t2", "x")
		s.frames <- &apiv1.StreamAlertsResponse{ResumeToken: "t3"} // a kind that this gateway does not know yet
		close(s.frames)
		a := do(t, srv, "GET", "/api/v1/alerts/stream", "", "Accept", accept)
		if a.text != want {
			t.Errorf("%s:\n got %s\nwant %s", accept, a.text, want)
		}
	}
}

func TestErrorBeforeTheFirstFrame(t *testing.T) {
	s := newStand()
	srv := serve(t, s, nil)
	close(s.frames)
	a := do(t, srv, "GET", "/api/v1/alerts/stream", "", "Accept", "text/event-stream")
	if a.code != 429 || a.header.Get("Content-Type") != mediaJSON || !strings.HasPrefix(a.text, `{"code":8`) {
		t.Errorf("%d %v %s", a.code, a.header, a.text)
	}
}

func TestLastEventIDWins(t *testing.T) {
	s := newStand()
	srv := serve(t, s, nil)
	s.frames <- heartbeat("t1")
	close(s.frames)
	do(t, srv, "GET", "/api/v1/alerts/stream?resume_token=old&since=2026-01-01T00:00:00Z&user_ids=a&user_ids=b&min_count=3&states=ALERT_STATE_OPEN", "", "Last-Event-ID", "new")
	want := &apiv1.StreamAlertsRequest{ResumeToken: "new", UserIds: []string{"a", "b"}, MinCount: 3, States: []eventv1.AlertState{1}}
	if !proto.Equal(s.asked, want) {
		t.Errorf("asked %v, want %v", s.asked, want)
	}
}

// A reader that leaves frees the service.
func TestReaderLeaves(t *testing.T) {
	s := newStand()
	srv := serve(t, s, nil)
	s.frames <- heartbeat("t1")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	req, _ := http.NewRequestWithContext(ctx, http.MethodGet, srv.URL+"/api/v1/alerts/stream", http.NoBody)
	res, err := srv.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if line, err := bufio.NewReader(res.Body).ReadString('\n'); err != nil || line != beatJSON+"}\n" {
		t.Fatalf("%q, %v", line, err)
	}
	if s.running() != 1 {
		t.Errorf("%d streams", s.running())
	}
	cancel()
	until(t, "free", func() bool { return s.running() == 0 })
}

// Streams to another process spread over connections, so that no server's bound on one is met, and give their places back.
func TestRemoteSpreadsStreams(t *testing.T) {
	s := newStand()
	tel := telemetry.Nop()
	g := server.NewGRPC(server.DefaultConfig(), tel, server.Instruments{})
	s.register(g)
	lis, err := server.Listen(t.Context(), server.GRPCPort, "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- g.Serve(ctx, lis) }()
	defer func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()
	remote, err := Dial(lis.Addr().String(), tel)
	if err != nil {
		t.Fatal(err)
	}
	defer remote.Close()
	if err := remote.Ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	const streams = 2*streamsPerConn + 1
	calling, stop := context.WithCancel(t.Context())
	defer stop()
	for range streams {
		c, err := remote.NewStream(calling, &grpc.StreamDesc{ServerStreams: true}, apiv1.AlertService_StreamAlerts_FullMethodName)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.SendMsg(&apiv1.StreamAlertsRequest{}); err != nil {
			t.Fatal(err)
		}
		if err := c.CloseSend(); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "all running", func() bool { return s.running() == streams })
	if n := len(remote.streams); n != 3 {
		t.Errorf("%d connections, want 3", n)
	}
	stop()
	until(t, "all given back", func() bool {
		remote.mu.Lock()
		defer remote.mu.Unlock()
		n := 0
		for _, c := range remote.streams {
			n += c.open
		}
		return n == 0 && s.running() == 0
	})
	if err := remote.Close(); err != nil {
		t.Error(err)
	}
	if _, err := remote.NewStream(t.Context(), &grpc.StreamDesc{ServerStreams: true}, apiv1.AlertService_StreamAlerts_FullMethodName); err == nil {
		t.Error("a stream after Close")
	}
}

func TestLocalRefusesWhatItHasNot(t *testing.T) {
	tel := telemetry.Nop()
	l := NewLocal(server.Unary(tel), server.Stream(tel), 1)
	newStand().register(l)
	if err := l.Invoke(t.Context(), "/no.Service/None", nil, nil); err == nil {
		t.Error("unknown method")
	}
	if _, err := apiv1.NewMessageServiceClient(l).StreamMessages(t.Context()); err == nil || errors.Is(err, io.EOF) {
		t.Error("a stream of requests")
	}
}

// A service that can not be reached is said to be away without a word of where it was looked for; of a write nobody knows then whether it got there.
func TestServiceAway(t *testing.T) {
	lis, err := server.Listen(t.Context(), server.GRPCPort, "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := lis.Addr().String()
	_ = lis.Close()
	remote, err := Dial(addr, telemetry.Nop())
	if err != nil {
		t.Fatal(err)
	}
	defer remote.Close()
	srv := serve(t, newStand(), func(_ *Config, b *Backends) { b.Ingest, b.Query = remote, remote })
	for _, tt := range []struct{ method, path, body, reason string }{
		{"POST", "/api/v1/messages/send", `{"sender_id":"a","receiver_id":"b","content":"x"}`, "OUTCOME_UNKNOWN"},
		{"GET", "/api/v1/alerts", "", "UNAVAILABLE"},
		{"GET", "/api/v1/alerts/stream", "", "UNAVAILABLE"},
	} {
		a := do(t, srv, tt.method, tt.path, tt.body)
		if a.code != 503 || !strings.Contains(a.text, `"reason":"`+tt.reason+`"`) || strings.Contains(a.text, addr) || a.header.Get("Retry-After") != "1" {
			t.Errorf("%s: %d %v %s", tt.path, a.code, a.header, a.text)
		}
	}
}
