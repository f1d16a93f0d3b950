package sink

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	eventv1 "github.com/earshot/earshot/gen/earshot/event/v1"
	"github.com/earshot/earshot/services/embedded"
	"github.com/earshot/earshot/services/internal/clickhouse"
	"github.com/earshot/earshot/services/internal/kafka"
	"github.com/earshot/earshot/services/internal/kafka/kafkatest"
	"github.com/earshot/earshot/services/internal/telemetry"
	"google.golang.org/protobuf/proto"
)

// With these in the environment this test binary is a sink, to be killed.
const (
	childBroker     = "EARSHOT_TEST_BROKER"
	childClickHouse = "EARSHOT_TEST_CLICKHOUSE"
)

func runChild() {
	kcfg := kafka.DefaultConfig()
	kcfg.Brokers = []string{os.Getenv(childBroker)}
	kcfg.Instance = "child" // so that its successor need not wait for the session to end
	ccfg := clickhouse.DefaultConfig()
	ccfg.URL = os.Getenv(childClickHouse)
	db, err := clickhouse.Open(ccfg)
	if err == nil {
		cfg := quick()
		cfg.BatchRows = 200 // many INSERTs to die in
		err = New(cfg, kcfg, db, telemetry.Nop()).Run(context.Background())
	}
	fmt.Fprintln(os.Stderr, "sink ended:", err)
	os.Exit(1)
}

// kill -9 at random moments, under load, with receipts and copies: every message shows once, as its first copy has it, with the right receipts.
func TestSinkKilledAtRandom(t *testing.T) {
	// An engine of its own: libchdb aborts when a client dies while it shakes hands, and is then started again, which makes this test harder.
	house, err := embedded.StartClickHouse(t.Context(), embedded.ClickHouseConfig{Library: library, DataDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = house.Stop(context.Background()) })
	db := connect(t, house.Addr())
	applySchema(t, db)
	kcfg := kafkatest.Start(t)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	inserted := func() (n uint64) { // 0 while the engine is away
		_ = db.QueryRow(t.Context(), "SELECT count() FROM message_db.message_rows").Scan(&n)
		return n
	}
	const rounds, perRound = 6, 1500
	rng := rand.New(rand.NewPCG(7, 7)) //nolint:gosec // a repeatable test
	now := time.Now()
	var read, sent int
	for round := range rounds {
		child := exec.CommandContext(t.Context(), exe)
		child.Env = append(os.Environ(), childBroker+"="+kcfg.Brokers[0], childClickHouse+"="+house.Addr())
		child.Stderr = os.Stderr
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		var recs []kafka.Record
		for i := range perRound {
			n := round*perRound + i
			m := chat(fmt.Sprintf("conv-%d", n%29), fmt.Sprintf("user-%d", n%7), now.Add(-time.Duration(n)*time.Minute), fmt.Sprint("first ", n)) // over days
			if n%10 == 0 {
				recs = append(recs, viewRec(m, "bob", "read", now))
				read++
			}
			recs = append(recs, messageRec(m))
			sent++
			if n%3 == 0 {
				other := proto.Clone(m).(*eventv1.Message)
				other.Content = fmt.Sprint("second ", n)
				recs = append(recs, messageRec(other), messageRec(m))
			}
		}
		produce(t, kcfg, recs...)
		began := inserted()
		eventually(t, 30*time.Second, func() (any, bool) { // it is at work
			return "the sink does nothing", inserted() > began
		})
		if round < rounds-1 {
			time.Sleep(time.Duration(rng.IntN(120)) * time.Millisecond) // the random moment
			if err := child.Process.Signal(syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			_ = child.Wait()
			continue
		}
		a := admin(t, kcfg)
		eventually(t, 30*time.Second, func() (any, bool) {
			ends, err := a.EndOffsets(t.Context(), topics.Messages.Name)
			var end int64
			for _, o := range ends {
				end += o
			}
			got := committed(t, a, topics.Messages.Name)
			return fmt.Sprintf("committed %d of %d (%v)", got, end, err), err == nil && got == end
		})
		rows(t, db, uint64(read), "message_db.message_views")
		_ = child.Process.Signal(syscall.SIGKILL)
		_ = child.Wait()
	}
	eventually(t, 10*time.Second, func() (any, bool) { return house.State(), house.State() == embedded.StateReady })
	rows(t, db, uint64(sent), "message_db.messages")
	for what, want := range map[string]uint64{
		"uniqExact(conversation_id, message_id)": uint64(sent),
		"countIf(startsWith(content, 'first'))":  uint64(sent),
		"countIf(read_status = 'read')":          uint64(read),
	} {
		if got := one[uint64](t, db, "SELECT "+what+" FROM message_db.messages"); got != want {
			t.Errorf("%s: got %d, want %d", what, got, want)
		}
	}
	t.Logf("%d messages, %d receipts, %d restarts of the engine", sent, read, house.Restarts())
}
