package traffic

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	eventv1 "github.com/earshot/earshot/gen/earshot/event/v1"
	"github.com/earshot/earshot/services/simulator"
)

// report collects what a replay says.
type report struct {
	mu    sync.Mutex
	lines []string
}

func (r *report) add(s string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lines = append(r.lines, s)
}

func (r *report) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.lines, "\n")
}

// write writes a recording.
func write(t *testing.T, lines ...string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "chat.jsonl")
	if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func chat(n int) (lines []string) {
	for i := range n {
		at := time.Date(2018, 1, 31, 9, 30, 0, 0, time.UTC).Add(time.Duration(i) * 37 * time.Millisecond)
		lines = append(lines, fmt.Sprintf(`{"conversation_id":"c-%d","sender_id":"u-%d","content":"line %d","created_at":%q}`, i%17, i%29, i, at.Format(time.RFC3339Nano)))
	}
	return lines
}

// identities returns the distinct messages of the log.
func (m *mesh) identities() []string {
	var ids []string
	for _, r := range m.messages() {
		ids = append(ids, r.GetConversationId()+"/"+r.GetMessageId())
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

func TestReplayOfARecording(t *testing.T) {
	m := newMesh(t)
	b, err := os.ReadFile("testdata/chat.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	for i, way := range []string{"as it is", "again", "shuffled"} {
		if way == "shuffled" {
			slices.Reverse(lines)
		}
		total, err := simulator.Replay(t.Context(), m.conn, simulator.ReplayOptions{File: write(t, lines...), StateDir: t.TempDir()})
		if err != nil || total.Acknowledged != 6 || total.Lines != 6 || total.Refused+total.Skipped+total.Resumed != 0 {
			t.Fatalf("%s: %v: %v", way, total, err)
		}
		all := m.messages()
		if len(all) != 6*(i+1) {
			t.Fatalf("%s: %d records", way, len(all))
		}
		if ids := m.identities(); len(ids) != 6 {
			t.Errorf("%s: %d messages, want 6: %v", way, len(ids), ids)
		}
		for _, r := range all {
			if !r.GetBackfill() {
				t.Errorf("%s: %s is not marked as backfill", way, r.GetMessageId())
			}
		}
	}
	all := m.messages()
	i := slices.IndexFunc(all, func(r *eventv1.Message) bool { return r.GetSenderId() == "carla" })
	if c := all[i]; c.GetMessageType() != "image" || c.GetContent() != "Ça marche 👍" || !c.GetCreatedAt().AsTime().Equal(time.Date(2018, 1, 31, 9, 30, 2, 5e8, time.UTC)) {
		t.Errorf("stored %v", c)
	}
}

func TestReplayStopsAtABadLine(t *testing.T) {
	m := newMesh(t)
	long := strings.Replace(chat(1)[0], "line 0", strings.Repeat("x", 5000), 1)
	for _, tt := range []struct{ name, bad, want string }{
		{"not JSON", "{", "line 4: not a JSON object"},
		{"5,000 characters", long, "line 4: message.content: must be 1 to 4,096 characters, got 5,000"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			lines := chat(10)
			lines[3] = tt.bad
			total, err := simulator.Replay(t.Context(), m.conn, simulator.ReplayOptions{File: write(t, lines...), StateDir: t.TempDir()})
			if err == nil || !strings.HasPrefix(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("got %v, want %s", err, tt.want)
			}
			if total.Acknowledged != 3 {
				t.Errorf("got %v", total)
			}
			var said report
			total, err = simulator.Replay(t.Context(), m.conn, simulator.ReplayOptions{File: write(t, lines...), StateDir: t.TempDir(), SkipBad: true, Report: said.add})
			if err != nil || total.Acknowledged != 9 || total.Refused+total.Skipped != 1 || total.Lines != 10 {
				t.Errorf("with skip-bad: %v: %v", total, err)
			}
			if !strings.HasPrefix(said.String(), tt.want) {
				t.Errorf("reported %s", said.String())
			}
		})
	}
}

func TestReplayThatWasCutOffGoesOn(t *testing.T) {
	m := newMesh(t)
	lines := chat(20_000)
	file, state := write(t, lines...), t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	o := simulator.ReplayOptions{File: file, StateDir: state, InFlight: 200, Progress: func(n, _ int64) {
		if n > 0 {
			cancel()
		}
	}}
	before, err := simulator.Replay(ctx, m.conn, o)
	if !errors.Is(err, context.Canceled) || before.Acknowledged == 0 || before.Acknowledged == len(lines) {
		t.Fatalf("cut off: %v: %v", before, err)
	}
	var said report
	o.Report, o.Progress = said.add, nil
	after, err := simulator.Replay(t.Context(), m.conn, o)
	if err != nil || after.Resumed != before.Acknowledged || after.Resumed+after.Acknowledged != len(lines) {
		t.Fatalf("first %v, then %v: %v", before, after, err)
	}
	if want := fmt.Sprintf("resuming after line %d", before.Acknowledged); !strings.HasPrefix(said.String(), want) {
		t.Errorf("reported %q, want %q", said.String(), want)
	}
	if n := len(m.identities()); n != len(lines) {
		t.Errorf("%d messages stored, want %d", n, len(lines))
	}
	if left, _ := os.ReadDir(state); len(left) > 0 {
		t.Errorf("%v is left of a replay that is complete", left)
	}
}

// A mesh that was emptied gets the file from its start.
func TestReplayIntoAnotherMeshStartsAnew(t *testing.T) {
	m := newMesh(t)
	lines := chat(20_000)
	file, state := write(t, lines...), t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	o := simulator.ReplayOptions{File: file, StateDir: state, InFlight: 200, Progress: func(int64, int64) { cancel() }}
	if _, err := simulator.Replay(ctx, m.conn, o); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	m.kafka.Topics.Messages.Name = m.kafka.Topics.Views.Name // a log that knows nothing of it
	o.Progress = nil
	total, err := simulator.Replay(t.Context(), m.conn, o)
	if err != nil || total.Resumed != 0 || total.Acknowledged != len(lines) {
		t.Errorf("%v: %v", total, err)
	}
}

func TestReplayOutlivesBrokenConnections(t *testing.T) {
	m := newMesh(t)
	lines := chat(20_000)
	file := write(t, lines...)
	broken := make(chan struct{}, 1)
	mended := make(chan struct{})
	go func() {
		defer close(mended)
		for range 2 {
			<-broken
			m.stop()
			m.start()
		}
	}()
	next := int64(1000)
	total, err := simulator.Replay(t.Context(), m.conn, simulator.ReplayOptions{File: file, StateDir: t.TempDir(), InFlight: 100, Progress: func(n, _ int64) {
		if n > next {
			select {
			case broken <- struct{}{}:
				next = n + 1000
			default:
			}
		}
	}})
	close(broken)
	<-mended
	if err != nil || total.Acknowledged != len(lines) || total.Refused != 0 {
		t.Fatalf("%v: %v", total, err)
	}
	if n := len(m.identities()); n != len(lines) {
		t.Errorf("%d messages stored, want %d", n, len(lines))
	}
}

// At 10 times real time 2 s of chat take a fifth of a second: never less, however fast the answers are.
func TestReplayKeepsItsPace(t *testing.T) {
	m := newMesh(t)
	lines := chat(55) // 54 steps of 37 ms
	total, err := simulator.Replay(t.Context(), m.conn, simulator.ReplayOptions{File: write(t, lines...), StateDir: t.TempDir(), Speed: 10})
	if err != nil || total.Acknowledged != len(lines) {
		t.Fatalf("%v: %v", total, err)
	}
	if least := 54 * 37 * time.Millisecond / 10; total.Took < least {
		t.Errorf("took %v, want at least %v", total.Took, least)
	}
}

func TestReplayGivesUpWithoutAMesh(t *testing.T) {
	m := newMesh(t)
	m.stop()
	_, err := simulator.Replay(t.Context(), m.conn, simulator.ReplayOptions{File: write(t, chat(3)...), StateDir: t.TempDir(), Patience: 300 * time.Millisecond})
	if err == nil || !strings.Contains(err.Error(), "no acknowledgement for 300ms; run the same command again to resume") {
		t.Errorf("got %v", err)
	}
}
