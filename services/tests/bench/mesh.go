package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/earshot/earshot/services/internal/clickhouse"
	"github.com/earshot/earshot/services/internal/kafka"
)

// mesh is a running `earshot up` with a data directory of its own.
type mesh struct {
	cmd   *exec.Cmd
	dir   string
	log   bytes.Buffer
	done  chan error
	addr  addresses
	db    driver.Conn
	admin *kafka.Admin
	conns []*grpc.ClientConn
}

// addresses are what the ready file says.
type addresses struct {
	GRPC       string `json:"grpc"`
	Metrics    string `json:"metrics"`
	Kafka      string `json:"kafka"`
	ClickHouse string `json:"clickhouse"`
	PID        int    `json:"pid"`
}

const (
	startLimit = 3 * time.Minute // the first start fetches the engine
	stopLimit  = 2 * time.Minute
)

func startMesh(ctx context.Context, o options) (m *mesh, err error) {
	m = &mesh{done: make(chan error, 1)}
	if m.dir, err = os.MkdirTemp(o.Dir, "earshot-bench-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, m.stop())
		}
	}()
	ready := filepath.Join(m.dir, "ready.json")
	args := []string{"up", "--data-dir", filepath.Join(m.dir, "data"), "--ready-file", ready, "--log-level", "warn"}
	for _, port := range []string{"http", "grpc", "metrics", "kafka", "clickhouse", "clickhouse-http"} {
		args = append(args, "--"+port+"-port", "0")
	}
	m.cmd = exec.Command(o.Binary, append(args, o.Up...)...)
	m.cmd.Stdout, m.cmd.Stderr = io.Discard, &m.log
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL} // Ctrl-C is ours to pass on
	if err := m.cmd.Start(); err != nil {
		return m, fmt.Errorf("start %s: %w", o.Binary, err)
	}
	go func() { m.done <- m.cmd.Wait() }()
	if err := m.await(ctx, ready); err != nil {
		return m, err
	}
	err = m.connect()
	return m, err
}

// await returns once the ready file is there.
func (m *mesh) await(ctx context.Context, ready string) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	for {
		b, err := os.ReadFile(ready)
		if err == nil {
			return json.Unmarshal(b, &m.addr)
		}
		select {
		case err := <-m.done:
			m.done <- err
			return fmt.Errorf("earshot up ended before it was ready: %w: %s", err, m.log.String())
		case <-ctx.Done():
			return fmt.Errorf("earshot up is not ready: %w", ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (m *mesh) connect() (err error) {
	ch := clickhouse.DefaultConfig()
	ch.URL, ch.User, ch.Password = m.addr.ClickHouse, "default", ""
	if m.db, err = clickhouse.Open(ch); err != nil {
		return err
	}
	m.admin, err = kafka.NewAdmin(m.kafka())
	return err
}

func (m *mesh) kafka() kafka.Config {
	c := kafka.DefaultConfig()
	c.Brokers, c.ClientID = []string{m.addr.Kafka}, "bench"
	return c
}

// dial opens n connections, closed by stop.
func (m *mesh) dial(n int) ([]*grpc.ClientConn, error) {
	var conns []*grpc.ClientConn
	for range n {
		c, err := grpc.NewClient(m.addr.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithInitialWindowSize(1<<20), grpc.WithInitialConnWindowSize(4<<20), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16<<20)))
		if err != nil {
			return nil, err
		}
		m.conns = append(m.conns, c)
		conns = append(conns, c)
	}
	return conns, nil
}

// stop ends the mesh and removes its data.
func (m *mesh) stop() error {
	var errs []error
	for _, c := range m.conns {
		errs = append(errs, c.Close())
	}
	if m.db != nil {
		errs = append(errs, m.db.Close())
	}
	if m.admin != nil {
		m.admin.Close()
	}
	if m.cmd != nil && m.cmd.Process != nil {
		_ = m.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case err := <-m.done:
			if err != nil {
				errs = append(errs, fmt.Errorf("earshot up: %w: %s", err, m.log.String()))
			}
		case <-time.After(stopLimit):
			_ = m.cmd.Process.Kill()
			errs = append(errs, fmt.Errorf("earshot up did not stop within %v and was killed", stopLimit), <-m.done)
		}
	}
	return errors.Join(append(errs, os.RemoveAll(m.dir))...)
}

// usage is what a process has used.
type usage struct {
	CPU      time.Duration
	Resident int64 // bytes now
	Peak     int64 // bytes at most
}

// processUsage reads /proc; CPU ticks are hundredths of a second on Linux.
func processUsage(pid int) (u usage, err error) {
	dir := "/proc/" + strconv.Itoa(pid)
	stat, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return u, err
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	for _, i := range []int{11, 12} { // utime, stime
		ticks, err := strconv.ParseInt(fields[i], 10, 64)
		if err != nil {
			return u, fmt.Errorf("read %s/stat: %w", dir, err)
		}
		u.CPU += time.Duration(ticks) * 10 * time.Millisecond
	}
	status, err := os.ReadFile(dir + "/status")
	if err != nil {
		return u, err
	}
	for line := range strings.Lines(string(status)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		kib, _ := strconv.ParseInt(f[1], 10, 64) // not every line holds a number
		switch f[0] {
		case "VmRSS:":
			u.Resident = kib << 10
		case "VmHWM:":
			u.Peak = kib << 10
		}
	}
	return u, nil
}

// engine returns the process number of the ClickHouse child.
func (m *mesh) engine() (int, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", m.addr.PID))
	if err != nil {
		return 0, err
	}
	all, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", m.addr.PID))
	if err != nil {
		return 0, err
	}
	for _, path := range all {
		more, err := os.ReadFile(path)
		if err == nil {
			b = append(append(b, ' '), more...)
		}
	}
	if pids := strings.Fields(string(b)); len(pids) > 0 {
		return strconv.Atoi(pids[0])
	}
	return 0, errors.New("earshot up has no child: is ClickHouse embedded?")
}

// profile writes CPU and heap profiles of the mesh, taken now.
func (m *mesh) profile(ctx context.Context, dir, name string, seconds int) error {
	for _, p := range []struct{ file, path string }{
		{name + ".cpu", fmt.Sprintf("profile?seconds=%d", seconds)}, {name + ".heap", "heap"},
	} {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+m.addr.Metrics+"/debug/pprof/"+p.path, http.NoBody)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		b, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, p.file), b, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// stored counts the messages that can be read.
func (m *mesh) stored(ctx context.Context) (n uint64, err error) {
	err = m.db.QueryRow(ctx, "SELECT count() FROM message_db.messages").Scan(&n)
	return n, err
}
