package simulator

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
	"unicode"

	apiv1 "github.com/earshot/earshot/gen/earshot/api/v1"
	eventv1 "github.com/earshot/earshot/gen/earshot/event/v1"
	"google.golang.org/grpc"
)

// show prints samples of the traffic, and every alert. Safe for concurrent use.
type show struct {
	mu      sync.Mutex
	out     io.Writer
	message time.Time // when the last was shown
	view    time.Time
}

// How often a message and a receipt are shown: what a person can read.
const (
	messageEvery = 700 * time.Millisecond
	viewEvery    = 3 * time.Second
)

func newShow(out io.Writer) *show { return &show{out: out} }

func (s *show) line(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.out != nil {
		fmt.Fprintln(s.out, text)
	}
}

// sent shows an event that was acknowledged, unless one like it was shown a moment ago.
func (s *show) sent(e event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	last, every := &s.message, messageEvery
	if e.view != nil {
		last, every = &s.view, viewEvery
	}
	now := time.Now()
	if s.out == nil || now.Sub(*last) < every || e.view != nil && e.view.GetStatus() != "read" {
		return
	}
	*last = now
	if v := e.view; v != nil {
		fmt.Fprintf(s.out, "👀 Message view: %s %s by %s\n", v.GetMessageId(), v.GetStatus(), v.GetUserId())
		return
	}
	m := e.message
	to := m.GetReceiverId()
	if to == "" {
		to = "all"
	}
	fmt.Fprintf(s.out, "💬 [%s] %s → %s: %s\n", m.GetConversationId(), m.GetSenderId(), to, m.GetContent())
}

// listen shows alerts and trends until ctx ends. A mesh that does not answer is asked again.
func listen(ctx context.Context, conn grpc.ClientConnInterface, s *show) {
	var ears sync.WaitGroup
	defer ears.Wait()
	for _, hear := range []func(context.Context, grpc.ClientConnInterface, *show) error{hearAlerts, hearTrends} {
		ears.Add(1)
		go func() {
			defer ears.Done()
			for ctx.Err() == nil {
				_ = hear(ctx, conn, s) // traffic goes on without
				select {
				case <-time.After(2 * time.Second):
				case <-ctx.Done():
				}
			}
		}()
	}
}

func hearAlerts(ctx context.Context, conn grpc.ClientConnInterface, s *show) error {
	stream, err := apiv1.NewAlertServiceClient(conn).StreamAlerts(ctx, &apiv1.StreamAlertsRequest{
		States: []eventv1.AlertState{eventv1.AlertState_ALERT_STATE_OPEN},
	})
	if err != nil {
		return err
	}
	shown := map[string]time.Time{} // an open alert is announced again and again
	for {
		f, err := stream.Recv()
		if err != nil {
			return err
		}
		a := f.GetAlert()
		if a == nil {
			continue
		}
		now := time.Now()
		if _, ok := shown[a.GetAlertId()]; !ok {
			s.line(fmt.Sprintf("🚨 ANOMALY: %s sent %d messages/%s", printable(a.GetUserId()), a.GetCount(), per(time.Duration(a.GetSpanSeconds())*time.Second)))
		}
		shown[a.GetAlertId()] = now
		for id, at := range shown {
			if now.Sub(at) > time.Hour {
				delete(shown, id)
			}
		}
	}
}

// A trend is shown when it is the most unusual in a while, and not again for some time.
const (
	trendEvery = 5 * time.Second
	trendAgain = 2 * time.Minute
	trendUses  = 8 // at least
	trendUsers = 4 // at least
)

func hearTrends(ctx context.Context, conn grpc.ClientConnInterface, s *show) error {
	stream, err := apiv1.NewTrendServiceClient(conn).StreamTrends(ctx, &apiv1.StreamTrendsRequest{MinCount: trendUses})
	if err != nil {
		return err
	}
	var best *eventv1.Trend
	last, shown := time.Now(), map[string]time.Time{}
	for {
		f, err := stream.Recv()
		if err != nil {
			return err
		}
		now := time.Now()
		if t := f.GetTrend(); t != nil && t.GetSenders() >= trendUsers && now.Sub(shown[t.GetTerm()]) > trendAgain && t.GetScore() > best.GetScore() {
			best = t
		}
		if best == nil || now.Sub(last) < trendEvery {
			continue
		}
		s.line(fmt.Sprintf("🔥 TREND: '%s' used %d times in %s", printable(best.GetTerm()), best.GetCount(), length(best.GetWindowEnd().AsTime().Sub(best.GetWindowStart().AsTime()))))
		for term, at := range shown {
			if now.Sub(at) > trendAgain {
				delete(shown, term)
			}
		}
		shown[best.GetTerm()] = now
		best, last = nil, now
	}
}

// per names a span as a unit: min, 90s.
func per(d time.Duration) string {
	if d == time.Minute {
		return "min"
	}
	return length(d)
}

// length writes 2min, 90s.
func length(d time.Duration) string {
	if d >= time.Minute && d%time.Minute == 0 {
		return fmt.Sprintf("%dmin", d/time.Minute)
	}
	return fmt.Sprintf("%ds", int(d.Seconds()))
}

// printable keeps what strangers wrote from steering the terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, s)
}
