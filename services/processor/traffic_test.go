package processor

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	eventv1 "github.com/earshot/earshot/gen/earshot/event/v1"
	"github.com/earshot/earshot/services/internal/ident"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// sim is one message to be sent, perhaps again.
type sim struct {
	accepted int64 // when it gets into the log
	skew     int64 // of its record's timestamp: it was long under way, or its ingest's clock is wrong
	m        *eventv1.Message
	id       ident.UUID
}

func (s sim) stamp() int64 { return s.accepted + s.skew }

// message makes a message; n tells apart those of the same millisecond.
func message(createdAt int64, n int, conversation, sender, content string, backfill bool) (*eventv1.Message, ident.UUID) {
	at := time.UnixMilli(createdAt).UTC()
	var salt [8]byte
	binary.BigEndian.PutUint64(salt[:], uint64(n))
	id := ident.Hashed(at, conversation, sender, string(salt[:]))
	return &eventv1.Message{
		MessageId: id.MessageID(), ConversationId: conversation, SenderId: sender, Content: content, CreatedAt: timestamppb.New(at),
		MessageType: "text", Backfill: backfill,
	}, id
}

// traffic is random chat, some of it long under way: its records are older than the log time of the partition they get into, if that was read to its end.
func traffic(rnd *rand.Rand, start int64, n, pace int) []sim {
	return skewed(rnd, start, n, pace, 20_000, 20_000)
}

// skewed is random chat: bursts of a few users in a few conversations, some of it late, some of it old and replayed, some of it sent twice.
// Records are up to late milliseconds under way, or from a clock up to ahead of them ahead.
func skewed(rnd *rand.Rand, start int64, n, pace, late, ahead int) []sim {
	words := []string{"coffee friends", "release party", "release broken broken", "deploy finished", "release finished"}
	var all []sim
	clock := start
	old := start - 200*24*3600*1000
	for i := range n {
		clock += int64(rnd.IntN(pace))
		old += int64(rnd.IntN(4 * pace))
		sender, conversation := fmt.Sprint("user-", rnd.IntN(5)), fmt.Sprint("conv-", rnd.IntN(9))
		content := words[rnd.IntN(len(words))]
		s := sim{accepted: clock}
		switch rnd.IntN(10) {
		case 0:
			s.skew = -int64(rnd.IntN(late))
		case 1:
			s.skew = int64(rnd.IntN(ahead))
		}
		switch rnd.IntN(12) {
		case 0: // late
			s.m, s.id = message(clock-60_001-int64(rnd.IntN(50_000)), i, conversation, sender, content, false)
		case 1, 2, 3, 4: // recorded chat, much faster than life, out of order
			s.m, s.id = message(old+int64(rnd.IntN(30_000)), i, conversation, "old-"+sender, content, true)
		default: // live, up to 20 s under way
			s.m, s.id = message(clock-int64(rnd.IntN(20_000)), i, conversation, sender, content, false)
		}
		all = append(all, s)
		if rnd.IntN(6) == 0 { // a retry
			s.accepted += int64(rnd.IntN(60_000))
			all = append(all, s)
		}
	}
	slices.SortStableFunc(all, func(a, b sim) int { return int(a.accepted - b.accepted) })
	return all
}

// kept returns the distinct messages that count.
func kept(all []sim) []sim {
	seen := map[string]bool{}
	var out []sim
	for _, s := range all {
		key := s.m.ConversationId + " " + s.m.MessageId
		if seen[key] || (!s.m.Backfill && s.stamp()-s.id.Millis() > 60_000) {
			continue
		}
		seen[key] = true
		out = append(out, s)
	}
	return out
}

// seeds runs f for n seeds, as subtests; EARSHOT_SIM_SEEDS sets another number, for a night.
func seeds(t *testing.T, n int, f func(t *testing.T, seed uint64)) {
	if more, err := strconv.Atoi(os.Getenv("EARSHOT_SIM_SEEDS")); err == nil {
		n = more
	}
	for seed := range uint64(n) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) { f(t, seed) })
	}
}
