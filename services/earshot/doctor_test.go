package main

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/earshot/earshot/services/internal/kafka"
	"github.com/earshot/earshot/services/internal/kafka/kafkatest"
)

// Without ClickHouse, and with the topics of other settings; a mesh where all is well is asked in services/tests/up.
func TestDoctorSaysWhatToDo(t *testing.T) {
	cfg := kafkatest.Start(t)
	stranger := httptest.NewServer(http.NotFoundHandler())
	defer stranger.Close()
	_, port, _ := strings.Cut(strings.TrimPrefix(stranger.URL, "http://"), ":")
	out, err := earshot(t, "doctor", "--kafka-brokers", cfg.Brokers[0], "--clickhouse-url", "127.0.0.1:1", "--grpc-port", "1", "--http-port", port,
		"--topic-messages-partitions", "8", "--topic-views-partitions", "2", "--topic-alerts-retention", "1h", "--topic-trends-name", "elsewhere", "--topic-sender-events-partitions", "7")
	if err == nil || !strings.Contains(err.Error(), "checks failed") {
		t.Errorf("got %v", err)
	}
	for _, want := range []string{
		"✓ Kafka answers at " + cfg.Brokers[0],
		"✗ topic chat.messages: got 6 partitions, the settings say 8; run: earshot topics apply",
		"✗ topic message-views: got 4 partitions, the settings say 2: partitions can not be taken away; set its partitions",
		"✗ topic anomaly-alerts: got a retention of 720h, the settings say 1h; run: earshot topics apply",
		"✗ topic elsewhere: missing; run: earshot topics apply",
		"✗ topic earshot.sender-events: got 6 partitions, the settings say 7; set them back",
		"· clock of records: not checked, there are no messages",
		"✗ ClickHouse at 127.0.0.1:1: ", "; start it (earshot up brings its own)",
		"· gRPC at 127.0.0.1:1: nothing runs there",
		"✗ REST at 127.0.0.1:" + port + ": it answers 404 and no health; is something else on the port?",
		"· embedded engine: not needed",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
	for _, line := range strings.Split(strings.TrimSpace(out), "\n") {
		if !strings.HasPrefix(line, "✓ ") && !strings.HasPrefix(line, "✗ ") && !strings.HasPrefix(line, "· ") {
			t.Errorf("line %q", line)
		}
	}
}

func TestTopicsAreWellAsApplied(t *testing.T) {
	cfg := kafkatest.Start(t)
	err := withAdmin(t.Context(), cfg, func(admin *kafka.Admin) error {
		for _, topic := range cfg.Topics.All() {
			if err := checkTopic(t.Context(), admin, topic); err != nil {
				t.Errorf("%s: %v", topic.Name, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
