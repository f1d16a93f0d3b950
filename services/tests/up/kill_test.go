package up

import (
	"math/rand/v2"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/earshot/earshot/services/tests/rig"
)

// EARSHOT_KILLS says how often up is killed.
func kills(t testing.TB) int {
	n, err := strconv.Atoi(os.Getenv("EARSHOT_KILLS"))
	if err != nil && os.Getenv("EARSHOT_KILLS") != "" {
		t.Fatalf("EARSHOT_KILLS: got %q, want a number", os.Getenv("EARSHOT_KILLS"))
	}
	if n == 0 {
		return 3
	}
	return n
}

// kill -9 of the whole mesh under load, at random moments: it comes back by itself on the same directory and ports, and every acknowledged message is
// there exactly once.
func TestKilledUnderLoad(t *testing.T) {
	t.Parallel()
	m := start(t)
	load := rig.StartLoad(t, m.GRPC, m.HTTP, "kill", 600)
	seed := uint64(time.Now().UnixNano())
	rnd := rand.New(rand.NewPCG(seed, 0))
	var worst time.Duration
	for i := range kills(t) {
		before := load.Acked()
		rig.Eventually(t, rig.Patience, "the load to go on", func() bool { return load.Acked() > before+50 })
		moment := time.Duration(rnd.Int64N(int64(2 * time.Second)))
		time.Sleep(moment) // not waiting for anything: the moment of the blow
		engine := children(t, m.PID())
		m.Kill()
		m.launch() // at once
		m.await()
		worst = max(worst, m.took)
		for _, pid := range engine {
			if alive(pid) {
				t.Errorf("kill %d: engine %d of the killed mesh is alive beside the new one", i+1, pid)
			}
		}
	}
	t.Logf("seed %d: %d kills, slowest return %v", seed, kills(t), worst.Round(time.Millisecond))
	load.Audit(t, m.ClickHouseHTTP, "kill")
	rig.Eventually(t, rig.Patience, "health ok", func() bool { _, status, _ := m.health("sink"); return status == "ok" })
	if code := m.Stop(); code != 0 {
		t.Errorf("stop: exit code %d, want 0", code)
	}
}

// kill -9 of the engine alone: messages are taken all the while, health says what is wrong, and all is well again by itself.
func TestEngineKilledUnderLoad(t *testing.T) {
	t.Parallel()
	m := start(t)
	load := rig.StartLoad(t, m.GRPC, m.HTTP, "engine", 300)
	rig.Eventually(t, rig.Patience, "acknowledged messages", func() bool { return load.Acked() > 200 })
	engine := children(t, m.PID())
	if len(engine) != 1 {
		t.Fatalf("up has children %v, want the engine alone", engine)
	}
	before, blows := load.Acked(), 0
	rig.Eventually(t, rig.Patience, "health to tell of it", func() bool {
		for _, pid := range children(t, m.PID()) { // it is back within a second, which health may not see
			if syscall.Kill(pid, syscall.SIGKILL) == nil {
				blows++
			}
		}
		code, status, state := m.health("clickhouse")
		return code == 200 && status == "degraded" && state != "ok"
	})
	rig.Eventually(t, rig.Patience, "messages to be taken all the while", func() bool { return load.Acked() > before+50 })
	rig.Eventually(t, rig.Patience, "health ok", func() bool { _, status, _ := m.health("clickhouse"); return status == "ok" })
	t.Logf("engine killed %d times", blows)
	failures, last := load.LastError()
	if failures > 0 {
		t.Errorf("%d requests failed while the engine was away, such as %s", failures, last)
	}
	load.Audit(t, m.ClickHouseHTTP, "engine")
}
