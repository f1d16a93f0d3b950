package processor

import (
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/earshot/earshot/services/internal/kafka"
)

// ledger counts what a loop has written and what is acknowledged, so that offsets are committed only once everything derived from what lies before them
// is in the log. Writing goes on meanwhile: what comes after a cut is counted apart. One goroutine writes and asks; acknowledgements come from any.
type ledger struct {
	before, after *atomic.Int64 // not acknowledged: written before the last cut, and after it
	failure       atomic.Pointer[error]
	changed       chan struct{} // holds a token after each acknowledgement
	refused       chan refusal
}

// refusal is an output that the broker will never take. It stays counted as not acknowledged until its dead letter is.
type refusal struct {
	output output
	err    error
	count  *atomic.Int64
}

func newLedger() *ledger {
	return &ledger{before: new(atomic.Int64), after: new(atomic.Int64), changed: make(chan struct{}, 1), refused: make(chan refusal, 1024)}
}

// open notes that o is being written and returns what must be called, once, with the outcome.
func (l *ledger) open(o output) func(kafka.Record, error) {
	l.after.Add(1)
	return l.outcome(o, l.after)
}

// cut ends what the next commit answers for. There must be nothing left from the cut before.
func (l *ledger) cut() { l.before, l.after = l.after, l.before }

// settled tells whether everything from before the last cut is acknowledged.
func (l *ledger) settled() bool { return l.before.Load() == 0 }

// outstanding returns how much is not acknowledged.
func (l *ledger) outstanding() int { return int(l.before.Load() + l.after.Load()) }

// err returns why writing failed; the loop must then go back to its commits.
func (l *ledger) err() error {
	if e := l.failure.Load(); e != nil {
		return *e
	}
	return nil
}

func (l *ledger) fail(err error) {
	l.failure.CompareAndSwap(nil, &err)
	l.wake()
}

func (l *ledger) wake() {
	select {
	case l.changed <- struct{}{}:
	default:
	}
}

func (l *ledger) outcome(o output, count *atomic.Int64) func(kafka.Record, error) {
	return func(_ kafka.Record, err error) {
		switch {
		case err == nil:
			count.Add(-1)
			l.wake()
		case replaceable(o, err):
			select {
			case l.refused <- refusal{o, err, count}:
				l.wake()
			default:
				l.fail(fmt.Errorf("too many outputs are refused: %w", err))
			}
		default:
			l.fail(fmt.Errorf("write a result of %s: %w", o.processor, err))
		}
	}
}

// replaceable tells whether a dead letter can stand in for o. For what goes to another host nothing can, nor for a dead letter.
func replaceable(o output, err error) bool { return errors.Is(err, kafka.ErrRefused) && !o.final }
