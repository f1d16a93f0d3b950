package embedded

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
)

const (
	// retentionEvery is how often expired records are looked for.
	retentionEvery = 5 * time.Minute
	// offsetsKept, in minutes, is how long an idle group's offsets live: 90
	// days. Kafka's own 7 would make an `up` that comes back from a holiday
	// read every topic from its start.
	offsetsKept = "129600"
)

// BrokerConfig says where the embedded broker lives.
type BrokerConfig struct {
	DataDir string       // its log, made if need be; the caller holds the LockDir around it
	Host    string       // loopback address to listen on and to advertise; "" is 127.0.0.1
	Port    int          // 0 picks a free one, kept for the life of the Broker
	Log     *slog.Logger // nil logs nothing
}

// Broker is one Kafka broker in this process, for any Kafka client on this
// machine. It creates no topic by itself. Its methods are safe for concurrent
// use.
//
// What it acknowledged survives kill -9; a power cut may take the last seconds,
// as with a real broker's default. Retention goes by batch: whatever lies before
// a batch whose newest record timestamp is older than retention.ms is dropped,
// so records must be stamped with the time of their acceptance. Disk space comes
// back by segment (segment.bytes, 100 MiB).
//
// Memory: about 72 bytes for each batch that is kept. A start reads and checks
// the log whole and needs its size for a moment.
type Broker struct {
	cluster *kfake.Cluster
	addr    string
	log     *brokerLog
	stop    chan struct{}
	wg      sync.WaitGroup
	once    sync.Once
	err     error
}

// StartBroker loads the log in cfg.DataDir and serves it. It returns once clients
// can connect.
func StartBroker(cfg BrokerConfig) (*Broker, error) {
	if cfg.Host == "" {
		cfg.Host = "127.0.0.1"
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if err := checkLoopback("kafka", cfg.Host); err != nil {
		return nil, err
	}
	// kfake would write to memory for want of a directory.
	if cfg.DataDir == "" {
		return nil, errors.New("kafka data directory: got none, want a path")
	}
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("make kafka data directory: %w", err)
	}
	b := &Broker{log: &brokerLog{log: cfg.Log}, stop: make(chan struct{})}
	cluster, err := kfake.NewCluster(
		kfake.NumBrokers(1),
		kfake.ClusterID("earshot"),
		kfake.DataDir(cfg.DataDir),
		kfake.DefaultNumPartitions(1),
		kfake.WithLogger(b.log),
		kfake.ListenFn(func(string, string) (net.Listener, error) {
			ln, err := kafkaPort.listen(cfg.Host, cfg.Port)
			if err != nil {
				return nil, err
			}
			return &guardedListener{Listener: ln, log: cfg.Log}, nil
		}),
		kfake.BrokerConfigs(map[string]string{
			"default.replication.factor": "1",
			"offsets.retention.minutes":  offsetsKept,
		}),
	)
	if err != nil {
		return nil, fmt.Errorf("start the embedded broker on %s: %w", cfg.DataDir, err)
	}
	// Loading read the log whole: give that memory back at once, not over the
	// minutes that the runtime would take.
	debug.FreeOSMemory()
	b.cluster = cluster
	b.addr = cluster.ListenAddrs()[0]
	b.wg.Go(b.expire)
	return b, nil
}

// Addr is the host:port to bootstrap from. It never changes.
func (b *Broker) Addr() string { return b.addr }

// Close stops serving and writes down what a quick next start needs. Close the
// clients first: a group member that is still there is remembered, and the next
// start waits for its session to expire. Further calls return the same error.
func (b *Broker) Close() error {
	b.once.Do(func() {
		close(b.stop)
		b.wg.Wait()
		b.log.errs(true)
		b.cluster.Close()
		if err := errors.Join(b.log.errs(false)...); err != nil {
			b.err = fmt.Errorf("close the embedded broker: %w", err)
		}
	})
	return b.err
}

// expire applies retention at the start and then regularly. kfake does so by
// itself only once a topic was created or altered in this process.
func (b *Broker) expire() {
	tick := time.NewTicker(retentionEvery)
	defer tick.Stop()
	for {
		b.cluster.ApplyRetention()
		select {
		case <-b.stop:
			return
		case <-tick.C:
		}
	}
}

// brokerLog brings kfake's lines to slog and collects its errors, which it
// reports in no other way.
type brokerLog struct {
	log *slog.Logger

	mu      sync.Mutex
	collect bool
	seen    []error
}

// Logf takes a line from kfake. Its "info" is a line per request: too much.
func (l *brokerLog) Logf(level kfake.LogLevel, format string, args ...any) {
	switch level {
	case kfake.LogLevelError:
		line := fmt.Sprintf(format, args...)
		l.log.Error("embedded broker", "err", line)
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.collect {
			l.seen = append(l.seen, errors.New(line))
		}
	case kfake.LogLevelWarn:
		l.log.Warn("embedded broker", "err", fmt.Sprintf(format, args...))
	}
}

// errs returns what was collected so far, and collects from now on or not.
func (l *brokerLog) errs(collect bool) []error {
	l.mu.Lock()
	defer l.mu.Unlock()
	seen := l.seen
	l.seen, l.collect = nil, collect
	return seen
}
