package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

// row is one line of the table.
type row struct {
	name  string
	title string
	goal  string
	run   func(context.Context, *mesh, options) (result, error)
}

// result is what a row saw.
type result struct {
	Measured string
	Met      bool
	Broken   bool // it did not finish
	Details  []string
}

func (r result) verdict() string {
	switch {
	case r.Broken:
		return "not measured"
	case r.Met:
		return "met"
	}
	return "missed"
}

// Goals.
const (
	goalUnary     = 10_000
	goalBatch     = 50_000
	goalAlertP50  = 10 * time.Millisecond
	goalAlertP99  = 50 * time.Millisecond
	goalVisible   = time.Second
	goalMemory    = 500 << 20
	goalListeners = 1000
)

var rows = []row{
	{"unary", "SendMessage, one call a message", "10,000 msg/s", unary},
	{"batch", "SendMessages, 1,000 a call", "50,000 msg/s", batched},
	{"latency", "from SendMessage to the alert on StreamAlerts, at 10,000 msg/s", "p50 < 10 ms, p99 < 50 ms", alertLatency},
	{"visible", "from SendMessage to readable in ClickHouse, at 10,000 msg/s", "p99 < 1 s", visible},
	{"memory", "resident memory of the Go process", "< 500 MiB", memory},
	{"subscribers", "StreamAlerts subscribers at once", "1,000, none misses an alert", subscribers},
}

func rowNames() []string {
	var names []string
	for _, r := range rows {
		names = append(names, r.name)
	}
	return names
}

func unary(ctx context.Context, m *mesh, o options) (result, error) {
	return throughput(ctx, m, o, "unary", &load{workers: 256, time: time.Duration(o.Seconds) * time.Second}, newTraffic(1, senders), goalUnary)
}

func batched(ctx context.Context, m *mesh, o options) (result, error) {
	return throughput(ctx, m, o, "batch", &load{workers: 8, batch: 1000, time: time.Duration(o.Seconds) * time.Second}, newTraffic(1, senders), goalBatch)
}

// throughput runs a closed loop and counts what came out at the other end.
func throughput(ctx context.Context, m *mesh, o options, name string, l *load, shape *traffic, goal float64) (result, error) {
	seen, err := drive(ctx, m, o, name, l, shape)
	if err != nil {
		return result{}, err
	}
	return result{Measured: fmt.Sprintf("%s msg/s", thousands(int64(seen.sustained()))), Met: seen.sustained() >= goal, Details: seen.details()}, nil
}

// outcome is what a load came to.
type outcome struct {
	acked, refused, unknown int64
	stored                  uint64
	sending, drained        time.Duration
	behind, most            int64
	made                    string        // of the messages: records, by topic
	after                   usage         // of the mesh, when the last message was acknowledged
	mesh, engine, self      time.Duration // CPU
}

// sustained is the rate of everything: acknowledged, worked off, stored and readable.
func (o outcome) sustained() float64 { return float64(o.acked) / (o.sending + o.drained).Seconds() }

func (o outcome) details() []string {
	perMessage := func(d time.Duration) string { return fmt.Sprintf("%.1f", float64(d.Microseconds())/float64(o.acked)) }
	return []string{
		fmt.Sprintf("%s acknowledged in %.1f s (%s/s), %s refused, %s unknown", thousands(o.acked), o.sending.Seconds(),
			thousands(int64(float64(o.acked)/o.sending.Seconds())), thousands(o.refused), thousands(o.unknown)),
		fmt.Sprintf("%s readable in message_db.messages: nothing lost, nothing twice", thousands(int64(o.stored))), //nolint:gosec // far below 2^63
		fmt.Sprintf("uncommitted by the slowest consumer: %s at most, %s at the end of the load; %.1f s later everything was processed and stored",
			thousands(o.most), thousands(o.behind), o.drained.Seconds()),
		"records made of them: " + o.made,
		fmt.Sprintf("CPU µs a message: earshot up (broker included) %s, ClickHouse %s, load generator %s", perMessage(o.mesh), perMessage(o.engine), perMessage(o.self)),
	}
}

// drive sends a load, waits until the mesh has worked it off, and checks that every acknowledged message can be read.
func drive(ctx context.Context, m *mesh, o options, name string, l *load, shape *traffic) (seen outcome, err error) {
	conns, err := m.dial(4)
	if err != nil {
		return seen, err
	}
	cpu, err := m.cpu()
	if err != nil {
		return seen, err
	}
	l.backlog = newBacklog(m)
	stop := background(ctx, l.backlog.watch)
	defer func() { err = errors.Join(err, stop()) }()
	if o.Profile != "" {
		done := background(ctx, func(ctx context.Context) error {
			select {
			case <-time.After(time.Duration(o.Seconds) * time.Second / 3):
			case <-ctx.Done():
				return nil
			}
			return m.profile(ctx, o.Profile, name, 8)
		})
		defer func() { err = errors.Join(err, done()) }()
	}
	var t tally
	start := time.Now()
	if err := l.run(ctx, conns, shape, &t); err != nil {
		return seen, err
	}
	seen.sending = time.Since(start)
	if seen.after, err = processUsage(m.addr.PID); err != nil {
		return seen, err
	}
	if err := l.backlog.look(ctx); err != nil {
		return seen, err
	}
	seen.behind = l.backlog.now.Load()
	if err := l.backlog.drain(ctx); err != nil {
		return seen, err
	}
	seen.drained = time.Since(start) - seen.sending
	seen.most = l.backlog.most.Load()
	if seen.made, err = l.backlog.made(ctx); err != nil {
		return seen, err
	}
	after, err := m.cpu()
	if err != nil {
		return seen, err
	}
	seen.mesh, seen.engine, seen.self = after[0]-cpu[0], after[1]-cpu[1], after[2]-cpu[2]
	seen.acked, seen.refused, seen.unknown = t.acked.Load(), t.refused.Load(), t.unknown.Load()
	if seen.stored, err = m.stored(ctx); err != nil {
		return seen, err
	}
	if n := int64(seen.stored); n < seen.acked || n > seen.acked+seen.unknown { //nolint:gosec // far below 2^63
		return seen, fmt.Errorf("%d messages were acknowledged and %d unknown, but %d can be read", seen.acked, seen.unknown, n)
	}
	return seen, nil
}

// cpu returns what the mesh, its engine and we have used.
func (m *mesh) cpu() (all [3]time.Duration, err error) {
	engine, err := m.engine()
	if err != nil {
		return all, err
	}
	for i, pid := range []int{m.addr.PID, engine, os.Getpid()} {
		u, err := processUsage(pid)
		if err != nil {
			return all, err
		}
		all[i] = u.CPU
	}
	return all, nil
}

func memory(ctx context.Context, m *mesh, o options) (result, error) {
	shape := newTraffic(1, o.Users)
	seen, err := drive(ctx, m, o, "memory", &load{workers: 8, batch: 1000, limit: int64(o.Messages), inTurn: true}, shape)
	if err != nil {
		return result{}, err
	}
	u := seen.after
	if o.Profile != "" {
		if err := m.profile(ctx, o.Profile, "memory-end", 1); err != nil {
			return result{}, err
		}
	}
	return result{
		Measured: fmt.Sprintf("%d MiB straight after %s messages from %s users; %d MiB at most", u.Resident>>20, thousands(seen.acked), thousands(int64(o.Users)), u.Peak>>20),
		Met:      u.Resident < goalMemory,
		Details:  append([]string{fmt.Sprintf("at %s msg/s, the highest rate it sustained", thousands(int64(seen.sustained())))}, seen.details()...),
	}, nil
}

// thousands writes 1234567 as 1,234,567.
func thousands(n int64) string {
	if n < 1000 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%s,%03d", thousands(n/1000), n%1000)
}
