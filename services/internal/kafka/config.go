// Package kafka is the seam to the log. It alone knows the Kafka client (confluent-kafka-go), so that the client could be replaced here in a day.
//
// It gives the topic registry, an idempotent producer, a group consumer, a reader without a group, an admin and dead letters, and carries trace
// context in record headers. It may import gen and internal packages only.
package kafka

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	ck "github.com/confluentinc/confluent-kafka-go/v2/kafka"
)

// Config says where the brokers are and how to talk to them. Start from DefaultConfig.
type Config struct {
	Brokers        []string      // host:port of some brokers; at least one
	ClientID       string        // shown in the brokers' logs
	Topics         Topics        // the registry
	Linger         time.Duration // how long a record waits for company in a batch; 0 to 1s
	Compression    string        // none, gzip, snappy, lz4 or zstd
	MessageTimeout time.Duration // how long an acknowledgement is awaited and retried; at least 30s, well above every RPC deadline
	SessionTimeout time.Duration // silence after which a group member counts as dead; at least 1s
	BufferRecords  int           // records a producer holds unacknowledged before it refuses more; at least 1,000
	BufferBytes    int           // the same in bytes; at least 1 MiB
	ReadAhead      int           // records a consumer fetches ahead of Poll; at least 100
	ReadAheadBytes int           // the same in bytes, for each topic; at least 64 KiB
	FetchBytes     int           // bytes that a fetch waits for, up to 100 ms; 1 (as soon as there is anything) to 1 MiB
	Instance       string        // group.instance.id (static membership); empty for none
}

// DefaultConfig returns the settings for brokers near by.
func DefaultConfig() Config {
	return Config{
		Brokers:        []string{"127.0.0.1:9092"},
		ClientID:       "earshot",
		Topics:         DefaultTopics(),
		Linger:         time.Millisecond,
		Compression:    "none",
		MessageTimeout: time.Minute, // shorter ones start a new producer epoch under broker kills and write records twice
		SessionTimeout: 10 * time.Second,
		BufferRecords:  200_000,
		BufferBytes:    128 << 20,
		ReadAhead:      20_000,
		ReadAheadBytes: 8 << 20,
		FetchBytes:     1,
	}
}

// Validate returns every fault at once, by its setting.
func (c Config) Validate() error {
	var errs []error
	if len(c.Brokers) == 0 {
		errs = append(errs, errors.New("kafka.brokers: got none, want at least one host:port"))
	}
	for _, b := range c.Brokers {
		if _, _, err := net.SplitHostPort(b); err != nil {
			errs = append(errs, fmt.Errorf("kafka.brokers: got %q, want host:port", b))
		}
	}
	if c.Linger < 0 || c.Linger > time.Second {
		errs = append(errs, fmt.Errorf("kafka.linger: got %v, want 0 to 1s", c.Linger))
	}
	switch c.Compression {
	case "none", "gzip", "snappy", "lz4", "zstd":
	default:
		errs = append(errs, fmt.Errorf("kafka.compression: got %q, want none, gzip, snappy, lz4 or zstd", c.Compression))
	}
	if c.MessageTimeout < 30*time.Second {
		errs = append(errs, fmt.Errorf("kafka.message_timeout: got %v, want at least 30s", c.MessageTimeout))
	}
	if c.SessionTimeout < time.Second {
		errs = append(errs, fmt.Errorf("kafka.session_timeout: got %v, want at least 1s", c.SessionTimeout))
	}
	if c.BufferRecords < 1000 {
		errs = append(errs, fmt.Errorf("kafka.buffer_records: got %d, want at least 1000", c.BufferRecords))
	}
	if c.BufferBytes < 1<<20 {
		errs = append(errs, fmt.Errorf("kafka.buffer_bytes: got %d, want at least %d", c.BufferBytes, 1<<20))
	}
	if c.ReadAhead < 100 {
		errs = append(errs, fmt.Errorf("kafka.read_ahead: got %d, want at least 100", c.ReadAhead))
	}
	if c.ReadAheadBytes < 64<<10 {
		errs = append(errs, fmt.Errorf("kafka.read_ahead_bytes: got %d, want at least %d", c.ReadAheadBytes, 64<<10))
	}
	if c.FetchBytes < 1 || c.FetchBytes > 1<<20 {
		errs = append(errs, fmt.Errorf("kafka.fetch_bytes: got %d, want 1 to %d", c.FetchBytes, 1<<20))
	}
	return errors.Join(append(errs, c.Topics.Validate())...)
}

// client returns the settings that producers, consumers and admins share.
func (c Config) client() ck.ConfigMap {
	brokers := ""
	for i, b := range c.Brokers {
		if i > 0 {
			brokers += ","
		}
		brokers += b
	}
	return ck.ConfigMap{
		"bootstrap.servers":                  brokers,
		"client.id":                          c.ClientID,
		"topic.metadata.refresh.interval.ms": 10_000, // all agree on new partitions within 10 s
		"allow.auto.create.topics":           false,
		"enable.metrics.push":                false, // brokers without telemetry answer it with a warning
		"socket.keepalive.enable":            true,
		"socket.nagle.disable":               true,
		"reconnect.backoff.ms":               50,
		"reconnect.backoff.max.ms":           2_000,
		"broker.address.family":              "any",
		"go.logs.channel.enable":             true,
		"go.logs.channel":                    make(chan ck.LogEvent, 64), // its own would take a MiB for each client
	}
}

func with(base ck.ConfigMap, more ck.ConfigMap) *ck.ConfigMap {
	for k, v := range more {
		base[k] = v
	}
	return &base
}

// relay passes the client's own log lines on until its channel closes. They name brokers and topics, never content.
func relay(log *slog.Logger, lines chan ck.LogEvent, done <-chan struct{}) {
	for {
		select {
		case l, ok := <-lines:
			if !ok {
				return
			}
			switch {
			case l.Level <= 3: // syslog: error and worse. Brokers come back; what fails for good reaches the caller as an error.
				log.Warn("kafka client", "facility", l.Tag, "client", l.Name, "err", l.Message)
			case l.Level <= 5:
				log.Info("kafka client", "facility", l.Tag, "client", l.Name, "detail", l.Message)
			default:
				log.Debug("kafka client", "facility", l.Tag, "client", l.Name, "detail", l.Message)
			}
		case <-done:
			return
		}
	}
}
