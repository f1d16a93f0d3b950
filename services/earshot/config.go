package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/earshot/earshot/services/internal/kafka"
	"github.com/earshot/earshot/services/internal/telemetry"
)

// config is everything that can be set, for all services.
type config struct {
	ListenHost string // where everything listens
	HTTPPort   int    // 0 picks a free one, as with every port
	GRPCPort   int
	MetricsPort,
	KafkaPort,
	ClickHousePort,
	ClickHouseHTTPPort int

	DataDir   string
	Retention time.Duration
	Instance  string

	Telemetry telemetry.Config
	Kafka     kafka.Config
	rooms
}

func defaultConfig() config {
	return config{
		ListenHost: "127.0.0.1", HTTPPort: 8080, GRPCPort: 50051, MetricsPort: 9464, KafkaPort: 9092, ClickHousePort: 9000, ClickHouseHTTPPort: 8123,
		DataDir:   defaultDataDir(),
		Retention: 720 * time.Hour,
		Telemetry: telemetry.DefaultConfig(),
		Kafka:     kafka.DefaultConfig(),
		rooms:     defaultRooms(),
	}
}

// defaultDataDir follows the XDG base directory specification.
func defaultDataDir() string {
	if d := os.Getenv("XDG_DATA_HOME"); filepath.IsAbs(d) {
		return filepath.Join(d, "earshot")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "earshot-data"
	}
	return filepath.Join(home, ".local", "share", "earshot")
}

// table names every setting of c. Special names are those that users of such systems know; the others follow the path.
func (c *config) table() *settings {
	t := &settings{}
	t.add("listen.host", "address that everything listens on", stringValue{&c.ListenHost})
	t.add("http.port", "port of REST and the console", intValue{&c.HTTPPort}, env("SERVER_PORT"))
	t.add("grpc.port", "port of gRPC", intValue{&c.GRPCPort})
	t.add("metrics.port", "port of /metrics and /debug/pprof", intValue{&c.MetricsPort})

	t.add("kafka.brokers", "brokers as host:port; up runs its own without them", listValue{&c.Kafka.Brokers})
	t.add("kafka.port", "port of the embedded broker", intValue{&c.KafkaPort})
	t.add("kafka.linger", "how long a record waits for company in a batch", durationValue{&c.Kafka.Linger})
	t.add("kafka.compression", "none, gzip, snappy, lz4 or zstd", stringValue{&c.Kafka.Compression})
	t.add("kafka.message_timeout", "how long an acknowledgement is awaited and retried", durationValue{&c.Kafka.MessageTimeout})
	t.add("kafka.session_timeout", "silence after which a group member counts as dead", durationValue{&c.Kafka.SessionTimeout})
	t.add("kafka.read_ahead", "records a consumer fetches ahead", intValue{&c.Kafka.ReadAhead})
	t.add("kafka.read_ahead_bytes", "the same in bytes, for each topic", intValue{&c.Kafka.ReadAheadBytes})
	t.add("kafka.buffer_records", "records a producer holds unacknowledged before it refuses more", intValue{&c.Kafka.BufferRecords})
	t.add("kafka.buffer_bytes", "the same in bytes", intValue{&c.Kafka.BufferBytes})
	t.add("kafka.instance", "name of this instance in its groups, so that a quick restart moves no partitions; empty for none", stringValue{&c.Kafka.Instance})
	for _, e := range []struct {
		topic *kafka.Topic
		name  string
	}{
		{&c.Kafka.Topics.Messages, "messages"},
		{&c.Kafka.Topics.Views, "views"},
		{&c.Kafka.Topics.Alerts, "alerts"},
		{&c.Kafka.Topics.Trends, "trends"},
		{&c.Kafka.Topics.ConversationMetrics, "conversation_metrics"},
		{&c.Kafka.Topics.UserActivity, "user_activity"},
		{&c.Kafka.Topics.SenderEvents, "sender_events"},
		{&c.Kafka.Topics.TermTotals, "term_totals"},
	} {
		t.add("topics."+e.name+"_name", "topic name", stringValue{&e.topic.Name}, env("TOPIC_"+upper(e.name)+"_NAME"), flagged("topic-"+dashed(e.name)+"-name"))
		t.add("topics."+e.name+"_partitions", "its partitions", intValue{&e.topic.Partitions}, env("TOPIC_"+upper(e.name)+"_PARTITIONS"), flagged("topic-"+dashed(e.name)+"-partitions"))
		t.add("topics."+e.name+"_retention", "how long Kafka keeps its records", durationValue{&e.topic.Retention}, env("TOPIC_"+upper(e.name)+"_RETENTION"), flagged("topic-"+dashed(e.name)+"-retention"))
	}
	c.clickhouseSettings(t)
	t.add("retention.period", "how long messages are kept after acceptance; 0 keeps for ever", durationValue{&c.Retention}, flagged("retention"), env("RETENTION"))
	t.add("data.dir", "where up keeps the embedded broker's and engine's data", stringValue{&c.DataDir})
	c.roomSettings(t)
	t.add("log.level", "debug, info, warn or error", stringValue{&c.Telemetry.LogLevel})
	t.add("log.format", "text, json, or auto: text on a terminal", stringValue{&c.Telemetry.LogFormat})
	return t
}

// validate returns every fault at once, each by its setting.
func (c *config) validate() error {
	var errs []error
	for _, p := range []struct {
		path string
		port int
	}{
		{"http.port", c.HTTPPort},
		{"grpc.port", c.GRPCPort},
		{"metrics.port", c.MetricsPort},
		{"kafka.port", c.KafkaPort},
		{"clickhouse.port", c.ClickHousePort},
		{"clickhouse.http_port", c.ClickHouseHTTPPort},
	} {
		if p.port < 0 || p.port > 65535 {
			errs = append(errs, fmt.Errorf("%s: got %d, want 0 to 65535", p.path, p.port))
		}
	}
	if net.ParseIP(c.ListenHost) == nil && c.ListenHost != "localhost" {
		errs = append(errs, fmt.Errorf("listen.host: got %q, want an IP address or localhost", c.ListenHost))
	}
	if c.Retention < 0 || c.Retention > 0 && c.Retention < time.Hour {
		errs = append(errs, fmt.Errorf("retention.period: got %v, want 0 (for ever) or at least 1h", c.Retention))
	}
	return errors.Join(append(errs, c.Telemetry.Validate(), c.Kafka.Validate(), c.validateRooms())...)
}

// loopback says whether only this machine can connect.
func (c *config) loopback() bool {
	ip := net.ParseIP(c.ListenHost)
	return c.ListenHost == "localhost" || ip != nil && ip.IsLoopback()
}

func (c *config) listen(port int) string { return net.JoinHostPort(c.ListenHost, strconv.Itoa(port)) }
