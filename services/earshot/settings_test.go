package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
)

// earshot runs a command line and returns what it prints.
func earshot(t *testing.T, args ...string) (string, error) {
	t.Helper()
	cmd := newRoot()
	var out bytes.Buffer
	cmd.SetOut(&out)
	cmd.SetErr(&out)
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(t.Context())
	return out.String(), err
}

func file(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "earshot.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// loaded returns the settings for a file, an environment and flags.
func loaded(t *testing.T, yaml string, env map[string]string, args ...string) (*config, *settings, error) {
	t.Helper()
	c := defaultConfig()
	table := c.table()
	flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
	table.flags(flags)
	if err := flags.Parse(args); err != nil {
		return &c, table, err
	}
	path := ""
	if yaml != "" {
		path = file(t, yaml)
	}
	err := table.load(flags, path, func(name string) (string, bool) { v, ok := env[name]; return v, ok })
	return &c, table, err
}

func TestFlagsWinOverEnvironmentOverFileOverDefaults(t *testing.T) {
	const yaml = "http: {port: 1001}\ngrpc: {port: 1002}\nmetrics: {port: 1003}\nkafka: {brokers: [a:1, b:2]}\nanomaly: {span: 90s}\n"
	env := map[string]string{"SERVER_PORT": "2001", "GRPC_PORT": "2002", "KAFKA_PORT": "2004", "METRICS_PORT": "", "ALLOW_BACKFILL": "true"}
	c, table, err := loaded(t, yaml, env, "--http-port=3001", "--allow-backfill=false")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		path      string
		got, want any
		from      string
	}{
		{"http.port", c.HTTPPort, 3001, "flag"},
		{"grpc.port", c.GRPCPort, 2002, "environment"},
		{"metrics.port", c.MetricsPort, 1003, "file"}, // an empty variable counts as absent
		{"kafka.port", c.KafkaPort, 2004, "environment"},
		{"clickhouse.port", c.ClickHousePort, 9000, "default"},
		{"kafka.brokers", strings.Join(c.Kafka.Brokers, " "), "a:1 b:2", "file"},
		{"anomaly.span", c.Anomaly.Span, 90 * time.Second, "file"},
		{"ingest.allow_backfill", c.Ingest.AllowBackfill, false, "flag"},
	} {
		if tt.got != tt.want || table.by[tt.path].from != tt.from {
			t.Errorf("%s: got %v from %s, want %v from %s", tt.path, tt.got, table.by[tt.path].from, tt.want, tt.from)
		}
	}
}

// What scripts rely on.
func TestSettingsHaveTheirDocumentedNames(t *testing.T) {
	c := defaultConfig()
	table := c.table()
	for _, want := range [][4]string{
		{"http.port", "http-port", "SERVER_PORT", "8080"},
		{"grpc.port", "grpc-port", "GRPC_PORT", "50051"},
		{"metrics.port", "metrics-port", "METRICS_PORT", "9464"},
		{"kafka.port", "kafka-port", "KAFKA_PORT", "9092"},
		{"clickhouse.port", "clickhouse-port", "CLICKHOUSE_PORT", "9000"},
		{"clickhouse.http_port", "clickhouse-http-port", "CLICKHOUSE_HTTP_PORT", "8123"},
		{"kafka.brokers", "kafka-brokers", "KAFKA_BROKERS", "127.0.0.1:9092"},
		{"clickhouse.url", "clickhouse-url", "CLICKHOUSE_URL", "127.0.0.1:9000"},
		{"clickhouse.user", "clickhouse-user", "CLICKHOUSE_USER", "default"},
		{"clickhouse.password", "clickhouse-password", "CLICKHOUSE_PASSWORD", ""},
		{"anomaly.threshold", "anomaly-threshold", "ANOMALY_THRESHOLD", "8"},
		{"anomaly.span", "anomaly-span", "ANOMALY_SPAN", "1m"},
		{"trend.window", "trend-window", "TREND_WINDOW", "2m"},
		{"trend.min_chars", "trend-min-chars", "TREND_MIN_CHARS", "4"},
		{"retention.period", "retention", "RETENTION", "720h"},
		{"ingest.allow_backfill", "allow-backfill", "ALLOW_BACKFILL", "true"},
		{"gateway.ingest_addr", "ingest-addr", "INGEST_ADDR", "127.0.0.1:50051"},
		{"gateway.query_addr", "query-addr", "QUERY_ADDR", "127.0.0.1:50051"},
	} {
		s := table.by[want[0]]
		if s == nil {
			t.Errorf("%s is missing", want[0])
		} else if got := [4]string{s.path, s.flag, s.env, s.def}; got != want {
			t.Errorf("got %v, want %v", got, want)
		}
	}
	flags, envs := map[string]string{}, map[string]string{}
	for _, s := range table.list {
		if flags[s.flag] != "" || envs[s.env] != "" || s.usage == "" {
			t.Errorf("%s shares --%s or %s with another setting, or has no description", s.path, s.flag, s.env)
		}
		flags[s.flag], envs[s.env] = s.path, s.path
	}
}

func TestEveryFaultIsReportedAtOnce(t *testing.T) {
	const yaml = "http: {port: many}\nanomaly: {span: soon}\nhttpp: {port: 1}\n"
	_, _, err := loaded(t, yaml, map[string]string{"ALLOW_BACKFILL": "maybe", "CLICKHOUSE_PORT": "x"})
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{
		`http.port: got "many", want a whole number`, `anomaly.span: got "soon", want a duration such as "90s"`, "httpp.port is not a setting",
		`ALLOW_BACKFILL: got "maybe", want true or false`, `CLICKHOUSE_PORT: got "x", want a whole number`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
	c := defaultConfig()
	c.HTTPPort, c.ListenHost, c.Retention, c.Anomaly.Threshold, c.Kafka.Brokers = 70000, "here", -1, 1, nil
	for _, want := range []string{"http.port: got 70000", `listen.host: got "here"`, "retention.period", "anomaly.threshold: got 1", "kafka.brokers"} {
		if err := c.validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
}

func TestDefaultsAreValid(t *testing.T) {
	c := defaultConfig()
	if err := c.validate(); err != nil {
		t.Error(err)
	}
}

func TestWrongUsage(t *testing.T) {
	for _, args := range [][]string{
		{},
		{"nonsense"},
		{"topics"},
		{"up", "extra"},
		{"send"},
		{"--http-port", "x", "version"},
		{"--no-such-flag"},
		{"version", "--http-port", "70000"},
		{"replay", "x", "--speed", "0"},
		{"replay", "x", "--speed", "-1"},
		{"simulate", "--mode", "pigeon"},
		{"tail"},
		{"tail", "nothing"},
		{"version", "--config", "/no/such/file"},
	} {
		_, err := earshot(t, args...)
		var wrong usageError
		if !errors.As(err, &wrong) {
			t.Errorf("%v: got %v, want wrong usage", args, err)
		} else if strings.TrimSpace(err.Error()) == "" {
			t.Errorf("%v: no reason", args)
		}
	}
}

// What config print writes, --config reads; secrets are not in it.
func TestPrintedSettingsAreReadAgain(t *testing.T) {
	t.Setenv("CLICKHOUSE_PASSWORD", "hunter2-secret")
	t.Setenv("ANOMALY_THRESHOLD", "11")
	for _, args := range [][]string{{"config", "print"}, {"config", "print", "--effective"}} {
		text, err := earshot(t, args...)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(text, "hunter2") {
			t.Errorf("%v prints the password", args)
		}
		c, table, err := loaded(t, text, nil)
		if err != nil {
			t.Fatalf("%v is not read again: %v\n%s", args, err, text)
		}
		want := 8
		if len(args) == 3 {
			want = 11
		}
		if c.Anomaly.Threshold != want || c.ClickHouse.Password != "" {
			t.Errorf("%v: threshold %d, want %d; password %q", args, c.Anomaly.Threshold, want, c.ClickHouse.Password)
		}
		if err := c.validate(); err != nil {
			t.Error(err)
		}
		if n := len(table.list); n < 60 {
			t.Errorf("%d settings", n)
		}
	}
	text, _ := earshot(t, "config", "print", "--effective")
	for _, want := range []string{"# password: ********", "from environment [--clickhouse-password, CLICKHOUSE_PASSWORD]"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
	_, _, err := loaded(t, "clickhouse: {password: [hunter2]}\nlog: {level: 1}", map[string]string{"HTTP_PORT": "x"})
	if err != nil && strings.Contains(err.Error(), "hunter2") {
		t.Errorf("the error holds the password: %v", err)
	}
}
