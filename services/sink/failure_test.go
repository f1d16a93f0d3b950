package sink

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/earshot/earshot/services/embedded"
	"github.com/earshot/earshot/services/internal/kafka"
	"github.com/earshot/earshot/services/internal/kafka/kafkatest"
	"github.com/earshot/earshot/services/internal/record"
	"github.com/earshot/earshot/services/internal/telemetry"
	"github.com/earshot/earshot/services/sink/schema"
	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// A sink that dies between INSERT and commit: the next one inserts the same records again, which nobody sees.
func TestNoCommitNoVisibleCopy(t *testing.T) {
	db := fresh(t)
	kcfg, broker := kafkatest.StartBroker(t)
	recs := crowd(500, time.Now())
	produce(t, kcfg, recs...)
	var refuse atomic.Bool
	var refused atomic.Int64
	refuse.Store(true)
	broker.ControlKey(int16(kmsg.OffsetCommit), func(req kmsg.Request) (kmsg.Response, error, bool) {
		broker.KeepControl()
		if !refuse.Load() {
			return nil, nil, false
		}
		refused.Add(1)
		commit := req.(*kmsg.OffsetCommitRequest)
		resp := commit.ResponseKind().(*kmsg.OffsetCommitResponse)
		for _, rt := range commit.Topics {
			st := kmsg.OffsetCommitResponseTopic{Topic: rt.Topic, TopicID: rt.TopicID}
			for _, rp := range rt.Partitions {
				st.Partitions = append(st.Partitions, kmsg.OffsetCommitResponseTopicPartition{Partition: rp.Partition, ErrorCode: kerr.OffsetMetadataTooLarge.Code})
			}
			resp.Topics = append(resp.Topics, st)
		}
		return resp, nil, true
	})
	_, stop := start(t, quick(), kcfg, db, telemetry.Nop())
	rows(t, db, 500, "message_db.messages")
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	if refused.Load() == 0 {
		t.Fatal("the sink never tried to commit")
	}
	a := admin(t, kcfg)
	if n := committed(t, a, topics.Messages.Name); n != 0 {
		t.Fatalf("committed up to %d, want nothing", n)
	}
	do(t, db, "SYSTEM STOP MERGES message_db.message_rows")
	before := one[uint64](t, db, "SELECT count() FROM message_db.message_rows")
	refuse.Store(false)
	_, stop = start(t, quick(), kcfg, db, telemetry.Nop())
	eventually(t, 20*time.Second, func() (any, bool) {
		n := one[uint64](t, db, "SELECT count() FROM message_db.message_rows")
		return fmt.Sprintf("%d physical rows", n), n == before+500
	})
	rows(t, db, 500, "message_db.messages")
	if n := one[uint64](t, db, "SELECT sum(message_count) FROM message_db.user_stats"); n != 500 {
		t.Errorf("user_stats counts %d messages, want 500", n)
	}
	eventually(t, 20*time.Second, func() (any, bool) {
		n := committed(t, a, topics.Messages.Name)
		return fmt.Sprintf("committed %d", n), n == 500
	})
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	do(t, db, "SYSTEM START MERGES message_db.message_rows")
	do(t, db, "OPTIMIZE TABLE message_db.message_rows FINAL")
	rows(t, db, 500, "message_db.message_rows")
}

// ClickHouse is killed twice while records come.
func TestClickHouseKilledInTheMiddle(t *testing.T) {
	house, err := embedded.StartClickHouse(t.Context(), embedded.ClickHouseConfig{Library: library, DataDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = house.Stop(t.Context()) })
	db := connect(t, house.Addr())
	applySchema(t, db)
	kcfg := kafkatest.Start(t)
	log := &logged{}
	s, stop := start(t, quick(), kcfg, db, log.telemetry())
	recs := crowd(3000, time.Now())
	for i, part := range slices.Collect(slices.Chunk(recs, 500)) {
		produce(t, kcfg, part...)
		switch i {
		case 1, 3:
			eventually(t, 20*time.Second, func() (any, bool) { return house.State(), house.State() == embedded.StateReady })
			if err := syscall.Kill(house.PID(), syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
	}
	rows(t, db, 3000, "message_db.messages")
	eventually(t, 10*time.Second, func() (any, bool) { err := s.Ready(t.Context()); return err, err == nil })
	if err := stop(); err != nil {
		t.Error(err)
	}
	if house.Restarts() == 0 {
		t.Error("ClickHouse was never restarted")
	}
	if n := log.count("sink leaves its group"); n > 0 {
		t.Errorf("the sink left its group %d times", n)
	}
	if got, want := one[uint64](t, db, "SELECT uniqExact(message_id) FROM message_db.messages"), uint64(3000); got != want {
		t.Errorf("%d messages, want %d", got, want)
	}
}

// With ClickHouse away from the start, memory is bounded, the membership is kept, Ready says why, and all is stored once it comes.
func TestClickHouseDown(t *testing.T) {
	// A port that is ours, as embedded picks it, and then is silent.
	house, err := embedded.StartClickHouse(t.Context(), embedded.ClickHouseConfig{Library: library, DataDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = house.Stop(t.Context()) })
	db := connect(t, house.Addr())
	if err := syscall.Kill(house.PID(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	kcfg := kafkatest.Start(t)
	kcfg.SessionTimeout = 6 * time.Second // the least that brokers take
	produce(t, kcfg, crowd(2000, time.Now())...)
	log := &logged{}
	cfg := quick()
	cfg.BatchRows, cfg.InsertTimeout = 100, time.Second
	s, stop := start(t, cfg, kcfg, db, log.telemetry())
	eventually(t, 20*time.Second, func() (any, bool) {
		return log.all(), log.count("sink is full") > 0 && log.count("sink tries again") > 4
	})
	if err := s.Ready(t.Context()); err == nil || !strings.Contains(err.Error(), "message_rows") {
		t.Errorf("Ready says %v", err)
	}
	if err := syscall.Kill(house.PID(), syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	// Without a schema it is no better, until somebody applies it.
	eventually(t, 20*time.Second, func() (any, bool) {
		err := s.Ready(t.Context())
		return err, err != nil && strings.Contains(err.Error(), "message_db")
	})
	eventually(t, 20*time.Second, func() (any, bool) { // the engine may restart: libchdb aborts over clients that gave up shaking hands
		_, err := schema.Apply(t.Context(), db, schema.Options{})
		return err, err == nil
	})
	rows(t, db, 2000, "message_db.messages")
	if err := stop(); err != nil {
		t.Error(err)
	}
	if n := log.count("sink takes partition"); n != 21 {
		t.Errorf("partitions were taken %d times, want once each of 21", n)
	}
}

func TestPoison(t *testing.T) {
	db := fresh(t)
	kcfg := kafkatest.Start(t)
	now := time.Now()
	good := crowd(40, now)
	future := messageRec(chat("c", "alice", now.Add(time.Hour), "from tomorrow"))
	unkeyed := messageRec(chat("c", "alice", now, "unkeyed"))
	unkeyed.Key = nil
	bad := []kafka.Record{
		{Topic: topics.Messages.Name, Partition: 2, Key: []byte("x"), Value: []byte("\xff\xff garbage")},
		{Topic: topics.Messages.Name, Partition: 2, Key: []byte("x")},
		{Topic: topics.Messages.Name, Partition: 3, Key: []byte("c"), Value: good[0].Value},
		{Topic: topics.Views.Name, Partition: 1, Key: []byte("c"), Value: good[1].Value},
		{Topic: topics.Alerts.Name, Partition: 0, Key: []byte("c"), Value: []byte(strings.Repeat("x", 900<<10))},
		future, unkeyed,
	}
	reasons := []string{record.BadProtobuf, record.BadProtobuf, record.WrongKey, record.BadProtobuf, record.FieldRequired, record.TimeOutOfRange, record.WrongKey}
	produce(t, kcfg, good[:20]...)
	produce(t, kcfg, bad...)
	produce(t, kcfg, good[20:]...)
	_, stop := start(t, quick(), kcfg, db, telemetry.Nop())
	rows(t, db, 40, "message_db.messages")

	letters, err := kafka.NewReader(kcfg, telemetry.Nop())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = letters.Close() }()
	from := map[kafka.TopicPartition]int64{}
	for _, topic := range topics.Stored() {
		for p := range topic.Partitions {
			from[kafka.TopicPartition{Topic: topic.DeadLetter().Name, Partition: int32(p)}] = kafka.FirstOffset //nolint:gosec // few
		}
	}
	if err := letters.Assign(from); err != nil {
		t.Fatal(err)
	}
	var got []string
	eventually(t, 20*time.Second, func() (any, bool) {
		recs, err := letters.Poll(t.Context(), 100, 100*time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range recs {
			got = append(got, fmt.Sprint(r.Header(kafka.HeaderDeadTopic), " ", r.Header(kafka.HeaderDeadReason), " ", len(r.Value)))
			if text := r.Header(kafka.HeaderDeadError); text == "" || strings.Contains(text, "message 1") || strings.Contains(text, "tomorrow") {
				t.Errorf("the error says %q", text)
			}
			if r.Header(kafka.HeaderDeadService) != "sink" {
				t.Errorf("service is %q", r.Header(kafka.HeaderDeadService))
			}
		}
		return got, len(got) >= len(bad)
	})
	var want []string
	for i, r := range bad {
		want = append(want, fmt.Sprint(r.Topic, " ", reasons[i], " ", len(r.Value)))
	}
	slices.Sort(got)
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("dead letters (-want +got):\n%s", diff)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// A run of poison stops the sink; nothing past it is committed, and Ready says so.
func TestARunOfPoisonStops(t *testing.T) {
	db := fresh(t)
	kcfg := kafkatest.Start(t)
	good := messageRec(chat("c", "alice", time.Now(), "good"))
	good.Partition = 0
	recs := []kafka.Record{good}
	for range 19 {
		recs = append(recs, kafka.Record{Topic: topics.Messages.Name, Partition: 0, Value: []byte("\xff")})
	}
	produce(t, kcfg, append(recs, good)...)
	cfg := quick()
	cfg.PoisonRun = 20
	s, stop := start(t, cfg, kcfg, db, telemetry.Nop())
	a := admin(t, kcfg)
	eventually(t, 20*time.Second, func() (any, bool) { // 19 are no run
		n := committed(t, a, topics.Messages.Name)
		return fmt.Sprint("committed ", n), n == 21
	})
	produce(t, kcfg, slices.Repeat([]kafka.Record{recs[1]}, 30)...)
	eventually(t, 20*time.Second, func() (any, bool) { err := s.Ready(t.Context()); return err, errors.Is(err, ErrStopped) })
	if err := stop(); !errors.Is(err, ErrStopped) {
		t.Errorf("Run returned %v", err)
	}
	if n := committed(t, a, topics.Messages.Name); n >= 21+20 {
		t.Errorf("committed up to %d, past the run that began at 21", n)
	}
}

// Sinks that come and go share the work; every record shows once and every offset is committed.
func TestSinksComeAndGo(t *testing.T) {
	db := fresh(t)
	kcfg := kafkatest.Start(t)
	recs := crowd(3000, time.Now())
	var stops []func() error
	for i, part := range slices.Collect(slices.Chunk(recs, 500)) {
		produce(t, kcfg, part...)
		_, stop := start(t, quick(), kcfg, db, telemetry.Nop())
		stops = append(stops, stop)
		if i >= 2 {
			if err := stops[i-2](); err != nil {
				t.Fatal(err)
			}
		}
	}
	rows(t, db, 3000, "message_db.messages")
	a := admin(t, kcfg)
	eventually(t, 30*time.Second, func() (any, bool) {
		n := committed(t, a, topics.Messages.Name)
		return fmt.Sprintf("committed %d of 3000", n), n == 3000
	})
	for _, stop := range stops {
		if err := stop(); err != nil {
			t.Error(err)
		}
	}
}

func TestConfig(t *testing.T) {
	if err := DefaultConfig().Validate(); err != nil {
		t.Error(err)
	}
	err := Config{}.Validate()
	for _, setting := range []string{"batch_rows", "batch_bytes", "batch_wait", "inserts", "insert_timeout", "retry_wait", "drain_wait", "poison_run"} {
		if err == nil || !strings.Contains(err.Error(), "sink."+setting+": got 0") {
			t.Errorf("the error does not name %s: %v", setting, err)
		}
	}
}
