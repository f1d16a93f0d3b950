package simulator

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	apiv1 "github.com/earshot/earshot/gen/earshot/api/v1"
	"github.com/earshot/earshot/services/internal/ident"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// maxLine bounds a line of a recording: a message of 4,096 characters, escaped, is far below.
const maxLine = 1 << 20

// line is one message of a recording.
type line struct {
	number  int   // counted from 1
	end     int64 // bytes of the recording up to and including it
	request *apiv1.SendMessageRequest
}

// BadLine says what is wrong with a line of a recording.
type BadLine struct {
	Number int
	Err    error
}

func (b BadLine) Error() string { return fmt.Sprintf("line %d: %v", b.Number, b.Err) }
func (b BadLine) Unwrap() error { return b.Err }

// recording reads recorded chat: one JSON object a line with conversation_id, sender_id, content and created_at (RFC 3339; UTC when it names no zone),
// and if it likes receiver_id, message_type and message_id. Other fields are passed over.
//
// A line's id follows from what it says and never from its place, so that a file that is replayed twice, or shuffled, changes nothing. Lines that say
// the same are told apart by their number among themselves.
type recording struct {
	in     *bufio.Reader
	number int
	at     int64
	same   map[ident.UUID]int // lines so far, by the id of the first that says the same
}

func newRecording(r io.Reader) *recording {
	return &recording{in: bufio.NewReaderSize(r, 256<<10), same: map[ident.UUID]int{}}
}

// next returns the next line, io.EOF after the last, or a BadLine, after which it can be called again.
func (r *recording) next() (line, error) {
	for {
		text, err := r.read()
		if err != nil {
			return line{}, err
		}
		if len(bytes.TrimSpace(text)) == 0 {
			continue
		}
		req, err := r.parse(text)
		if err != nil {
			return line{}, BadLine{r.number, err}
		}
		return line{r.number, r.at, req}, nil
	}
}

// read returns the next line without its end.
func (r *recording) read() ([]byte, error) {
	var text []byte
	for {
		part, err := r.in.ReadSlice('\n')
		r.at += int64(len(part))
		if len(text) <= maxLine { // of what is longer only the end is looked for
			text = append(text, part...)
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case errors.Is(err, io.EOF) && len(text) == 0:
			return nil, io.EOF
		case err != nil && !errors.Is(err, io.EOF):
			return nil, fmt.Errorf("read recording: %w", err)
		}
		r.number++
		if len(text) > maxLine {
			return nil, BadLine{r.number, fmt.Errorf("longer than %d bytes", maxLine)}
		}
		return text, nil
	}
}

func (r *recording) parse(text []byte) (*apiv1.SendMessageRequest, error) {
	if !utf8.Valid(text) {
		return nil, errors.New("not valid UTF-8")
	}
	var m struct {
		MessageID      string `json:"message_id"`
		ConversationID string `json:"conversation_id"`
		SenderID       string `json:"sender_id"`
		ReceiverID     string `json:"receiver_id"`
		Content        string `json:"content"`
		MessageType    string `json:"message_type"`
		CreatedAt      string `json:"created_at"`
	}
	if err := json.Unmarshal(bytes.TrimPrefix(text, []byte("\ufeff")), &m); err != nil {
		return nil, fmt.Errorf("not a JSON object of a message: %w", err)
	}
	for _, f := range []struct{ name, value string }{{"sender_id", m.SenderID}, {"content", m.Content}, {"created_at", m.CreatedAt}} {
		if f.value == "" {
			return nil, fmt.Errorf("%s is missing or empty", f.name)
		}
	}
	if m.ConversationID == "" {
		if m.ReceiverID == "" {
			return nil, errors.New("conversation_id is missing or empty, and there is no receiver_id to derive it from")
		}
		m.ConversationID = ident.Conversation(m.SenderID, m.ReceiverID)
	}
	created, err := parseTime(m.CreatedAt)
	if err != nil {
		return nil, err
	}
	id, err := r.id(m.MessageID, created, m.ConversationID, m.SenderID, m.Content)
	if err != nil {
		return nil, err
	}
	return &apiv1.SendMessageRequest{
		MessageId: id.MessageID(), ConversationId: m.ConversationID, SenderId: m.SenderID, ReceiverId: m.ReceiverID, Content: m.Content,
		MessageType: m.MessageType, CreatedAt: timestamppb.New(created), Backfill: true,
	}, nil
}

// id keeps a message_id that is one of ours and agrees with created_at, hashes a foreign one, and makes one where there is none.
func (r *recording) id(given string, created time.Time, conversation, sender, content string) (ident.UUID, error) {
	if given != "" {
		if id, err := ident.Parse(given); err == nil {
			if id.Millis() != created.UnixMilli() {
				return id, fmt.Errorf("message_id says %s, created_at says %s", id.Time().Format(time.RFC3339Nano), created.Format(time.RFC3339Nano))
			}
			return id, nil
		}
		return ident.Hashed(created, "message_id", given), nil
	}
	first := ident.Hashed(created, conversation, sender, content, "0")
	k := r.same[first]
	r.same[first] = k + 1
	if k == 0 {
		return first, nil
	}
	return ident.Hashed(created, conversation, sender, content, strconv.Itoa(k)), nil
}

// parseTime reads RFC 3339, or the same without a zone, which is then UTC, and cuts it to milliseconds.
func parseTime(text string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		if t, err = time.Parse("2006-01-02T15:04:05.999999999", strings.Replace(text, " ", "T", 1)); err != nil {
			return t, fmt.Errorf("created_at: got %.64q, want RFC 3339 such as 2018-01-31T09:30:00.123Z", text)
		}
	}
	t = time.UnixMilli(floorMillis(t)).UTC()
	if t.Before(ident.MinTime) || !t.Before(ident.MaxTime) {
		return t, fmt.Errorf("created_at: got %s, want %d to %d", t.Format(time.RFC3339), ident.MinTime.Year(), ident.MaxTime.Year()-1)
	}
	return t, nil
}

// floorMillis cuts towards the past, before 1970, too.
func floorMillis(t time.Time) int64 {
	ms := t.Unix()*1000 + int64(t.Nanosecond())/int64(time.Millisecond)
	return ms
}
