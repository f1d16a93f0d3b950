package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	apiv1 "github.com/earshot/earshot/gen/earshot/api/v1"
	eventv1 "github.com/earshot/earshot/gen/earshot/event/v1"
	"github.com/earshot/earshot/services/internal/server"
	"github.com/earshot/earshot/services/internal/telemetry"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// speaker says a few things on each stream, and again after it was cut off. Streams of real services are tested in services/query and services/tests.
type speaker struct {
	apiv1.UnimplementedAlertServiceServer
	apiv1.UnimplementedTrendServiceServer
	apiv1.UnimplementedConversationServiceServer
	apiv1.UnimplementedUserServiceServer

	requests chan *apiv1.StreamAlertsRequest
}

var at = timestamppb.New(time.Date(2018, 1, 31, 9, 30, 0, 0, time.UTC))

func (s speaker) StreamAlerts(in *apiv1.StreamAlertsRequest, out grpc.ServerStreamingServer[apiv1.StreamAlertsResponse]) error {
	s.requests <- in
	if in.GetResumeToken() == "" {
		for _, f := range []*apiv1.StreamAlertsResponse{
			{Frame: &apiv1.StreamAlertsResponse_Heartbeat{Heartbeat: &apiv1.Heartbeat{}}, ResumeToken: "t0"},
			{Frame: &apiv1.StreamAlertsResponse_Alert{Alert: &eventv1.Alert{
				AlertId: "a-1", UserId: "charlie", State: eventv1.AlertState_ALERT_STATE_OPEN, TriggeredAt: at, Count: 12, Threshold: 8, SpanSeconds: 60,
			}}, ResumeToken: "t1"},
		} {
			if err := out.Send(f); err != nil {
				return err
			}
		}
		return status.Error(codes.Unavailable, "the server restarts")
	}
	if err := out.Send(&apiv1.StreamAlertsResponse{Frame: &apiv1.StreamAlertsResponse_Alert{Alert: &eventv1.Alert{
		AlertId: "a-2", UserId: "evil\x1b[2J\nuser", State: eventv1.AlertState_ALERT_STATE_CONFIRMED, TriggeredAt: at, Count: 9, Threshold: 8, SpanSeconds: 60,
	}}, ResumeToken: "t2"}); err != nil {
		return err
	}
	return status.Error(codes.PermissionDenied, "enough")
}

func (speaker) StreamTrends(_ *apiv1.StreamTrendsRequest, out grpc.ServerStreamingServer[apiv1.StreamTrendsResponse]) error {
	if err := out.Send(&apiv1.StreamTrendsResponse{Frame: &apiv1.StreamTrendsResponse_Trend{Trend: &eventv1.Trend{
		Term: "deadline", WindowStart: at, WindowEnd: at, Count: 8, Senders: 64, Score: 7.5, State: eventv1.WindowState_WINDOW_STATE_CLOSED,
	}}, ResumeToken: "t"}); err != nil {
		return err
	}
	return status.Error(codes.PermissionDenied, "enough")
}

func (speaker) StreamConversationMetrics(_ *apiv1.StreamConversationMetricsRequest, out grpc.ServerStreamingServer[apiv1.StreamConversationMetricsResponse]) error {
	if err := out.Send(&apiv1.StreamConversationMetricsResponse{Frame: &apiv1.StreamConversationMetricsResponse_Conversation{Conversation: &eventv1.ConversationMetrics{
		ConversationId: "conv-1", WindowEnd: at, MessageCount: 30, ParticipantCount: 2, Rate: 1, Peak: 9, ReplySeconds: 2.5, Replies: 3,
	}}, ResumeToken: "t"}); err != nil {
		return err
	}
	return status.Error(codes.PermissionDenied, "enough")
}

func (speaker) StreamUserActivity(_ *apiv1.StreamUserActivityRequest, out grpc.ServerStreamingServer[apiv1.StreamUserActivityResponse]) error {
	if err := out.Send(&apiv1.StreamUserActivityResponse{Frame: &apiv1.StreamUserActivityResponse_User{User: &eventv1.UserActivity{
		UserId: "alice", WindowStart: at, MessageCount: 5, ActiveConversations: 2,
	}}, ResumeToken: "t"}); err != nil {
		return err
	}
	return status.Error(codes.PermissionDenied, "enough")
}

// serveSpeaker serves until the test ends.
func serveSpeaker(t *testing.T) (addr string, requests chan *apiv1.StreamAlertsRequest) {
	t.Helper()
	s := speaker{requests: make(chan *apiv1.StreamAlertsRequest, 10)}
	cfg := server.DefaultConfig()
	cfg.DrainWait = 100 * time.Millisecond
	g := server.NewGRPC(cfg, telemetry.Nop(), server.Instruments{})
	apiv1.RegisterAlertServiceServer(g, s)
	apiv1.RegisterTrendServiceServer(g, s)
	apiv1.RegisterConversationServiceServer(g, s)
	apiv1.RegisterUserServiceServer(g, s)
	lis, err := server.Listen(t.Context(), server.GRPCPort, "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = g.Serve(ctx, lis) }()
	t.Cleanup(func() { cancel(); <-done })
	return lis.Addr().String(), s.requests
}

func TestTailAlertsGoesOnWhereItWas(t *testing.T) {
	addr, requests := serveSpeaker(t)
	out, err := earshot(t, "tail", "alerts", "--addr", addr, "--since", "10m", "--user", "charlie", "--min-count", "9")
	if err == nil || !strings.Contains(err.Error(), "enough") {
		t.Errorf("got error %v", err)
	}
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if len(lines) != 2 {
		t.Fatalf("got %q, want two lines", out)
	}
	for i, want := range [][]string{{"open", "charlie", "12 messages in 60s (threshold 8)", "a-1"}, {"confirmed", "evil", "user", "9 messages", "a-2"}} {
		for _, w := range want {
			if !strings.Contains(lines[i], w) {
				t.Errorf("%q is not in %q", w, lines[i])
			}
		}
	}
	if strings.ContainsAny(out, "\x1b\r") {
		t.Errorf("what strangers wrote steers the terminal: %q", out)
	}
	if a, b := strings.Index(lines[0], "messages in"), strings.Index(lines[1], "messages in"); utf8.RuneCountInString(lines[0][:a]) != utf8.RuneCountInString(lines[1][:b]) {
		t.Errorf("columns are not aligned:\n%s", out)
	}
	first, second := <-requests, <-requests
	if d := time.Since(first.GetSince().AsTime()); d < 10*time.Minute || d > 11*time.Minute || first.GetUserIds()[0] != "charlie" || first.GetMinCount() != 9 {
		t.Errorf("asked for %v", first)
	}
	if second.GetResumeToken() != "t1" || second.GetSince() != nil {
		t.Errorf("went on with %v", second)
	}
}

func TestTailJSONIsAsInTheRESTStream(t *testing.T) {
	addr, _ := serveSpeaker(t)
	for stream, want := range map[string]struct{ field, key, value string }{
		"alerts": {"alert", "state", "ALERT_STATE_OPEN"}, "trends": {"trend", "term", "deadline"},
		"conversations": {"conversation", "conversation_id", "conv-1"}, "users": {"user", "user_id", "alice"},
	} {
		out, _ := earshot(t, "tail", stream, "--json", "--addr", addr)
		line, _, _ := strings.Cut(out, "\n")
		var got map[string]map[string]any
		if err := json.Unmarshal([]byte(line), &got); err != nil || len(got) != 1 || got[want.field][want.key] != want.value {
			t.Errorf("%s: %v: %s", stream, err, line)
		}
	}
}

func TestTailTables(t *testing.T) {
	addr, _ := serveSpeaker(t)
	for stream, want := range map[string][]string{
		"trends":        {"deadline", "8 uses by 64+", "score    7.5", "closed"},
		"conversations": {"conv-1", "30 messages by  2", "peak   9", "reply   2.5s", "provisional"},
		"users":         {"alice", "5 messages in  2 conversations"},
	} {
		out, _ := earshot(t, "tail", stream, "--addr", addr)
		for _, w := range want {
			if !strings.Contains(out, w) {
				t.Errorf("%s: %q is not in %q", stream, w, out)
			}
		}
	}
}

func TestTailEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	err := tail(ctx, func(string) (string, error) {
		cancel() // Ctrl-C
		return "", status.Error(codes.Canceled, "context canceled")
	})
	if err != nil {
		t.Errorf("Ctrl-C is an error: %v", err)
	}
}

func TestTailSaysThatNobodyIsThere(t *testing.T) {
	_, err := earshot(t, "tail", "alerts", "--addr", "127.0.0.1:1")
	if err == nil || !strings.Contains(err.Error(), "is the mesh running? start it with: earshot up") {
		t.Errorf("got %v", err)
	}
}

func TestColourIsOnlyForTerminals(t *testing.T) {
	var plain, colourful bytes.Buffer
	for _, o := range []tailOptions{{out: &plain}, {out: &colourful, color: true}} {
		fmt.Fprint(o.out, o.paint(red, "open"))
	}
	if plain.String() != "open" || colourful.String() != red+"open\x1b[0m" {
		t.Errorf("got %q and %q", plain.String(), colourful.String())
	}
}

func TestSaidKeepsTheServersWords(t *testing.T) {
	addr, _ := serveSpeaker(t)
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, err = apiv1.NewMessageServiceClient(conn).SendMessage(t.Context(), &apiv1.SendMessageRequest{})
	if got := said(err).Error(); strings.Contains(got, "rpc error") || !strings.Contains(got, "(Unimplemented)") {
		t.Errorf("got %q", got)
	}
}
