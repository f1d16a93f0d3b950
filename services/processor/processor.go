package processor

import (
	"errors"
	"fmt"
	"time"

	eventv1 "github.com/earshot/earshot/gen/earshot/event/v1"
	"github.com/earshot/earshot/services/processor/recent"
)

// ByConversation is a processor of messages as they lie in chat.messages. There is one for each partition; a conversation is always whole in one.
type ByConversation interface {
	// Observe takes a message that is readable and not late, in log order. A copy has at.First false: it counts for nothing, but renews what is
	// remembered of its original. m must not be kept.
	Observe(m *eventv1.Message, at recent.Seen, emit recent.Emit)
	// Advance tells how far log time is, in milliseconds since the epoch: after every batch, and about every 50 ms without one. It must be cheap when
	// nothing is due. Log time never goes back; it may be past the log time of a message that is observed later.
	Advance(logTime int64, emit recent.Emit)
}

// BySender is a processor of messages by their sender, across conversations and partitions. There is one for each partition of the internal topic
// sender-events; a sender is always whole in one.
type BySender interface {
	// Observe takes the first copy of a message that is readable and not late.
	Observe(at recent.Seen, emit recent.Emit)
	// Advance tells the watermark, the least log time over all partitions of chat.messages. It is not called while one of them was never heard of.
	Advance(watermark int64, emit recent.Emit)
}

// ByTerm is a processor of word totals. There is one for each partition of the internal topic term-totals; a word is always whole in one.
type ByTerm interface {
	// Merge takes totals that replace those of the same source partition, pane and word. t may be kept.
	Merge(t *eventv1.TermTotals)
	// Advance is BySender's.
	Advance(watermark int64, emit recent.Emit)
}

// Flusher is a ByConversation that holds results back for a while: before each commit it must hand out those for internal topics.
type Flusher interface{ Flush(emit recent.Emit) }

// Restorer is a BySender that wants the alerts of its senders back before a partition is rebuilt: in log order, with the record's time in milliseconds.
type Restorer interface {
	Restore(a *eventv1.Alert, recordTime int64)
}

// ConversationFactory makes a processor for a partition of chat.messages. Name is its word in metrics and dead letters.
type ConversationFactory struct {
	Name string
	New  func(partition int32) ByConversation
}

// SenderFactory makes a processor for a partition of sender-events.
type SenderFactory struct {
	Name string
	New  func(partition int32) BySender
}

// TermFactory makes a processor for a partition of term-totals.
type TermFactory struct {
	Name string
	New  func(partition int32) ByTerm
}

// Config says what the host remembers and how it is paced. Start from DefaultConfig.
type Config struct {
	Span             time.Duration // how far back processors by sender look; at least 1s
	ConversationKeep time.Duration // how long messages by conversation are remembered after their log time; at least 60s
	TermKeep         time.Duration // how long word totals are read again after a restart; at least 60s. Half an hour, a trend window and 60 s
	BatchRecords     int           // records handled between two looks at the clock; at least 1
	BatchEvents      int           // messages in one record of sender-events; 1 to 2,000
	CommitEvery      time.Duration // time between commits; at least 10ms
	Outstanding      int           // records written and not yet acknowledged; at least 100. More wait
	WaitingEvents    int           // messages that wait for the slowest partition before the fastest are paused; at least 1,000
	DrainWait        time.Duration // longest wait for acknowledgements when partitions are given up; at least 100ms
}

// DefaultConfig returns the settings for a span of a minute and a trend window of two.
func DefaultConfig() Config {
	return Config{
		Span:             time.Minute,
		ConversationKeep: 3 * time.Minute,
		TermKeep:         33 * time.Minute,
		BatchRecords:     2_000,
		BatchEvents:      1_000,
		CommitEvery:      5 * time.Second,
		Outstanding:      20_000,
		WaitingEvents:    1_000_000,
		DrainWait:        10 * time.Second,
	}
}

// Validate returns every fault at once, by its setting.
func (c Config) Validate() error {
	var errs []error
	atLeast := func(name string, got, want time.Duration) {
		if got < want {
			errs = append(errs, fmt.Errorf("processor.%s: got %v, want at least %v", name, got, want))
		}
	}
	within := func(name string, got, low, high int) {
		if got < low || got > high {
			errs = append(errs, fmt.Errorf("processor.%s: got %d, want %d to %d", name, got, low, high))
		}
	}
	atLeast("span", c.Span, time.Second)
	atLeast("conversation_keep", c.ConversationKeep, time.Minute)
	atLeast("term_keep", c.TermKeep, time.Minute)
	atLeast("commit_every", c.CommitEvery, 10*time.Millisecond)
	atLeast("drain_wait", c.DrainWait, 100*time.Millisecond)
	within("batch_records", c.BatchRecords, 1, 100_000)
	within("batch_events", c.BatchEvents, 1, 2_000)
	within("outstanding", c.Outstanding, 100, 100_000)
	within("waiting_events", c.WaitingEvents, 1_000, 100_000_000)
	return errors.Join(errs...)
}

// senderKeep returns how long messages by sender are remembered: the span, or at least the minute that user activity counts, and 60 s for stragglers.
func (c Config) senderKeep() time.Duration { return max(c.Span, time.Minute) + grace }

// grace is how long after its window a straggler may still correct a result. A message accepted longer than that after it was written is late.
const grace = 60 * time.Second
