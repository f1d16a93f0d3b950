package rest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	eventv1 "github.com/earshot/earshot/gen/earshot/event/v1"
	"github.com/earshot/earshot/services/internal/kafka"
)

// alerts writes alerts number from to to-1, as a processor would.
func (m *mesh) alerts(from, to int) {
	m.t.Helper()
	topic := m.kafka.Topics.Alerts
	var records []kafka.Record
	for n := from; n < to; n++ {
		a := &eventv1.Alert{
			AlertId: fmt.Sprintf("alert-%d", n), UserId: "mallory", State: eventv1.AlertState_ALERT_STATE_OPEN, Count: uint32(n), Threshold: 8,
			TriggeredAt: timestamppb.New(time.UnixMilli(1_760_000_000_000)),
		}
		b, err := proto.Marshal(a)
		if err != nil {
			m.t.Fatal(err)
		}
		records = append(records, kafka.Record{Topic: topic.Name, Partition: -1, Key: []byte(a.GetUserId()), Value: b, Timestamp: time.Now()})
	}
	if err := m.out.Produce(m.t.Context(), records...); err != nil {
		m.t.Fatal(err)
	}
}

// event is an event of SSE, or a line of NDJSON without id.
type event struct {
	kind, id, data string
	json           map[string]any
}

// follower reads a stream.
type follower struct {
	t      *testing.T
	res    *http.Response
	lines  *bufio.Reader
	cancel context.CancelFunc
	sse    bool
}

func (m *mesh) follow(path string, header ...string) *follower {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), 20*time.Second)
	m.t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, m.url+path, http.NoBody)
	if err != nil {
		m.t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := http.DefaultClient.Do(req) //nolint:bodyclose // the follower does, at the test's end
	if err != nil {
		m.t.Fatal(err)
	}
	f := &follower{t: m.t, res: res, lines: bufio.NewReader(res.Body), cancel: cancel, sse: strings.HasPrefix(res.Header.Get("Content-Type"), "text/event-stream")}
	m.t.Cleanup(f.close)
	return f
}

func (f *follower) close() {
	f.cancel()
	_ = f.res.Body.Close()
}

// next returns the next event, by the rules of the HTML standard.
func (f *follower) next() (event, error) {
	var e event
	for {
		line, err := f.lines.ReadString('\n')
		if err != nil {
			return e, err
		}
		line = strings.TrimSuffix(line, "\n")
		if !f.sse {
			e.data = line
			return e, json.Unmarshal([]byte(line), &e.json)
		}
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch {
		case line == "" && e.data != "":
			return e, json.Unmarshal([]byte(e.data), &e.json)
		case name == "event":
			e.kind = value
		case name == "id":
			e.id = value
		case name == "data":
			e.data += value
		}
	}
}

// alert returns the next alert's number, heartbeats passed over, and the token after it.
func (f *follower) alert() (n int, token string) {
	f.t.Helper()
	for {
		e, err := f.next()
		if err != nil {
			f.t.Fatalf("stream broke: %v", err)
		}
		if a, ok := e.json["alert"].(map[string]any); ok {
			token, _ = e.json["resume_token"].(string)
			return int(a["count"].(float64)), token + e.id
		}
	}
}

func TestStreams(t *testing.T) {
	for _, way := range []string{"in process", "apart"} {
		for _, accept := range []string{"text/event-stream", "application/x-ndjson", ""} {
			t.Run(way+" "+accept, func(t *testing.T) {
				m := start(t, func(s *settings) { s.apart = way == "apart" })
				f := m.follow("/api/v1/alerts/stream?user_ids=mallory&min_count=1", "Accept", accept)
				if got := f.res.Header.Get("Content-Type"); got != accept && (accept != "" || got != "application/x-ndjson") {
					t.Errorf("content type %q", got)
				}
				if f.res.Header.Get("X-Accel-Buffering") != "no" || f.res.Header.Get("Cache-Control") != "no-store" {
					t.Errorf("headers %v", f.res.Header)
				}
				first, err := f.next() // at once, before any alert
				if err != nil {
					t.Fatal(err)
				}
				beat, ok := first.json["heartbeat"].(map[string]any)
				if !ok || beat["resume_token"] == "" {
					t.Fatalf("first frame %+v", first)
				}
				if f.sse && (first.kind != "heartbeat" || first.id != beat["resume_token"]) {
					t.Errorf("heartbeat event %+v", first)
				}
				m.alerts(1, 11)
				var middle string
				for want := 1; want <= 10; want++ {
					n, token := f.alert()
					if n != want || token == "" {
						t.Fatalf("alert %d with token %q, want %d", n, token, want)
					}
					if n == 5 {
						middle = token
					}
				}
				f.close()

				t.Log("a reader that comes back misses nothing and hears nothing twice")
				m.alerts(11, 13)
				path, header := "/api/v1/alerts/stream?user_ids=mallory&min_count=1", []string{"Accept", accept}
				if f.sse {
					header = append(header, "Last-Event-ID", middle)
					path += "&since=2020-01-01T00:00:00Z" // what the page first asked for; the browser says it again
				} else {
					path += "&resume_token=" + middle
				}
				f = m.follow(path, header...)
				for want := 6; want <= 12; want++ {
					if n, _ := f.alert(); n != want {
						t.Fatalf("after coming back: alert %d, want %d", n, want)
					}
				}

				t.Log("a stop ends the stream in good order")
				go m.stop()
				for {
					e, err := f.next()
					if err != nil {
						t.Fatalf("ended without a word: %v", err)
					}
					if failed, ok := e.json["error"].(map[string]any); ok {
						token, _ := e.json["resume_token"].(string)
						if detail(failed, "google.rpc.ErrorInfo", "reason") != "UNAVAILABLE" || token == "" || f.sse && e.kind != "error" {
							t.Errorf("last frame %+v", e)
						}
						break
					}
				}
				if _, err := f.next(); !errors.Is(err, io.EOF) {
					t.Errorf("after the last frame: %v", err)
				}
			})
		}
	}
}

// An object of SSE has nothing but what happened; the line of NDJSON is the same object with the token beside it.
func TestFrames(t *testing.T) {
	m := start(t, nil)
	sse := m.follow("/api/v1/alerts/stream", "Accept", "text/event-stream")
	lines := m.follow("/api/v1/alerts/stream")
	for _, f := range []*follower{sse, lines} {
		if _, err := f.next(); err != nil {
			t.Fatal(err)
		}
	}
	m.alerts(9, 10)
	const alert = `"alert":{"alert_id":"alert-9","user_id":"mallory","state":"ALERT_STATE_OPEN","triggered_at":"2025-10-09T08:53:20Z","count":9,"threshold":8,`
	for _, f := range []*follower{sse, lines} {
		for {
			e, err := f.next()
			if err != nil {
				t.Fatal(err)
			}
			if e.json["alert"] == nil {
				continue
			}
			_, hasToken := e.json["resume_token"]
			if !strings.HasPrefix(e.data, "{"+alert) || strings.Contains(e.data, `"result"`) || hasToken == f.sse || f.sse && (e.id == "" || e.kind != "") {
				t.Errorf("%+v", e)
			}
			break
		}
	}
}

func TestAllStreamsBegin(t *testing.T) {
	m := start(t, nil)
	for _, what := range []string{"alerts", "trends", "conversations", "users"} {
		f := m.follow("/api/v1/"+what+"/stream", "Accept", "text/event-stream")
		if e, err := f.next(); err != nil || e.kind != "heartbeat" {
			t.Errorf("%s: %+v, %v", what, e, err)
		}
	}
}

// A reader that never reads is closed within the bound on a frame, and the service is rid of it too.
func TestReaderThatNeverReads(t *testing.T) {
	m := start(t, func(s *settings) {
		s.http.FrameWait = 300 * time.Millisecond
		s.query.MaxStreams = 1 // so that a second stream shows that the first has gone
	})
	c, err := net.Dial("tcp", m.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.(*net.TCPConn).SetReadBuffer(4 << 10)
	if _, err := io.WriteString(c, "GET /api/v1/alerts/stream HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	until(t, "streaming", func() bool { return m.get("/api/v1/alerts/stream?min_count=4000000000").code == 429 })
	n := 0
	until(t, "closed", func() bool {
		m.alerts(n, n+2000)
		n += 2000
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		req, _ := http.NewRequestWithContext(ctx, http.MethodGet, m.url+"/api/v1/trends/stream", http.NoBody)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		return res.StatusCode == http.StatusOK
	})
}

func TestTooManyStreams(t *testing.T) {
	m := start(t, func(s *settings) { s.query.MaxStreams = 1 })
	f := m.follow("/api/v1/alerts/stream")
	if _, err := f.next(); err != nil {
		t.Fatal(err)
	}
	a := m.get("/api/v1/trends/stream", "Accept", "text/event-stream")
	check(t, m, a, 429, "TOO_MANY_STREAMS", "")
	if a.header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
}
