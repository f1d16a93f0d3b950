package rig

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/timestamppb"

	apiv1 "github.com/earshot/earshot/gen/earshot/api/v1"
	"github.com/earshot/earshot/services/internal/ident"
)

// Load sends messages in three ways at a time, unary and in batches over gRPC and over REST, and keeps its own books of what was acknowledged. It goes
// on over restarts until Stop.
type Load struct {
	cancel  context.CancelFunc
	workers sync.WaitGroup

	mu      sync.Mutex
	acked   map[string]bool // message ids
	unknown map[string]bool // sent, and never answered
	errors  int
	last    string
}

// StartLoad sends about rate messages a second as users whose names begin with who. One address each for gRPC and HTTP; either may come to life later.
func StartLoad(tb testing.TB, grpcAddr, httpAddr, who string, rate int) *Load {
	tb.Helper()
	conn, err := Dial(grpcAddr)
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	l := &Load{cancel: cancel, acked: map[string]bool{}, unknown: map[string]bool{}}
	client := apiv1.NewMessageServiceClient(conn)
	const batch = 20
	// A third of the messages each way.
	l.work(ctx, time.Second*3/time.Duration(rate), func(n int) []*apiv1.SendMessageRequest { return l.messages(who+"-unary", n, 1) },
		func(ctx context.Context, ms []*apiv1.SendMessageRequest) error {
			_, err := client.SendMessage(ctx, ms[0])
			return err
		})
	l.work(ctx, time.Second*3*batch/time.Duration(rate), func(n int) []*apiv1.SendMessageRequest { return l.messages(who+"-batch", n, batch) },
		func(ctx context.Context, ms []*apiv1.SendMessageRequest) error {
			resp, err := client.SendMessages(ctx, &apiv1.SendMessagesRequest{Messages: ms})
			for _, r := range resp.GetResults() {
				if r.GetStatus() != "success" {
					return fmt.Errorf("%s: %s", r.GetStatus(), r.GetError().GetMessage())
				}
			}
			return err
		})
	l.work(ctx, time.Second*3/time.Duration(rate), func(n int) []*apiv1.SendMessageRequest { return l.messages(who+"-rest", n, 1) },
		func(_ context.Context, ms []*apiv1.SendMessageRequest) error {
			body, err := json.Marshal(map[string]string{
				"message_id": ms[0].GetMessageId(), "conversation_id": ms[0].GetConversationId(), "sender_id": ms[0].GetSenderId(), "content": ms[0].GetContent(),
			})
			if err != nil {
				return err
			}
			a, err := Do(http.MethodPost, "http://"+httpAddr+"/api/v1/messages/send", string(body))
			if err == nil && a.Code != http.StatusOK {
				err = fmt.Errorf("status %d: %s", a.Code, a.Text)
			}
			return err
		})
	tb.Cleanup(func() {
		cancel()
		l.workers.Wait()
		_ = conn.Close()
	})
	return l
}

// Dial connects to a gRPC port, and comes back quickly to one that was away.
func Dial(addr string) (*grpc.ClientConn, error) {
	return grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: time.Second}))
}

func (l *Load) messages(who string, n, count int) []*apiv1.SendMessageRequest {
	out := make([]*apiv1.SendMessageRequest, count)
	for i := range out {
		k := n*count + i
		now := time.Now()
		out[i] = &apiv1.SendMessageRequest{
			MessageId: ident.New(now).MessageID(), CreatedAt: timestamppb.New(now.Truncate(time.Millisecond)),
			ConversationId: fmt.Sprintf("%s-room-%d", who, k%7), SenderId: fmt.Sprintf("%s-%d", who, k%200), Content: fmt.Sprintf("message %d", k),
		}
	}
	return out
}

// work sends one request after the other, at most one per pause. Every second failed one is sent again until it is acknowledged: a retry must not
// be stored twice. Of the others the outcome stays unknown.
func (l *Load) work(ctx context.Context, pause time.Duration, next func(int) []*apiv1.SendMessageRequest, send func(context.Context, []*apiv1.SendMessageRequest) error) {
	l.workers.Go(func() {
		tick := time.NewTicker(pause)
		defer tick.Stop()
		for n := 0; ; n++ {
			ms := next(n)
			for try := 0; ; try++ {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
				}
				call, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
				err := send(call, ms)
				cancel()
				l.note(ms, err)
				if err == nil || n%2 == 0 {
					break
				}
			}
		}
	})
}

func (l *Load) note(ms []*apiv1.SendMessageRequest, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.errors++
		l.last = err.Error()
	}
	for _, m := range ms {
		if err != nil {
			l.unknown[m.GetMessageId()] = true
			continue
		}
		l.acked[m.GetMessageId()] = true
		delete(l.unknown, m.GetMessageId())
	}
}

// Acked returns how many messages were acknowledged so far.
func (l *Load) Acked() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.acked)
}

// LastError returns how many requests failed, and how the last one did.
func (l *Load) LastError() (int, string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.errors, l.last
}

// Stop ends the load and returns the ids that were acknowledged, and those that may or may not have been stored.
func (l *Load) Stop() (acked, unknown []string) {
	l.cancel()
	l.workers.Wait()
	return slices.Sorted(maps.Keys(l.acked)), slices.Sorted(maps.Keys(l.unknown))
}

// Audit waits until ClickHouse has every acknowledged message, and fails the test when one is missing, shows more than once, or was never sent.
func (l *Load) Audit(tb testing.TB, clickhouseHTTP, who string) {
	tb.Helper()
	acked, unknown := l.Stop()
	failures, last := l.LastError()
	type row struct {
		MessageID string `json:"message_id"`
		Copies    int    `json:"copies"`
	}
	ask := "SELECT message_id, count() AS copies FROM message_db.messages WHERE startsWith(sender_id, '" + who + "-') GROUP BY message_id"
	var stored map[string]int
	var missing []string
	for deadline := time.Now().Add(Patience); ; time.Sleep(250 * time.Millisecond) {
		rows, err := Select[row](clickhouseHTTP, ask)
		stored, missing = map[string]int{}, nil
		for _, r := range rows {
			stored[r.MessageID] = r.Copies
		}
		for _, id := range acked {
			if stored[id] == 0 {
				missing = append(missing, id)
			}
		}
		if err == nil && len(missing) == 0 {
			break
		}
		if time.Now().After(deadline) {
			tb.Errorf("%d of %d acknowledged messages are missing after %v (%v), such as %q", len(missing), len(acked), Patience, err, missing[:min(3, len(missing))])
			break
		}
	}
	known := map[string]bool{}
	for _, id := range slices.Concat(acked, unknown) {
		known[id] = true
	}
	surprising, twice, lucky := 0, 0, 0
	for id, n := range stored {
		if !known[id] {
			surprising++
		}
		if n != 1 {
			twice++
		}
	}
	for _, id := range unknown {
		lucky += stored[id]
	}
	if surprising > 0 || twice > 0 {
		tb.Errorf("of %d stored messages %d were never sent and %d show more than once", len(stored), surprising, twice)
	}
	tb.Logf("acknowledged %d, of unknown outcome %d (%d of them stored), failed requests %d (last: %.120s), stored %d, missing %d, more than once %d",
		len(acked), len(unknown), lucky, failures, last, len(stored), len(missing), twice)
}
