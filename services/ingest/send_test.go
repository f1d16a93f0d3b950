package ingest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/timestamppb"

	apiv1 "github.com/earshot/earshot/gen/earshot/api/v1"
	eventv1 "github.com/earshot/earshot/gen/earshot/event/v1"
	"github.com/earshot/earshot/services/internal/apierror"
	"github.com/earshot/earshot/services/internal/ident"
	"github.com/earshot/earshot/services/internal/record"
)

func TestSendMessage(t *testing.T) {
	r := start(t, nil)
	before := time.Now().Truncate(time.Millisecond)
	content := "Hello Bob! \u202e\x01 日本語 🔥"
	res, err := r.SendMessage(t.Context(), message(content))
	if err != nil {
		t.Fatal(err)
	}
	if res.GetStatus() != "success" || res.GetConversationId() != ident.Conversation("bob", "alice") {
		t.Errorf("got %v", res)
	}
	recs := r.records(r.cfg.Topics.Messages)
	if len(recs) != 1 {
		t.Fatalf("%d records", len(recs))
	}
	rec := recs[0]
	got, id, err := record.Message(rec.Value)
	if err != nil {
		t.Fatal(err)
	}
	want := &eventv1.Message{
		MessageId: res.GetMessageId(), ConversationId: res.GetConversationId(), SenderId: "alice", ReceiverId: "bob", Content: content,
		CreatedAt: timestamppb.New(id.Time()), MessageType: "text",
	}
	if diff := cmp.Diff(got, want, protocmp.Transform()); diff != "" {
		t.Errorf("record (-got +want):\n%s", diff)
	}
	if string(rec.Key) != res.GetConversationId() {
		t.Errorf("key %q", rec.Key)
	}
	if rec.Timestamp.Before(before) || time.Since(rec.Timestamp) > time.Minute {
		t.Errorf("accepted at %v, sent after %v", rec.Timestamp, before)
	}
	for key, want := range map[string]string{
		"content-type": "application/protobuf", "ce_specversion": "1.0", "ce_type": "earshot.event.v1.Message", "ce_source": "/earshot/ingest",
		"ce_id": res.GetMessageId(), "ce_time": id.Time().Format("2006-01-02T15:04:05.000Z"),
	} {
		if got := rec.Header(key); got != want {
			t.Errorf("header %s: got %q, want %q", key, got, want)
		}
	}
	if r.logged("Hello") {
		t.Error("content is in the log")
	}
}

func TestRetryIsByteIdentical(t *testing.T) {
	r := start(t, nil)
	in := message("again")
	in.MessageId = ident.New(time.Now()).MessageID()
	for range 3 {
		res, err := r.SendMessage(t.Context(), in)
		if err != nil || res.GetMessageId() != in.GetMessageId() {
			t.Fatalf("%v, %v", res, err)
		}
	}
	recs := r.records(r.cfg.Topics.Messages)
	for _, rec := range recs {
		if string(rec.Value) != string(recs[0].Value) || string(rec.Key) != string(recs[0].Key) || rec.Partition != recs[0].Partition {
			t.Errorf("copies differ: %v, %v", rec, recs[0])
		}
	}
}

func TestSendMessages(t *testing.T) {
	r := start(t, func(s *settings) { s.ingest.AllowBackfill = true })
	const n = 1000
	in := &apiv1.SendMessagesRequest{Backfill: true}
	for i := range n {
		m := message(fmt.Sprint("m", i))
		m.ConversationId = fmt.Sprint("c", i%7)
		m.CreatedAt = timestamppb.New(time.Date(2018, 1, 1, 0, 0, i, 0, time.UTC))
		in.Messages = append(in.Messages, m)
	}
	in.Messages[17].Content = ""
	in.Messages[500].SenderId = "a/b"
	res, err := r.SendMessages(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	if len(res.GetResults()) != n {
		t.Fatalf("%d results", len(res.GetResults()))
	}
	for i, got := range res.GetResults() {
		want := "success"
		if i == 17 || i == 500 {
			want = "refused"
		}
		if got.GetStatus() != want || want == "success" && (got.GetMessageId() == "" || got.GetError() != nil) {
			t.Errorf("item %d: %v", i, got)
		}
	}
	bad := status.FromProto(res.GetResults()[17].GetError())
	if bad.Code() != codes.InvalidArgument || bad.Message() != "messages[17].content: must be 1 to 4,096 characters, got 0" {
		t.Errorf("got %v", bad)
	}
	recs := r.records(r.cfg.Topics.Messages)
	if len(recs) != n-2 {
		t.Fatalf("%d records", len(recs))
	}
	last := map[string]int64{}
	for _, rec := range recs {
		m, id, err := record.Message(rec.Value)
		if err != nil || !m.GetBackfill() {
			t.Fatalf("%v, %v", m, err)
		}
		if id.Millis() < last[m.GetConversationId()] {
			t.Errorf("conversation %s is out of order", m.GetConversationId())
		}
		last[m.GetConversationId()] = id.Millis()
	}
}

func TestRecordViews(t *testing.T) {
	r := start(t, nil)
	id := ident.New(time.Now()).MessageID()
	view := func(user, st string) *apiv1.RecordViewRequest {
		return &apiv1.RecordViewRequest{MessageId: id, ConversationId: "c", UserId: user, Status: st}
	}
	res, err := r.RecordView(t.Context(), view("bob", ""))
	if err != nil || res.GetStatus() != "success" || res.GetMessageId() != id {
		t.Fatalf("%v, %v", res, err)
	}
	many, err := r.RecordViews(t.Context(), &apiv1.RecordViewsRequest{Views: []*apiv1.RecordViewRequest{view("carol", "delivered"), view("dave", "seen"), view("", "")}})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, res := range many.GetResults() {
		got = append(got, res.GetStatus()+" "+res.GetError().GetMessage())
	}
	want := []string{
		"success ", `refused views[1].status: must be one of delivered, read, got "seen"`,
		`refused views[2].user_id: must be 1 to 128 Unicode letters, digits and ._:@+~-, not . or .., got ""`,
	}
	if diff := cmp.Diff(got, want); diff != "" {
		t.Errorf("results (-got +want):\n%s", diff)
	}
	seen := map[string]string{}
	for _, rec := range r.records(r.cfg.Topics.Views) {
		v, _, err := record.View(rec.Value)
		if err != nil || string(rec.Key) != "c" || rec.Header("ce_type") != "earshot.event.v1.MessageView" {
			t.Fatalf("%v, %v", rec, err)
		}
		seen[v.GetUserId()] = v.GetStatus()
	}
	if diff := cmp.Diff(seen, map[string]string{"bob": "read", "carol": "delivered"}); diff != "" {
		t.Error(diff)
	}
}

func TestStreamMessages(t *testing.T) {
	r := start(t, func(s *settings) { s.ingest.StreamInFlight = 16 })
	stream, err := r.StreamMessages(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	const n = 2000
	sent := make(chan error, 1)
	go func() {
		for i := range n {
			m := message(fmt.Sprint("m", i))
			if i == 7 {
				m.Content = strings.Repeat("x", 4097)
			}
			in := &apiv1.StreamMessagesRequest{Message: m}
			if i == 9 {
				in = &apiv1.StreamMessagesRequest{}
			}
			if err := stream.Send(in); err != nil {
				sent <- err
				return
			}
		}
		sent <- stream.CloseSend()
	}()
	for i := int32(1); i <= n; i++ {
		res, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		want := "success"
		if i == 8 || i == 10 {
			want = "refused"
		}
		if res.GetSequence() != i || res.GetResult().GetStatus() != want {
			t.Fatalf("acknowledgement %d: %v", i, res)
		}
		if i == 8 && res.GetResult().GetError().GetMessage() != "message.content: must be 1 to 4,096 characters, got 4,097" {
			t.Errorf("got %v", res)
		}
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("after the last: %v", err)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
	if got := len(r.records(r.cfg.Topics.Messages)); got != n-2 {
		t.Errorf("%d records", got)
	}
}

// A stream reads no further than its bound while nothing is acknowledged.
func TestStreamIsBounded(t *testing.T) {
	r := start(t, func(s *settings) { s.ingest.StreamInFlight = 8 })
	release := r.stall()
	stream, err := r.StreamMessages(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	const n = 100
	for i := range n {
		if err := stream.Send(&apiv1.StreamMessagesRequest{Message: message(fmt.Sprint(i))}); err != nil {
			t.Fatal(err)
		}
	}
	producer := r.service.out.(interface{ Outstanding() int })
	r.until("full", func() bool { return producer.Outstanding() >= 8 })
	release()
	_ = stream.CloseSend()
	most := 0
	for range n {
		most = max(most, producer.Outstanding())
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
	}
	if most > 8+1 { // an acknowledgement may be queued beside the next record
		t.Errorf("%d in flight, want at most 8", most)
	}
}

// When the server stops, what was taken is acknowledged, what was not is not in the log, and the client is told to go on elsewhere.
func TestStreamDrains(t *testing.T) {
	r := start(t, nil)
	stream, err := r.StreamMessages(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var stopped chan error
	go func() {
		for stream.Send(&apiv1.StreamMessagesRequest{Message: message("x")}) == nil {
		}
	}()
	acked := int64(0)
	for {
		res, err := stream.Recv()
		if err != nil {
			if apierror.ReasonOf(err) != apierror.ReasonUnavailable {
				t.Errorf("ended with %v", err)
			}
			break
		}
		if res.GetResult().GetStatus() != "success" {
			t.Fatalf("got %v", res)
		}
		if acked++; acked == 100 {
			stopped = make(chan error, 1)
			go func() { stopped <- r.stop() }()
		}
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	if n := r.end(r.cfg.Topics.Messages); n != acked {
		t.Errorf("%d records, %d acknowledged", n, acked)
	}
}

func TestCanceledStreamLeavesNothingBehind(t *testing.T) {
	r := start(t, nil)
	for range 20 {
		ctx, cancel := context.WithCancel(t.Context())
		stream, err := r.StreamMessages(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for range 50 {
			if err := stream.Send(&apiv1.StreamMessagesRequest{Message: message("x")}); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
		cancel()
	}
	if _, err := r.SendMessage(t.Context(), message("after")); err != nil {
		t.Error(err)
	}
}
