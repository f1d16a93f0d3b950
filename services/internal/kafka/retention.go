package kafka

import (
	"context"
	"fmt"
	"strconv"
	"time"

	ck "github.com/confluentinc/confluent-kafka-go/v2/kafka"
)

// Retention returns how long brokers keep a topic's records; negative is for ever.
func (a *Admin) Retention(ctx context.Context, topic string) (time.Duration, error) {
	res, err := a.client.DescribeConfigs(ctx, []ck.ConfigResource{{Type: ck.ResourceTopic, Name: topic}}, ck.SetAdminRequestTimeout(timeout(ctx)))
	if err != nil {
		return 0, fmt.Errorf("read settings of %s: %w", topic, err)
	}
	if len(res) != 1 || res[0].Error.Code() != ck.ErrNoError {
		return 0, fmt.Errorf("read settings of %s: brokers do not tell", topic)
	}
	text := res[0].Config["retention.ms"].Value
	ms, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read settings of %s: retention.ms is %q", topic, text)
	}
	return time.Duration(ms) * time.Millisecond, nil
}
