package query_test

import (
	"context"
	"strconv"
	"testing"

	"github.com/earshot/earshot/services/internal/kafka"
	"github.com/earshot/earshot/services/internal/kafka/kafkatest"
	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// admin is for what only an operator does to a topic.
func admin(t *testing.T, cfg kafka.Config) *kadm.Client {
	t.Helper()
	cl, err := kgo.NewClient(kgo.SeedBrokers(cfg.Brokers...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cl.Close)
	return kadm.NewClient(cl)
}

// remake deletes a topic and creates it anew.
func remake(t *testing.T, cfg kafka.Config, topic kafka.Topic) {
	t.Helper()
	if _, err := admin(t, cfg).DeleteTopics(context.Background(), topic.Name); err != nil {
		t.Fatal(err)
	}
	kafkatest.Apply(t, cfg)
}

// cut deletes the records before offset in every partition, as retention does.
func cut(t *testing.T, cfg kafka.Config, topic kafka.Topic, offset int64) {
	t.Helper()
	at := kadm.Offsets{}
	for p := range topic.Partitions {
		at.Add(kadm.Offset{Topic: topic.Name, Partition: int32(p), At: offset, LeaderEpoch: -1})
	}
	res, err := admin(t, cfg).DeleteRecords(context.Background(), at)
	if err == nil {
		err = res.Error()
	}
	if err != nil {
		t.Fatal(err)
	}
}

func atoi(t *testing.T, s string) int {
	t.Helper()
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
