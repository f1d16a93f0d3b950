package up

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/earshot/earshot/services/internal/ident"
	"github.com/earshot/earshot/services/tests/rig"
)

// Ways in which the same recording may come.
const (
	twice    = "twice"
	shuffled = "shuffled"
	killed   = "killed in the middle"
)

// A replayed recording gives exactly what the slow reference and plain counting give, however it comes. EARSHOT_RECORDING names a recording that is
// taken beside the generated one, in every way at every threshold.
func TestReplayEqualsReference(t *testing.T) {
	for _, c := range []struct {
		threshold int
		way       string
	}{{4, killed}, {5, shuffled}, {6, twice}, {8, twice}} {
		t.Run(fmt.Sprintf("generated, threshold %d, %s", c.threshold, c.way), func(t *testing.T) { replay(t, rig.GenerateChat(uint64(c.threshold)), c.threshold, c.way) })
	}
	path := os.Getenv("EARSHOT_RECORDING")
	if path == "" {
		return
	}
	chat := rig.LoadChat(t, path)
	for _, threshold := range []int{4, 5, 6, 8} {
		for _, way := range []string{twice, shuffled, killed} {
			t.Run(fmt.Sprintf("recorded, threshold %d, %s", threshold, way), func(t *testing.T) { replay(t, chat, threshold, way) })
		}
	}
}

func replay(t *testing.T, chat rig.Chat, threshold int, way string) {
	t.Parallel()
	m := start(t, "--anomaly-threshold", fmt.Sprint(threshold))
	state := t.TempDir() // where replay keeps how far it is
	run := func(chat rig.Chat, args ...string) *rig.Process {
		args = append([]string{"replay", chat.File(t), "--addr", m.GRPC}, args...)
		return rig.Start(t, "replay", []string{"EARSHOT_CONFIG=", "XDG_CACHE_HOME=" + state}, rig.Earshot(t), args...)
	}
	finish := func(p *rig.Process) {
		t.Helper()
		code := p.Wait(rig.Patience)
		out := strings.TrimSpace(p.Output())
		totals := out[strings.LastIndex(out, "\n")+1:]
		if code != 0 || !strings.Contains(totals, fmt.Sprintf(" %d acknowledged, 0 refused, 0 skipped", len(chat))) {
			t.Fatalf("replay: exit code %d:\n%s", code, out)
		}
		t.Log(totals)
	}
	switch way {
	case twice:
		finish(run(chat))
		first := m.equals(chat, threshold)
		finish(run(chat))
		if again := m.equals(chat, threshold); !slices.Equal(first, again) {
			t.Errorf("alerts of the first replay %q, of the second %q", first, again)
		}
		m.answersSamples(chat)
	case shuffled:
		finish(run(chat.Shuffled(7)))
		m.equals(chat, threshold)
	case killed:
		length := chat[len(chat)-1].CreatedAt.Sub(chat[0].CreatedAt)
		p := run(chat, "--speed", fmt.Sprint(int(length.Seconds()/4))) // four seconds
		time.Sleep(time.Second + time.Duration(rand.Int64N(int64(2*time.Second))))
		if !p.Running() {
			t.Fatalf("the replay ended before the blow:\n%s", p.Output())
		}
		m.Kill()
		m.launch()
		m.await()
		finish(p)
		m.equals(chat, threshold)
	}
	if code := m.Stop(); code != 0 {
		t.Errorf("stop: exit code %d, want 0", code)
	}
}

// Rows of the seeds' tables, and of trends.
type (
	userStats struct {
		UserID              string    `json:"user_id"`
		MessageCount        int       `json:"message_count"`
		ActiveConversations int       `json:"active_conversations"`
		LastActive          time.Time `json:"last_active"`
		CreatedAt           time.Time `json:"created_at"`
	}
	conversationMetrics struct {
		ConversationID   string    `json:"conversation_id"`
		MessageCount     int       `json:"message_count"`
		ParticipantCount int       `json:"participant_count"`
		LastMessageAt    time.Time `json:"last_message_at"`
		CreatedAt        time.Time `json:"created_at"`
	}
	userMinute struct {
		UserID             string    `json:"user_id"`
		CreatedAt          time.Time `json:"created_at"`
		MessagesLastMinute int       `json:"messages_last_minute"`
	}
	trend struct {
		Term        string    `json:"term"`
		WindowStart time.Time `json:"window_start"`
		Count       int       `json:"count"`
		Senders     int       `json:"senders"`
	}
)

// equals waits until everything is settled and compares it with the recording. It returns the ids of the alerts that stand.
func (m *mesh) equals(chat rig.Chat, threshold int) (alerts []string) {
	t, at := m.t, m.ClickHouseHTTP
	t.Helper()
	rig.Eventually(t, rig.Patience, fmt.Sprintf("%d messages in ClickHouse", len(chat)), func() bool {
		return rig.Number(t, at, "SELECT count() AS n FROM message_db.messages") == len(chat)
	})
	messages := rig.Rows[rig.Message](t, at, "SELECT message_id, conversation_id, sender_id, content, created_at FROM message_db.messages")
	want := make([]rig.Message, len(chat))
	for i, l := range chat {
		want[i] = rig.Message{ConversationID: l.ConversationID, SenderID: l.SenderID, Content: l.Content, CreatedAt: l.CreatedAt.Truncate(time.Millisecond)}
	}
	order := func(a, b rig.Message) int {
		return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.ConversationID, b.ConversationID), cmp.Compare(a.SenderID, b.SenderID), cmp.Compare(a.Content, b.Content))
	}
	slices.SortFunc(want, order)
	slices.SortFunc(messages, order)
	ids := map[string]bool{}
	for i, got := range messages {
		id, err := ident.Parse(got.ID)
		if err != nil || !id.Time().Equal(got.CreatedAt) || ids[got.ID] {
			t.Fatalf("message_id %s of %v: %v, seen before %v", got.ID, got.CreatedAt, err, ids[got.ID])
		}
		ids[got.ID] = true
		if got.ID = ""; got != want[i] {
			t.Fatalf("message %d: got %+v, want %+v", i, got, want[i])
		}
	}

	type state struct {
		rig.Episode
		AlertID string `json:"alert_id"`
		State   string `json:"state"`
	}
	episodes := rig.Episodes(messages, threshold)
	var rows []state
	rig.Eventually(t, rig.Patience, "alerts to be resolved", func() bool {
		rows = rig.Rows[state](t, at, "SELECT alert_id, state, user_id, triggered_at, window_end, count, message_ids FROM message_db.alerts ORDER BY alert_id")
		standing := 0
		for _, r := range rows {
			if r.State == "open" || r.State == "confirmed" {
				return false
			}
			if r.State == "resolved" {
				standing++
			}
		}
		return standing >= len(episodes)
	})
	var found []rig.Episode
	for _, r := range rows {
		if r.State == "resolved" {
			found, alerts = append(found, r.Episode), append(alerts, r.AlertID)
		}
	}
	slices.SortFunc(found, rig.Episode.Compare)
	if diff := gocmp.Diff(episodes, found); diff != "" {
		t.Errorf("episodes (-reference +alerts):\n%s", diff)
	}

	users, conversations, minutes := counts(messages)
	if diff := gocmp.Diff(users, rig.Rows[userStats](t, at, "SELECT * FROM message_db.user_stats ORDER BY user_id")); diff != "" {
		t.Errorf("user_stats (-counted +got):\n%s", diff)
	}
	if diff := gocmp.Diff(conversations, rig.Rows[conversationMetrics](t, at, "SELECT * FROM message_db.conversation_metrics ORDER BY conversation_id")); diff != "" {
		t.Errorf("conversation_metrics (-counted +got):\n%s", diff)
	}
	if diff := gocmp.Diff(minutes, rig.Rows[userMinute](t, at, "SELECT * FROM message_db.realtime_user_activity ORDER BY user_id, created_at")); diff != "" {
		t.Errorf("realtime_user_activity (-counted +got):\n%s", diff)
	}
	activity := "SELECT user_id, window_start AS created_at, message_count AS messages_last_minute FROM message_db.user_activity ORDER BY user_id, created_at"
	rig.Eventually(t, rig.Patience, "the processors' minutes to equal the table's", func() bool { return slices.Equal(minutes, rig.Rows[userMinute](t, at, activity)) })
	trends := "trends not counted"
	if plain(messages) {
		want := windows(messages)
		trends = fmt.Sprint(len(want), " trends")
		var diff string
		same := func() bool {
			diff = gocmp.Diff(want, rig.Rows[trend](t, at, "SELECT term, window_start, count, senders FROM message_db.trends ORDER BY window_start, term"))
			return diff == ""
		}
		for deadline := time.Now().Add(rig.Patience); !same(); time.Sleep(100 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Errorf("trends (-counted +got):\n%s", diff)
				break
			}
		}
	}
	t.Logf("%d messages, %d users, %d conversations, %d user minutes, %s; threshold %d: %d episodes, %d retracted on the way",
		len(messages), len(users), len(conversations), len(minutes), trends, threshold, len(found), len(rows)-len(found))
	return alerts
}

// counts makes the rows of the seeds' tables by hand.
func counts(messages []rig.Message) ([]userStats, []conversationMetrics, []userMinute) {
	users, conversations, minutes := map[string]*userStats{}, map[string]*conversationMetrics{}, map[string]*userMinute{}
	talksIn, has := map[string]map[string]bool{}, map[string]map[string]bool{}
	for _, m := range messages { // in order of time
		minute := m.CreatedAt.Truncate(time.Minute)
		u := entry(users, m.SenderID, userStats{UserID: m.SenderID, CreatedAt: m.CreatedAt})
		c := entry(conversations, m.ConversationID, conversationMetrics{ConversationID: m.ConversationID, CreatedAt: m.CreatedAt})
		n := entry(minutes, m.SenderID+" "+minute.Format(time.RFC3339), userMinute{UserID: m.SenderID, CreatedAt: minute})
		u.MessageCount, u.LastActive = u.MessageCount+1, m.CreatedAt
		c.MessageCount, c.LastMessageAt = c.MessageCount+1, m.CreatedAt
		n.MessagesLastMinute++
		u.ActiveConversations = note(talksIn, m.SenderID, m.ConversationID)
		c.ParticipantCount = note(has, m.ConversationID, m.SenderID)
	}
	us, cs, ms := values(users), values(conversations), values(minutes)
	slices.SortFunc(us, func(a, b userStats) int { return cmp.Compare(a.UserID, b.UserID) })
	slices.SortFunc(cs, func(a, b conversationMetrics) int { return cmp.Compare(a.ConversationID, b.ConversationID) })
	slices.SortFunc(ms, func(a, b userMinute) int {
		return cmp.Or(cmp.Compare(a.UserID, b.UserID), a.CreatedAt.Compare(b.CreatedAt))
	})
	return us, cs, ms
}

func entry[T any](in map[string]*T, key string, fresh T) *T {
	if in[key] == nil {
		in[key] = &fresh
	}
	return in[key]
}

func note(in map[string]map[string]bool, key, member string) int {
	if in[key] == nil {
		in[key] = map[string]bool{}
	}
	in[key][member] = true
	return len(in[key])
}

func values[T any](in map[string]*T) []T {
	out := make([]T, 0, len(in))
	for _, v := range in {
		out = append(out, *v)
	}
	return out
}

// plain says whether every word is a row of small letters, so that splitting it needs no rules.
func plain(messages []rig.Message) bool {
	for _, m := range messages {
		if strings.Trim(m.Content, "abcdefghijklmnopqrstuvwxyz ") != "" {
			return false
		}
	}
	return true
}

// windows counts words of at least four letters in windows of two minutes that advance by 30 s; those used at least three times are trends.
func windows(messages []rig.Message) []trend {
	const step, width = 30 * time.Second, 2 * time.Minute
	count := map[string]*trend{}
	senders := map[string]map[string]bool{}
	for _, m := range messages {
		for _, word := range strings.Fields(m.Content) {
			if len(word) < 4 {
				continue
			}
			last := m.CreatedAt.Truncate(step)
			for from := last.Add(step - width); !from.After(last); from = from.Add(step) {
				key := from.Format(time.RFC3339) + word
				w := entry(count, key, trend{Term: word, WindowStart: from})
				w.Count++
				w.Senders = note(senders, key, m.SenderID)
			}
		}
	}
	out := slices.DeleteFunc(values(count), func(w trend) bool { return w.Count < 3 })
	slices.SortFunc(out, func(a, b trend) int { return cmp.Or(a.WindowStart.Compare(b.WindowStart), cmp.Compare(a.Term, b.Term)) })
	return out
}
