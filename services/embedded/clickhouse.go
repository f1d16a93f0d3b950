package embedded

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// ReaderUser may read every table and change nothing; it has no password.
	ReaderUser = "earshot_reader"

	lockWait      = 10 * time.Second       // for a predecessor that is about to end
	pollEvery     = 20 * time.Millisecond  // between looks at a lock or a server
	defaultMemory = 4 << 30                // bytes; half the machine's if that is less
	firstBackoff  = 200 * time.Millisecond // before the first restart, doubling
	lastBackoff   = 10 * time.Second
	healthyAfter  = time.Minute // of service, after which the backoff starts anew
)

// State is what the ClickHouse child is doing.
type State string

// The states of a ClickHouse. Restarting lasts from an unexpected end of the
// child until queries are answered again.
const (
	StateReady      State = "ready"
	StateRestarting State = "restarting"
	StateStopped    State = "stopped"
)

// ClickHouseConfig says what to run and where.
type ClickHouseConfig struct {
	Library      string        // path of libchdb, from EnsureEngine
	DataDir      string        // tables, configuration and logs, made if need be; the caller holds the LockDir around it
	Host         string        // loopback address; "" is 127.0.0.1
	Port         int           // native protocol; 0 picks a free one
	HTTPPort     int           // 0 picks a free one
	MemoryLimit  int64         // bytes for all queries, caches and merges; 0 is 4 GiB, and never above half the machine's
	SpanLog      bool          // keep system.opentelemetry_span_log; decide before the first start on a directory
	StartTimeout time.Duration // for the first answer; 0 is 60 s, as tables are loaded first
	Log          *slog.Logger  // nil logs nothing
	OnState      func(State)   // called at each change, in order; must not block. May be nil
}

// ClickHouse is a ClickHouse server in a child process, which is started again
// whenever it ends by itself, on the same ports and data. The user "default"
// has no password and may do everything. Methods are safe for concurrent use.
type ClickHouse struct {
	cfg      ClickHouseConfig
	stop     context.CancelFunc
	done     chan struct{} // closed once the child is gone for good
	mu       sync.Mutex
	state    State
	child    *child
	stopErr  error
	restarts int
}

// StartClickHouse starts the server and returns once it answers queries on both
// ports, or with the reason why it does not. ctx bounds the start only; Stop ends
// the server. If this process is killed, the child ends by itself.
func StartClickHouse(ctx context.Context, cfg ClickHouseConfig) (*ClickHouse, error) {
	cfg.Host = cmp.Or(cfg.Host, "127.0.0.1")
	cfg.MemoryLimit = cmp.Or(cfg.MemoryLimit, defaultMemory)
	cfg.StartTimeout = cmp.Or(cfg.StartTimeout, time.Minute)
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if err := checkLoopback("clickhouse", cfg.Host); err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(cfg.DataDir)
	if err != nil || cfg.DataDir == "" {
		return nil, fmt.Errorf("clickhouse data directory: got %q, want a path", cfg.DataDir)
	}
	cfg.DataDir = dir
	if err := os.MkdirAll(filepath.Join(dir, "data"), 0o700); err != nil {
		return nil, fmt.Errorf("make clickhouse data directory: %w", err)
	}
	waited, err := waitForDir(ctx, dir)
	if err != nil {
		return nil, err
	}
	if err := writeConfig(dir, cfg.MemoryLimit, cfg.SpanLog); err != nil {
		return nil, err
	}
	c := &ClickHouse{cfg: cfg, done: make(chan struct{}), state: StateStopped}
	if waited {
		c.waitForPorts(ctx)
	}
	if err := c.startFirst(ctx); err != nil {
		return nil, err
	}
	run, stop := context.WithCancel(context.Background())
	c.stop = stop
	c.setState(StateReady)
	go c.supervise(run)
	return c, nil
}

// startFirst settles the ports and starts the child. Ports that we picked are
// only very likely still free when the child comes to them, so try a few.
func (c *ClickHouse) startFirst(ctx context.Context) error {
	native, http := c.cfg.Port, c.cfg.HTTPPort
	for try := 1; ; try++ {
		var err error
		if c.cfg.Port, err = nativePort.reserve(c.cfg.Host, native); err != nil {
			return err
		}
		if c.cfg.HTTPPort, err = clickhouseHTTP.reserve(c.cfg.Host, http); err != nil {
			return err
		}
		c.child, err = launch(ctx, c.cfg)
		if err == nil {
			return nil
		}
		if (native != 0 && http != 0) || try == 3 || !errors.Is(err, errPortTaken) {
			return err
		}
	}
}

// Addr is the host:port of the native protocol. It never changes.
func (c *ClickHouse) Addr() string { return hostPort(c.cfg.Host, c.cfg.Port) }

// HTTPAddr is the host:port of the HTTP interface. It never changes.
func (c *ClickHouse) HTTPAddr() string { return hostPort(c.cfg.Host, c.cfg.HTTPPort) }

// State says what the child is doing now.
func (c *ClickHouse) State() State {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state
}

// PID is the child's process number; while restarting, the last child's.
func (c *ClickHouse) PID() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.child.cmd.Process.Pid
}

// Restarts is how many times the child was started again.
func (c *ClickHouse) Restarts() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.restarts
}

// Stop lets running queries finish for up to 5 s and ends the child, by force if
// need be, at the latest when ctx ends. An error says that force was needed;
// acknowledged rows are safe then, too. Further calls wait for the same end.
func (c *ClickHouse) Stop(ctx context.Context) error {
	c.stop()
	select {
	case <-c.done:
	case <-ctx.Done():
		c.mu.Lock()
		c.child.kill()
		c.mu.Unlock()
		<-c.done
	}
	return c.stopErr
}

// supervise owns the child until run is cancelled.
func (c *ClickHouse) supervise(run context.Context) {
	defer close(c.done)
	defer c.setState(StateStopped)
	backoff := firstBackoff
	for {
		ready := time.Now()
		select {
		case <-run.Done():
			c.stopErr = c.child.end()
			return
		case <-c.child.exited:
		}
		if time.Since(ready) > healthyAfter {
			backoff = firstBackoff
		}
		c.setState(StateRestarting)
		c.cfg.Log.ErrorContext(run, "clickhouse ended, starting it again", "err", c.child.failure(), "pid", c.child.cmd.Process.Pid)
		for ok := false; !ok; backoff = min(2*backoff, lastBackoff) {
			select {
			case <-run.Done():
				return
			case <-time.After(backoff):
			}
			next, err := launch(run, c.cfg)
			switch {
			case err == nil:
				c.mu.Lock()
				c.child, ok = next, true
				c.restarts++
				c.mu.Unlock()
			case run.Err() == nil:
				c.cfg.Log.ErrorContext(run, "clickhouse did not start again", "err", err, "next_try_in", min(2*backoff, lastBackoff))
			}
		}
		c.setState(StateReady)
		c.cfg.Log.InfoContext(run, "clickhouse serves again", "pid", c.child.cmd.Process.Pid)
	}
}

func (c *ClickHouse) setState(s State) {
	c.mu.Lock()
	c.state = s
	c.mu.Unlock()
	if c.cfg.OnState != nil {
		c.cfg.OnState(s)
	}
}

// waitForDir waits until no server holds dir: the child of a parent that was
// killed needs a moment to end. It says whether it had to wait.
func waitForDir(ctx context.Context, dir string) (waited bool, err error) {
	f, err := os.Open(filepath.Join(dir, "data", "status"))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("open clickhouse lock: %w", err)
	}
	defer func() { _ = f.Close() }() // which lets go of it for the child
	limited, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	for ; ; waited = true {
		err := flock(f, unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return waited, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return waited, fmt.Errorf("try clickhouse lock: %w", err)
		}
		select {
		case <-limited.Done():
			if errors.Is(ctx.Err(), context.Canceled) {
				return waited, fmt.Errorf("wait for clickhouse in %s to end: %w", dir, ctx.Err())
			}
			return waited, InUseError{Dir: dir, PID: pidIn(f)}
		case <-time.After(pollEvery):
		}
	}
}

// waitForPorts gives the kernel the moment between a dead predecessor's lock and
// its sockets. Whether the ports are free is not its business.
func (c *ClickHouse) waitForPorts(ctx context.Context) {
	for range 50 {
		_, err := nativePort.reserve(c.cfg.Host, c.cfg.Port)
		_, err2 := clickhouseHTTP.reserve(c.cfg.Host, c.cfg.HTTPPort)
		if (err == nil && err2 == nil) || ctx.Err() != nil {
			return
		}
		time.Sleep(pollEvery)
	}
}

func hostPort(host string, port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }
