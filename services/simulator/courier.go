package simulator

import (
	"context"
	"fmt"
	"sync"
	"time"

	apiv1 "github.com/earshot/earshot/gen/earshot/api/v1"
	"google.golang.org/genproto/googleapis/rpc/code"
)

// way is a way into the mesh. Each call returns a result per item, or an error when nothing is known of any.
type way interface {
	messages(context.Context, []*apiv1.SendMessageRequest) ([]*apiv1.SendResult, error)
	views(context.Context, []*apiv1.RecordViewRequest) ([]*apiv1.SendResult, error)
	close()
}

// courier sends events as they come, a few calls at a time; each call takes what is there. What was not answered is sent again under the same id.
type courier struct {
	queue    chan event
	way      way
	patience time.Duration
	truth    *truth
	show     *show

	ctx    context.Context // of the calls; it outlives the plan's by the time to drain
	failed context.Context // ends when patience does
	fail   context.CancelFunc
	stop   context.CancelFunc
	report func(string)
	wg     sync.WaitGroup

	mu      sync.Mutex
	lastAck time.Time
	told    time.Time // when trouble was last reported
	gaveUp  error
	total   Simulated
}

func newCourier(ctx context.Context, w way, o Options, truth *truth, show *show) *courier {
	c := &courier{queue: make(chan event, queued), way: w, patience: o.Patience, report: o.Report, truth: truth, show: show, lastAck: time.Now()}
	calls, cancel := context.WithCancel(context.WithoutCancel(ctx))
	c.ctx, c.stop = calls, cancel
	c.failed, c.fail = context.WithCancel(calls)
	for range callers {
		c.wg.Add(1)
		go func() { defer c.wg.Done(); c.work() }()
	}
	return c
}

// end sends what is queued and returns why it gave up, if it did.
func (c *courier) end() error {
	close(c.queue)
	limit := time.AfterFunc(drainLimit, c.stop)
	c.wg.Wait()
	limit.Stop()
	defer c.stop()
	return c.gaveUp
}

func (c *courier) work() {
	for e := range c.queue {
		var m, v []event
		for n := 0; ; n++ {
			if e.message != nil {
				m = append(m, e)
			} else {
				v = append(v, e)
			}
			if n == atOnce-1 {
				break
			}
			more := false
			select {
			case e, more = <-c.queue:
			default:
			}
			if !more {
				break
			}
		}
		c.deliver(m, func(ctx context.Context, es []event) ([]*apiv1.SendResult, error) {
			reqs := make([]*apiv1.SendMessageRequest, len(es))
			for i, e := range es {
				reqs[i] = e.message
			}
			return c.way.messages(ctx, reqs)
		})
		c.deliver(v, func(ctx context.Context, es []event) ([]*apiv1.SendResult, error) {
			reqs := make([]*apiv1.RecordViewRequest, len(es))
			for i, e := range es {
				reqs[i] = e.view
			}
			return c.way.views(ctx, reqs)
		})
	}
}

// deliver sends events until each has an answer.
func (c *courier) deliver(es []event, send func(context.Context, []event) ([]*apiv1.SendResult, error)) {
	for wait := 50 * time.Millisecond; len(es) > 0; {
		ctx, cancel := context.WithTimeout(c.failed, c.limit())
		results, err := send(ctx, es)
		cancel()
		if err == nil && len(results) != len(es) {
			err = fmt.Errorf("%d results for %d items", len(results), len(es))
		}
		before := len(es)
		if err == nil {
			es, err = c.settle(es, results)
		}
		if len(es) == 0 {
			return
		}
		if len(es) < before {
			wait = 50 * time.Millisecond
		}
		if c.trouble(err); c.failed.Err() != nil {
			break
		}
		select {
		case <-time.After(wait):
			wait = min(2*wait, 2*time.Second)
		case <-c.failed.Done():
		}
	}
	for _, e := range es {
		c.truth.settled(e, "unknown")
	}
	c.mu.Lock()
	c.total.Unknown += len(es)
	c.mu.Unlock()
}

// limit bounds a call.
func (c *courier) limit() time.Duration {
	if c.patience > 0 {
		return min(c.patience, callLimit)
	}
	return callLimit
}

// settle takes the results of events and returns those to be sent again, and why.
func (c *courier) settle(es []event, results []*apiv1.SendResult) (again []event, why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, e := range es {
		r := results[i]
		switch kind := code.Code(r.GetError().GetCode()); {
		case r.GetStatus() == "success":
			c.lastAck = time.Now()
			if e.message != nil {
				c.total.Messages++
			} else {
				c.total.Receipts++
			}
			c.truth.settled(e, "acknowledged")
			c.show.sent(e)
		case r.GetStatus() == "unknown" || kind == code.Code_RESOURCE_EXHAUSTED || kind == code.Code_UNAVAILABLE:
			again, why = append(again, e), fmt.Errorf("%s", r.GetError().GetMessage())
		default:
			c.total.Refused++
			c.truth.settled(e, "refused")
			c.show.line("refused: " + r.GetError().GetMessage())
		}
	}
	return again, why
}

// troubleEvery is how often trouble is reported while it lasts.
const troubleEvery = 10 * time.Second

// trouble reports why something has to be sent again, and gives up when there was no acknowledgement for too long.
func (c *courier) trouble(why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.failed.Err() != nil {
		return // asked to end
	}
	now := time.Now()
	if now.Sub(c.told) >= troubleEvery && c.report != nil {
		c.told = now
		c.report(fmt.Sprintf("trying again: %v", why))
	}
	if c.patience > 0 && now.Sub(c.lastAck) >= c.patience {
		c.gaveUp = fmt.Errorf("no acknowledgement for %v: %w", c.patience, why)
		c.fail()
	}
}
