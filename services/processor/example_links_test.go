package processor_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	eventv1 "github.com/earshot/earshot/gen/earshot/event/v1"
	"github.com/earshot/earshot/services/internal/ident"
	"github.com/earshot/earshot/services/internal/kafka"
	"github.com/earshot/earshot/services/internal/kafka/kafkatest"
	"github.com/earshot/earshot/services/internal/telemetry"
	"github.com/earshot/earshot/services/processor"
	"github.com/earshot/earshot/services/processor/recent"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// What stands between the marks is quoted by docs/new-processor.md.

// begin: algorithm

// Links counts the messages with a link, by conversation and step of 5 s. It serves one partition of chat.messages.
type Links struct {
	steps map[step]*count
	clock int64 // log time in whole seconds
}

type step struct {
	conversation string
	end          int64 // milliseconds since the epoch, a multiple of 5 s
}

type count struct {
	links   int
	changed int64 // log time of the last message that changed it
	touched int64 // log time of the last message in it, copies included
	told    bool
}

// NewLinks returns a Links that has seen nothing.
func NewLinks() *Links { return &Links{steps: map[step]*count{}} }

// Observe implements processor.ByConversation.
func (l *Links) Observe(m *eventv1.Message, at recent.Seen, _ recent.Emit) {
	if !strings.Contains(m.Content, "https://") {
		return
	}
	k := step{m.ConversationId, at.Log.Entries[at.Index].Millis()/5000*5000 + 5000}
	c := l.steps[k]
	if c == nil {
		c = &count{}
		l.steps[k] = c
	}
	c.touched = max(c.touched, at.LogTime)
	if at.First { // a copy renews, and counts for nothing
		c.links++
		c.changed, c.told = at.LogTime, false
	}
}

// Advance implements processor.ByConversation: it tells what has been still for 10 s of log time, and forgets what nothing more can come for.
func (l *Links) Advance(logTime int64, emit recent.Emit) {
	if logTime/1000 == l.clock {
		return
	}
	l.clock = logTime / 1000
	for k, c := range l.steps {
		if !c.told && logTime >= max(k.end, c.changed)+10_000 {
			c.told = true
			emit(k.conversation, &structpb.Struct{Fields: map[string]*structpb.Value{
				"conversation_id": structpb.NewStringValue(k.conversation),
				"window_end":      structpb.NewNumberValue(float64(k.end)),
				"links":           structpb.NewNumberValue(float64(c.links)),
			}})
		}
		if c.told && logTime >= c.touched+65_000 {
			delete(l.steps, k)
		}
	}
}

// end: algorithm

func TestLinksExample(t *testing.T) {
	kafkaCfg := kafkatest.Start(t)
	tel := telemetry.Nop()
	// begin: wiring
	topic := kafka.Topic{
		Name: "conversation-links", Key: "conversation_id", Partitions: 3, Retention: 7 * 24 * time.Hour,
		Value: func() proto.Message { return &structpb.Struct{} },
	}
	host := processor.New(processor.DefaultConfig(), kafkaCfg, tel,
		[]processor.ConversationFactory{
			{Name: "links", New: func(int32) processor.ByConversation { return NewLinks() }},
		},
		nil, // processors by sender
		processor.WithOutputs(topic))
	// end: wiring
	admin, err := kafka.NewAdmin(kafkaCfg)
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	if _, err := admin.Apply(t.Context(), []kafka.Topic{topic}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- host.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()

	// Two messages with a link, one of them twice, of a minute ago: once the partition is read to its end its log time is a second behind the clock, so
	// they are told at once. Should that come between them, the first result says 1 and a second one corrects it.
	producer, err := kafka.NewProducer(kafkaCfg, tel)
	if err != nil {
		t.Fatal(err)
	}
	defer producer.Close()
	now := time.Now().Add(-time.Minute).Truncate(5 * time.Second)
	for i, content := range []string{"see https://example.org", "no link", "https://example.net", "https://example.net"} {
		created := now.Add(time.Duration(min(i, 2)) * time.Second)
		id := ident.Hashed(created, content).MessageID()
		value, err := proto.Marshal(&eventv1.Message{
			MessageId: id, ConversationId: "conv-1", SenderId: "ann", Content: content, MessageType: "text", CreatedAt: timestamppb.New(created),
		})
		if err != nil {
			t.Fatal(err)
		}
		r := kafka.Record{Topic: kafkaCfg.Topics.Messages.Name, Partition: kafka.AnyPartition, Key: []byte("conv-1"), Value: value, Timestamp: created}
		if err := producer.Produce(t.Context(), r); err != nil {
			t.Fatal(err)
		}
	}
	reader, err := kafka.NewReader(kafkaCfg, tel)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	at := map[kafka.TopicPartition]int64{}
	for p := range topic.Partitions {
		at[kafka.TopicPartition{Topic: topic.Name, Partition: int32(p)}] = kafka.FirstOffset
	}
	if err := reader.Assign(at); err != nil {
		t.Fatal(err)
	}
	last := ""
	for deadline := time.Now().Add(30 * time.Second); ; {
		recs, err := reader.Poll(t.Context(), 1, 200*time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		if len(recs) > 0 {
			var got structpb.Struct
			if err := proto.Unmarshal(recs[0].Value, &got); err != nil {
				t.Fatal(err)
			}
			last = fmt.Sprint(string(recs[0].Key), " ", got.AsMap())
			want := fmt.Sprint("conv-1 ", map[string]any{"conversation_id": "conv-1", "window_end": float64(now.Add(5 * time.Second).UnixMilli()), "links": 2.0})
			if last == want {
				return
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("after 30 s the last result is %q", last)
		}
	}
}

// The page must show the code that was built and run here.
func TestDocumentQuotesTheExample(t *testing.T) {
	source, err := os.ReadFile("example_links_test.go")
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../../docs/new-processor.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"algorithm", "wiring"} {
		_, rest, ok := strings.Cut(string(source), "// begin: "+name+"\n")
		code, _, ok2 := strings.Cut(rest, "// end: "+name+"\n")
		if !ok || !ok2 {
			t.Fatalf("no marks around %s", name)
		}
		code = strings.TrimSpace(strings.TrimRight(code, "\t"))
		if indent := "\n\t"; name == "wiring" {
			code = strings.ReplaceAll(code, indent, "\n")
		}
		if !strings.Contains(string(page), "```go\n"+code+"\n```") {
			t.Errorf("docs/new-processor.md does not quote the %s as it is here; it should read:\n%s", name, code)
		}
	}
}
