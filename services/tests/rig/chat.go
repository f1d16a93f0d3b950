package rig

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// Line is one message of a recording, as `earshot replay` reads it.
type Line struct {
	ConversationID string    `json:"conversation_id"`
	SenderID       string    `json:"sender_id"`
	Content        string    `json:"content"`
	CreatedAt      time.Time `json:"created_at"`
}

// Chat is a recording.
type Chat []Line

// GenerateChat makes a small workplace's talk over eight days of 2018, in order, always the same for a seed: conversations at their own pace, bursts of one
// user over several conversations, lines that say exactly the same, times with microseconds.
func GenerateChat(seed uint64) Chat {
	rnd := rand.New(rand.NewPCG(seed, 2018))
	words := strings.Fields("deadline coffee release budget lunch garden bridge window printer meeting train holiday invoice server cable thunder ladder ok no yes hm")
	say := func() string {
		said := make([]string, 1+rnd.IntN(6))
		for i := range said {
			said[i] = words[rnd.IntN(len(words))]
		}
		return strings.Join(said, " ")
	}
	var chat Chat
	add := func(conversation, user int, content string, at time.Time) {
		chat = append(chat, Line{fmt.Sprintf("room-%d", conversation), fmt.Sprintf("user-%d", user), content, at})
	}
	first := time.Date(2018, 3, 1, 8, 0, 0, 0, time.UTC)
	for day := range 8 {
		at := first.AddDate(0, 0, day)
		for range 60 { // talks of two to four users
			start, room, crew := at.Add(time.Duration(rnd.Int64N(int64(9*time.Hour)))), rnd.IntN(40), rnd.IntN(30)
			for range 2 + rnd.IntN(9) {
				start = start.Add(time.Duration(rnd.Int64N(int64(50 * time.Second)))).Truncate(time.Microsecond)
				add(room, crew+rnd.IntN(4), say(), start)
			}
		}
		for range 6 { // bursts
			start, user := at.Add(time.Duration(rnd.Int64N(int64(9*time.Hour)))), rnd.IntN(33)
			for range 4 + rnd.IntN(20) {
				start = start.Add(time.Duration(rnd.Int64N(int64(11 * time.Second)))).Truncate(time.Microsecond)
				content := say()
				add(rnd.IntN(40), user, content, start)
				if rnd.IntN(12) == 0 { // said again by a stuck key
					chat = append(chat, chat[len(chat)-1])
				}
			}
		}
	}
	slices.SortStableFunc(chat, func(a, b Line) int { return a.CreatedAt.Compare(b.CreatedAt) })
	return chat
}

// LoadChat reads a recording; a time without a zone is UTC.
func LoadChat(tb testing.TB, path string) Chat {
	tb.Helper()
	f, err := os.Open(path)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	var chat Chat
	in := bufio.NewScanner(f)
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		var l struct {
			Line
			CreatedAt string `json:"created_at"`
		}
		if err := json.Unmarshal(in.Bytes(), &l); err != nil {
			tb.Fatalf("line %d: %v", len(chat)+1, err)
		}
		at, err := time.Parse("2006-01-02T15:04:05.999999999", strings.TrimSuffix(l.CreatedAt, "Z"))
		if err != nil {
			tb.Fatalf("line %d: %v", len(chat)+1, err)
		}
		l.Line.CreatedAt = at
		chat = append(chat, l.Line)
	}
	if err := in.Err(); err != nil {
		tb.Fatal(err)
	}
	return chat
}

// Shuffled returns the same lines in another order.
func (c Chat) Shuffled(seed uint64) Chat {
	out := slices.Clone(c)
	rand.New(rand.NewPCG(seed, 1)).Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}

// Named returns the same chat among other users in other conversations.
func (c Chat) Named(prefix string) Chat {
	out := slices.Clone(c)
	for i := range out {
		out[i].SenderID, out[i].ConversationID = prefix+out[i].SenderID, prefix+out[i].ConversationID
	}
	return out
}

// File writes the recording to a file of the test's and returns its path.
func (c Chat) File(tb testing.TB) string {
	tb.Helper()
	var b []byte
	for _, l := range c {
		text, err := json.Marshal(l)
		if err != nil {
			tb.Fatal(err)
		}
		b = append(append(b, text...), '\n')
	}
	path := filepath.Join(tb.TempDir(), "chat.jsonl")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		tb.Fatal(err)
	}
	return path
}

// Message is a line of a recording with the id that the mesh gave it.
type Message struct {
	ID             string    `json:"message_id"`
	ConversationID string    `json:"conversation_id"`
	SenderID       string    `json:"sender_id"`
	Content        string    `json:"content"`
	CreatedAt      time.Time `json:"created_at"`
}

// Episode is an alert as the reference finds it, and as ClickHouse has it.
type Episode struct {
	UserID      string    `json:"user_id"`
	TriggeredAt time.Time `json:"triggered_at"`
	WindowEnd   time.Time `json:"window_end"`
	Count       int       `json:"count"`
	MessageIDs  []string  `json:"message_ids"`
}

// Compare orders by trigger, then user.
func (e Episode) Compare(o Episode) int {
	return cmp.Or(e.TriggeredAt.Compare(o.TriggeredAt), strings.Compare(e.UserID, o.UserID))
}

// Episodes is the slow reference: each user's messages sorted, then counted in the minute up to each of them.
func Episodes(all []Message, threshold int) []Episode {
	const span = time.Minute
	by := map[string][]Message{}
	for _, m := range all {
		by[m.SenderID] = append(by[m.SenderID], m)
	}
	var out []Episode
	for user, ms := range by {
		slices.SortFunc(ms, func(a, b Message) int { return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), strings.Compare(a.ID, b.ID)) })
		var now *Episode
		for k, m := range ms {
			n := 0
			for _, before := range ms[:k+1] {
				if before.CreatedAt.After(m.CreatedAt.Add(-span)) {
					n++
				}
			}
			if n < threshold {
				continue
			}
			if now == nil || m.CreatedAt.Sub(now.WindowEnd) > span {
				out = append(out, Episode{UserID: user, TriggeredAt: m.CreatedAt})
				now = &out[len(out)-1]
				for _, c := range ms[k+1-threshold : k+1] {
					now.MessageIDs = append(now.MessageIDs, c.ID)
				}
			}
			now.WindowEnd, now.Count = m.CreatedAt, max(now.Count, n)
		}
	}
	slices.SortFunc(out, Episode.Compare)
	return out
}
