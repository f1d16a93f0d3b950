package simulator

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
)

// truth knows what there is to be found in the traffic, by the rules of the project's documents and not by its code. Its file has a JSON object a line,
// told apart by "kind":
//
//	run      the options
//	message  message_id, conversation_id, sender_id, receiver_id, created_at, term (of a rising word), outcome, settled_at
//	view     message_id, conversation_id, user_id, status, viewed_at, outcome, settled_at
//	moved    at, by_seconds: the rest of the plan was put off, because it could not be kept up with
//	alert    an episode: user_id, triggered_at, window_start, window_end, count, threshold, span_seconds, message_ids
//	word     a rising word: term, first, last, count, senders
//	total    the last line
//
// An outcome is "acknowledged", "refused" or "unknown": without an answer when it ended. Alerts and words count all messages, whatever their outcome,
// and know nothing of other traffic.
type truth struct {
	mu   sync.Mutex
	file *os.File
	out  *bufio.Writer
	err  error // first failed write

	threshold int
	span      time.Duration
	senders   map[string]*senderTruth
	found     int
	words     []*wordTruth
	lastUse   map[string]*wordTruth
}

type senderTruth struct {
	ids     []string // of the messages in the span, oldest first
	times   []time.Time
	episode *alertTruth
}

type alertTruth struct {
	Kind        string    `json:"kind"`
	UserID      string    `json:"user_id"`
	TriggeredAt time.Time `json:"triggered_at"`
	WindowStart time.Time `json:"window_start"`
	WindowEnd   time.Time `json:"window_end"`
	Count       int       `json:"count"`
	Threshold   int       `json:"threshold"`
	SpanSeconds float64   `json:"span_seconds"`
	MessageIDs  []string  `json:"message_ids"`
}

type wordTruth struct {
	Kind    string    `json:"kind"`
	Term    string    `json:"term"`
	First   time.Time `json:"first"`
	Last    time.Time `json:"last"`
	Count   int       `json:"count"`
	Senders int       `json:"senders"`

	who map[string]bool
}

type eventTruth struct {
	Kind           string    `json:"kind"`
	MessageID      string    `json:"message_id"`
	ConversationID string    `json:"conversation_id"`
	SenderID       string    `json:"sender_id,omitempty"`
	ReceiverID     string    `json:"receiver_id,omitempty"`
	CreatedAt      time.Time `json:"created_at,omitzero"`
	Term           string    `json:"term,omitempty"`
	UserID         string    `json:"user_id,omitempty"`
	Status         string    `json:"status,omitempty"`
	ViewedAt       time.Time `json:"viewed_at,omitzero"`
	Outcome        string    `json:"outcome"`
	SettledAt      time.Time `json:"settled_at"`
}

// openTruth begins the file, if there is to be one.
func openTruth(o Options) (*truth, error) {
	t := &truth{threshold: o.Threshold, span: o.Span, senders: map[string]*senderTruth{}, lastUse: map[string]*wordTruth{}}
	if o.Truth == "" {
		return t, nil
	}
	f, err := os.Create(o.Truth)
	if err != nil {
		return nil, fmt.Errorf("create truth file: %w", err)
	}
	t.file, t.out = f, bufio.NewWriterSize(f, 64<<10)
	t.write(map[string]any{
		"kind": "run", "mode": o.Mode, "seed": o.Seed, "rate": o.Rate, "users": o.Users, "start": o.Start.UTC(), "duration_seconds": o.Duration.Seconds(),
		"threshold": o.Threshold, "span_seconds": o.Span.Seconds(),
	})
	return t, nil
}

func (t *truth) write(v any) {
	if t.out == nil {
		return
	}
	b, err := json.Marshal(v)
	if err == nil {
		_, err = t.out.Write(append(b, '\n'))
	}
	if t.err == nil {
		t.err = err
	}
}

// planned takes an event in the order of the plan.
func (t *truth) planned(e event) {
	if e.message == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.count(e)
	if e.term != "" {
		t.use(e)
	}
}

// count applies the anomaly rule: a message crosses when it is at least the threshold-th in (t - span, t]; crossings at most a span apart are an episode.
func (t *truth) count(e event) {
	user := e.message.GetSenderId()
	s := t.senders[user]
	if s == nil {
		s = &senderTruth{}
		t.senders[user] = s
	}
	for len(s.times) > 0 && e.at.Sub(s.times[0]) >= t.span {
		s.times, s.ids = s.times[1:], s.ids[1:]
	}
	s.times, s.ids = append(s.times, e.at), append(s.ids, e.message.GetMessageId())
	if len(s.ids) < t.threshold {
		return
	}
	if s.episode != nil && e.at.Sub(s.episode.WindowEnd) > t.span {
		t.write(s.episode)
		s.episode = nil
	}
	if s.episode == nil {
		t.found++
		s.episode = &alertTruth{
			Kind: "alert", UserID: user, TriggeredAt: e.at.UTC(), WindowStart: e.at.Add(-t.span).UTC(), Threshold: t.threshold, SpanSeconds: t.span.Seconds(),
			MessageIDs: append([]string(nil), s.ids[len(s.ids)-t.threshold:]...),
		}
	}
	s.episode.WindowEnd, s.episode.Count = e.at.UTC(), max(s.episode.Count, len(s.ids))
}

// use counts a rising word. One that rises again much later is another.
func (t *truth) use(e event) {
	w := t.lastUse[e.term]
	if w == nil || e.at.Sub(w.Last) > 10*time.Minute {
		w = &wordTruth{Kind: "word", Term: e.term, First: e.at.UTC(), who: map[string]bool{}}
		t.lastUse[e.term] = w
		t.words = append(t.words, w)
	}
	w.Last = e.at.UTC()
	w.Count += e.uses
	w.who[e.message.GetSenderId()] = true
	w.Senders = len(w.who)
}

func (t *truth) alerts() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.found
}

// moved notes that all after at was put off.
func (t *truth) moved(at time.Time, by time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.write(map[string]any{"kind": "moved", "at": at.UTC(), "by_seconds": by.Seconds()})
}

// settled notes what became of an event.
func (t *truth) settled(e event, outcome string) {
	if t.out == nil {
		return
	}
	line := eventTruth{Kind: "message", Outcome: outcome, SettledAt: time.Now().UTC().Truncate(time.Millisecond), Term: e.term}
	if m := e.message; m != nil {
		line.MessageID, line.ConversationID, line.SenderID, line.ReceiverID = m.GetMessageId(), m.GetConversationId(), m.GetSenderId(), m.GetReceiverId()
		line.CreatedAt = m.GetCreatedAt().AsTime()
	} else {
		v := e.view
		line.Kind, line.MessageID, line.ConversationID, line.UserID, line.Status = "view", v.GetMessageId(), v.GetConversationId(), v.GetUserId(), v.GetStatus()
		line.ViewedAt = v.GetViewedAt().AsTime()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.write(line)
}

// close writes what is still open and makes the file durable.
func (t *truth) close(total Simulated) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.file == nil {
		return nil
	}
	for _, s := range t.senders {
		if s.episode != nil {
			t.write(s.episode)
		}
	}
	for _, w := range t.words {
		t.write(w)
	}
	t.write(map[string]any{
		"kind": "total", "messages": total.Messages, "receipts": total.Receipts, "refused": total.Refused, "unknown": total.Unknown,
		"alerts": total.Alerts, "words": total.Words, "behind_seconds": total.Behind.Seconds(),
	})
	if err := errors.Join(t.err, t.out.Flush(), t.file.Sync(), t.file.Close()); err != nil {
		return fmt.Errorf("write truth file: %w", err)
	}
	return nil
}
