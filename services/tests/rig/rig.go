// Package rig starts the real parts that end-to-end tests need: an Apache Kafka cluster, and services as processes of their own.
package rig

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"
)

// Missing ends a test for which a part is missing: loudly skipped on a developer's machine, failed in CI.
func Missing(tb testing.TB, what string, err error) {
	tb.Helper()
	if os.Getenv("CI") != "" {
		tb.Fatalf("MISSING: %s: %v", what, err)
	}
	tb.Skipf("SKIPPED, NOT PROVEN: %s is missing: %v", what, err)
}

// Root returns the repository's root.
func Root(tb testing.TB) string {
	tb.Helper()
	dir, err := os.Getwd()
	for ; err == nil && dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
	}
	tb.Fatalf("no go.mod above the working directory: %v", err)
	return ""
}

var build struct {
	once sync.Once
	path string
	out  []byte
	err  error
}

// Earshot builds the binary once for all tests of a package and returns its path. EARSHOT_BIN names one that is built already.
func Earshot(tb testing.TB) string {
	tb.Helper()
	if path := os.Getenv("EARSHOT_BIN"); path != "" {
		return path
	}
	root := Root(tb)
	build.once.Do(func() {
		var dir string
		if dir, build.err = os.MkdirTemp("", "earshot-test-"); build.err != nil {
			return
		}
		build.path = filepath.Join(dir, "earshot")
		args := []string{"build", "-buildvcs=false", "-o", build.path}
		if raceEnabled {
			args = append(args, "-race")
		}
		cmd := exec.Command("go", append(args, "./services/earshot")...)
		cmd.Dir = root
		build.out, build.err = cmd.CombinedOutput()
	})
	if build.err != nil {
		tb.Fatalf("build earshot: %v\n%s", build.err, build.out)
	}
	return build.path
}

// Cleanup removes what Earshot built. Call it at the end of TestMain.
func Cleanup() {
	if build.path != "" {
		_ = os.RemoveAll(filepath.Dir(build.path))
	}
}

// FreePort returns a port that was free a moment ago.
func FreePort(tb testing.TB) int {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// Addr returns the loopback address of a port.
func Addr(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// Patience is a limit for what takes seconds: it tells a hang from a busy machine.
const Patience = 3 * time.Minute

// Eventually polls until ok, at first often, and fails the test when that takes longer than limit, which only tells a hang.
func Eventually(tb testing.TB, limit time.Duration, what string, ok func() bool) {
	tb.Helper()
	pause := 5 * time.Millisecond
	for deadline := time.Now().Add(limit); !ok(); time.Sleep(pause) {
		if time.Now().After(deadline) {
			tb.Fatalf("waited %v for %s", limit, what)
		}
		pause = min(pause*5/4, 250*time.Millisecond)
	}
}

func listening(addr string) bool {
	c, err := net.DialTimeout("tcp", addr, time.Second)
	if err != nil {
		return false
	}
	_ = c.Close()
	return true
}
