package kafka

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	ck "github.com/confluentinc/confluent-kafka-go/v2/kafka"
)

// Admin asks brokers about topics and offsets, and sets topics up. Safe for concurrent use.
type Admin struct {
	client *ck.AdminClient
	bare   *ck.Producer // carries the admin client: only a producer offers a log channel
	done   chan struct{}
	wg     sync.WaitGroup
}

// NewAdmin returns an admin. It does not wait for brokers.
func NewAdmin(cfg Config) (*Admin, error) {
	p, err := ck.NewProducer(with(cfg.client(), ck.ConfigMap{"go.events.channel.size": 64, "go.produce.channel.size": 1}))
	if err != nil {
		return nil, fmt.Errorf("create admin: %w", err)
	}
	c, err := ck.NewAdminClientFromProducer(p)
	if err != nil {
		p.Close()
		return nil, fmt.Errorf("create admin: %w", err)
	}
	a := &Admin{client: c, bare: p, done: make(chan struct{})}
	a.wg.Add(1)
	go func() {
		defer a.wg.Done()
		logs, events := p.Logs(), p.Events()
		for logs != nil || events != nil { // its callers get errors; connection trouble is logged by producers and consumers
			select {
			case _, ok := <-logs:
				if !ok {
					logs = nil
				}
			case _, ok := <-events:
				if !ok {
					events = nil
				}
			case <-a.done:
				return
			}
		}
	}()
	return a, nil
}

// Close ends the admin.
func (a *Admin) Close() {
	a.client.Close()
	a.bare.Close()
	close(a.done)
	a.wg.Wait()
}

// timeout returns what is left of ctx, at most 10 s.
func timeout(ctx context.Context) time.Duration {
	d := 10 * time.Second
	if at, ok := ctx.Deadline(); ok {
		d = min(d, time.Until(at))
	}
	return max(d, time.Millisecond)
}

// Ping succeeds when a broker answers with the cluster's metadata.
func (a *Admin) Ping(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	// A name that can not exist keeps the answer small.
	none := "__earshot_ping"
	if _, err := a.client.GetMetadata(&none, false, int(timeout(ctx)/time.Millisecond)); err != nil {
		return fmt.Errorf("ask brokers for metadata: %w", err)
	}
	return nil
}

// TopicInfo is what brokers know of a topic.
type TopicInfo struct {
	Name       string
	ID         string // changes when a topic is deleted and created anew
	Partitions int
	Exists     bool
}

// Describe returns what brokers know of a topic; Exists is false, without an error, when they do not have it.
func (a *Admin) Describe(ctx context.Context, topic string) (TopicInfo, error) {
	info := TopicInfo{Name: topic}
	res, err := a.client.DescribeTopics(ctx, ck.NewTopicCollectionOfTopicNames([]string{topic}), ck.SetAdminRequestTimeout(timeout(ctx)))
	if err != nil {
		return info, fmt.Errorf("describe topic %s: %w", topic, err)
	}
	d := res.TopicDescriptions[0]
	switch d.Error.Code() {
	case ck.ErrNoError:
	case ck.ErrUnknownTopicOrPart:
		return info, nil
	default:
		return info, fmt.Errorf("describe topic %s: %w", topic, d.Error)
	}
	info.ID, info.Partitions, info.Exists = d.TopicID.String(), len(d.Partitions), true
	return info, nil
}

// FirstOffsets returns the offset of the first kept record of each partition.
func (a *Admin) FirstOffsets(ctx context.Context, topic string) (map[int32]int64, error) {
	return a.offsets(ctx, topic, ck.EarliestOffsetSpec)
}

// EndOffsets returns the offset after the last record of each partition: what a reader reaches once it has read all.
func (a *Admin) EndOffsets(ctx context.Context, topic string) (map[int32]int64, error) {
	return a.offsets(ctx, topic, ck.LatestOffsetSpec)
}

// OffsetsAt returns, for each partition, the offset of the first record whose timestamp is at or after t, or the end when there is none.
func (a *Admin) OffsetsAt(ctx context.Context, topic string, t time.Time) (map[int32]int64, error) {
	at, err := a.offsets(ctx, topic, ck.NewOffsetSpecForTimestamp(t.UnixMilli()))
	if err != nil {
		return nil, err
	}
	var end map[int32]int64
	for p, o := range at {
		if o >= 0 {
			continue
		}
		if end == nil {
			if end, err = a.EndOffsets(ctx, topic); err != nil {
				return nil, err
			}
		}
		at[p] = end[p]
	}
	return at, nil
}

func (a *Admin) offsets(ctx context.Context, topic string, spec ck.OffsetSpec) (map[int32]int64, error) {
	info, err := a.Describe(ctx, topic)
	if err != nil {
		return nil, err
	}
	if !info.Exists {
		return nil, fmt.Errorf("topic %s does not exist; create it with: earshot topics apply", topic)
	}
	ask := make(map[ck.TopicPartition]ck.OffsetSpec, info.Partitions)
	for p := range info.Partitions {
		ask[ck.TopicPartition{Topic: &topic, Partition: int32(p)}] = spec //nolint:gosec // a partition number
	}
	res, err := a.client.ListOffsets(ctx, ask, ck.SetAdminRequestTimeout(timeout(ctx)))
	if err != nil {
		return nil, fmt.Errorf("ask for offsets of %s: %w", topic, err)
	}
	out := make(map[int32]int64, info.Partitions)
	for tp, r := range res.ResultInfos {
		if r.Error.Code() != ck.ErrNoError {
			return nil, fmt.Errorf("ask for the offset of %s/%d: %w", topic, tp.Partition, r.Error)
		}
		out[tp.Partition] = int64(r.Offset)
	}
	return out, nil
}

// Committed returns how far a group is in each partition of a topic; partitions it never committed are absent.
func (a *Admin) Committed(ctx context.Context, group, topic string) (map[int32]int64, error) {
	res, err := a.client.ListConsumerGroupOffsets(ctx, []ck.ConsumerGroupTopicPartitions{{Group: group}}, ck.SetAdminRequestTimeout(timeout(ctx)))
	var kerr ck.Error
	if errors.As(err, &kerr) && kerr.Code() == ck.ErrGroupIDNotFound {
		return map[int32]int64{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("ask for the offsets of group %s: %w", group, err)
	}
	out := map[int32]int64{}
	for _, g := range res.ConsumerGroupsTopicPartitions {
		for _, p := range g.Partitions {
			if p.Topic != nil && *p.Topic == topic && p.Offset >= 0 {
				out[p.Partition] = int64(p.Offset)
			}
		}
	}
	return out, nil
}

// TopicChange says what Apply did to a topic.
type TopicChange struct {
	Topic string
	Did   string // "created", "unchanged" or what was changed, such as "partitions 4 -> 6, retention 168h0m0s -> 24h0m0s"
}

// Apply creates the topics that are missing, sets the retention and adds partitions where the registry asks for more. It never removes a
// partition, and never changes the number of an internal topic. It is safe to run again and from several processes at once.
func (a *Admin) Apply(ctx context.Context, topics []Topic) ([]TopicChange, error) {
	names := make([]string, len(topics))
	for i, t := range topics {
		names[i] = t.Name
	}
	res, err := a.client.DescribeTopics(ctx, ck.NewTopicCollectionOfTopicNames(names), ck.SetAdminRequestTimeout(timeout(ctx)))
	if err != nil {
		return nil, fmt.Errorf("describe %d topics: %w", len(topics), err)
	}
	have := map[string]int{}
	for _, d := range res.TopicDescriptions {
		switch d.Error.Code() {
		case ck.ErrNoError:
			have[d.Name] = len(d.Partitions)
		case ck.ErrUnknownTopicOrPart:
		default:
			return nil, fmt.Errorf("describe topic %s: %w", d.Name, d.Error)
		}
	}
	var changes []TopicChange
	for _, t := range topics {
		var did string
		if n, ok := have[t.Name]; !ok {
			did, err = "created", a.create(ctx, t)
		} else {
			did, err = a.alter(ctx, t, n)
		}
		if err != nil {
			return changes, err
		}
		changes = append(changes, TopicChange{t.Name, did})
	}
	return changes, nil
}

func (a *Admin) create(ctx context.Context, t Topic) error {
	res, err := a.client.CreateTopics(ctx, []ck.TopicSpecification{{
		Topic: t.Name, NumPartitions: t.Partitions, ReplicationFactor: -1, // the brokers' default
		Config: map[string]string{"retention.ms": millis(t.Retention), "cleanup.policy": "delete"},
	}}, ck.SetAdminOperationTimeout(timeout(ctx)))
	if err != nil {
		return fmt.Errorf("create topic %s: %w", t.Name, err)
	}
	if c := res[0].Error.Code(); c != ck.ErrNoError && c != ck.ErrTopicAlreadyExists {
		return fmt.Errorf("create topic %s: %w", t.Name, res[0].Error)
	}
	return nil
}

func (a *Admin) alter(ctx context.Context, t Topic, partitions int) (string, error) {
	var did []string
	if partitions < t.Partitions {
		if t.Internal {
			return "", fmt.Errorf("topic %s has %d partitions, the registry says %d: an internal topic's number never changes; set it back or delete the topic while all hosts are down", t.Name, partitions, t.Partitions)
		}
		res, err := a.client.CreatePartitions(ctx, []ck.PartitionsSpecification{{Topic: t.Name, IncreaseTo: t.Partitions}})
		if err == nil && res[0].Error.Code() != ck.ErrNoError {
			err = res[0].Error
		}
		if err != nil {
			return "", fmt.Errorf("add partitions to %s: %w", t.Name, err)
		}
		did = append(did, fmt.Sprintf("partitions %d -> %d", partitions, t.Partitions))
	}
	res, err := a.client.DescribeConfigs(ctx, []ck.ConfigResource{{Type: ck.ResourceTopic, Name: t.Name}})
	if err != nil {
		return "", fmt.Errorf("read settings of %s: %w", t.Name, err)
	}
	if was := res[0].Config["retention.ms"].Value; was != millis(t.Retention) {
		res, err := a.client.IncrementalAlterConfigs(ctx, []ck.ConfigResource{{
			Type: ck.ResourceTopic, Name: t.Name,
			Config: []ck.ConfigEntry{{Name: "retention.ms", Value: millis(t.Retention), IncrementalOperation: ck.AlterConfigOpTypeSet}},
		}})
		if err == nil && res[0].Error.Code() != ck.ErrNoError {
			err = res[0].Error
		}
		if err != nil {
			return "", fmt.Errorf("set retention of %s: %w", t.Name, err)
		}
		from := was + " ms"
		if ms, err := strconv.ParseInt(was, 10, 64); err == nil {
			from = (time.Duration(ms) * time.Millisecond).String()
		}
		did = append(did, fmt.Sprintf("retention %s -> %v", from, t.Retention))
	}
	if len(did) == 0 {
		return "unchanged", nil
	}
	return strings.Join(did, ", "), nil
}

func millis(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

// Missing returns the names of topics that brokers do not have.
func (a *Admin) Missing(ctx context.Context, topics []Topic) ([]string, error) {
	var missing []string
	var errs []error
	for _, t := range topics {
		// Metadata comes from any broker that lives; describing a topic may wait for one that does not.
		known, err := a.client.GetMetadata(&t.Name, false, int(timeout(ctx)/time.Millisecond))
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case err != nil:
			errs = append(errs, fmt.Errorf("ask for topic %s: %w", t.Name, err))
		case known.Topics[t.Name].Error.Code() == ck.ErrUnknownTopicOrPart, known.Topics[t.Name].Error.Code() == ck.ErrUnknownTopic:
			missing = append(missing, t.Name)
		}
	}
	return missing, errors.Join(errs...)
}
