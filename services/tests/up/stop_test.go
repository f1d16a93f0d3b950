package up

import (
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/earshot/earshot/services/tests/rig"
)

// settled checks what a stopped up must leave: nothing.
func (m *mesh) settled(p *rig.Process, offspring []int) {
	m.t.Helper()
	if !gone(m.ready) {
		m.t.Error("the ready file is still there")
	}
	for _, pid := range offspring {
		if alive(pid) {
			m.t.Errorf("child %d is still alive", pid)
		}
	}
	if err := syscall.Kill(-p.PID(), 0); err == nil {
		m.t.Error("the process group is not empty")
	}
}

func TestStopsInOrder(t *testing.T) {
	t.Parallel()
	m := start(t)
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		engine := children(t, m.PID())
		if len(engine) == 0 {
			t.Error("up has no child: where is the engine?")
		}
		load := rig.StartLoad(t, m.GRPC, m.HTTP, "stop", 300)
		rig.Eventually(t, rig.Patience, "acknowledged messages", func() bool { return load.Acked() > 100 })
		began := time.Now()
		m.Signal(sig)
		if code := m.Wait(rig.Patience); code != 0 {
			t.Errorf("%v: exit code %d, want 0:\n%s", sig, code, m.Output())
		}
		took := time.Since(began)
		m.settled(m.Process, engine)
		acked, _ := load.Stop()
		m.launch()
		m.await()
		t.Logf("%v under load: gone after %v with %d acknowledged, ready again after %v", sig, took.Round(time.Millisecond), len(acked), m.took.Round(time.Millisecond))
		load.Audit(t, m.ClickHouseHTTP, "stop")
		if _, err := rig.Select[struct{}](m.ClickHouseHTTP, "TRUNCATE TABLE message_db.message_rows"); err != nil {
			t.Fatal(err)
		}
	}
	if code := m.Stop(); code != 0 {
		t.Errorf("idle: exit code %d, want 0", code)
	}
}

// Ctrl-C at any moment of the start ends it in order, too.
func TestStopsWhileStarting(t *testing.T) {
	t.Parallel()
	m := &mesh{t: t, dir: t.TempDir()}
	m.ready = m.dir + "/ready.json"
	for _, after := range []time.Duration{0, 200 * time.Millisecond, 600 * time.Millisecond} {
		p := m.spawn("--http-port", "0", "--grpc-port", "0", "--metrics-port", "0", "--kafka-port", "0", "--clickhouse-port", "0", "--clickhouse-http-port", "0")
		rig.Eventually(t, rig.Patience, "up to take its directory", func() bool { return !gone(m.dir + "/data/lock") })
		var engine []int
		for began := time.Now(); time.Since(began) < after && p.Running(); time.Sleep(5 * time.Millisecond) {
			engine = children(t, p.PID())
		}
		p.Signal(syscall.SIGINT)
		if code := p.Wait(rig.Patience); code != 0 {
			t.Errorf("SIGINT %v after it took its directory: exit code %d, want 0:\n%s", after, code, p.Output())
		}
		m.settled(p, engine)
		if err := os.RemoveAll(m.dir + "/data"); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	m := start(t)
	free := []string{"--http-port", "0", "--grpc-port", "0", "--metrics-port", "0", "--kafka-port", "0", "--clickhouse-port", "0", "--clickhouse-http-port", "0"}
	fails := func(p *rig.Process, want int, says ...string) {
		t.Helper()
		code := p.Wait(readyLimit)
		out := strings.TrimSpace(p.Output())
		if code != want {
			t.Errorf("exit code %d, want %d:\n%s", code, want, out)
		}
		said := out[strings.LastIndex(out, "\n")+1:]
		for _, s := range says {
			if !strings.Contains(said, s) {
				t.Errorf("it says %q, want %q in it", said, s)
			}
		}
		t.Logf("exit %d: %s", code, said)
	}

	beside := &mesh{t: t, dir: m.dir, ready: m.dir + "/second.json"}
	fails(beside.spawn(free...), 1, "earshot: ", m.dir, "in use")

	other := &mesh{t: t, dir: t.TempDir()}
	other.ready = other.dir + "/ready.json"
	for i, f := range portFlags {
		lis, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		_, port, _ := net.SplitHostPort(lis.Addr().String())
		args := append([]string{}, free...)
		args[2*i+1] = port
		fails(other.spawn(args...), 1, "earshot: ", port, f)
		_ = lis.Close()
		if !gone(other.ready) {
			t.Errorf("%s taken: there is a ready file", f)
		}
	}
	fails(other.spawn("--no-such-flag"), 2, "no-such-flag")
	fails(other.spawn("--http-port", "eighty"), 2, "eighty")
	fails(other.spawn("--anomaly-threshold", "0"), 2, "anomaly.threshold", "0")
	fails(other.spawn("surplus"), 2, "surplus")

	if code, status, _ := m.health("kafka"); code != 200 || status != "ok" {
		t.Errorf("the living one: health %d %s, want 200 ok", code, status)
	}
}
