package simulator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	apiv1 "github.com/earshot/earshot/gen/earshot/api/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// ReplayOptions say what to replay, and how.
type ReplayOptions struct {
	File      string  // path of the recording; "-" reads standard input, which can not be resumed
	Speed     float64 // times real time, by created_at; 0 is as fast as it is acknowledged
	SkipBad   bool    // report bad lines and go on; otherwise the first one ends the replay
	FromStart bool    // do not resume where an earlier replay was cut off
	StateDir  string  // where to keep how far it is; "" is the user's cache directory
	InFlight  int     // messages sent and not yet acknowledged; 0 is 4,096

	Patience time.Duration // longest time without an acknowledgement before it gives up; 0 is 2m

	Report   func(string)                    // hears of bad lines, of resuming and of broken connections; may be nil
	Progress func(acknowledged, bytes int64) // hears how far it is, several times a second; may be nil
}

// Totals say what became of a recording.
type Totals struct {
	Lines        int // read in this run
	Resumed      int // of them passed over, because they were acknowledged before
	Acknowledged int
	Refused      int // by the service
	Skipped      int // not readable as a message
	Took         time.Duration
}

func (t Totals) String() string {
	rate := float64(t.Acknowledged) / max(t.Took.Seconds(), 0.001)
	s := fmt.Sprintf("replayed %d lines in %.1f s (%.0f/s): %d acknowledged, %d refused, %d skipped", t.Lines, t.Took.Seconds(), rate, t.Acknowledged, t.Refused, t.Skipped)
	if t.Resumed > 0 {
		s += fmt.Sprintf(", %d acknowledged before", t.Resumed)
	}
	return s
}

// Replay sends a recording through conn with its own times, in order, and returns once every line is acknowledged. It goes on over broken connections
// with the same ids, so nothing is stored twice. When it is cut off, a later Replay of the same file goes on at the first line that was not acknowledged,
// provided that the mesh still has the one before.
func Replay(ctx context.Context, conn grpc.ClientConnInterface, o ReplayOptions) (Totals, error) {
	if o.InFlight <= 0 {
		o.InFlight = 4096
	}
	if o.Patience <= 0 {
		o.Patience = 2 * time.Minute
	}
	if o.Report == nil {
		o.Report = func(string) {}
	}
	in := io.Reader(os.Stdin)
	if o.File != "-" {
		f, err := os.Open(o.File)
		if err != nil {
			return Totals{}, fmt.Errorf("open recording: %w", err)
		}
		defer f.Close()
		in = f
	}
	r := &replay{opts: o, conn: conn, began: time.Now(), recording: newRecording(in)}
	if o.File != "-" {
		var err error
		if r.journal, err = openJournal(o.StateDir, o.File, target(conn)); err != nil {
			return Totals{}, err
		}
		if !o.FromStart && r.journal.known(ctx, conn) {
			r.skipTo = r.journal.Line
			o.Report(fmt.Sprintf("resuming after line %d, which was the last acknowledged", r.skipTo))
		}
	}
	err := r.run(ctx)
	r.totals.Took = time.Since(r.began)
	if r.journal != nil {
		if err == nil {
			r.journal.remove()
		} else {
			r.journal.save(r.last)
		}
	}
	return r.totals, err
}

func target(conn grpc.ClientConnInterface) string {
	if c, ok := conn.(*grpc.ClientConn); ok {
		return c.Target()
	}
	return ""
}

// replay is one run.
type replay struct {
	opts      ReplayOptions
	conn      grpc.ClientConnInterface
	recording *recording
	journal   *journal
	skipTo    int
	began     time.Time

	first time.Time // created_at of the first line sent, for Speed
	start time.Time

	mu      sync.Mutex
	pending []line // sent or to be sent again, oldest first
	last    line   // newest of the lines that are all acknowledged
	bad     error  // the line that ends the replay, once all before it are acknowledged
	totals  Totals
}

// errAgain ends an attempt whose unacknowledged lines must be sent again.
var errAgain = errors.New("send again")

func (r *replay) run(ctx context.Context) error {
	wait := 50 * time.Millisecond
	lastAck := time.Now()
	for {
		before := r.totals.Acknowledged
		done, err := r.attempt(ctx)
		if done || ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
		if !retryable(err) {
			return err
		}
		if r.totals.Acknowledged > before {
			lastAck, wait = time.Now(), 50*time.Millisecond
		}
		if time.Since(lastAck) > r.opts.Patience {
			return fmt.Errorf("no acknowledgement for %v; run the same command again to resume: %w", r.opts.Patience, err)
		}
		if wait == 800*time.Millisecond {
			r.opts.Report(fmt.Sprintf("trying again: %v", status.Convert(err).Message()))
		}
		select {
		case <-time.After(wait):
			wait = min(2*wait, 3*time.Second)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func retryable(err error) bool {
	switch status.Code(err) {
	case codes.Unavailable, codes.ResourceExhausted, codes.DeadlineExceeded, codes.Canceled, codes.Aborted:
		return true
	}
	return errors.Is(err, errAgain) || errors.Is(err, io.EOF)
}

// attempt sends over one stream what is pending and then the rest of the recording. done means that there is nothing left to try.
func (r *replay) attempt(ctx context.Context) (done bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := apiv1.NewMessageServiceClient(r.conn).StreamMessages(ctx)
	if err != nil {
		return false, err
	}
	again := append([]line(nil), r.pending...)
	slots := make(chan struct{}, r.opts.InFlight) // one for each line on its way
	heard := make(chan error, 1)
	go func() {
		err := r.hear(stream, slots)
		if err != nil {
			cancel() // wakes the sender
		}
		heard <- err
	}()
	sendErr := r.send(ctx, stream, again, slots)
	if sendErr == nil {
		sendErr = stream.CloseSend()
	}
	var bad BadLine
	if errors.As(sendErr, &bad) { // what was sent before it still counts
		_ = stream.CloseSend()
	} else if sendErr != nil && !errors.Is(sendErr, io.EOF) && !errors.Is(sendErr, context.Canceled) {
		cancel()
	}
	heardErr := <-heard
	switch {
	case heardErr != nil: // the server's word tells more than a failed send
		return errors.As(heardErr, &bad), heardErr
	case sendErr != nil:
		return errors.As(sendErr, &bad), sendErr
	}
	return true, nil
}

// send writes lines until the recording ends.
func (r *replay) send(ctx context.Context, stream apiv1.MessageService_StreamMessagesClient, again []line, slots chan struct{}) error {
	put := func(l line) error {
		if err := r.pace(ctx, l.request.CreatedAt.AsTime()); err != nil {
			return err
		}
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		return stream.Send(&apiv1.StreamMessagesRequest{Message: l.request})
	}
	for _, l := range again {
		if err := put(l); err != nil {
			return err
		}
	}
	if r.bad != nil { // found in an earlier attempt; the recording is past it
		return r.bad
	}
	for {
		l, err := r.recording.next()
		var bad BadLine
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case errors.As(err, &bad):
			r.count(func(t *Totals) { t.Lines++ })
			if bad.Number <= r.skipTo {
				continue
			}
			if !r.opts.SkipBad {
				r.bad = bad
				return bad
			}
			r.opts.Report(bad.Error())
			r.count(func(t *Totals) { t.Skipped++ })
			continue
		case err != nil:
			return err
		}
		r.count(func(t *Totals) { t.Lines++ })
		if l.number <= r.skipTo {
			r.count(func(t *Totals) { t.Resumed++ })
			continue
		}
		r.mu.Lock()
		r.pending = append(r.pending, l) // before its turn comes: whatever happens then, it is not forgotten
		r.mu.Unlock()
		if err := put(l); err != nil {
			return err
		}
	}
}

func (r *replay) count(f func(*Totals)) {
	r.mu.Lock()
	f(&r.totals)
	r.mu.Unlock()
}

// pace waits until a line created at that time is due. The plan is made of the recording's times alone, so that delays do not add up.
func (r *replay) pace(ctx context.Context, created time.Time) error {
	if r.opts.Speed <= 0 {
		return nil
	}
	if r.start.IsZero() {
		r.first, r.start = created, time.Now()
	}
	due := r.start.Add(time.Duration(float64(created.Sub(r.first)) / r.opts.Speed))
	wait := time.Until(due)
	if wait <= 0 {
		return nil
	}
	select {
	case <-time.After(wait):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// hear takes acknowledgements, which come in the order of the lines.
func (r *replay) hear(stream apiv1.MessageService_StreamMessagesClient, slots chan struct{}) error {
	told := time.Now()
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			if r.left() > 0 {
				return errAgain
			}
			r.tell()
			return nil
		}
		if err != nil {
			return err
		}
		if err := r.acknowledge(resp.GetResult()); err != nil {
			return err
		}
		<-slots
		if now := time.Now(); now.Sub(told) > 200*time.Millisecond {
			told = now
			r.tell()
		}
	}
}

func (r *replay) left() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.pending)
}

// tell reports progress and notes it for a resumption.
func (r *replay) tell() {
	r.mu.Lock()
	last, n := r.last, r.totals.Acknowledged
	r.mu.Unlock()
	if r.journal != nil {
		r.journal.save(last)
	}
	if r.opts.Progress != nil {
		r.opts.Progress(int64(n), last.end)
	}
}

// acknowledge takes the result of the oldest pending line.
func (r *replay) acknowledge(res *apiv1.SendResult) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.pending) == 0 {
		return errors.New("the service acknowledged more than was sent")
	}
	l := r.pending[0]
	switch code := codes.Code(res.GetError().GetCode()); {
	case res.GetStatus() == "success":
		r.totals.Acknowledged++
	case res.GetStatus() == "unknown" || code == codes.ResourceExhausted || code == codes.Unavailable:
		return fmt.Errorf("line %d: %s: %w", l.number, res.GetError().GetMessage(), errAgain)
	default:
		bad := BadLine{l.number, errors.New(res.GetError().GetMessage())}
		if !r.opts.SkipBad {
			return bad
		}
		r.opts.Report(bad.Error())
		r.totals.Refused++
	}
	r.pending[0] = line{}
	r.pending = r.pending[1:]
	r.last = l
	return nil
}
