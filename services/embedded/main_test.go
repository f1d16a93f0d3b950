package embedded

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// roleEnv makes this test binary a process that a test then kills.
const roleEnv = "EARSHOT_TEST_ROLE"

func TestMain(m *testing.M) {
	RunChildIfAsked()
	switch role := os.Getenv(roleEnv); role {
	case "":
		goleak.VerifyTestMain(m)
	case "lock":
		lock, err := LockDir(os.Getenv("DIR"))
		serveRole(fmt.Sprint(err), lock)
	case "broker":
		b, err := StartBroker(BrokerConfig{DataDir: os.Getenv("DIR")})
		if err != nil {
			serveRole(err.Error(), nil)
		}
		serveRole(b.Addr(), b)
	case "clickhouse":
		c, err := StartClickHouse(context.Background(), ClickHouseConfig{Library: os.Getenv("LIB"), DataDir: os.Getenv("DIR")})
		if err != nil {
			serveRole(err.Error(), nil)
		}
		serveRole(fmt.Sprint(c.Addr(), " ", c.PID()), c)
	default:
		fmt.Fprintln(os.Stderr, "unknown role", role)
		os.Exit(2)
	}
}

// serveRole prints one line and holds keep until the process is killed.
func serveRole(line string, keep any) {
	fmt.Println("ROLE " + line)
	for {
		time.Sleep(time.Hour)
		_ = keep
	}
}

// startRole runs this binary in a role and returns what it printed, and a
// function that kills it and waits for its end.
func startRole(t *testing.T, role string, env ...string) (line string, kill func()) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), append(env, roleEnv+"="+role)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill = sync.OnceFunc(func() {
		_ = cmd.Process.Signal(syscall.SIGKILL)
		_ = cmd.Wait()
	})
	t.Cleanup(kill)
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if line, ok := strings.CutPrefix(lines.Text(), "ROLE "); ok {
			return line, kill
		}
	}
	t.Fatalf("the %s process ended without a word: %v", role, lines.Err())
	return "", nil
}

// eventually polls cond until it holds.
func eventually(t *testing.T, within time.Duration, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(within)
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", within, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// alive says whether a process exists and is no zombie.
func alive(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || !strings.Contains(string(stat), ") Z ")
}

var nopLog = slog.New(slog.DiscardHandler)

var engine = sync.OnceValues(func() (string, error) {
	return EnsureEngine(context.Background(), EngineConfig{Progress: os.Stderr})
})

// library returns the engine, which it fetches once for this machine.
func library(t *testing.T) string {
	t.Helper()
	path, err := engine()
	if err != nil {
		if _, missing := exec.LookPath("npm"); missing != nil && os.Getenv("CI") != "true" {
			t.Skipf("NOT TESTED: the ClickHouse engine can not be fetched: %v", err)
		}
		t.Fatal(err)
	}
	return path
}
