package processor

import (
	"testing"
	"time"

	"github.com/earshot/earshot/services/internal/ident"
	"github.com/earshot/earshot/services/internal/kafka"

	eventv1 "github.com/earshot/earshot/gen/earshot/event/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// A copy that is accepted after its original was forgotten counts as a message, however the two were read: in one batch, or one at a time.
func TestForgettingDoesNotDependOnBatches(t *testing.T) {
	const start = 1_900_000_000_000
	id := ident.New(time.UnixMilli(start))
	value, err := proto.Marshal(&eventv1.Message{
		MessageId: id.MessageID(), ConversationId: "c", SenderId: "ann", Content: "again", MessageType: "text",
		CreatedAt: timestamppb.New(id.Time()), Backfill: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	copies := func(oneByOne bool) int64 {
		w := newWorld(1, 1, DefaultConfig(), factories{})
		s := newSource(w.hosts[0].common, 0, nil, 0, -1, snapshot{})
		for i, after := range []time.Duration{0, 10 * time.Minute} {
			at := time.UnixMilli(start).Add(after)
			s.observe(&kafka.Record{Topic: w.reg.Messages.Name, Offset: int64(i), Timestamp: at, Key: []byte("c"), Value: value}, at.UnixMilli())
			if oneByOne {
				s.advance(at.UnixMilli(), 0)
			}
		}
		if s.stats.handled != 2 {
			t.Fatalf("handled %d records, want 2", s.stats.handled)
		}
		return s.stats.copies
	}
	if one, all := copies(true), copies(false); one != 0 || all != 0 {
		t.Errorf("copies found: %d one at a time, %d in one batch; want none", one, all)
	}
}
