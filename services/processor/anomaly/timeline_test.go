package anomaly_test

import (
	"fmt"
	"testing"
	"time"
	"unique"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	eventv1 "github.com/earshot/earshot/gen/earshot/event/v1"
	"github.com/earshot/earshot/services/internal/ident"
	"github.com/earshot/earshot/services/processor/anomaly"
	"github.com/earshot/earshot/services/processor/recent"
)

func TestLifeOfAnAlert(t *testing.T) {
	d, memory := anomaly.New(anomaly.DefaultConfig()), recent.NewBySender(2*time.Minute)
	var wire []string
	emit := func(key string, v proto.Message) {
		a := v.(*eventv1.Alert)
		wire = append(wire, fmt.Sprintf("%s %v %d, end %d, revision %d", key, a.GetState(), a.GetCount(), a.GetWindowEnd().AsTime().UnixMilli()-epoch, a.GetRevision()))
	}
	send := func(created, accepted int64) {
		id := ident.Hashed(time.UnixMilli(epoch+created), "ann", fmt.Sprint(created))
		d.Observe(memory.Observe("ann", recent.Entry{ID: id, Other: unique.Make("c")}, epoch+accepted), emit)
	}
	check := func(clock int64, want ...string) {
		t.Helper()
		d.Advance(epoch+clock, emit)
		memory.Advance(epoch + clock)
		if diff := cmp.Diff(want, wire); diff != "" {
			t.Errorf("at %d (-want +got):\n%s", clock, diff)
		}
		wire = nil
	}
	const open, confirmed, resolved = "ann ALERT_STATE_OPEN ", "ann ALERT_STATE_CONFIRMED ", "ann ALERT_STATE_RESOLVED "
	check(0)
	for i := range int64(7) {
		send(i*100, i*100)
	}
	check(600)
	send(700, 700)
	check(700, open+"8, end 700, revision 1")
	send(800, 800)
	check(1_599)
	check(1_600, open+"9, end 800, revision 2")
	d.Advance(epoch+10_799, emit)
	wire = nil // perhaps a repeat: when in each span depends on the id
	check(10_800, confirmed+"9, end 800, revision 3")
	wire = nil
	d.Advance(epoch+70_799, emit) // repeats
	wire = nil
	check(70_800, resolved+"9, end 800, revision 4")
	send(750, 71_000) // a straggler
	check(71_799)
	check(71_800, resolved+"10, end 800, revision 5")
	d.Advance(epoch+80_999, emit)
	wire = nil
	check(81_000, resolved+"10, end 800, revision 5")
	check(400_000)
}

func TestConfigValidate(t *testing.T) {
	if err := anomaly.DefaultConfig().Validate(); err != nil {
		t.Error(err)
	}
	for _, cfg := range []anomaly.Config{{1, time.Minute}, {8, 0}, {8, 1500 * time.Millisecond}, {1001, time.Minute}, {8, 2 * time.Hour}} {
		if cfg.Validate() == nil {
			t.Errorf("%+v is taken for valid", cfg)
		}
	}
}

func benchmark(b *testing.B, users, shuffle int) {
	d, memory := anomaly.New(anomaly.DefaultConfig()), recent.NewBySender(2*time.Minute)
	names := make([]string, users)
	for i := range names {
		names[i] = fmt.Sprint("user-", i)
	}
	other, alerts, clock := unique.Make("c"), 0, int64(epoch)
	emit := func(string, proto.Message) { alerts++ }
	id := ident.Hashed(time.UnixMilli(epoch), "x")
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		clock++
		d.Advance(clock, emit)
		memory.Advance(clock)
		created := clock - int64(i*7919%shuffle)
		for j := range 6 {
			id[j] = byte(created >> (40 - 8*j))
		}
		for j := range 4 {
			id[12+j] = byte(i >> (24 - 8*j))
		}
		d.Observe(memory.Observe(names[i%users], recent.Entry{ID: id, Other: other}, clock), emit)
	}
	b.ReportMetric(float64(alerts), "alerts")
}

// The detector alone: 10,000 users, each with eight messages in 70 s.
func BenchmarkDetectorQuiet(b *testing.B) {
	d, memory := anomaly.New(anomaly.DefaultConfig()), recent.NewBySender(2*time.Minute)
	seen := make([]recent.Seen, 10_000)
	for k := range int64(8) {
		for i := range seen {
			user := fmt.Sprint("user-", i)
			at := epoch + 10_000*k + int64(i)/2
			seen[i] = memory.Observe(user, recent.Entry{ID: ident.Hashed(time.UnixMilli(at), user), Other: unique.Make("c")}, at)
		}
	}
	emit := func(string, proto.Message) { b.Error("an alert") }
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		d.Observe(seen[i*7919%len(seen)], emit)
	}
}

// Memory and detector: one user with 1,000 messages a second, in order and shuffled within a second.
func BenchmarkDetectorSpam(b *testing.B)     { benchmark(b, 1, 1) }
func BenchmarkDetectorShuffled(b *testing.B) { benchmark(b, 1, 1000) }

func TestGrowthOfALargeEpisodeIsSaidSeldom(t *testing.T) {
	d, memory := anomaly.New(anomaly.DefaultConfig()), recent.NewBySender(2*time.Minute)
	var said int
	var last uint32
	emit := func(_ string, v proto.Message) {
		said++
		last = v.(*eventv1.Alert).GetCount()
	}
	for at := int64(0); at < 60_000; at += 200 {
		id := ident.Hashed(time.UnixMilli(epoch+at), "ann", fmt.Sprint(at))
		d.Observe(memory.Observe("ann", recent.Entry{ID: id, Other: unique.Make("c")}, epoch+at), emit)
		d.Advance(epoch+at, emit)
	}
	if said > 12 {
		t.Errorf("300 messages in a minute made %d alerts, want at most 12", said)
	}
	d.Advance(epoch+70_000, emit)
	if last != 300 {
		t.Errorf("the last alert counts %d, want all 300", last)
	}
}
