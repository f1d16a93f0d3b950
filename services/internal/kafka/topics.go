package kafka

import (
	"errors"
	"fmt"
	"regexp"
	"time"

	eventv1 "github.com/earshot/earshot/gen/earshot/event/v1"
	"google.golang.org/protobuf/proto"
)

// Topic is one row of the registry. Values are raw protobuf, one message a record.
type Topic struct {
	Name       string
	Key        string               // what records are keyed by; empty when the writer chooses the partition
	Value      func() proto.Message // an empty value; nil for dead letters, which hold any bytes
	Partitions int
	Retention  time.Duration // counted from a record's timestamp
	Internal   bool          // re-keying between hosts; its number of partitions never changes
}

// Topics is the registry: every topic Earshot reads or writes. Names, partitions and retention are settings.
type Topics struct {
	Messages, Views                                   Topic
	ConversationMetrics, Trends, UserActivity, Alerts Topic
	SenderEvents, TermTotals                          Topic
}

const day = 24 * time.Hour

// DefaultTopics returns the registry as documented.
func DefaultTopics() Topics {
	return Topics{
		Messages:            Topic{"chat.messages", "conversation_id", value[eventv1.Message], 6, 7 * day, false},
		Views:               Topic{"message-views", "conversation_id", value[eventv1.MessageView], 4, 30 * day, false},
		ConversationMetrics: Topic{"conversation-metrics", "conversation_id", value[eventv1.ConversationMetrics], 3, 7 * day, false},
		Trends:              Topic{"trending-words", "term", value[eventv1.Trend], 3, 7 * day, false},
		UserActivity:        Topic{"user-activity-metrics", "user_id", value[eventv1.UserActivity], 3, 7 * day, false},
		Alerts:              Topic{"anomaly-alerts", "user_id", value[eventv1.Alert], 2, 30 * day, false},
		SenderEvents:        Topic{"earshot.sender-events", "", value[eventv1.SenderEvents], 6, day, true},
		TermTotals:          Topic{"earshot.term-totals", "", value[eventv1.TermTotals], 3, day, true},
	}
}

func value[T any, P interface {
	*T
	proto.Message
}]() proto.Message {
	return P(new(T))
}

// Stored returns the topics that the sink keeps in ClickHouse.
func (t Topics) Stored() []Topic {
	return []Topic{t.Messages, t.Views, t.ConversationMetrics, t.Trends, t.UserActivity, t.Alerts}
}

// Sources returns the topics without their dead letters: the stored and the internal ones.
func (t Topics) Sources() []Topic { return append(t.Stored(), t.SenderEvents, t.TermTotals) }

// All returns every topic, dead letters included.
func (t Topics) All() []Topic {
	all := t.Sources()
	for _, s := range t.Sources() {
		all = append(all, s.DeadLetter())
	}
	return all
}

// Named returns the topic of that name.
func (t Topics) Named(name string) (Topic, bool) {
	for _, topic := range t.All() {
		if topic.Name == name {
			return topic, true
		}
	}
	return Topic{}, false
}

// DeadLetter returns the topic for records of t that could not be handled: same key and partitions, kept 30 days.
func (t Topic) DeadLetter() Topic {
	return Topic{Name: t.Name + deadLetterSuffix, Key: t.Key, Partitions: t.Partitions, Retention: 30 * day, Internal: t.Internal}
}

var topicName = regexp.MustCompile(`^[a-zA-Z0-9._-]{1,200}$`)

// Validate returns every fault of the registry at once.
func (t Topics) Validate() error {
	var errs []error
	seen := map[string]bool{}
	for _, topic := range t.Sources() {
		if !topicName.MatchString(topic.Name) || topic.Name == "." || topic.Name == ".." {
			errs = append(errs, fmt.Errorf("kafka.topics: name %q, want 1 to 200 of a-z A-Z 0-9 . _ -", topic.Name))
		}
		if seen[topic.Name] {
			errs = append(errs, fmt.Errorf("kafka.topics: name %q is used twice", topic.Name))
		}
		seen[topic.Name] = true
		if topic.Partitions < 1 || topic.Partitions > 1024 {
			errs = append(errs, fmt.Errorf("kafka.topics: %s: %d partitions, want 1 to 1024", topic.Name, topic.Partitions))
		}
		if topic.Retention < time.Minute {
			errs = append(errs, fmt.Errorf("kafka.topics: %s: retention %v, want at least 1m", topic.Name, topic.Retention))
		}
	}
	return errors.Join(errs...)
}
