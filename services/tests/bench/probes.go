package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	apiv1 "github.com/earshot/earshot/gen/earshot/api/v1"
	eventv1 "github.com/earshot/earshot/gen/earshot/event/v1"
)

const (
	threshold   = 8 // messages in a minute that make an alert
	probeEvery  = 50 * time.Millisecond
	probesLeast = 300
	warmUp      = 10 * time.Second
	lookEvery   = 25 * time.Millisecond // between two looks into ClickHouse
	lateLimit   = 2 * time.Minute       // after which what was not heard counts as missed
)

// underLoad runs f beside the steady load, after a warm-up.
func underLoad(ctx context.Context, m *mesh, o options, name string, f func(context.Context) error) (details []string, err error) {
	conns, err := m.dial(2)
	if err != nil {
		return nil, err
	}
	b := newBacklog(m)
	watching := background(ctx, b.watch)
	defer func() { err = errors.Join(err, watching()) }()
	var t tally
	start := time.Now()
	sending := background(ctx, func(ctx context.Context) error {
		return openLoop(ctx, conns, newTraffic(1, senders), o.Rate, 100, &t)
	})
	select {
	case <-time.After(warmUp):
	case <-ctx.Done():
	}
	if o.Profile != "" {
		profiling := background(ctx, func(ctx context.Context) error { return m.profile(ctx, o.Profile, name, 8) })
		defer func() { err = errors.Join(err, profiling()) }()
	}
	err = f(ctx)
	took := time.Since(start)
	return []string{
		fmt.Sprintf("beside %s msg/s of 10,000 senders in batches of 100, each sent when due; uncommitted at most %s messages",
			thousands(int64(float64(t.acked.Load())/took.Seconds())), thousands(b.most.Load())),
	}, errors.Join(err, sending())
}

// probes calls f at a steady pace with the time at which it was due, waits for all calls and returns how many were made.
func probes(ctx context.Context, o options, f func(ctx context.Context, i int, due time.Time) error) (int, error) {
	n := max(probesLeast, int(time.Duration(o.Seconds)*time.Second/probeEvery))
	start := time.Now()
	group, gctx := errgroup.WithContext(ctx)
	for i := range n {
		due := start.Add(time.Duration(i) * probeEvery)
		select {
		case <-time.After(time.Until(due)):
		case <-gctx.Done():
			return i, group.Wait()
		}
		group.Go(func() error { return f(gctx, i, due) })
	}
	return n, group.Wait()
}

func alertLatency(ctx context.Context, m *mesh, o options) (result, error) {
	conns, err := m.dial(2)
	if err != nil {
		return result{}, err
	}
	var heard samples
	var mu sync.Mutex
	due := map[string]time.Time{} // by user, from the eighth message until the alert
	listening := background(ctx, func(ctx context.Context) error {
		return hearAlerts(ctx, conns[1], func(a *eventv1.Alert, at time.Time) {
			mu.Lock()
			defer mu.Unlock()
			if d, ok := due[a.GetUserId()]; ok {
				delete(due, a.GetUserId())
				heard.add(at.Sub(d))
			}
		})
	})
	client := apiv1.NewMessageServiceClient(conns[0])
	var sent int
	details, err := underLoad(ctx, m, o, "latency", func(ctx context.Context) error {
		var err error
		sent, err = probes(ctx, o, func(ctx context.Context, i int, _ time.Time) error {
			user := fmt.Sprintf("probe-%05d", i)
			for n := range threshold {
				req := &apiv1.SendMessageRequest{SenderId: user, ConversationId: fmt.Sprintf("probe-%05d-%d", i, n%4), Content: "are you there"}
				if n == threshold-1 {
					// Due a second later, when those before it are long through: what is measured is the eighth alone.
					at := time.Now().Add(time.Second)
					mu.Lock()
					due[user] = at
					mu.Unlock()
					time.Sleep(time.Until(at))
				}
				if _, err := client.SendMessage(ctx, req); err != nil {
					return fmt.Errorf("send a probe: %w", err)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		return eventually(ctx, lateLimit, func() (bool, error) { return heard.count() == sent, nil })
	})
	if stopErr := listening(); err == nil {
		err = stopErr
	}
	if err != nil {
		return result{}, fmt.Errorf("heard %d of %d alerts: %w", heard.count(), sent, err)
	}
	p50, p99 := heard.quantile(0.5), heard.quantile(0.99)
	return result{
		Measured: fmt.Sprintf("p50 %s, p99 %s, most %s", ms(p50), ms(p99), ms(heard.quantile(1))),
		Met:      p50 < goalAlertP50 && p99 < goalAlertP99,
		Details: append([]string{fmt.Sprintf("%s probes, each a user of its own whose eight messages lie in four conversations; from when the eighth was due",
			thousands(int64(sent)))}, details...),
	}, nil
}

// hearAlerts calls f for each alert until ctx ends.
func hearAlerts(ctx context.Context, conn grpc.ClientConnInterface, f func(*eventv1.Alert, time.Time)) error {
	stream, err := apiv1.NewAlertServiceClient(conn).StreamAlerts(ctx, &apiv1.StreamAlertsRequest{})
	if err != nil {
		return err
	}
	for {
		frame, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		if a := frame.GetAlert(); a != nil {
			f(a, time.Now())
		}
	}
}

func visible(ctx context.Context, m *mesh, o options) (result, error) {
	conns, err := m.dial(1)
	if err != nil {
		return result{}, err
	}
	client := apiv1.NewMessageServiceClient(conns[0])
	var read samples
	var mu sync.Mutex
	due := map[string]time.Time{} // by conversation, until its message can be read
	looking := background(ctx, func(ctx context.Context) error {
		for {
			select {
			case <-time.After(lookEvery):
			case <-ctx.Done():
				return nil
			}
			mu.Lock()
			wanted := make([]string, 0, len(due))
			for c := range due {
				wanted = append(wanted, c)
			}
			mu.Unlock()
			if len(wanted) == 0 {
				continue
			}
			var found []string
			if err := m.db.QueryRow(ctx, "SELECT groupArray(conversation_id) FROM message_db.messages WHERE conversation_id IN (?)", wanted).Scan(&found); err != nil {
				return err
			}
			at := time.Now()
			mu.Lock()
			for _, c := range found {
				read.add(at.Sub(due[c]))
				delete(due, c)
			}
			mu.Unlock()
		}
	})
	var sent int
	details, err := underLoad(ctx, m, o, "visible", func(ctx context.Context) error {
		var err error
		sent, err = probes(ctx, o, func(ctx context.Context, i int, at time.Time) error {
			c := fmt.Sprintf("probe-%05d", i)
			mu.Lock()
			due[c] = at
			mu.Unlock()
			_, err := client.SendMessage(ctx, &apiv1.SendMessageRequest{SenderId: c, ConversationId: c, Content: "can it be read"})
			return err
		})
		if err != nil {
			return err
		}
		return eventually(ctx, lateLimit, func() (bool, error) { return read.count() == sent, nil })
	})
	if stopErr := looking(); stopErr != nil {
		err = stopErr
	}
	if err != nil {
		return result{}, fmt.Errorf("%d of %d messages could be read: %w", read.count(), sent, err)
	}
	p50, p99 := read.quantile(0.5), read.quantile(0.99)
	return result{
		Measured: fmt.Sprintf("p50 %s, p99 %s, most %s", ms(p50), ms(p99), ms(read.quantile(1))),
		Met:      p99 < goalVisible,
		Details: append([]string{fmt.Sprintf("%s probes; looked for every %s, so that up to that and one query is the benchmark's own", thousands(int64(sent)), ms(lookEvery))},
			details...),
	}, nil
}

func subscribers(ctx context.Context, m *mesh, _ options) (result, error) {
	const conns, users, alertsEvery = 8, 200, 50 * time.Millisecond
	dialled, err := m.dial(conns + 1)
	if err != nil {
		return result{}, err
	}
	var mu sync.Mutex
	heard := make([]map[string]bool, goalListeners) // alert ids, by subscriber
	var delivered int64
	ready := make(chan struct{}, goalListeners)
	listening := background(ctx, func(ctx context.Context) error {
		group, ctx := errgroup.WithContext(ctx)
		for i := range goalListeners {
			heard[i] = map[string]bool{}
			group.Go(func() error {
				stream, err := apiv1.NewAlertServiceClient(dialled[i%conns]).StreamAlerts(ctx, &apiv1.StreamAlertsRequest{})
				if err != nil {
					return err
				}
				for first := true; ; first = false {
					frame, err := stream.Recv()
					if err != nil {
						return err
					}
					if first {
						ready <- struct{}{}
					}
					if a := frame.GetAlert(); a != nil {
						mu.Lock()
						delivered++
						heard[i][a.GetAlertId()] = true
						mu.Unlock()
					}
				}
			})
		}
		return group.Wait()
	})
	defer listening() //nolint:errcheck // ended below where it counts
	for range goalListeners {
		select {
		case <-ready:
		case <-time.After(time.Minute):
			return result{}, fmt.Errorf("not every subscriber had its first frame: %w", listening())
		}
	}
	client := apiv1.NewMessageServiceClient(dialled[conns])
	start := time.Now()
	for i := range users {
		select {
		case <-time.After(time.Until(start.Add(time.Duration(i) * alertsEvery))):
		case <-ctx.Done():
			return result{}, ctx.Err()
		}
		reqs := make([]*apiv1.SendMessageRequest, threshold)
		for n := range reqs {
			reqs[n] = &apiv1.SendMessageRequest{SenderId: fmt.Sprintf("spammer-%04d", i), ConversationId: fmt.Sprintf("spam-%04d", i), Content: "buy now"}
		}
		if err := send(ctx, client, reqs, true, &tally{}); err != nil {
			return result{}, err
		}
	}
	missed := func() (n int) {
		mu.Lock()
		defer mu.Unlock()
		for _, h := range heard {
			n += users - len(h)
		}
		return n
	}
	waitErr := eventually(ctx, lateLimit, func() (bool, error) { return missed() <= 0, nil })
	took := time.Since(start)
	if err := listening(); err != nil {
		return result{}, fmt.Errorf("a subscriber was ended: %w", err)
	}
	return result{
		Measured: fmt.Sprintf("%s subscribers, %s missed, %s alerts delivered a second", thousands(goalListeners), thousands(int64(max(0, missed()))),
			thousands(int64(float64(delivered)/took.Seconds()))),
		Met: waitErr == nil,
		Details: []string{fmt.Sprintf("%d alerts, %d a second, each heard by every subscriber on %d connections; %.1f s from the first message to the last delivery",
			users, time.Second/alertsEvery, conns, took.Seconds())},
	}, nil
}

// eventually polls until ok.
func eventually(ctx context.Context, limit time.Duration, ok func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		done, err := ok()
		if done || err != nil {
			return err
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("not within %v", limit)
		}
	}
}

// ms writes a duration in milliseconds.
func ms(d time.Duration) string { return fmt.Sprintf("%.3g ms", float64(d.Microseconds())/1000) }
