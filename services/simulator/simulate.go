package simulator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/earshot/earshot/services/internal/kafka"
	"github.com/earshot/earshot/services/internal/telemetry"
)

// Options say what traffic to make, and which way in it takes. Start from DefaultOptions.
type Options struct {
	Mode string // kafka, grpc or rest

	Kafka kafka.Config // for mode kafka
	// GRPC is the way in for mode grpc. With any mode alerts and trends are heard over it; nil hears none.
	GRPC    grpc.ClientConnInterface
	RESTURL string // such as http://127.0.0.1:8080, for mode rest

	Rate     float64       // messages a second; receipts come on top, about two each
	Users    int           // 2 to 1,000,000
	Seed     uint64        // the same seed, rate, users and start make the same traffic, ids included
	Start    time.Time     // when it begins; zero is now
	Duration time.Duration // 0 is until ctx ends

	Threshold int           // the anomaly rule by which the truth counts
	Span      time.Duration // of the anomaly rule
	Patience  time.Duration // longest time without an acknowledgement before it gives up; 0 never does

	Truth  string       // file that gets what was sent, as JSON lines; "" writes none
	Out    io.Writer    // gets samples of the traffic, and what is heard; nil gets none
	Report func(string) // hears of trouble that is tried again, and of a plan that is put off; may be nil

	Tel telemetry.T
}

// DefaultOptions are those of a small town.
func DefaultOptions() Options {
	return Options{Mode: "kafka", Rate: 20, Users: 1000, Seed: 1, Threshold: 8, Span: time.Minute, Patience: 2 * time.Minute, Tel: telemetry.Nop()}
}

// Validate returns every fault at once, each by its flag.
func (o Options) Validate() error {
	var errs []error
	switch o.Mode {
	case "kafka", "grpc", "rest":
	default:
		errs = append(errs, fmt.Errorf("--mode: got %q, want kafka, grpc or rest", o.Mode))
	}
	if !(o.Rate >= 0.01 && o.Rate <= 1e6) { // not a number, too
		errs = append(errs, fmt.Errorf("--rate: got %v, want 0.01 to 1000000 messages a second", o.Rate))
	}
	if o.Users < 2 || o.Users > 1_000_000 {
		errs = append(errs, fmt.Errorf("--users: got %d, want 2 to 1000000", o.Users))
	}
	if o.Duration < 0 {
		errs = append(errs, fmt.Errorf("--duration: got %v, want 0 (until stopped) or more", o.Duration))
	}
	return errors.Join(errs...)
}

// Simulated says what became of the traffic.
type Simulated struct {
	Messages, Receipts int // acknowledged
	Refused            int // by the service, of both
	Unknown            int // without an answer when it ended, of both
	Alerts, Words      int // as the truth knows them
	Behind             time.Duration
	Took               time.Duration
}

func (s Simulated) String() string {
	text := fmt.Sprintf("simulated %d messages (%.1f/s) and %d receipts in %.1f s: %d refused, %d without an answer; %d alerts and %d rising words to be found; at most %v behind",
		s.Messages, float64(s.Messages)/max(s.Took.Seconds(), 0.001), s.Receipts, s.Took.Seconds(), s.Refused, s.Unknown, s.Alerts, s.Words, s.Behind.Round(time.Millisecond))
	return text
}

const (
	queued     = 2048             // events made and not yet sent: what is behind is not yet late
	atOnce     = 256              // events in one call
	callers    = 4                // calls at a time
	tooLate    = 30 * time.Second // behind by this much, the rest is put off: late messages would count in no window
	callLimit  = 10 * time.Second // for an answer
	drainLimit = 5 * time.Second  // for what is under way when it ends
)

// Run makes traffic until its duration is over or ctx ends, which is no error. The plan alone decides when something is sent, however slow the answers
// are: it keeps to the plan's times without drift and says how far it fell behind. What fails without an answer is sent again under the same id.
func Run(ctx context.Context, o Options) (Simulated, error) {
	if err := o.Validate(); err != nil {
		return Simulated{}, err
	}
	w, err := o.way()
	if err != nil {
		return Simulated{}, err
	}
	defer w.close()
	return o.run(ctx, w)
}

func (o Options) run(ctx context.Context, w way) (_ Simulated, err error) {
	if o.Start.IsZero() {
		o.Start = time.Now()
	}
	o.Start = o.Start.Truncate(time.Millisecond) // as the plan does, or its last slot could end after the next one began
	truth, err := openTruth(o)
	if err != nil {
		return Simulated{}, err
	}
	began := time.Now()
	show := newShow(o.Out)
	hearing, endHearing := context.WithCancel(ctx)
	var ears sync.WaitGroup
	if o.GRPC != nil && o.Out != nil {
		ears.Add(1)
		go func() { defer ears.Done(); listen(hearing, o.GRPC, show) }()
	}
	c := newCourier(ctx, w, o, truth, show)
	behind := o.plan(ctx, c, truth)
	err = c.end()
	endHearing()
	ears.Wait()
	total := c.total
	total.Took, total.Behind = time.Since(began), behind
	total.Alerts, total.Words = truth.alerts(), len(truth.words)
	return total, errors.Join(err, truth.close(total))
}

// plan hands out events when they are due, and returns how far it fell behind at most.
func (o Options) plan(ctx context.Context, c *courier, truth *truth) (behind time.Duration) {
	t := newTown(o.Seed, o.Users, o.Rate, o.Threshold, o.Start)
	for {
		e := t.follow()
		if o.Duration > 0 && e.at.Sub(o.Start) >= o.Duration {
			return behind
		}
		if wait := time.Until(e.at); wait > 0 {
			timer := time.NewTimer(wait)
			select {
			case <-timer.C:
			case <-ctx.Done():
				timer.Stop()
				return behind
			case <-c.failed.Done():
				timer.Stop()
				return behind
			}
		}
		late := time.Since(e.at)
		behind = max(behind, late)
		if late > tooLate {
			t.move(late)
			truth.moved(e.at, late)
			if o.Report != nil {
				o.Report(fmt.Sprintf("%v behind the plan; the rest is put off", late.Round(time.Second)))
			}
		}
		truth.planned(e)
		select {
		case c.queue <- e:
		case <-ctx.Done():
			return behind
		case <-c.failed.Done():
			return behind
		}
	}
}
