package up

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/earshot/earshot/services/tests/rig"
)

// answersSamples runs the documented sample queries, verbatim over the HTTP port, on a mesh that has a recording, and compares their answers with counts
// from the recording. It adds receipts for every third message, twice, and a user who just sent 25 messages.
func (m *mesh) answersSamples(chat rig.Chat) {
	t := m.t
	t.Helper()
	stored := rig.Rows[rig.Message](t, m.ClickHouseHTTP, "SELECT message_id, conversation_id, sender_id FROM message_db.messages ORDER BY message_id")
	read := map[string]int{}
	var views []map[string]string
	for i, s := range stored {
		if i%3 == 0 {
			read[s.SenderID]++
			views = append(views, map[string]string{"message_id": s.ID, "conversation_id": s.ConversationID, "user_id": "reader"})
		}
	}
	for part := range slices.Chunk(slices.Concat(views, views), 1000) {
		body, err := json.Marshal(map[string]any{"views": part})
		if err != nil {
			t.Fatal(err)
		}
		rig.Post(t, m.url("views:batch"), string(body))
	}
	const lively = 25
	for i := range lively {
		rig.Post(t, m.url("messages/send"), fmt.Sprintf(`{"sender_id":"lively","conversation_id":"lively-room","content":"number %d"}`, i))
	}
	rig.Eventually(t, rig.Patience, "receipts and messages in ClickHouse", func() bool {
		return rig.Number(t, m.ClickHouseHTTP, "SELECT countIf(read_status = 'read') AS n FROM message_db.messages") == len(views) &&
			rig.Number(t, m.ClickHouseHTTP, "SELECT count() AS n FROM message_db.messages") == len(chat)+lively
	})

	sent, talk, hours := map[string]int{"lively": lively}, map[string][2]int{"lively-room": {lively, 1}}, map[string]int{}
	members := map[string]map[string]bool{}
	for _, l := range chat {
		sent[l.SenderID]++
		talk[l.ConversationID] = [2]int{talk[l.ConversationID][0] + 1, note(members, l.ConversationID, l.SenderID)}
		hours[l.CreatedAt.Truncate(time.Hour).Format(time.RFC3339)]++
	}
	type rate struct {
		Sent, Read int
		Rate       float64
	}
	rates := map[string]rate{}
	for user, n := range sent {
		rates[user] = rate{n, read[user], math.Round(float64(read[user])*10000/float64(n)) / 100}
	}

	active := ask[struct {
		UserID       string    `json:"user_id"`
		MessageCount int       `json:"message_count"`
		LastActivity time.Time `json:"last_activity"`
	}](m, "active_users")
	if len(active) != 1 || active[0].UserID != "lively" || active[0].MessageCount != lively || time.Since(active[0].LastActivity) > 10*time.Minute {
		t.Errorf("active users: %+v, want lively with %d messages", active, lively)
	}

	talks := map[string][2]int{}
	last := math.MaxInt
	for _, r := range ask[struct {
		ConversationID string `json:"conversation_id"`
		TotalMessages  int    `json:"total_messages"`
		Participants   int    `json:"participants"`
	}](m, "conversation_health") {
		talks[r.ConversationID] = [2]int{r.TotalMessages, r.Participants}
		if r.TotalMessages > last {
			t.Errorf("conversation health: %d messages after %d, want the largest first", r.TotalMessages, last)
		}
		last = r.TotalMessages
	}
	if diff := gocmp.Diff(talk, talks); diff != "" {
		t.Errorf("conversation health (-counted +got):\n%s", diff)
	}

	spam := ask[struct {
		UserID   string `json:"user_id"`
		Messages int    `json:"messages_last_5min"`
	}](m, "spam")
	if len(spam) != 1 || spam[0].UserID != "lively" || spam[0].Messages != lively {
		t.Errorf("spam: %+v, want lively with %d messages", spam, lively)
	}

	volume := map[string]int{}
	for _, r := range ask[struct {
		Hour     time.Time `json:"hour"`
		Messages int       `json:"messages"`
	}](m, "hourly_volume") {
		if time.Since(r.Hour) > 24*time.Hour { // without the lively one's hours
			volume[r.Hour.Format(time.RFC3339)] = r.Messages
		}
	}
	if diff := gocmp.Diff(hours, volume); diff != "" {
		t.Errorf("hourly volume (-counted +got):\n%s", diff)
	}

	gotRates := map[string]rate{}
	for _, r := range ask[struct {
		SenderID  string  `json:"sender_id"`
		Sent      int     `json:"sent"`
		ReadCount int     `json:"read_count"`
		ReadRate  float64 `json:"read_rate"`
	}](m, "read_rate") {
		gotRates[r.SenderID] = rate{r.Sent, r.ReadCount, r.ReadRate}
	}
	if diff := gocmp.Diff(rates, gotRates, gocmp.Comparer(func(a, b float64) bool { return math.Abs(a-b) < 0.011 })); diff != "" {
		t.Errorf("read rates (-counted +got):\n%s", diff)
	}
	t.Logf("sample queries: %d conversations, %d hours, %d senders with %d of %d messages read", len(talks), len(volume), len(gotRates), len(views), len(stored))
}

// ask runs one of the sample queries.
func ask[T any](m *mesh, name string) []T {
	m.t.Helper()
	sql, err := os.ReadFile("testdata/" + name + ".sql")
	if err != nil {
		m.t.Fatal(err)
	}
	if !strings.HasSuffix(string(sql), ";\n") {
		m.t.Errorf("%s.sql is not as documented", name)
	}
	return rig.Rows[T](m.t, m.ClickHouseHTTP, string(sql))
}
