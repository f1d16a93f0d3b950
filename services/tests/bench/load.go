package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	apiv1 "github.com/earshot/earshot/gen/earshot/api/v1"
)

// tally counts what became of messages.
type tally struct {
	acked   atomic.Int64
	refused atomic.Int64 // nothing was written: over capacity, or unavailable
	unknown atomic.Int64 // may have been written
}

// count takes the result of one message.
func (t *tally) count(success bool, code codes.Code, text string) error {
	switch {
	case success:
		t.acked.Add(1)
	case code == codes.ResourceExhausted:
		t.refused.Add(1)
	case code == codes.Unavailable || code == codes.DeadlineExceeded || code == codes.Canceled:
		t.unknown.Add(1)
	default:
		return fmt.Errorf("a message was answered with %s: %s", code, text)
	}
	return nil
}

// load is a closed loop: workers that send, wait for the acknowledgement and send again.
type load struct {
	workers int
	batch   int   // messages of one SendMessages; 0 is SendMessage
	limit   int64 // messages in all; 0 is until the time is over
	time    time.Duration
	backlog *backlog
	next    atomic.Int64 // sender of the next message when each is to have one before any has two
	inTurn  bool
}

// run sends until the time is over or the limit is reached.
func (l *load) run(ctx context.Context, conns []*grpc.ClientConn, shape *traffic, t *tally) error {
	sending := ctx
	if l.time > 0 {
		var cancel context.CancelFunc
		sending, cancel = context.WithTimeout(ctx, l.time)
		defer cancel()
	}
	group, ctx := errgroup.WithContext(ctx)
	var sent atomic.Int64
	for i := range l.workers {
		client, mine := apiv1.NewMessageServiceClient(conns[i%len(conns)]), shape.fork(i)
		group.Go(func() error {
			reqs := make([]*apiv1.SendMessageRequest, max(1, l.batch))
			for i := range reqs {
				reqs[i] = &apiv1.SendMessageRequest{}
			}
			for sending.Err() == nil {
				l.backlog.hold(sending)
				if l.limit > 0 && sent.Add(int64(len(reqs))) > l.limit {
					return nil
				}
				for _, r := range reqs {
					if l.inTurn {
						mine.fillFrom(r, int(l.next.Add(1))%len(mine.senders))
					} else {
						mine.fill(r)
					}
				}
				if err := send(ctx, client, reqs, l.batch > 0, t); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}

// send sends messages and counts their results. It waits a moment when the mesh is over capacity.
func send(ctx context.Context, client apiv1.MessageServiceClient, reqs []*apiv1.SendMessageRequest, batched bool, t *tally) error {
	refused := t.refused.Load()
	if !batched {
		resp, err := client.SendMessage(ctx, reqs[0])
		if err := t.count(resp.GetStatus() == "success", status.Code(err), status.Convert(err).Message()); err != nil {
			return err
		}
	} else {
		resp, err := client.SendMessages(ctx, &apiv1.SendMessagesRequest{Messages: reqs})
		if err != nil {
			for range reqs {
				if err := t.count(false, status.Code(err), status.Convert(err).Message()); err != nil {
					return err
				}
			}
		}
		for _, r := range resp.GetResults() {
			if err := t.count(r.GetStatus() == "success", codes.Code(r.GetError().GetCode()), r.GetError().GetMessage()); err != nil { //nolint:gosec // a gRPC code
				return err
			}
		}
	}
	if t.refused.Load() > refused {
		time.Sleep(5 * time.Millisecond)
	}
	return nil
}

// openLoop sends rate messages a second in batches, each when it is due, until ctx ends: a mesh that is slow finds the messages waiting.
func openLoop(ctx context.Context, conns []*grpc.ClientConn, shape *traffic, rate, batch int, t *tally) error {
	every := time.Second * time.Duration(batch) / time.Duration(rate)
	start := time.Now()
	var n atomic.Int64
	group, gctx := errgroup.WithContext(context.WithoutCancel(ctx))
	for i := range 32 {
		client, mine := apiv1.NewMessageServiceClient(conns[i%len(conns)]), shape.fork(1000+i)
		group.Go(func() error {
			reqs := make([]*apiv1.SendMessageRequest, batch)
			for i := range reqs {
				reqs[i] = &apiv1.SendMessageRequest{}
			}
			for {
				due := start.Add(every * time.Duration(n.Add(1)-1))
				select {
				case <-time.After(time.Until(due)):
				case <-ctx.Done():
					return nil
				case <-gctx.Done():
					return nil
				}
				for _, r := range reqs {
					mine.fill(r)
				}
				if err := send(gctx, client, reqs, true, t); err != nil {
					return err
				}
			}
		})
	}
	return group.Wait()
}

// samples are latencies. Safe for concurrent use.
type samples struct {
	mu  sync.Mutex
	all []time.Duration
}

func (s *samples) add(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, d)
}

func (s *samples) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.all)
}

// quantile returns the least sample that a share q of all does not exceed.
func (s *samples) quantile(q float64) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.all) == 0 {
		return 0
	}
	slices.Sort(s.all)
	return s.all[min(len(s.all)-1, int(q*float64(len(s.all))))]
}

// background runs f until stop is called, which returns how it ended.
func background(ctx context.Context, f func(context.Context) error) (stop func() error) {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- f(ctx) }()
	return sync.OnceValue(func() error {
		cancel()
		err := <-ended
		if errors.Is(err, context.Canceled) || status.Code(err) == codes.Canceled {
			return nil
		}
		return err
	})
}
