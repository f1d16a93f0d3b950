// Package up holds the end-to-end tests of `earshot up`: the whole mesh as one process, with its embedded broker and engine, as people start it.
package up

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"

	"github.com/earshot/earshot/services/tests/rig"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(rig.Tests{M: m}, goleak.Cleanup(func(code int) {
		rig.Cleanup()
		os.Exit(code)
	}))
}

// readyLimit is what the contract gives an up on a directory of which another one was just killed.
const readyLimit = 60 * time.Second

// addresses are what the ready file says.
type addresses struct {
	HTTP           string `json:"http"`
	GRPC           string `json:"grpc"`
	Metrics        string `json:"metrics"`
	Kafka          string `json:"kafka"`
	ClickHouse     string `json:"clickhouse"`
	ClickHouseHTTP string `json:"clickhouse_http"`
	ProcessID      int    `json:"pid"`
}

// mesh is an `earshot up` on a directory and ports of its own.
type mesh struct {
	*rig.Process
	addresses
	t     testing.TB
	dir   string
	ready string
	args  []string
	took  time.Duration // until it was ready
}

var portFlags = []string{"--http-port", "--grpc-port", "--metrics-port", "--kafka-port", "--clickhouse-port", "--clickhouse-http-port"}

// start starts a mesh on free ports and waits until it is ready.
func start(t testing.TB, args ...string) *mesh {
	t.Helper()
	m := &mesh{t: t, dir: t.TempDir()}
	m.ready = filepath.Join(m.dir, "ready.json")
	for _, f := range portFlags {
		m.args = append(m.args, f, "0")
	}
	m.args = append(m.args, args...)
	m.launch()
	m.await()
	return m
}

// launch starts the process, again on the same directory and ports when it was ready before.
func (m *mesh) launch() {
	m.t.Helper()
	m.Process = m.spawn(m.args...)
}

func (m *mesh) spawn(args ...string) *rig.Process {
	m.t.Helper()
	args = append([]string{"up", "--data-dir", filepath.Join(m.dir, "data"), "--ready-file", m.ready, "--log-level", "warn"}, args...)
	return rig.Start(m.t, "up", []string{"EARSHOT_CONFIG="}, rig.Earshot(m.t), args...)
}

// await waits until the process that runs now has written its ready file, and takes its addresses.
func (m *mesh) await() {
	m.t.Helper()
	began := time.Now()
	rig.Eventually(m.t, readyLimit, "the ready file", func() bool {
		if !m.Running() {
			m.t.Fatalf("up ended while starting:\n%s", m.Output())
		}
		b, err := os.ReadFile(m.ready)
		return err == nil && json.Unmarshal(b, &m.addresses) == nil && m.ProcessID == m.PID()
	})
	m.took = time.Since(began)
	at := []string{m.HTTP, m.GRPC, m.Metrics, m.Kafka, m.ClickHouse, m.ClickHouseHTTP}
	for i, f := range portFlags { // from now on the same ports
		m.args[2*i], m.args[2*i+1] = f, at[i][strings.LastIndex(at[i], ":")+1:]
	}
}

// url returns a REST address.
func (m *mesh) url(format string, args ...any) string {
	return "http://" + m.HTTP + "/api/v1/" + fmt.Sprintf(format, args...)
}

// dial connects to gRPC until the test ends.
func (m *mesh) dial() *grpc.ClientConn {
	m.t.Helper()
	conn, err := rig.Dial(m.GRPC)
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// health returns the state of the mesh and of one of its dependencies.
func (m *mesh) health(dependency string) (code int, status, state string) {
	a, err := rig.Do("GET", m.url("health"), "")
	if err != nil {
		return 0, err.Error(), ""
	}
	status, _ = a.JSON["status"].(string)
	deps, _ := a.JSON["dependencies"].(map[string]any)
	dep, _ := deps[dependency].(map[string]any)
	state, _ = dep["state"].(string)
	return a.Code, status, state
}

// children returns the living processes whose parent is pid.
func children(t testing.TB, pid int) []int {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	var out []int
	for _, e := range entries {
		if child, err := strconv.Atoi(e.Name()); err == nil {
			if state, parent := look(child); state != "Z" && parent == pid {
				out = append(out, child)
			}
		}
	}
	return out
}

// alive says whether a process exists and still runs: one that ended may wait for whoever adopted it.
func alive(pid int) bool {
	state, _ := look(pid)
	return state != "" && state != "Z"
}

// look returns a process's state and parent; "" when there is none.
func look(pid int) (state string, parent int) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", 0
	}
	_, _ = fmt.Sscan(string(b[bytes.LastIndexByte(b, ')')+1:]), &state, &parent) // after the name, which may hold anything
	return state, parent
}

func within(t testing.TB, limit time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	t.Cleanup(cancel)
	return ctx
}

func gone(path string) bool {
	_, err := os.Stat(path)
	return errors.Is(err, os.ErrNotExist)
}
