package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/earshot/earshot/services/gateway"
	"github.com/earshot/earshot/services/ingest"
	"github.com/earshot/earshot/services/internal/clickhouse"
	"github.com/earshot/earshot/services/internal/server"
	"github.com/earshot/earshot/services/processor"
	"github.com/earshot/earshot/services/processor/anomaly"
	"github.com/earshot/earshot/services/processor/conversation"
	"github.com/earshot/earshot/services/processor/trend"
	"github.com/earshot/earshot/services/query"
	"github.com/earshot/earshot/services/sink"
)

// rooms holds the settings of each service.
type rooms struct {
	ClickHouse   clickhouse.Config
	Server       server.Config
	HTTP         server.HTTPConfig
	Ingest       ingest.Config
	Processor    processor.Config
	Anomaly      anomaly.Config
	Trend        trend.Config
	Conversation conversation.Config
	Sink         sink.Config
	Query        query.Config
	Gateway      gateway.Config
	IngestAddr   string
	QueryAddr    string
}

func defaultRooms() rooms {
	r := rooms{
		ClickHouse: clickhouse.DefaultConfig(), Server: server.DefaultConfig(), HTTP: server.DefaultHTTPConfig(),
		Ingest: ingest.DefaultConfig(), Processor: processor.DefaultConfig(), Anomaly: anomaly.DefaultConfig(), Trend: trend.DefaultConfig(),
		Conversation: conversation.DefaultConfig(), Sink: sink.DefaultConfig(), Query: query.DefaultConfig(), Gateway: gateway.DefaultConfig(),
		IngestAddr: "127.0.0.1:50051", QueryAddr: "127.0.0.1:50051",
	}
	r.Ingest.AllowBackfill = true // settle takes it back where others than this machine can connect
	return r
}

func (c *config) clickhouseSettings(t *settings) {
	t.add("clickhouse.url", "host:port (native protocol), or http(s)://host:port; up runs its own without it", stringValue{&c.ClickHouse.URL})
	t.add("clickhouse.user", "user", stringValue{&c.ClickHouse.User})
	t.add("clickhouse.password", "password", stringValue{&c.ClickHouse.Password}, secret)
	t.add("clickhouse.port", "port of the embedded engine's native protocol", intValue{&c.ClickHousePort})
	t.add("clickhouse.http_port", "port of the embedded engine's HTTP interface", intValue{&c.ClickHouseHTTPPort})
	t.add("clickhouse.max_conns", "connections at a time", intValue{&c.ClickHouse.MaxConns})
}

func (c *config) roomSettings(t *settings) {
	t.add("anomaly.threshold", "messages of one sender within the span that make an alert", intValue{&c.Anomaly.Threshold})
	t.add("anomaly.span", "the span", durationValue{&c.Anomaly.Span})
	t.add("trend.window", "length of a trend's window; a multiple of 30s", durationValue{&c.Trend.Window})
	t.add("trend.min_chars", "least characters of a word", intValue{&c.Trend.MinChars})
	t.add("trend.min_count", "least uses of a word in a window", intValue{&c.Trend.MinCount})
	t.add("trend.top", "words announced for each window and partition of words", intValue{&c.Trend.Top})
	t.add("ingest.allow_backfill", "accept old times in requests that set backfill; by default only while listening on loopback", boolValue{&c.Ingest.AllowBackfill},
		flagged("allow-backfill"), env("ALLOW_BACKFILL"))
	t.add("ingest.stream_in_flight", "unacknowledged messages a stream may have", intValue{&c.Ingest.StreamInFlight})
	t.add("ingest.ack_wait", "longest wait for Kafka's acknowledgement", durationValue{&c.Ingest.AckWait})
	t.add("processor.commit_every", "time between commits", durationValue{&c.Processor.CommitEvery})
	t.add("processor.batch_records", "records handled between two looks at the clock", intValue{&c.Processor.BatchRecords})
	t.add("processor.outstanding", "records written and not yet acknowledged", intValue{&c.Processor.Outstanding})
	t.add("sink.batch_rows", "rows that start an insert", intValue{&c.Sink.BatchRows})
	t.add("sink.batch_bytes", "bytes that start an insert", intValue{&c.Sink.BatchBytes})
	t.add("sink.batch_wait", "longest a record waits for an insert to start", durationValue{&c.Sink.BatchWait})
	t.add("sink.insert_timeout", "after which an insert counts as failed and is repeated", durationValue{&c.Sink.InsertTimeout})
	t.add("sink.poison_run", "unreadable records in a row that stop the sink", intValue{&c.Sink.PoisonRun})
	t.add("query.max_streams", "open streams of all kinds", intValue{&c.Query.MaxStreams})
	t.add("query.buffer", "records a subscriber may fall behind before its stream is ended", intValue{&c.Query.Buffer})
	t.add("query.heartbeat", "longest silence on a stream", durationValue{&c.Query.Heartbeat})
	t.add("query.timeout", "longest a history query may run", durationValue{&c.Query.QueryTimeout})
	t.add("gateway.ingest_addr", "where the gateway finds ingest when apart", stringValue{&c.IngestAddr}, flagged("ingest-addr"), env("INGEST_ADDR"))
	t.add("gateway.query_addr", "where the gateway finds query when apart", stringValue{&c.QueryAddr}, flagged("query-addr"), env("QUERY_ADDR"))
	t.add("gateway.cors_origins", "origins whose pages may call the REST API, exactly as browsers send them", listValue{&c.Gateway.CORSOrigins}, flagged("cors-origins"), env("CORS_ORIGINS"))
	t.add("gateway.hosts", "names the gateway answers to beside localhost and IP addresses; * for any", listValue{&c.Gateway.Hosts})
	t.add("gateway.trusted_proxies", "addresses whose X-Forwarded-For is believed", listValue{&c.Gateway.TrustedProxies})
	t.add("server.max_conns", "gRPC connections; 0 for no bound", intValue{&c.Server.MaxConns})
	t.add("server.max_conns_per_addr", "gRPC connections from one address; 0 for no bound", intValue{&c.Server.MaxConnsPerAddress})
	t.add("http.max_conns_per_addr", "HTTP connections from one address; 0 for no bound, as behind a proxy", intValue{&c.HTTP.MaxConnsPerAddress})
	t.add("server.reflection", "let grpcurl and the like list the services", boolValue{&c.Server.Reflection})
}

func (c *config) validateRooms() error {
	return errors.Join(c.ClickHouse.Validate(), c.Server.Validate(), c.HTTP.Validate(), c.Ingest.Validate(), c.Processor.Validate(), c.Anomaly.Validate(),
		c.Trend.Validate(), c.Conversation.Validate(), c.Sink.Validate(), c.Query.Validate(), c.Gateway.Validate(), c.anomalyFits())
}

// anomalyFits bounds the span by what hosts remember and what one commit's metadata can name.
func (c *config) anomalyFits() error {
	if c.Anomaly.Span > time.Hour {
		return fmt.Errorf("anomaly.span: got %v, want at most 1h", c.Anomaly.Span)
	}
	return nil
}

// settle derives what follows from other settings. It comes after load.
func (c *config) settle(t *settings) {
	c.Ingest.Retention = c.Retention
	c.Ingest.Topics = c.Kafka.Topics
	if t.by["ingest.allow_backfill"].from == "default" {
		c.Ingest.AllowBackfill = c.loopback()
	}
	if !c.loopback() && t.by["gateway.hosts"].from == "default" {
		c.Gateway.Hosts = []string{"*"} // who opens the port to others chooses the names
	}
	c.Gateway.Version, c.Gateway.CallDeadline = version(), c.Server.CallDeadline
	c.Processor.Span = c.Anomaly.Span
	c.Processor.ConversationKeep = max(c.Conversation.Keep(), c.Trend.Keep())
	c.Processor.TermKeep = c.Trend.KeepTotals()
}

func upper(s string) string  { return strings.ToUpper(s) }
func dashed(s string) string { return strings.ReplaceAll(s, "_", "-") }
