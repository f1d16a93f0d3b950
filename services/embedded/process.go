package embedded

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

// errPortTaken says that the child found one of its ports taken.
var errPortTaken = errors.New("a port was taken")

// child is one run of the engine's process.
type child struct {
	cmd      *exec.Cmd
	out      string        // path of what it printed
	lifeline *os.File      // closed by us, or by the kernel when we are gone: it ends
	exited   chan struct{} // closed once it is gone; exit is set before
	exit     error
}

// launch starts a child and waits until it answers on both ports. On an error
// the child is gone.
func launch(ctx context.Context, cfg ClickHouseConfig) (*child, error) {
	ch, err := spawn(cfg)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, cfg.StartTimeout)
	defer cancel()
	if err := ch.waitReady(ctx, cfg); err != nil {
		ch.kill()
		<-ch.exited
		return nil, err
	}
	return ch, nil
}

// spawn starts this binary again, as the child.
func spawn(cfg ClickHouseConfig) (*child, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program, to start it as clickhouse: %w", err)
	}
	out, err := os.Create(filepath.Join(cfg.DataDir, "child.log"))
	if err != nil {
		return nil, fmt.Errorf("make clickhouse output file: %w", err)
	}
	defer func() { _ = out.Close() }()
	theirs, ours, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make clickhouse lifeline: %w", err)
	}
	defer func() { _ = theirs.Close() }()

	ch := &child{out: out.Name(), lifeline: ours, exited: make(chan struct{})}
	ch.cmd = &exec.Cmd{
		Path: exe,
		Args: []string{
			"earshot-clickhouse", cfg.Library, "clickhouse", // the engine skips its argv[0]
			"--config-file=" + filepath.Join(cfg.DataDir, "config.xml"),
			"--log-level=warning", // the configuration file's level is not heeded
			"--path=" + filepath.Join(cfg.DataDir, "data"),
			"--listen_host=" + cfg.Host,
			"--tcp_port=" + strconv.Itoa(cfg.Port),
			"--http_port=" + strconv.Itoa(cfg.HTTPPort),
		},
		Env:        childEnv(),
		Dir:        cfg.DataDir,
		Stdout:     out,
		Stderr:     out,
		ExtraFiles: []*os.File{theirs}, // becomes childLifeline
		// Its own process group, so that a terminal's Ctrl-C reaches us alone
		// and we can drain before the database goes.
		SysProcAttr: &syscall.SysProcAttr{Setpgid: true},
	}
	if err := ch.cmd.Start(); err != nil {
		_ = ours.Close()
		return nil, fmt.Errorf("start clickhouse: %w", err)
	}
	go func() {
		ch.exit = ch.cmd.Wait()
		_ = ch.lifeline.Close()
		close(ch.exited)
	}()
	return ch, nil
}

// childEnv is the little of our environment that the child needs. The rest,
// secrets among it, stays here.
func childEnv() []string {
	env := []string{childMarker + "=1", "TZ=UTC"}
	for _, name := range []string{"PATH", "HOME", "TMPDIR", "LANG", "LD_LIBRARY_PATH"} {
		if v, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+v)
		}
	}
	return env
}

// waitReady asks the child until it answers on both ports.
func (ch *child) waitReady(ctx context.Context, cfg ClickHouseConfig) error {
	conn, err := clickhouse.Open(&clickhouse.Options{
		Addr:         []string{hostPort(cfg.Host, cfg.Port)},
		Auth:         clickhouse.Auth{Username: "default"},
		DialTimeout:  time.Second,
		MaxOpenConns: 1,
	})
	if err != nil {
		return fmt.Errorf("prepare to ask clickhouse: %w", err)
	}
	defer func() { _ = conn.Close() }()
	web := &http.Client{Timeout: time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext:       (&net.Dialer{}).DialContext, // no proxy
	}}
	for {
		err := answers(ctx, conn, web, cfg)
		if err == nil {
			return nil
		}
		select {
		case <-ch.exited:
			return ch.failure()
		case <-ctx.Done():
			return fmt.Errorf("clickhouse on %s did not answer within %v (%w); see %s and clickhouse.log beside it",
				hostPort(cfg.Host, cfg.Port), cfg.StartTimeout, err, ch.out)
		case <-time.After(pollEvery):
		}
	}
}

// answers returns nil if both protocols answer.
func answers(ctx context.Context, conn driver.Conn, web *http.Client, cfg ClickHouseConfig) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var one uint8
	if err := conn.QueryRow(ctx, "SELECT 1").Scan(&one); err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+hostPort(cfg.Host, cfg.HTTPPort)+"/ping", nil)
	if err != nil {
		return err
	}
	resp, err := web.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("GET /ping: got status %d, want 200", resp.StatusCode)
	}
	return nil
}

// end stops the child in order and returns nil, or by force and says so.
func (ch *child) end() error {
	_ = ch.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-ch.exited:
	case <-time.After(orphanGrace + 2*time.Second): // it kills itself after orphanGrace
		ch.kill()
		<-ch.exited
	}
	if ch.exit != nil {
		return fmt.Errorf("stop clickhouse: %w", ch.failure())
	}
	return nil
}

// kill ends the child and whatever it started.
func (ch *child) kill() {
	select {
	case <-ch.exited:
		return // its number may be someone else's by now
	default:
	}
	_ = syscall.Kill(-ch.cmd.Process.Pid, syscall.SIGKILL)
}

// failure says how the child ended and what it said about it. Call it once the
// child is gone.
func (ch *child) failure() error {
	how := "exit status 0"
	if ch.exit != nil {
		how = ch.exit.Error()
	}
	said := ch.lastWords()
	switch {
	case strings.Contains(said, "Address already in use"):
		return fmt.Errorf("clickhouse: %w: %s", errPortTaken, said)
	case said != "":
		return fmt.Errorf("clickhouse ended (%s): %s", how, said)
	}
	return fmt.Errorf("clickhouse ended (%s); see %s and clickhouse.log beside it", how, ch.out)
}

// lastWords is the engine's own error, "Code: …", or else the last line printed.
func (ch *child) lastWords() string {
	const most = 16 << 10
	f, err := os.Open(ch.out)
	if err != nil {
		return ""
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return ""
	}
	tail := make([]byte, min(info.Size(), most))
	if _, err := f.ReadAt(tail, info.Size()-int64(len(tail))); err != nil {
		return ""
	}
	last := ""
	for line := range bytes.Lines(tail) {
		text := strings.TrimSpace(string(line))
		if strings.HasPrefix(text, "Code: ") {
			return text
		}
		if text != "" && !strings.HasPrefix(text, "Logging ") {
			last = text
		}
	}
	return last
}
