package query_test

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	apiv1 "github.com/earshot/earshot/gen/earshot/api/v1"
	eventv1 "github.com/earshot/earshot/gen/earshot/event/v1"
	"github.com/earshot/earshot/services/embedded"
	"github.com/earshot/earshot/services/internal/kafka"
	"github.com/earshot/earshot/services/internal/kafka/kafkatest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/timestamppb"
)

func TestFirstFrameAndHeartbeatsComeWithoutTraffic(t *testing.T) {
	kcfg := kafkatest.Start(t)
	s := serve(t, testConfig(), kcfg)
	started := time.Now()
	l := listen(t, dial(t, s), &apiv1.StreamAlertsRequest{})
	if d := time.Since(started); d > 5*time.Second {
		t.Errorf("first frame after %v", d)
	}
	for range 3 {
		b := l.next().GetHeartbeat()
		if b == nil || b.GetLagRecords() != 0 || b.GetLagMs() != 0 || b.GetSentAt() == nil {
			t.Fatalf("got %v, want a heartbeat without lag", b)
		}
	}
}

func TestFiltersHold(t *testing.T) {
	kcfg := kafkatest.Start(t)
	p := newProducer(t, kcfg)
	s := serve(t, testConfig(), kcfg)
	conn := dial(t, s)
	ok := alert("anna", 1)
	ok.Count, ok.State = 12, eventv1.AlertState_ALERT_STATE_CONFIRMED
	otherUser := alert("bob", 1)
	otherUser.Count, otherUser.State, otherUser.ConversationIds = 12, ok.State, ok.ConversationIds
	otherState := alert("anna", 2)
	otherState.Count = 12
	small := alert("anna", 3)
	small.State = ok.State
	elsewhere := alert("anna", 4)
	elsewhere.Count, elsewhere.State, elsewhere.ConversationIds = 12, ok.State, []string{"conv-x", "conv-y"}
	last := alert("anna", 9)
	last.Count, last.State = 12, ok.State

	l := listen(t, conn, &apiv1.StreamAlertsRequest{
		UserIds: []string{"anna", "carl"}, ConversationIds: []string{"conv-z", "conv-anna"},
		States: []eventv1.AlertState{eventv1.AlertState_ALERT_STATE_CONFIRMED}, MinCount: 10,
	})
	for _, a := range []*eventv1.Alert{otherUser, ok, otherState, small, elsewhere, last} {
		produce(t, p, record(t, kcfg.Topics.Alerts, a.GetUserId(), a))
	}
	l.hear(2)
	if l.seen[ok.GetAlertId()] != 1 || l.seen[last.GetAlertId()] != 1 {
		t.Errorf("heard %v", l.seen)
	}
	wantError(t, refused(t, conn, &apiv1.StreamAlertsRequest{States: []eventv1.AlertState{0}}), codes.InvalidArgument, "FIELD_INVALID")
}

func TestOtherStreams(t *testing.T) {
	kcfg := kafkatest.Start(t)
	p := newProducer(t, kcfg)
	conn := dial(t, serve(t, testConfig(), kcfg))
	ctx, cancel := context.WithTimeout(t.Context(), soon)
	defer cancel()

	trends, err := apiv1.NewTrendServiceClient(conn).StreamTrends(ctx, &apiv1.StreamTrendsRequest{
		Terms: []string{"Straße"}, MinScore: 1.5, MinCount: 3, State: eventv1.WindowState_WINDOW_STATE_CLOSED,
	})
	if err != nil {
		t.Fatal(err)
	}
	conversations, err := apiv1.NewConversationServiceClient(conn).StreamConversationMetrics(ctx, &apiv1.StreamConversationMetricsRequest{ConversationIds: []string{"c"}, MinMessages: 2})
	if err != nil {
		t.Fatal(err)
	}
	users, err := apiv1.NewUserServiceClient(conn).StreamUserActivity(ctx, &apiv1.StreamUserActivityRequest{UserIds: []string{"u"}, MinMessages: 2})
	if err != nil {
		t.Fatal(err)
	}
	// The first frames say that the streams are open.
	if f, err := trends.Recv(); err != nil || f.GetHeartbeat() == nil {
		t.Fatal(f, err)
	}
	if f, err := conversations.Recv(); err != nil || f.GetHeartbeat() == nil {
		t.Fatal(f, err)
	}
	if f, err := users.Recv(); err != nil || f.GetHeartbeat() == nil {
		t.Fatal(f, err)
	}
	closed := eventv1.WindowState_WINDOW_STATE_CLOSED
	topics := kcfg.Topics
	produce(t, p,
		record(t, topics.Trends, "strasse", &eventv1.Trend{Term: "strasse", Count: 9, Score: 2, State: eventv1.WindowState_WINDOW_STATE_PROVISIONAL}),
		record(t, topics.Trends, "strasse", &eventv1.Trend{Term: "strasse", Count: 9, Score: 1, State: closed}),
		record(t, topics.Trends, "strasse", &eventv1.Trend{Term: "strasse", Count: 2, Score: 2, State: closed}),
		record(t, topics.Trends, "strasse", &eventv1.Trend{Term: "strasse", Count: 5, Score: 2, State: closed}),
		record(t, topics.ConversationMetrics, "c", &eventv1.ConversationMetrics{ConversationId: "c", MessageCount: 1}),
		record(t, topics.ConversationMetrics, "d", &eventv1.ConversationMetrics{ConversationId: "d", MessageCount: 5}),
		record(t, topics.ConversationMetrics, "c", &eventv1.ConversationMetrics{ConversationId: "c", MessageCount: 2}),
		record(t, topics.UserActivity, "u", &eventv1.UserActivity{UserId: "u", MessageCount: 1}),
		record(t, topics.UserActivity, "v", &eventv1.UserActivity{UserId: "v", MessageCount: 5}),
		record(t, topics.UserActivity, "u", &eventv1.UserActivity{UserId: "u", MessageCount: 2}),
	)
	for {
		f, err := trends.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if f.GetTrend() != nil {
			if f.GetTrend().GetCount() != 5 {
				t.Errorf("got %v", f)
			}
			break
		}
	}
	for {
		f, err := conversations.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if c := f.GetConversation(); c != nil {
			if c.GetConversationId() != "c" || c.GetMessageCount() != 2 {
				t.Errorf("got %v", f)
			}
			break
		}
	}
	for {
		f, err := users.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if u := f.GetUser(); u != nil {
			if u.GetUserId() != "u" || u.GetMessageCount() != 2 {
				t.Errorf("got %v", f)
			}
			break
		}
	}
}

func TestUnreadableRecordIsPassedOver(t *testing.T) {
	kcfg := kafkatest.Start(t)
	p := newProducer(t, kcfg)
	l := listen(t, dial(t, serve(t, testConfig(), kcfg)), &apiv1.StreamAlertsRequest{})
	bad := record(t, kcfg.Topics.Alerts, "user-0", alert("user-0", 0))
	bad.Value = []byte{0xff, 0xff, 0xff}
	produce(t, p, bad, record(t, kcfg.Topics.Alerts, "user-0", alert("user-0", 1)))
	l.hear(1)
}

// A reader that reconnects with its token again and again, to other replicas and across a restart, misses nothing, hears nothing twice, and hears each
// user's alerts in order.
func TestResumeIsExact(t *testing.T) {
	for _, buffer := range []int{16, 8192} { // far too small for the backlog, so that the log is read; and large enough
		t.Run(fmt.Sprint(buffer), func(t *testing.T) {
			kcfg := kafkatest.Start(t)
			p := newProducer(t, kcfg)
			cfg := testConfig()
			cfg.Buffer = buffer
			s := serve(t, cfg, kcfg)
			l := listen(t, dial(t, s), &apiv1.StreamAlertsRequest{})
			const users, each = 10, 100
			var busy sync.WaitGroup
			busy.Go(func() {
				for n := range each {
					produceAlerts(t, p, kcfg, users, n, n+1)
				}
			})
			for i := 1; len(l.seen) < users*each; i++ {
				err := error(nil)
				for want := min(len(l.seen)+150, users*each); len(l.seen) < want && err == nil; {
					_, err = l.recv()
				}
				token, seen, last := l.token, l.seen, l.last
				if err != nil { // with the small buffer it may be too slow: nothing is lost by that
					token = wantError(t, err, codes.ResourceExhausted, "SLOW_SUBSCRIBER")["resume_token"]
				}
				l.cancel()
				if i%2 == 0 {
					s.stop()
				}
				s = serve(t, cfg, kcfg)
				l = listen(t, dial(t, s), &apiv1.StreamAlertsRequest{ResumeToken: token})
				l.seen, l.last = seen, last
			}
			busy.Wait()
			for id, n := range l.seen {
				if n != 1 {
					t.Errorf("%s heard %d times", id, n)
				}
			}
		})
	}
}

func TestSince(t *testing.T) {
	kcfg := kafkatest.Start(t)
	p := newProducer(t, kcfg)
	conn := dial(t, serve(t, testConfig(), kcfg))
	hour := time.Now().Add(-time.Hour).Truncate(time.Millisecond)
	var recs []kafka.Record
	for n := range 10 {
		r := record(t, kcfg.Topics.Alerts, "anna", alert("anna", n))
		r.Timestamp = hour.Add(time.Duration(n) * time.Minute)
		recs = append(recs, r)
	}
	produce(t, p, recs...)
	l := listen(t, conn, &apiv1.StreamAlertsRequest{Since: timestamppb.New(hour.Add(4 * time.Minute))})
	l.hear(6)
	produce(t, p, record(t, kcfg.Topics.Alerts, "anna", alert("anna", 10)))
	l.hear(7)
	if l.seen["anna-000003"] != 0 || l.seen["anna-000004"] != 1 {
		t.Errorf("heard %v", l.seen)
	}
	// In the future nothing lies yet.
	l = listen(t, conn, &apiv1.StreamAlertsRequest{Since: timestamppb.New(time.Now().Add(time.Hour))})
	produce(t, p, record(t, kcfg.Topics.Alerts, "anna", alert("anna", 11)))
	l.hear(1)
	if l.seen["anna-000011"] != 1 {
		t.Errorf("heard %v", l.seen)
	}

	wantError(t, refused(t, conn, &apiv1.StreamAlertsRequest{Since: &timestamppb.Timestamp{Seconds: -1}}), codes.InvalidArgument, "TIME_OUT_OF_RANGE")
	wantError(t, refused(t, conn, &apiv1.StreamAlertsRequest{Since: timestamppb.Now(), ResumeToken: l.token}), codes.InvalidArgument, "FIELD_INVALID")
}

// One that never reads is ended although its Send can not return, with a token of what it was sent; whoever shares the connection notices nothing.
func TestSlowReaderIsEndedWithAToken(t *testing.T) {
	kcfg := kafkatest.Start(t)
	p := newProducer(t, kcfg)
	cfg := testConfig()
	cfg.Buffer = 256
	s := serve(t, cfg, kcfg)
	conn := dial(t, s)
	slow := listen(t, conn, &apiv1.StreamAlertsRequest{})
	healthy := listen(t, conn, &apiv1.StreamAlertsRequest{})
	idle := listen(t, conn, &apiv1.StreamAlertsRequest{UserIds: []string{"nobody"}}) // overtaken by nothing: what it does not want is read, too
	const users, each = 20, 200
	for n := 0; n < each; n += 10 {
		produceAlerts(t, p, kcfg, users, n, n+10)
		healthy.hear(users * (n + 10))
	}
	idle.next()

	err := slow.end() // what was under way, and then the end
	token := wantError(t, err, codes.ResourceExhausted, "SLOW_SUBSCRIBER")["resume_token"]
	if len(slow.seen) >= users*each {
		t.Fatalf("the slow one heard all %d", len(slow.seen))
	}
	again := listen(t, conn, &apiv1.StreamAlertsRequest{ResumeToken: token})
	again.last = slow.last // nothing skipped, nothing twice, in order
	again.hear(users*each - len(slow.seen))
	for id := range again.seen {
		if slow.seen[id] != 0 {
			t.Errorf("%s heard again", id)
		}
	}
}

// A reader stuck in one frame is ended after SendTimeout although nothing overtakes it.
func TestStuckReaderIsEnded(t *testing.T) {
	kcfg := kafkatest.Start(t)
	p := newProducer(t, kcfg)
	cfg := testConfig()
	cfg.SendTimeout = 200 * time.Millisecond
	s := serve(t, cfg, kcfg)
	l := listen(t, dial(t, s, grpc.WithInitialWindowSize(64<<10), grpc.WithInitialConnWindowSize(64<<10)), &apiv1.StreamAlertsRequest{})
	produceAlerts(t, p, kcfg, 10, 0, 200) // 2,000 frames are more than windows and quota hold
	other := listen(t, dial(t, s), &apiv1.StreamAlertsRequest{Since: timestamppb.New(time.Unix(0, 0))})
	other.hear(2000)
	eventually(t, "the stuck stream is closed on the server", func() bool { return s.svc.OpenStreams() == 1 })
	wantError(t, l.end(), codes.ResourceExhausted, "SLOW_SUBSCRIBER")
}

func TestManySubscribersHearEverythingInOrder(t *testing.T) {
	kcfg := kafkatest.Start(t)
	p := newProducer(t, kcfg)
	s := serve(t, testConfig(), kcfg)
	const subscribers, users, each = 200, 20, 20
	listeners := make([]*listener, subscribers)
	var conn *grpc.ClientConn
	for i := range listeners {
		if i%50 == 0 {
			conn = dial(t, s)
		}
		listeners[i] = listen(t, conn, &apiv1.StreamAlertsRequest{})
	}
	var all sync.WaitGroup
	errs := make(chan error, subscribers)
	for _, l := range listeners {
		all.Go(func() {
			for len(l.seen) < users*each {
				if _, err := l.recv(); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	for n := range each {
		produceAlerts(t, p, kcfg, users, n, n+1)
	}
	all.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
}

func TestTooManyStreams(t *testing.T) {
	kcfg := kafkatest.Start(t)
	cfg := testConfig()
	cfg.MaxStreams = 2
	s := serve(t, cfg, kcfg)
	conn := dial(t, s)
	l := listen(t, conn, &apiv1.StreamAlertsRequest{})
	listen(t, conn, &apiv1.StreamAlertsRequest{})
	wantError(t, refused(t, conn, &apiv1.StreamAlertsRequest{}), codes.ResourceExhausted, "TOO_MANY_STREAMS")
	l.cancel()
	eventually(t, "a place is free again", func() bool { return s.svc.OpenStreams() == 1 })
	listen(t, conn, &apiv1.StreamAlertsRequest{})
}

func TestStopEndsStreamsWithAToken(t *testing.T) {
	kcfg := kafkatest.Start(t)
	s := serve(t, testConfig(), kcfg)
	l := listen(t, dial(t, s), &apiv1.StreamAlertsRequest{})
	go s.stop()
	if token := wantError(t, l.end(), codes.Unavailable, "UNAVAILABLE")["resume_token"]; token == "" {
		t.Error("no resume token")
	}
	s.stop()
}

func TestTokensAreChecked(t *testing.T) {
	kcfg := kafkatest.Start(t)
	p := newProducer(t, kcfg)
	s := serve(t, testConfig(), kcfg)
	conn := dial(t, s)
	l := listen(t, conn, &apiv1.StreamAlertsRequest{UserIds: []string{"user-0", "user-1"}})
	produceAlerts(t, p, kcfg, 2, 0, 10)
	l.hear(20)

	forged := []byte(l.token)
	forged[20] ^= 1
	for name, req := range map[string]*apiv1.StreamAlertsRequest{
		"garbage":      {ResumeToken: "garbage"},
		"forged":       {ResumeToken: string(forged), UserIds: []string{"user-0", "user-1"}},
		"cut":          {ResumeToken: l.token[:len(l.token)-4], UserIds: []string{"user-0", "user-1"}},
		"other filter": {ResumeToken: l.token, UserIds: []string{"user-0"}},
		"no filter":    {ResumeToken: l.token},
	} {
		t.Run(name, func(t *testing.T) {
			wantError(t, refused(t, conn, req), codes.InvalidArgument, "TOKEN_INVALID")
		})
	}
	t.Run("other stream", func(t *testing.T) {
		stream, err := apiv1.NewUserServiceClient(conn).StreamUserActivity(t.Context(), &apiv1.StreamUserActivityRequest{ResumeToken: l.token, UserIds: []string{"user-0", "user-1"}})
		if err == nil {
			_, err = stream.Recv()
		}
		wantError(t, err, codes.InvalidArgument, "TOKEN_INVALID")
	})
	// Order and repeats of a filter's values do not matter.
	listen(t, conn, &apiv1.StreamAlertsRequest{ResumeToken: l.token, UserIds: []string{"user-1", "user-0", "user-1"}})
}

func TestTopicMadeAnewExpiresTokens(t *testing.T) {
	kcfg := kafkatest.Start(t)
	p := newProducer(t, kcfg)
	s := serve(t, testConfig(), kcfg)
	conn := dial(t, s)
	l := listen(t, conn, &apiv1.StreamAlertsRequest{})
	produceAlerts(t, p, kcfg, 2, 0, 10)
	l.hear(20)
	remake(t, kcfg, kcfg.Topics.Alerts)
	wantError(t, l.end(), codes.OutOfRange, "TOKEN_EXPIRED")
	oldest := wantError(t, refused(t, conn, &apiv1.StreamAlertsRequest{ResumeToken: l.token}), codes.OutOfRange, "TOKEN_EXPIRED")["oldest_token"]
	again := listen(t, conn, &apiv1.StreamAlertsRequest{ResumeToken: oldest})
	eventually(t, "streams are served again", func() bool { return s.svc.ReadyLive() == nil })
	fresh := newProducer(t, kcfg)
	produceAlerts(t, fresh, kcfg, 2, 10, 20)
	again.hear(20)
}

func TestTokenBeforeTheFirstRecordIsExpired(t *testing.T) {
	kcfg := kafkatest.Start(t)
	p := newProducer(t, kcfg)
	s := serve(t, testConfig(), kcfg)
	l := listen(t, dial(t, s), &apiv1.StreamAlertsRequest{})
	start := l.token
	produceAlerts(t, p, kcfg, 4, 0, 10)
	l.hear(40)
	s.stop()
	cut(t, kcfg, kcfg.Topics.Alerts, 5)
	conn := dial(t, serve(t, testConfig(), kcfg))
	oldest := wantError(t, refused(t, conn, &apiv1.StreamAlertsRequest{ResumeToken: start}), codes.OutOfRange, "TOKEN_EXPIRED")["oldest_token"]
	again := listen(t, conn, &apiv1.StreamAlertsRequest{ResumeToken: oldest})
	again.hear(40 - 5*kcfg.Topics.Alerts.Partitions)
}

func TestNewPartitionsAreHeard(t *testing.T) {
	kcfg := kafkatest.Start(t)
	p := newProducer(t, kcfg)
	s := serve(t, testConfig(), kcfg)
	conn := dial(t, s)
	l := listen(t, conn, &apiv1.StreamAlertsRequest{})
	before := l.token
	grown := kcfg
	grown.Topics.Alerts.Partitions = 5
	kafkatest.Apply(t, grown)
	fresh := newProducer(t, grown)
	_ = p
	for part := range 5 {
		r := record(t, kcfg.Topics.Alerts, "x", alert(fmt.Sprintf("part-%d", part), 0))
		r.Partition = int32(part)
		produce(t, fresh, r)
	}
	l.hear(5)
	// A token from before names two partitions: the others are heard from their first record.
	again := listen(t, conn, &apiv1.StreamAlertsRequest{ResumeToken: before})
	again.hear(5)
}

func TestStreamsOutliveTheBroker(t *testing.T) {
	dir := t.TempDir()
	b, err := embedded.StartBroker(embedded.BrokerConfig{DataDir: dir, Host: "127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	closeBroker := func() {
		if b != nil {
			if err := b.Close(); err != nil {
				t.Error(err)
			}
			b = nil
		}
	}
	t.Cleanup(func() { closeBroker() })
	addr := b.Addr()
	kcfg := kafka.DefaultConfig()
	kcfg.Brokers = []string{addr}
	kafkatest.Apply(t, kcfg)
	p := newProducer(t, kcfg)
	s := serve(t, testConfig(), kcfg)
	l := listen(t, dial(t, s), &apiv1.StreamAlertsRequest{})
	produceAlerts(t, p, kcfg, 2, 0, 5)
	l.hear(10)

	closeBroker()
	eventually(t, "health tells", func() bool { return s.svc.ReadyLive() != nil })
	var last uint32
	for growing := 0; growing < 3; {
		hb := l.next().GetHeartbeat()
		if hb == nil {
			t.Fatal("a record while the broker is away")
		}
		if hb.GetLagMs() > last {
			growing++
		}
		last = hb.GetLagMs()
	}
	_, port, _ := net.SplitHostPort(addr)
	if b, err = embedded.StartBroker(embedded.BrokerConfig{DataDir: dir, Host: "127.0.0.1", Port: atoi(t, port)}); err != nil {
		t.Fatal(err)
	}
	produceAlerts(t, p, kcfg, 2, 5, 10)
	l.hear(20)
	eventually(t, "streams are well again", func() bool { return s.svc.ReadyLive() == nil })
	for id, n := range l.seen {
		if n != 1 {
			t.Errorf("%s heard %d times", id, n)
		}
	}
}
