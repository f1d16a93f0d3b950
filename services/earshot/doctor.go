package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"

	"github.com/earshot/earshot/services/embedded"
	"github.com/earshot/earshot/services/internal/clickhouse"
	"github.com/earshot/earshot/services/internal/kafka"
	"github.com/earshot/earshot/services/internal/telemetry"
	"github.com/earshot/earshot/services/sink/schema"
	"github.com/spf13/cobra"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

func (a *app) doctorCommand() *cobra.Command {
	return &cobra.Command{
		Use: "doctor", Short: "Check everything the mesh needs and say what to do; exit 0 only when all is well", Args: noArgs,
		Long: `Check brokers, topics, ClickHouse, its schema, the services, the clocks and the embedded engine: a line each, ✓ or ✗ and what to do; · is what
was not checked. It changes nothing. Exit 0 only when nothing is wrong.`,
		Example: "  earshot doctor\n  earshot doctor --kafka-brokers kafka:9092 --clickhouse-url clickhouse:9000",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.doctor(cmd.Context(), cmd.OutOrStdout())
		},
	}
}

// Bounds of the doctor's patience and of what it takes for equal clocks.
const (
	askLimit  = 5 * time.Second
	clockSkew = 2 * time.Second
)

// checkup prints a line for each thing that is checked.
type checkup struct {
	out   io.Writer
	wrong int
}

func (c *checkup) well(format string, args ...any) { fmt.Fprintf(c.out, "✓ "+format+"\n", args...) }

func (c *checkup) skip(format string, args ...any) { fmt.Fprintf(c.out, "· "+format+"\n", args...) }

func (c *checkup) bad(what string, err error, do string) {
	c.wrong++
	fmt.Fprintf(c.out, "✗ %s: %s; %s\n", what, oneLine(err), do)
}

func (a *app) doctor(ctx context.Context, out io.Writer) error {
	// What up runs listens on ports of ours.
	if a.table.by["kafka.brokers"].from == "default" {
		a.cfg.Kafka.Brokers = []string{a.cfg.listen(a.cfg.KafkaPort)}
	}
	ownEngine := a.table.by["clickhouse.url"].from == "default"
	if ownEngine {
		a.cfg.ClickHouse.URL = a.cfg.listen(a.cfg.ClickHousePort)
	}
	c := &checkup{out: out}
	if err := a.checkKafka(ctx, c); err != nil {
		return err
	}
	if err := a.checkClickHouse(ctx, c); err != nil {
		return err
	}
	a.checkGRPC(ctx, c)
	a.checkREST(ctx, c)
	if ownEngine {
		checkEngine(ctx, c)
	} else {
		c.skip("embedded engine: not needed, ClickHouse is at %s", a.cfg.ClickHouse.URL)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if c.wrong > 0 {
		return fmt.Errorf("%d checks failed", c.wrong)
	}
	return nil
}

func (a *app) checkKafka(ctx context.Context, c *checkup) error {
	brokers := strings.Join(a.cfg.Kafka.Brokers, ",")
	admin, err := kafka.NewAdmin(a.kafka("doctor"))
	if err != nil {
		return err
	}
	defer admin.Close()
	asking, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	if err := admin.Ping(asking); err != nil {
		c.bad("Kafka at "+brokers, err, "start it (earshot up brings its own), or say where it is with --kafka-brokers")
		c.skip("topics and the clock of records: not checked without Kafka")
		return nil
	}
	c.well("Kafka answers at %s", brokers)
	topics, wrong := a.cfg.Kafka.Topics.All(), c.wrong
	for _, t := range topics {
		if err := checkTopic(ctx, admin, t); err != nil {
			c.bad("topic "+t.Name, err, cure(err, t))
		}
	}
	if c.wrong == wrong {
		c.well("%d topics have the partitions and the retention that the settings say", len(topics))
	}
	a.checkRecordClock(ctx, c, admin)
	return nil
}

// errMorePartitions: there are more than the settings say, and they can not be taken away.
var errMorePartitions = errors.New("partitions can not be taken away")

func checkTopic(ctx context.Context, admin *kafka.Admin, t kafka.Topic) error {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	info, err := admin.Describe(ctx, t.Name)
	switch {
	case err != nil:
		return err
	case !info.Exists:
		return errors.New("missing")
	case info.Partitions > t.Partitions:
		return fmt.Errorf("got %d partitions, the settings say %d: %w", info.Partitions, t.Partitions, errMorePartitions)
	case info.Partitions < t.Partitions:
		return fmt.Errorf("got %d partitions, the settings say %d", info.Partitions, t.Partitions)
	}
	keep, err := admin.Retention(ctx, t.Name)
	if err == nil && keep != t.Retention {
		err = fmt.Errorf("got a retention of %s, the settings say %s", shortDuration(keep), shortDuration(t.Retention))
	}
	return err
}

func cure(err error, t kafka.Topic) string {
	if errors.Is(err, errMorePartitions) {
		return "set its partitions in the settings of every service; see: earshot config print"
	}
	if t.Internal && strings.Contains(err.Error(), "partitions") {
		return "set them back: an internal topic's number of partitions never changes"
	}
	return "run: earshot topics apply"
}

// checkRecordClock compares this clock with the stamps of the newest messages, which the clocks of ingest gave them.
func (a *app) checkRecordClock(ctx context.Context, c *checkup, admin *kafka.Admin) {
	const what = "clock of records"
	newest, err := a.newestMessage(ctx, admin)
	ahead := time.Until(newest)
	switch {
	case err != nil:
		c.skip("%s: not checked, %s", what, oneLine(err))
	case newest.IsZero():
		c.skip("%s: not checked, there are no messages", what)
	case ahead > clockSkew:
		c.bad(what, fmt.Errorf("the newest message was accepted %v ahead of this clock", ahead.Round(time.Millisecond)), "set the clocks of this machine and of ingest's, for example with chrony")
	default:
		c.well("the newest message was accepted %v ago", (-ahead).Round(time.Millisecond))
	}
}

// newestMessage returns when the newest of the partitions' last records was accepted; zero without any.
func (a *app) newestMessage(ctx context.Context, admin *kafka.Admin) (newest time.Time, err error) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	topic := a.cfg.Kafka.Topics.Messages.Name
	first, err := admin.FirstOffsets(ctx, topic)
	if err != nil {
		return newest, err
	}
	end, err := admin.EndOffsets(ctx, topic)
	if err != nil {
		return newest, err
	}
	last := map[kafka.TopicPartition]int64{}
	for p, o := range end {
		if o > first[p] {
			last[kafka.TopicPartition{Topic: topic, Partition: p}] = o - 1
		}
	}
	if len(last) == 0 {
		return newest, nil
	}
	reader, err := kafka.NewReader(a.kafka("doctor"), telemetry.Nop())
	if err != nil {
		return newest, err
	}
	defer func() { err = errors.Join(err, reader.Close()) }()
	if err := reader.Assign(last); err != nil {
		return newest, err
	}
	for len(last) > 0 {
		recs, err := reader.Poll(ctx, 1000, time.Second)
		if err != nil {
			return newest, err
		}
		if ctx.Err() != nil {
			return newest, fmt.Errorf("the last records of %d partitions did not come within %v", len(last), askLimit)
		}
		for _, r := range recs {
			delete(last, kafka.TopicPartition{Topic: r.Topic, Partition: r.Partition})
			if r.Timestamp.After(newest) {
				newest = r.Timestamp
			}
		}
	}
	return newest, nil
}

func (a *app) checkClickHouse(ctx context.Context, c *checkup) error {
	conn, err := clickhouse.Open(a.cfg.ClickHouse)
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	what := "ClickHouse at " + a.cfg.ClickHouse.URL
	var release string
	var theirs time.Time
	asked := time.Now()
	if err := conn.QueryRow(ctx, "SELECT version(), now64(3, 'UTC')").Scan(&release, &theirs); err != nil {
		c.bad(what, err, "start it (earshot up brings its own), or say where it is and who asks with --clickhouse-url, --clickhouse-user and CLICKHOUSE_PASSWORD")
		c.skip("schema and ClickHouse's clock: not checked without ClickHouse")
		return nil
	}
	answered := time.Now()
	c.well("%s answers, version %s", what, release)
	if err := schema.Check(ctx, conn); err != nil {
		do := "run: earshot schema apply"
		if errors.Is(err, schema.ErrMissing) {
			err = errors.New("not up to date")
		}
		c.bad("schema", err, do)
	} else {
		c.well("the schema is up to date")
	}
	// It read its clock at some moment between the question and the answer.
	skew := max(asked.Sub(theirs), theirs.Sub(answered), 0)
	if skew > clockSkew {
		c.bad("ClickHouse's clock", fmt.Errorf("it differs from this one by at least %v", skew.Round(time.Millisecond)), "set both machines' clocks, for example with chrony")
	} else {
		c.well("ClickHouse's clock agrees with this one")
	}
	return nil
}

// checkGRPC asks the health of the services; a mesh that is not running is no fault, a stranger on its port is.
func (a *app) checkGRPC(ctx context.Context, c *checkup) {
	addr := a.cfg.listen(a.cfg.GRPCPort)
	if silent(ctx, addr) {
		c.skip("gRPC at %s: nothing runs there", addr)
		return
	}
	what := "gRPC at " + addr
	conn, err := a.dial(addr)
	if err != nil {
		c.bad(what, err, "see --grpc-port")
		return
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	resp, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{})
	switch {
	case err != nil:
		c.bad(what, said(err), "is something else on the port? choose another with --grpc-port")
	case resp.GetStatus() != healthpb.HealthCheckResponse_SERVING:
		c.bad(what, fmt.Errorf("it says %s", resp.GetStatus()), "see the log of the service for what it waits for")
	default:
		c.well("%s serves", what)
	}
}

func (a *app) checkREST(ctx context.Context, c *checkup) {
	addr := a.cfg.listen(a.cfg.HTTPPort)
	if silent(ctx, addr) {
		c.skip("REST at %s: nothing runs there", addr)
		return
	}
	what := "REST at " + addr
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/api/v1/health", nil)
	if err != nil {
		c.bad(what, err, "see --listen-host and --http-port")
		return
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		c.bad(what, err, "is something else on the port? choose another with --http-port")
		return
	}
	defer resp.Body.Close()
	var health struct {
		Status       string                     `json:"status"`
		Dependencies map[string]json.RawMessage `json:"dependencies"`
	}
	err = json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&health)
	switch {
	case err != nil || health.Status == "":
		c.bad(what, fmt.Errorf("it answers %d and no health", resp.StatusCode), "is something else on the port? choose another with --http-port")
	case health.Status != "ok":
		var why []string
		for name, d := range health.Dependencies {
			var state struct{ State, Detail string }
			if json.Unmarshal(d, &state) == nil && state.State != "ok" {
				why = append(why, strings.TrimSpace(name+" "+state.State+" "+state.Detail))
			}
		}
		c.bad(what, fmt.Errorf("it is %s: %s", health.Status, strings.Join(why, ", ")), "mend what it names")
	default:
		c.well("%s serves", what)
	}
}

// silent says whether nothing listens at addr.
func silent(ctx context.Context, addr string) bool {
	conn, err := (&net.Dialer{Timeout: askLimit}).DialContext(ctx, "tcp", addr)
	if err == nil {
		conn.Close()
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}

// checkEngine looks for the library that up loads, without fetching it.
func checkEngine(ctx context.Context, c *checkup) {
	ctx, cancel := context.WithCancel(ctx)
	cancel() // what is there is found all the same, what is missing is not fetched
	path, err := embedded.EnsureEngine(ctx, embedded.EngineConfig{})
	switch {
	case err == nil:
		c.well("embedded engine %s is at %s", embedded.EngineVersion, path)
	case errors.Is(err, context.Canceled):
		c.bad("embedded engine", errors.New("not in the user's cache"), "run: earshot engine fetch")
	default:
		c.bad("embedded engine", err, "or run: earshot engine fetch")
	}
}
