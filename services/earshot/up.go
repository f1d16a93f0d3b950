package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/earshot/earshot/services/embedded"
	"github.com/earshot/earshot/services/internal/clickhouse"
	"github.com/earshot/earshot/services/internal/kafka"
	"github.com/earshot/earshot/services/internal/server"
	"github.com/earshot/earshot/services/internal/telemetry"
	"github.com/earshot/earshot/services/sink/schema"
	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// startLimit bounds the wait for the mesh to serve: a hang, not a slow start.
const startLimit = 2 * time.Minute

// upOptions are what only up knows.
type upOptions struct {
	demo      bool
	readyFile string
}

func (a *app) upCommand() *cobra.Command {
	var o upOptions
	cmd := &cobra.Command{
		Use: "up", Short: "Run the whole mesh in one process, with an embedded broker and ClickHouse", Args: noArgs,
		Long: `Run the whole mesh in one process, with an embedded broker and an embedded ClickHouse engine, until Ctrl-C.

Nothing has to be installed. Data stays in --data-dir and survives a restart, kill -9 included. With --kafka-brokers or --clickhouse-url the mesh uses
that broker or ClickHouse instead of its own.`,
		Example: `  earshot up --demo
  earshot up --data-dir ./data --http-port 0 --grpc-port 0 --ready-file ready.json`,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.up(cmd.Context(), o) },
	}
	cmd.Flags().BoolVar(&o.demo, "demo", false, "make traffic to look at: users who chat, spam and talk of the same things")
	cmd.Flags().StringVar(&o.readyFile, "ready-file", "", "file to write, as JSON, once everything serves: the address of each port and the process number")
	return cmd
}

// addresses are where an up serves; the ready file holds them.
type addresses struct {
	HTTP           string `json:"http"`
	GRPC           string `json:"grpc"`
	Metrics        string `json:"metrics"`
	Kafka          string `json:"kafka"`
	ClickHouse     string `json:"clickhouse"`
	ClickHouseHTTP string `json:"clickhouse_http"`
	PID            int    `json:"pid"`
}

// up runs everything until ctx ends. Parts start in the order in which they need each other, and stop in reverse: who takes messages goes first,
// the broker and the engine go last.
func (a *app) up(ctx context.Context, o upOptions) (err error) {
	go paceHeap(ctx)
	shareCores()
	if o.readyFile != "" {
		if err := os.Remove(o.readyFile); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove the old ready file: %w", err)
		}
		defer func() { _ = os.Remove(o.readyFile) }()
	}
	lock, err := embedded.LockDir(a.cfg.DataDir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Release()) }()
	tel, err := a.telemetry(ctx, "earshot")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tel.Stop(ctx)) }()

	l := newLine(tel.Log())
	defer func() { err = errors.Join(err, l.stop()) }()
	at, err := a.startAll(ctx, l, tel)
	if err != nil {
		if ctx.Err() != nil { // Ctrl-C while starting is no failure
			return nil
		}
		return err
	}
	if o.readyFile != "" {
		if err := writeReadyFile(o.readyFile, at); err != nil {
			return err
		}
	}
	a.greet(at, o.demo)
	if o.demo {
		l.run("demo", func(ctx context.Context) error { return a.demo(ctx, at, tel.Log()) })
	}
	return l.wait(ctx)
}

// startAll starts the embedded parts and every service, and returns once all of them serve.
func (a *app) startAll(ctx context.Context, l *line, tel *telemetry.Process) (addresses, error) {
	at := addresses{PID: os.Getpid()}
	// Taken ports are told before anything is started.
	var ports [3]net.Listener
	for i, p := range []struct {
		port server.Port
		n    int
		at   *string
	}{{server.HTTPPort, a.cfg.HTTPPort, &at.HTTP}, {server.GRPCPort, a.cfg.GRPCPort, &at.GRPC}, {server.MetricsPort, a.cfg.MetricsPort, &at.Metrics}} {
		lis, err := a.listen(ctx, p.port, p.n)
		if err != nil {
			for _, open := range ports[:i] {
				_ = open.Close()
			}
			return at, err
		}
		ports[i], *p.at = lis, lis.Addr().String()
	}
	m := &whole{app: a, line: l, tel: tel, http: ports[0], grpc: ports[1]}
	l.run("metrics", a.sideServer(tel.Handler(), ports[2], m.ready))
	if err := m.start(ctx, &at); err != nil {
		stopped := l.stop() // before the ports are closed: some may be served already
		for _, lis := range ports[:2] {
			_ = lis.Close()
		}
		return at, errors.Join(err, stopped)
	}
	return at, nil
}

// embed starts the broker and the engine that the settings leave to us.
func (a *app) embed(ctx context.Context, l *line, tel *telemetry.Process, at *addresses) (*embedded.ClickHouse, error) {
	own := func(path string) bool { return a.table.by[path].from == "default" }
	host := a.cfg.ListenHost
	if !a.cfg.loopback() {
		host = "127.0.0.1" // broker and engine have no passwords: never beyond this machine
	}
	if own("kafka.brokers") {
		b, err := embedded.StartBroker(embedded.BrokerConfig{
			DataDir: filepath.Join(a.cfg.DataDir, "kafka"), Host: host, Port: a.cfg.KafkaPort, Log: tel.Log().With("service", "kafka"),
		})
		if err != nil {
			return nil, err
		}
		l.closer("broker", func(context.Context) error { return b.Close() })
		a.cfg.Kafka.Brokers = []string{b.Addr()}
	}
	at.Kafka = a.cfg.Kafka.Brokers[0]
	if !own("clickhouse.url") {
		at.ClickHouse = a.cfg.ClickHouse.URL
		return nil, nil
	}
	library, err := embedded.EnsureEngine(ctx, embedded.EngineConfig{Progress: os.Stderr, Log: tel.Log()})
	if err != nil {
		return nil, err
	}
	c, err := embedded.StartClickHouse(ctx, embedded.ClickHouseConfig{
		Library: library, DataDir: filepath.Join(a.cfg.DataDir, "clickhouse"), Host: host, Port: a.cfg.ClickHousePort, HTTPPort: a.cfg.ClickHouseHTTPPort,
		SpanLog: tel.Tracing(), Log: tel.Log().With("service", "clickhouse"),
	})
	if err != nil {
		return nil, err
	}
	l.closer("clickhouse", c.Stop)
	a.cfg.ClickHouse.URL, a.cfg.ClickHouse.User, a.cfg.ClickHouse.Password = c.Addr(), "default", ""
	at.ClickHouse, at.ClickHouseHTTP = c.Addr(), c.HTTPAddr()
	return c, nil
}

// prepare creates topics and tables.
func (a *app) prepare(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := withAdmin(ctx, a.cfg.Kafka, func(admin *kafka.Admin) error {
		_, err := admin.Apply(ctx, a.cfg.Kafka.Topics.All())
		return err
	}); err != nil {
		return err
	}
	conn, err := clickhouse.Open(a.cfg.ClickHouse)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = schema.Apply(ctx, conn, schema.Options{Retention: a.cfg.Retention})
	return err
}

// writeReadyFile makes the file appear whole.
func writeReadyFile(path string, at addresses) error {
	b, err := json.Marshal(at)
	if err != nil {
		return err
	}
	tmp := fmt.Sprintf("%s.%d", path, at.PID)
	if err := os.WriteFile(tmp, append(b, '\n'), 0o644); err != nil { //nolint:gosec // addresses are no secret
		return fmt.Errorf("write ready file: %w", err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("write ready file: %w", err)
	}
	return nil
}

// greet tells a person at a terminal where everything is.
func (a *app) greet(at addresses, demo bool) {
	if !term.IsTerminal(int(os.Stdout.Fd())) {
		fmt.Printf("earshot serves: http://%s grpc %s\n", at.HTTP, at.GRPC)
		return
	}
	fmt.Printf(`
  Earshot serves. Ctrl-C stops it; data stays in %s

  console      http://%s/          API docs  http://%[2]s/docs
  gRPC         %s            metrics   http://%s/metrics
  Kafka        %s             ClickHouse %s, http://%s/play

  curl -X POST http://%[2]s/api/v1/messages/send -H 'Content-Type: application/json' -d '{"sender_id":"alice","receiver_id":"bob","content":"Hello Bob!"}'
  grpcurl -plaintext -d '{}' %[3]s earshot.api.v1.AlertService/StreamAlerts
  bin/earshot tail alerts

`, a.cfg.DataDir, at.HTTP, at.GRPC, at.Metrics, at.Kafka, at.ClickHouse, at.ClickHouseHTTP)
	if demo {
		fmt.Println("  The demo chats: the first alert and trend come within seconds.")
		fmt.Println()
	}
}
