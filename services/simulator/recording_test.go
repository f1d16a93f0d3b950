package simulator

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/earshot/earshot/services/internal/ident"
)

// lines returns the ids of a recording by what its lines say, in order, and its bad lines.
func lines(t *testing.T, text string) (ids []string, bad []string) {
	t.Helper()
	r := newRecording(strings.NewReader(text))
	for {
		l, err := r.next()
		var b BadLine
		switch {
		case errors.Is(err, io.EOF):
			if r.at != int64(len(text)) {
				t.Errorf("%d bytes read of %d", r.at, len(text))
			}
			return ids, bad
		case errors.As(err, &b):
			bad = append(bad, err.Error())
		case err != nil:
			t.Fatal(err)
		default:
			ids = append(ids, l.request.GetConversationId()+" "+l.request.GetContent()+" "+l.request.GetMessageId())
		}
	}
}

func said(at, content string) string {
	return fmt.Sprintf(`{"conversation_id":"c","sender_id":"alice","content":%q,"created_at":%q}`, content, at)
}

func TestIDsFollowFromWhatALineSays(t *testing.T) {
	at := time.Date(2018, 1, 31, 9, 30, 0, 123e6, time.UTC)
	hashed := func(k string) string { return ident.Hashed(at, "c", "alice", "hi", k).MessageID() }
	own := ident.New(at).MessageID()
	withID := func(id string) string {
		return strings.Replace(said("2018-01-31T09:30:00.123Z", "hi"), "{", `{"message_id":"`+id+`",`, 1)
	}
	for _, tt := range []struct {
		name, in string
		want     []string
	}{
		{"no id", said("2018-01-31T09:30:00.123Z", "hi"), []string{hashed("0")}},
		{"equal lines are told apart by their number", strings.Repeat(said("2018-01-31T09:30:00.123Z", "hi")+"\n", 3), []string{hashed("0"), hashed("1"), hashed("2")}},
		{"finer times are cut, not rounded", said("2018-01-31T09:30:00.123999Z", "hi"), []string{hashed("0")}},
		{"no zone is UTC", said("2018-01-31T09:30:00.123", "hi"), []string{hashed("0")}},
		{"a space for the T", said("2018-01-31 09:30:00.123", "hi"), []string{hashed("0")}},
		{"another zone", said("2018-01-31T10:30:00.123+01:00", "hi"), []string{hashed("0")}},
		{"an id of ours is kept", withID(own), []string{own}},
		{"a foreign id is hashed", withID("4711"), []string{ident.Hashed(at, "message_id", "4711").MessageID()}},
		{"byte order mark", "\ufeff" + said("2018-01-31T09:30:00.123Z", "hi"), []string{hashed("0")}},
		{"CRLF and empty lines", "\r\n" + said("2018-01-31T09:30:00.123Z", "hi") + "\r\n\n", []string{hashed("0")}},
		{"unknown fields", strings.Replace(said("2018-01-31T09:30:00.123Z", "hi"), "{", `{"edited":true,`, 1), []string{hashed("0")}},
		{"the epoch", said("1970-01-01T00:00:00Z", "hi"), []string{ident.Hashed(time.UnixMilli(0), "c", "alice", "hi", "0").MessageID()}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, bad := lines(t, tt.in)
			for i := range got {
				got[i] = strings.TrimPrefix(got[i], "c hi ")
			}
			if len(bad) > 0 || !slices.Equal(got, tt.want) {
				t.Errorf("got %v and bad %v, want %v", got, bad, tt.want)
			}
		})
	}
}

// Lines that differ in what makes their identity must never meet, whatever is written where.
func TestLinesThatDifferHaveOtherIDs(t *testing.T) {
	ids := map[string]string{}
	for _, l := range []string{
		said("2018-01-31T09:30:00Z", "hi"), said("2018-01-31T09:30:00.001Z", "hi"), said("2018-01-31T09:30:00Z", "hi "), said("2018-01-31T09:30:00Z", "Hi"),
		`{"conversation_id":"ca","sender_id":"lice","content":"hi","created_at":"2018-01-31T09:30:00Z"}`,
		`{"conversation_id":"c","sender_id":"alic","content":"ehi","created_at":"2018-01-31T09:30:00Z"}`,
	} {
		got, bad := lines(t, l)
		if len(bad) > 0 {
			t.Fatal(bad)
		}
		id := got[0][strings.LastIndexByte(got[0], ' ')+1:]
		if ids[id] != "" {
			t.Errorf("%s and %s have the same id", ids[id], l)
		}
		ids[id] = l
	}
}

func TestAShuffledRecordingHasTheSameIDs(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var text []string
	for range 500 {
		text = append(text, said(fmt.Sprintf("2018-01-31T09:30:%02d.%03dZ", r.IntN(3), r.IntN(3)), []string{"hi", "yo", "ok"}[r.IntN(3)]))
	}
	want, bad := lines(t, strings.Join(text, "\n"))
	if len(bad) > 0 {
		t.Fatal(bad)
	}
	slices.Sort(want)
	if n := len(slices.Compact(slices.Clone(want))); n != len(text) {
		t.Errorf("%d lines have %d ids", len(text), n)
	}
	for range 5 {
		r.Shuffle(len(text), func(i, j int) { text[i], text[j] = text[j], text[i] })
		got, _ := lines(t, strings.Join(text, "\n"))
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Fatal("shuffling changed the ids")
		}
	}
}

func TestBadLinesAreNamed(t *testing.T) {
	good := said("2018-01-31T09:30:00Z", "hi")
	other := ident.New(time.Date(2019, 1, 1, 0, 0, 0, 0, time.UTC)).MessageID()
	for _, tt := range []struct{ name, in, want string }{
		{"not JSON", "hello", "not a JSON object"},
		{"half a line", good[:20], "not a JSON object"},
		{"an array", "[1]", "not a JSON object"},
		{"more after it", good + "x", "not a JSON object"},
		{"a number for a name", `{"sender_id":7}`, "not a JSON object"},
		{"null", "null", "sender_id is missing"},
		{"no sender", strings.Replace(good, "sender_id", "from", 1), "sender_id is missing"},
		{"no content", strings.Replace(good, `"hi"`, `""`, 1), "content is missing"},
		{"no time", strings.Replace(good, "created_at", "at", 1), "created_at is missing"},
		{"no conversation", strings.Replace(good, "conversation_id", "room", 1), "conversation_id is missing"},
		{"no such time", said("yesterday", "hi"), `got "yesterday"`},
		{"no such day", said("2018-02-30T00:00:00Z", "hi"), "2018-02-30"},
		{"before 1970", said("1969-12-31T23:59:59.999Z", "hi"), "want 1970 to"},
		{"far ahead", said("2262-01-01T00:00:00Z", "hi"), "want 1970 to"},
		{"not UTF-8", strings.Replace(good, "hi", "h\xff", 1), "not valid UTF-8"},
		{"times that differ", strings.Replace(good, "{", `{"message_id":"`+other+`",`, 1), "message_id says 2019"},
		{"too long", strings.Replace(good, "hi", strings.Repeat("x", maxLine+1), 1), "longer than"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ids, bad := lines(t, good+"\n\n"+tt.in+"\n"+good)
			if len(ids) != 2 || len(bad) != 1 || !strings.HasPrefix(bad[0], "line 3: ") || !strings.Contains(bad[0], tt.want) {
				t.Errorf("got %d good lines and %.200v, want 2 and line 3: …%s…", len(ids), bad, tt.want)
			}
			if len(bad) == 1 && strings.Contains(bad[0], "\n") {
				t.Errorf("more than one line: %q", bad[0])
			}
		})
	}
}

func TestReceiverStandsInForAConversation(t *testing.T) {
	const a = `{"sender_id":"alice","receiver_id":"bob","content":"hi","created_at":"2018-01-31T09:30:00Z"}`
	const b = `{"sender_id":"bob","receiver_id":"alice","content":"hi","created_at":"2018-01-31T09:30:00Z"}`
	got, bad := lines(t, a+"\n"+b)
	if len(bad) > 0 || strings.Fields(got[0])[0] != ident.Conversation("bob", "alice") || strings.Fields(got[1])[0] != strings.Fields(got[0])[0] {
		t.Errorf("got %v, bad %v", got, bad)
	}
}

// Whatever a line holds, it is a message that keeps its promises or a bad line with its number.
func FuzzRecording(f *testing.F) {
	f.Add(said("2018-01-31T09:30:00Z", "hi"))
	f.Add("\ufeff{}\r\n\x00")
	f.Add(`{"sender_id":"a","conversation_id":"b","content":"c","created_at":"1970-01-01 00:00:00.9999999"}`)
	f.Fuzz(func(t *testing.T, text string) {
		r := newRecording(strings.NewReader(text))
		for {
			l, err := r.next()
			if errors.Is(err, io.EOF) {
				return
			}
			var bad BadLine
			if errors.As(err, &bad) {
				if bad.Number < 1 {
					t.Fatalf("line %d", bad.Number)
				}
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			id, err := ident.Parse(l.request.GetMessageId())
			if err != nil || !id.Time().Equal(l.request.GetCreatedAt().AsTime()) {
				t.Fatalf("id %s of %v: %v", l.request.GetMessageId(), l.request.GetCreatedAt().AsTime(), err)
			}
		}
	})
}
