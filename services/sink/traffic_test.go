package sink

import (
	"fmt"
	"time"

	eventv1 "github.com/earshot/earshot/gen/earshot/event/v1"
	"github.com/earshot/earshot/services/internal/ident"
	"github.com/earshot/earshot/services/internal/kafka"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

var topics = kafka.DefaultTopics()

func stamp(t time.Time) *timestamppb.Timestamp { return timestamppb.New(t.Truncate(time.Millisecond)) }

func rec(topic kafka.Topic, key string, m proto.Message) kafka.Record {
	value, err := proto.Marshal(m)
	if err != nil {
		panic(err)
	}
	return kafka.Record{Topic: topic.Name, Partition: kafka.AnyPartition, Key: []byte(key), Value: value}
}

// chat is the message that a sender wrote to a conversation at a time; what tells such messages apart.
func chat(conversation, sender string, at time.Time, what string) *eventv1.Message {
	return &eventv1.Message{
		MessageId:      ident.Hashed(at, conversation, sender, what).MessageID(),
		ConversationId: conversation, SenderId: sender, ReceiverId: "bob",
		Content: what, CreatedAt: stamp(at), MessageType: "text",
	}
}

func messageRec(m *eventv1.Message) kafka.Record {
	return rec(topics.Messages, m.GetConversationId(), m)
}

func viewRec(m *eventv1.Message, user, status string, at time.Time) kafka.Record {
	return rec(topics.Views, m.GetConversationId(), &eventv1.MessageView{
		MessageId: m.GetMessageId(), ConversationId: m.GetConversationId(), UserId: user, Status: status, ViewedAt: stamp(at),
	})
}

// crowd is n messages of a few users and conversations, one a second up to end.
func crowd(n int, end time.Time) []kafka.Record {
	recs := make([]kafka.Record, n)
	for i := range recs {
		at := end.Add(-time.Duration(n-i) * time.Second)
		recs[i] = messageRec(chat(fmt.Sprintf("conv-%d", i%17), fmt.Sprintf("user-%d", i%5), at, fmt.Sprintf("message %d", i)))
	}
	return recs
}

func alertEvent(at time.Time) *eventv1.Alert {
	return &eventv1.Alert{
		AlertId: "alert-1", UserId: "mallory", State: eventv1.AlertState_ALERT_STATE_OPEN, TriggeredAt: stamp(at), Count: 8, Threshold: 8, SpanSeconds: 60,
		WindowStart: stamp(at.Add(-time.Minute)), WindowEnd: stamp(at), MessageIds: []string{"m1", "m2"},
		Positions:       []*eventv1.RecordPosition{{Partition: 1, Offset: 10}, {Partition: 2, Offset: 20}},
		ConversationIds: []string{"c", "d"}, Revision: 1, Rule: "rate/1",
	}
}

func trendEvent(start time.Time) *eventv1.Trend {
	return &eventv1.Trend{
		Term: "deadline", WindowStart: stamp(start), WindowEnd: stamp(start.Add(2 * time.Minute)), Count: 8, Senders: 5, Score: 6.5, Baseline: 1,
		State: eventv1.WindowState_WINDOW_STATE_CLOSED, Approximate: true, Revision: 17,
	}
}

func windowEvent(end time.Time) *eventv1.ConversationMetrics {
	return &eventv1.ConversationMetrics{
		ConversationId: "c", WindowStart: stamp(end.Add(-30 * time.Second)), WindowEnd: stamp(end), MessageCount: 3, ParticipantCount: 2, Rate: 0.1, Peak: 2,
		ReplySeconds: 4.5, Replies: 2, State: eventv1.WindowState_WINDOW_STATE_PROVISIONAL, Revision: 6,
	}
}

func activityEvent(start time.Time) *eventv1.UserActivity {
	return &eventv1.UserActivity{
		UserId: "alice", WindowStart: stamp(start), WindowEnd: stamp(start.Add(time.Minute)), MessageCount: 4, ActiveConversations: 2,
		LastActive: stamp(start.Add(40 * time.Second)), State: eventv1.WindowState_WINDOW_STATE_CLOSED, Revision: 9,
	}
}
