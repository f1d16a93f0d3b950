package rest

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/earshot/earshot/services/internal/ident"
)

const secretText = "canary-in-a-message"

// TestBadInput is the REST column of the table of bad inputs: code, reason and field, and nothing new in any topic.
func TestBadInput(t *testing.T) {
	for _, way := range []string{"in process", "apart"} {
		t.Run(way, func(t *testing.T) {
			m := start(t, func(s *settings) { s.apart = way == "apart" })
			const send, batch, views = "/api/v1/messages/send", "/api/v1/messages:batch", "/api/v1/views:batch"
			message := func(field string) string {
				return `{"sender_id":"alice","receiver_id":"bob","content":"` + secretText + `",` + field + `}`
			}
			deep := func(n int) string { return strings.Repeat(`{"a":`, n) + "1" + strings.Repeat("}", n) }
			items := strings.TrimSuffix(strings.Repeat(`{},`, 1001), ",")
			future := time.Now().Add(6 * time.Minute).UTC().Format(time.RFC3339Nano)
			for _, tt := range []struct {
				name, path, body string
				code             int
				reason, field    string
			}{
				{"invalid UTF-8", send, `{"sender_id":"a","receiver_id":"b","content":"` + "\xff" + `"}`, 400, "INVALID_UTF8", ""},
				{"invalid UTF-8 in a name", send, "{\"\xff\":1}", 400, "INVALID_UTF8", ""},
				{"no body", send, ``, 400, "FIELD_REQUIRED", "sender_id"},
				{"nothing in it", send, `{}`, 400, "FIELD_REQUIRED", "sender_id"},
				{"empty content", send, `{"sender_id":"a","receiver_id":"b","content":""}`, 400, "FIELD_REQUIRED", "content"},
				{"no sender", send, `{"receiver_id":"b","content":"x"}`, 400, "FIELD_REQUIRED", "sender_id"},
				{"content of 4,097", send, `{"sender_id":"a","receiver_id":"b","content":"` + strings.Repeat("é", 4097) + `"}`, 400, "FIELD_TOO_LONG", "content"},
				{"body over 64 KiB", send, `{"sender_id":"a","receiver_id":"b","content":"` + strings.Repeat("x", 1<<20) + `"}`, 413, "BODY_TOO_LARGE", ""},
				{"body of 64 KiB and one byte", send, `{"sender_id":"a"}` + strings.Repeat(" ", 64<<10-16), 413, "BODY_TOO_LARGE", ""},
				{"batch over 8 MiB", batch, strings.Repeat(" ", 8<<20+1), 413, "BODY_TOO_LARGE", ""},
				{"batch of 1,001", batch, `{"messages":[` + items + `]}`, 400, "FIELD_INVALID", "messages"},
				{"receipts, 1,001", views, `{"views":[` + items + `]}`, 400, "FIELD_INVALID", "views"},
				{"empty batch", batch, `{"messages":[]}`, 400, "FIELD_REQUIRED", "messages"},
				{"syntax", send, `{"sender_id":}`, 400, "JSON_INVALID", ""},
				{"cut off", send, `{"sender_id":"a`, 400, "JSON_INVALID", ""},
				{"blank", send, ` `, 400, "JSON_INVALID", ""},
				{"trailing data", send, message(`"message_type":"text"`) + `{}`, 400, "JSON_INVALID", ""},
				{"byte order mark", send, "\ufeff" + message(`"message_type":"text"`), 400, "JSON_INVALID", ""},
				{"null", send, `null`, 400, "JSON_INVALID", "body"},
				{"array", send, `[{"sender_id":"a"}]`, 400, "JSON_INVALID", "body"},
				{"lone surrogate", send, `{"sender_id":"a","receiver_id":"b","content":"\ud800"}`, 400, "JSON_INVALID", ""},
				{"surrogates the wrong way round", send, `{"sender_id":"a","receiver_id":"b","content":"\udc00\ud800"}`, 400, "JSON_INVALID", ""},
				{"number for a text", send, `{"sender_id":9223372036854775808,"receiver_id":"b","content":"x"}`, 400, "JSON_INVALID", "sender_id"},
				{"1.5 for a truth", send, message(`"backfill":1.5`), 400, "JSON_INVALID", "backfill"},
				{"object for a text", send, `{"sender_id":{"a":1}}`, 400, "JSON_INVALID", "sender_id"},
				{"item that is none", batch, `{"messages":[{},7]}`, 400, "JSON_INVALID", "messages[1]"},
				{"33 deep", send, deep(33), 400, "JSON_TOO_DEEP", ""},
				{"arrays 33 deep", send, strings.Repeat("[", 33), 400, "JSON_TOO_DEEP", ""},
				{"10,000 deep", send, deep(10000), 400, "JSON_TOO_DEEP", ""},
				{"100,000 deep", batch, deep(100000), 400, "JSON_TOO_DEEP", ""},
				{"field twice", send, message(`"sender_id":"b"`), 400, "DUPLICATE_FIELD", "sender_id"},
				{"field by both its names", send, message(`"senderId":"b"`), 400, "DUPLICATE_FIELD", "senderId"},
				{"unknown field", send, message(`"colour":"red"`), 400, "UNKNOWN_FIELD", "colour"},
				{"unknown field of an item", batch, `{"messages":[{},{"colour":1}]}`, 400, "UNKNOWN_FIELD", "messages[1].colour"},
				{"id of 129", send, `{"sender_id":"` + strings.Repeat("a", 129) + `","receiver_id":"b","content":"x"}`, 400, "", "sender_id"},
				{"id with NUL", send, `{"sender_id":"a\u0000","receiver_id":"b","content":"x"}`, 400, "FIELD_INVALID", "sender_id"},
				{"id with bidi", send, `{"sender_id":"a\u202eb","receiver_id":"b","content":"x"}`, 400, "FIELD_INVALID", "sender_id"},
				{"id of dots", send, `{"sender_id":"..","receiver_id":"b","content":"x"}`, 400, "FIELD_INVALID", "sender_id"},
				{"unknown type", send, message(`"message_type":"fax"`), 400, "FIELD_INVALID", "message_type"},
				{"content with NUL", send, `{"sender_id":"a","receiver_id":"b","content":"x\u0000"}`, 400, "FIELD_INVALID", "content"},
				{"negative time", send, message(`"created_at":"1969-12-31T23:59:59Z"`), 400, "TIME_OUT_OF_RANGE", "created_at"},
				{"year 10000", send, message(`"created_at":"10000-01-01T00:00:00Z"`), 400, "JSON_INVALID", "created_at"},
				{"time that is none", send, message(`"created_at":"yesterday"`), 400, "JSON_INVALID", "created_at"},
				{"time as a number", send, message(`"created_at":1764000000`), 400, "JSON_INVALID", "created_at"},
				{"time ahead", send, message(`"created_at":"` + future + `"`), 400, "TIME_OUT_OF_RANGE", "created_at"},
				{"foreign message id", send, message(`"message_id":"m1"`), 400, "FIELD_INVALID", "message_id"},
				{"no conversation and no receiver", send, `{"sender_id":"a","content":"x"}`, 400, "FIELD_REQUIRED", ""},
				{"query on a POST", send + "?pretty=1", message(`"message_type":"text"`), 400, "UNKNOWN_FIELD", "pretty"},
				{"receipt of a foreign id", "/api/v1/messages/m1/views", `{"user_id":"bob","conversation_id":"c"}`, 400, "FIELD_INVALID", "message_id"},
			} {
				t.Run(tt.name, func(t *testing.T) {
					check(t, m, m.post(tt.path, tt.body), tt.code, tt.reason, tt.field)
				})
			}
			for _, tt := range []struct {
				name, path    string
				code          int
				reason, field string
			}{
				{"id with %2F", "/api/v1/messages/conversation/a%2Fb", 400, "FIELD_INVALID", "conversation_id"},
				{"id with %2f, small", "/api/v1/users/a%2fb/activity", 400, "FIELD_INVALID", "user_id"},
				{"id with NUL", "/api/v1/alerts/a%00", 400, "FIELD_INVALID", "alert_id"},
				{"id of dots", "/api/v1/conversations/%2e%2e/metrics", 400, "FIELD_INVALID", "conversation_id"},
				{"id with bidi", "/api/v1/alerts/%E2%80%AE", 400, "FIELD_INVALID", "alert_id"},
				{"id of 129", "/api/v1/alerts/" + strings.Repeat("a", 129), 400, "FIELD_INVALID", "alert_id"},
				{"id that is no UTF-8", "/api/v1/alerts/%ff", 400, "INVALID_UTF8", "alert_id"},
				{"encoded twice", "/api/v1/alerts/a%252Fb", 400, "FIELD_INVALID", "alert_id"},
				{"unknown path", "/api/v1/nothing", 404, "NOT_FOUND", ""},
				{"unknown path outside", "/wp-login.php", 404, "NOT_FOUND", ""},
				{"a slash too many", "/api/v1/alerts/", 404, "NOT_FOUND", ""},
				{"empty id", "/api/v1/users//activity", 404, "NOT_FOUND", ""},
				{"unknown parameter", "/api/v1/alerts?pagesize=5", 400, "UNKNOWN_FIELD", "pagesize"},
				{"parameter twice", "/api/v1/alerts?page_size=5&page_size=6", 400, "DUPLICATE_FIELD", "page_size"},
				{"parameter by both names", "/api/v1/alerts?page_size=5&pageSize=6", 400, "DUPLICATE_FIELD", ""},
				{"page of 1.5", "/api/v1/alerts?page_size=1.5", 400, "FIELD_INVALID", "page_size"},
				{"page of 2^63", "/api/v1/alerts?page_size=9223372036854775808", 400, "FIELD_INVALID", "page_size"},
				{"negative page", "/api/v1/alerts?page_size=-1", 400, "FIELD_INVALID", "page_size"},
				{"unknown state", "/api/v1/alerts?states=ALERT_STATE_ODD", 400, "FIELD_INVALID", "states"},
				{"unknown state by number", "/api/v1/alerts?states=99", 400, "FIELD_INVALID", ""},
				{"no time", "/api/v1/alerts?start_time=now", 400, "FIELD_INVALID", "start_time"},
				{"infinite score", "/api/v1/trends?min_score=Inf", 400, "FIELD_INVALID", "min_score"},
				{"no UTF-8", "/api/v1/alerts?user_id=%ff", 400, "INVALID_UTF8", "user_id"},
				{"no query at all", "/api/v1/alerts?user_id=%zz", 400, "FIELD_INVALID", "query"},
				{"field of the path in the query", "/api/v1/users/a/activity?user_id=b", 400, "UNKNOWN_FIELD", "user_id"},
				{"forged page token", "/api/v1/alerts?page_token=forged", 400, "TOKEN_INVALID", "page_token"},
				{"forged resume token", "/api/v1/alerts/stream?resume_token=forged", 400, "TOKEN_INVALID", "resume_token"},
				{"ClickHouse away", "/api/v1/alerts", 503, "UNAVAILABLE", ""},
			} {
				t.Run(tt.name, func(t *testing.T) {
					check(t, m, m.get(tt.path), tt.code, tt.reason, tt.field)
				})
			}
			good := message(`"message_type":"text"`)
			for _, tt := range []struct {
				name, method, path string
				header             []string
				code               int
				reason             string
			}{
				{"GET of a POST", "GET", send, nil, 405, "METHOD_NOT_ALLOWED"},
				{"POST of a GET", "POST", "/api/v1/alerts", nil, 405, "METHOD_NOT_ALLOWED"},
				{"TRACE", "TRACE", "/api/v1/alerts", nil, 405, "METHOD_NOT_ALLOWED"},
				{"DELETE of the page", "DELETE", "/", nil, 405, "METHOD_NOT_ALLOWED"},
				{"OPTIONS", "OPTIONS", send, nil, 405, "METHOD_NOT_ALLOWED"},
				{"HEAD of a stream", "HEAD", "/api/v1/alerts/stream", nil, 405, ""},
				{"gzip", "POST", send, []string{"Content-Encoding", "gzip"}, 415, "UNSUPPORTED_ENCODING"},
				{"any encoding", "POST", send, []string{"Content-Encoding", "x"}, 415, "UNSUPPORTED_ENCODING"},
				{"form", "POST", send, []string{"Content-Type", "application/x-www-form-urlencoded"}, 415, "UNSUPPORTED_MEDIA_TYPE"},
				{"text", "POST", send, []string{"Content-Type", "text/plain"}, 415, "UNSUPPORTED_MEDIA_TYPE"},
				{"another charset", "POST", send, []string{"Content-Type", "application/json; charset=utf-16"}, 415, "UNSUPPORTED_MEDIA_TYPE"},
				{"a type that is none", "POST", send, []string{"Content-Type", ";;"}, 415, "UNSUPPORTED_MEDIA_TYPE"},
				{"foreign idempotency key", "POST", send, []string{"Idempotency-Key", "4d6c"}, 400, "FIELD_INVALID"},
				{"bad deadline", "POST", send, []string{"Grpc-Timeout", "soon"}, 400, "FIELD_INVALID"},
				{"foreign host", "POST", send, []string{"Host", "evil.example"}, 403, "PERMISSION_DENIED"},
				{"foreign origin", "POST", send, []string{"Origin", "https://evil.example", "Content-Type", ""}, 403, "PERMISSION_DENIED"},
				{"method override", "POST", "/api/v1/alerts", []string{"X-HTTP-Method-Override", "GET", "Content-Type", "application/x-www-form-urlencoded"}, 405, "METHOD_NOT_ALLOWED"},
			} {
				t.Run(tt.name, func(t *testing.T) {
					header := append([]string{"Content-Type", "application/json"}, tt.header...)
					a := m.do(tt.method, tt.path, strings.NewReader(good), header...)
					check(t, m, a, tt.code, tt.reason, "")
					if a.code == 405 && a.header.Get("Allow") == "" {
						t.Error("no Allow header")
					}
				})
			}
			if n := m.count(); n != 0 {
				t.Errorf("%d records came of bad input", n)
			}
			if strings.Contains(m.log.String(), secretText) {
				t.Error("content is logged")
			}
			if a := m.post(send, good); a.code != 200 {
				t.Errorf("honest client: %d %s", a.code, a.text)
			}
		})
	}
}

// check holds an answer to a row of the table; empty reason or field: any.
func check(t *testing.T, m *mesh, a answer, code int, reason, field string) {
	t.Helper()
	if a.code != code {
		t.Fatalf("%d, want %d: %s", a.code, code, a.text)
	}
	if a.header.Get("X-Request-Id") == "" {
		t.Error("no X-Request-Id")
	}
	if reason != "" && a.reason() != reason {
		t.Errorf("reason %q, want %q: %s", a.reason(), reason, a.text)
	}
	if field != "" && a.field() != field {
		t.Errorf("field %q, want %q: %s", a.field(), field, a.text)
	}
	if reason != "" && (a.header.Get("Content-Type") != "application/json" || a.json["message"] == "" || a.json["code"] == nil) {
		t.Errorf("not a google.rpc.Status: %s, %s", a.header.Get("Content-Type"), a.text)
	}
	if strings.Contains(a.text, secretText) {
		t.Errorf("content is repeated: %s", a.text)
	}
}

// A body without a length is bounded and read like any other.
func TestChunkedBodies(t *testing.T) {
	m := start(t, nil)
	chunked := func(s string) io.Reader { return struct{ io.Reader }{strings.NewReader(s)} }
	a := m.do("POST", "/api/v1/messages/send", chunked(`{"sender_id":"a","receiver_id":"b","content":"`+strings.Repeat("x", 70<<10)+`"}`))
	check(t, m, a, 413, "BODY_TOO_LARGE", "")
	a = m.do("POST", "/api/v1/messages/send", chunked(`{"sender_id":"a","receiver_id":"b","content":"x"}`))
	if a.code != http.StatusOK {
		t.Errorf("%d %s", a.code, a.text)
	}
}

func TestSlowBody(t *testing.T) {
	m := start(t, func(s *settings) { s.http.BodyWait = 200 * time.Millisecond })
	body, feed := io.Pipe()
	defer feed.Close()
	go func() { _, _ = io.WriteString(feed, `{"sender_id":`) }()
	check(t, m, m.do("POST", "/api/v1/messages/send", body), 408, "REQUEST_TIMEOUT", "")
}

// The calls of the original message-tracking brief give what it prints.
func TestSend(t *testing.T) {
	m := start(t, nil)
	a := m.post("/api/v1/messages/send", `{
    "sender_id": "alice",
    "receiver_id": "bob",
    "content": "Hello Bob! Let's discuss the project deadline.",
    "message_type": "text"
  }`)
	id, _ := a.json["message_id"].(string)
	conversation, _ := a.json["conversation_id"].(string)
	if want := fmt.Sprintf(`{"status":"success","message_id":"%s","conversation_id":"%s"}`, id, conversation); a.code != 200 || a.text != want {
		t.Errorf("%d %s, want %s", a.code, a.text, want)
	}
	if _, err := ident.Parse(id); err != nil || conversation != ident.Conversation("alice", "bob") {
		t.Errorf("ids %q %q", id, conversation)
	}

	t.Run("retries with an id or a key", func(t *testing.T) {
		id := ident.New(time.Now()).MessageID()
		const body = `{"sender_id":"alice","receiver_id":"bob","content":"again"}`
		if a := m.post("/api/v1/messages/send", body, "Idempotency-Key", id); a.json["message_id"] != id {
			t.Errorf("key not used: %s", a.text)
		}
		own := ident.New(time.Now()).MessageID()
		if a := m.post("/api/v1/messages/send", strings.Replace(body, "{", `{"message_id":"`+own+`",`, 1), "Idempotency-Key", id); a.json["message_id"] != own {
			t.Errorf("the body's id does not win: %s", a.text)
		}
	})
	t.Run("control and bidi characters come through", func(t *testing.T) {
		if a := m.post("/api/v1/messages/send", `{"sender_id":"ünï","receiver_id":"b@x+y~z","content":"a\u202eb\u0007\ud83d\ude00"}`); a.code != 200 {
			t.Error(a.text)
		}
	})
	t.Run("batch, one item bad", func(t *testing.T) {
		a := m.post("/api/v1/messages:batch", `{"messages":[{"sender_id":"a","receiver_id":"b","content":"x"},{"sender_id":"a"}]}`)
		results := list(a.json["results"])
		if a.code != 200 || len(results) != 2 || results[0]["status"] != "success" || results[1]["status"] != "refused" {
			t.Fatalf("%d %s", a.code, a.text)
		}
		if failed, _ := results[1]["error"].(map[string]any); detail(failed, "google.rpc.ErrorInfo", "reason") != "FIELD_REQUIRED" {
			t.Errorf("%s", a.text)
		}
	})
	t.Run("receipts", func(t *testing.T) {
		if a := m.post("/api/v1/messages/"+id+"/views", `{"user_id":"bob","conversation_id":"`+conversation+`"}`); a.code != 200 || a.json["message_id"] != id {
			t.Errorf("%d %s", a.code, a.text)
		}
		a := m.post("/api/v1/views:batch", `{"views":[{"message_id":"`+id+`","user_id":"bob","conversation_id":"`+conversation+`","status":"delivered"}]}`)
		if r := list(a.json["results"]); a.code != 200 || len(r) != 1 || r[0]["status"] != "success" {
			t.Errorf("%d %s", a.code, a.text)
		}
	})
	t.Run("a full batch", func(t *testing.T) {
		item, _ := json.Marshal(map[string]string{"sender_id": "a", "receiver_id": "b", "content": strings.Repeat("y", 4000)})
		before := m.count()
		a := m.post("/api/v1/messages:batch", `{"messages":[`+strings.TrimSuffix(strings.Repeat(string(item)+",", 1000), ",")+`]}`)
		if a.code != 200 || m.count() != before+1000 {
			t.Errorf("%d, %d new records: %.200s", a.code, m.count()-before, a.text)
		}
	})
	t.Run("request id", func(t *testing.T) {
		if a := m.get("/healthz", "X-Request-Id", "abc-1"); a.header.Get("X-Request-Id") != "abc-1" {
			t.Errorf("got %q", a.header.Get("X-Request-Id"))
		}
		if a := m.get("/healthz", "X-Request-Id", "<script>"); len(a.header.Get("X-Request-Id")) != 32 {
			t.Errorf("got %q", a.header.Get("X-Request-Id"))
		}
	})
}

func TestHealthFollowsTheParts(t *testing.T) {
	m := start(t, nil)
	state := func(a answer, name string) any {
		d, _ := a.json["dependencies"].(map[string]any)[name].(map[string]any)
		return d["state"]
	}
	a := m.get("/api/v1/health")
	if a.code != 200 || a.json["status"] != "degraded" || state(a, "kafka") != "ok" || state(a, "clickhouse") != "unavailable" || a.json["messages_accepted"] != 0.0 {
		t.Errorf("without ClickHouse: %d %s", a.code, a.text)
	}
	if a := m.post("/api/v1/messages/send", `{"sender_id":"a","receiver_id":"b","content":"x"}`); a.code != 200 {
		t.Errorf("sending without ClickHouse: %d %s", a.code, a.text)
	}
	until(t, "counted", func() bool { return m.get("/api/v1/health").json["messages_accepted"] == 1.0 })
	m.cluster.Close()
	until(t, "unavailable without broker", func() bool { return m.get("/api/v1/health").json["status"] == "unavailable" })
	for path, want := range map[string]int{"/api/v1/health": 503, "/readyz": 503, "/healthz": 200} {
		if a := m.get(path); a.code != want {
			t.Errorf("%s: %d, want %d", path, a.code, want)
		}
	}
	check(t, m, m.post("/api/v1/messages/send", `{"sender_id":"a","receiver_id":"b","content":"x"}`, "Grpc-Timeout", "2S"), 503, "", "")
}
