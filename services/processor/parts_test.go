package processor

import (
	"fmt"
	"strings"
	"testing"
	"time"

	eventv1 "github.com/earshot/earshot/gen/earshot/event/v1"
	"github.com/earshot/earshot/services/internal/kafka"
	"github.com/google/go-cmp/cmp"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	"pgregory.net/rapid"
)

func TestSnapshotComesBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Int64Range(0, 1<<50)
		want := snapshot{low: n.Draw(t, "low"), clock: n.Draw(t, "clock"), logTime: n.Draw(t, "log time"), heard: make([]heard, rapid.IntRange(0, 100).Draw(t, "sources"))}
		for i := range want.heard {
			if rapid.Bool().Draw(t, "known") {
				want.heard[i] = heard{true, n.Draw(t, "applied"), n.Draw(t, "heard")}
			}
		}
		text := want.encode()
		got, err := decodeSnapshot(text)
		if err != nil || len(text) > metadataLimit {
			t.Fatalf("%d bytes, %v", len(text), err)
		}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(snapshot{}, heard{})); diff != "" {
			t.Fatal(diff)
		}
	})
}

func TestSnapshotOfManySourcesFits(t *testing.T) {
	s := snapshot{low: 1 << 40, clock: 1_900_000_000_000, heard: make([]heard, 1000)}
	for i := range s.heard {
		s.heard[i] = heard{true, 1<<40 + int64(i), 1_899_999_999_000}
	}
	text := s.encode()
	got, err := decodeSnapshot(text)
	if err != nil || len(text) > metadataLimit || got.low != s.low || got.clock != s.clock || len(got.heard) != 0 {
		t.Errorf("%d bytes, low %d, %d sources, %v", len(text), got.low, len(got.heard), err)
	}
	s.heard = s.heard[:128]
	if got, err = decodeSnapshot(s.encode()); err != nil || len(got.heard) != 128 {
		t.Errorf("%d sources of 128 came back, %v", len(got.heard), err)
	}
}

func FuzzSnapshot(f *testing.F) {
	f.Add("")
	f.Add("1.")
	f.Add("1.////////")
	f.Add(snapshot{low: 1, clock: 2, logTime: 3, heard: []heard{{}, {true, 4, 5}}}.encode())
	f.Fuzz(func(t *testing.T, text string) {
		s, err := decodeSnapshot(text)
		if err != nil {
			return
		}
		again, err := decodeSnapshot(s.encode())
		if diff := cmp.Diff(s, again, cmp.AllowUnexported(snapshot{}, heard{})); err != nil || (diff != "" && len(s.heard) < 100) {
			t.Errorf("%q: %v %s", text, err, diff)
		}
	})
}

func TestMarksKeepWhatIsRemembered(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const keep = 10_000
		type rec struct{ offset, logTime int64 }
		var m marks[int64]
		var all []rec
		clock, horizon := int64(100_000), int64(0)
		for offset := range int64(rapid.IntRange(1, 200).Draw(t, "records")) {
			clock += rapid.Int64Range(-3000, 4000).Draw(t, "passes")
			m.add(offset, clock, func() int64 { return offset })
			all = append(all, rec{offset, clock})
			if rapid.Bool().Draw(t, "forget") {
				horizon = max(horizon, clock-keep)
				m.forget(horizon)
			}
			low, before, ok := m.low()
			for _, r := range all {
				if r.logTime >= horizon && (!ok || r.offset < low) {
					t.Fatalf("record %v is remembered at horizon %d, low is %d, %v", r, horizon, low, ok)
				}
			}
			if ok && before != low {
				t.Fatalf("state of %d goes with low %d", before, low)
			}
		}
		if len(m.fifo) > 1000 {
			t.Fatalf("%d marks", len(m.fifo))
		}
	})
}

func TestIdle(t *testing.T) {
	e := &ends{asked: 50_000, offsets: map[int32]int64{0: 10, 1: 0}}
	for _, c := range []struct {
		name string
		e    *ends
		p    int32
		next int64
		want int64
	}{
		{"nothing was asked yet", nil, 0, 10, 0},
		{"records left", e, 0, 9, 0},
		{"read to its end", e, 0, 10, 49_000},
		{"read beyond what the end was", e, 0, 12, 49_000},
		{"empty", e, 1, 0, 49_000},
		{"not in the answer", e, 2, 100, 0},
	} {
		if got := c.e.idle(c.p, c.next); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}

func TestTracesKeepTheirPlace(t *testing.T) {
	span := func(n byte) trace.SpanContext {
		return trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{n}, SpanID: trace.SpanID{n}, TraceFlags: trace.FlagsSampled, Remote: true})
	}
	var b []byte
	for i := range tracesLimit + 10 {
		b = appendTrace(b, 3*i, span(byte(i+1)))
	}
	if len(b) != tracesLimit*traceSize {
		t.Errorf("%d bytes of traces, want %d", len(b), tracesLimit*traceSize)
	}
	walk := tracesOf(&kafka.Record{Headers: []kafka.Header{{Key: tracesHeader, Value: b}}})
	for i := range 3 * (tracesLimit + 10) {
		want := trace.SpanContext{}
		if i%3 == 0 && i/3 < tracesLimit {
			want = span(byte(i/3 + 1))
		}
		if i%2 == 1 && i%3 != 0 {
			continue // events that were skipped
		}
		if got := walk.at(i); !got.Equal(want) {
			t.Fatalf("event %d: %v, want %v", i, got, want)
		}
	}
}

func TestSampledReadsTraceparent(t *testing.T) {
	for value, want := range map[string]bool{
		"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01": true,
		"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00": false,
		"00-00000000000000000000000000000000-b7ad6b7169203331-01": false,
		"00-0af7651916cd43dd8448eb211c80319X-b7ad6b7169203331-01": false,
		"00-0af7651916cd43dd8448eb211c80319c-b7ad6b716920333":     false,
		"": false,
	} {
		sc, ok := sampled(&kafka.Record{Headers: []kafka.Header{{Key: "a", Value: []byte("b")}, {Key: "traceparent", Value: []byte(value)}}})
		if ok != want || ok && (sc.TraceID().String() != value[3:35] || sc.SpanID().String() != value[36:52]) {
			t.Errorf("%q: %v, %v", value, sc, ok)
		}
	}
}

// The longest ids there are must not make a batch that brokers refuse.
func TestBatchesStaySmall(t *testing.T) {
	w := newWorld(1, 1, DefaultConfig(), factories{})
	long := strings.Repeat("\U00020000", 128) // a letter of four bytes
	for i := range 3000 {
		m, id := message(w.clock, i, long, long, "x", false)
		w.send(sim{accepted: w.clock, m: m, id: id})
	}
	h := w.hosts[0]
	for _, tp := range sorted(h.parts) {
		h.poll(tp, 1<<30)
	}
	events := 0
	for _, r := range h.queue {
		var b eventv1.SenderEvents
		if err := proto.Unmarshal(r.Value, &b); err != nil {
			t.Fatal(err)
		}
		events += len(b.Events)
		if len(r.Value) > 600<<10 {
			t.Errorf("a batch of %d bytes", len(r.Value))
		}
	}
	if events != 3000 {
		t.Errorf("%d events of 3000", events)
	}
}

// Which partition a sender belongs to is part of the format of sender-events.
func TestSendersKeepTheirPartition(t *testing.T) {
	for sender, want := range map[string]int32{"ann": 4, "bob": 1, "user-1": 4, "": 3, "é": 0} {
		if got := partitionOf(sender, 6); got != want {
			t.Errorf("%q belongs to %d of 6, want %d", sender, got, want)
		}
	}
}

func TestRouteByType(t *testing.T) {
	reg := kafka.DefaultTopics()
	r, err := newRoutes([]kafka.Topic{reg.Alerts, reg.TermTotals})
	if err != nil {
		t.Fatal(err)
	}
	rec, internal, err := r.record("ann", &eventv1.Alert{AlertId: "alert-1", Revision: 3})
	if err != nil || internal || rec.Topic != reg.Alerts.Name || rec.Partition != kafka.AnyPartition || string(rec.Key) != "ann" {
		t.Errorf("alert: %+v, %v, %v", rec, internal, err)
	}
	for key, want := range map[string]string{
		"content-type": "application/protobuf", "ce_specversion": "1.0", "ce_type": "earshot.event.v1.Alert", "ce_source": "/earshot/processor", "ce_id": "alert-1/3",
	} {
		if got := rec.Header(key); got != want {
			t.Errorf("header %s: %q, want %q", key, got, want)
		}
	}
	rec, internal, err = r.record("", &eventv1.TermTotals{TermPartition: 2})
	if err != nil || !internal || rec.Topic != reg.TermTotals.Name || rec.Partition != 2 || rec.Key != nil {
		t.Errorf("totals: %+v, %v, %v", rec, internal, err)
	}
	if _, _, err = r.record("", &structpb.Struct{}); err == nil {
		t.Error("a value without a topic was routed")
	}
	if _, err = newRoutes([]kafka.Topic{reg.Alerts, reg.Alerts}); err == nil {
		t.Error("two topics of one type were accepted")
	}
}

func TestValidateNamesEverySetting(t *testing.T) {
	if err := DefaultConfig().Validate(); err != nil {
		t.Error(err)
	}
	want := `processor.span: got 0s, want at least 1s
processor.conversation_keep: got 0s, want at least 1m0s
processor.term_keep: got 0s, want at least 1m0s
processor.commit_every: got 0s, want at least 10ms
processor.drain_wait: got 0s, want at least 100ms
processor.batch_records: got 0, want 1 to 100000
processor.batch_events: got 0, want 1 to 2000
processor.outstanding: got 0, want 100 to 100000
processor.waiting_events: got 0, want 1000 to 100000000`
	if diff := cmp.Diff(want, fmt.Sprint(Config{}.Validate())); diff != "" {
		t.Error(diff)
	}
}

func TestAlertsSince(t *testing.T) {
	cfg := DefaultConfig()
	const clock = 1_900_000_000_000
	minute := time.Minute.Milliseconds()
	for _, c := range []struct {
		name      string
		committed int64
		snap      snapshot
		want      int64
	}{
		{"never committed", -1, snapshot{}, 0},
		{"foreign metadata", 7, snapshot{low: 7}, 0},
		{"sources known", 7, snapshot{clock: clock, heard: []heard{{true, 1, clock - 5000}, {}, {true, 1, clock}}}, clock - 5000 - 2*minute},
		{"sources left out", 7, snapshot{clock: clock}, clock - 4*minute},
	} {
		if got := alertsSince(cfg, c.committed, c.snap); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}

// A foreign record in an internal topic must cost no more than a count.
func FuzzInternalRecords(f *testing.F) {
	b, err := proto.Marshal(&eventv1.SenderEvents{SourcePartition: 1, ToOffset: 5, Events: []*eventv1.SenderEvent{{UserId: "ann", Uuid: make([]byte, 16)}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b, []byte("x"))
	f.Fuzz(func(t *testing.T, value, header []byte) {
		w := newWorld(1, 1, DefaultConfig(), everything(kafka.DefaultTopics(), 3))
		w.factories = factories{}
		for tp, p := range w.hosts[0].parts {
			if tp.Topic != w.reg.Messages.Name {
				p.observe(&kafka.Record{Value: value, Headers: []kafka.Header{{Key: tracesHeader, Value: header}}, Timestamp: time.UnixMilli(w.clock)}, w.clock)
			}
		}
	})
}
