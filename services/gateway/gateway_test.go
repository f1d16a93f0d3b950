package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/metadata"
)

func TestPages(t *testing.T) {
	srv := serve(t, newStand(), nil)
	for path, want := range map[string]string{
		"/": "text/html", "/docs": "text/html", "/assets/live.js": "text/javascript", "/assets/docs.js": "text/javascript", "/assets/style.css": "text/css",
		"/assets/favicon.svg": "image/svg+xml", "/favicon.ico": "image/svg+xml", "/openapi.json": "application/json",
	} {
		a := do(t, srv, "GET", path, "")
		if a.code != 200 || !strings.HasPrefix(a.header.Get("Content-Type"), want) || a.header.Get("Content-Security-Policy") != policy {
			t.Errorf("%s: %d %v", path, a.code, a.header)
		}
		if again := do(t, srv, "GET", path, "", "If-None-Match", a.header.Get("ETag")); again.code != http.StatusNotModified {
			t.Errorf("%s again: %d", path, again.code)
		}
		if strings.Contains(want, "html") && (strings.Contains(a.text, "<script>") || strings.Contains(a.text, "style=") || strings.Contains(a.text, `="http`)) {
			t.Errorf("%s: the policy would stop what is written inside of it, or it loads from elsewhere", path)
		}
	}
}

// The document has every route that is served, and nothing that is not there.
func TestOpenAPI(t *testing.T) {
	srv := serve(t, newStand(), nil)
	a := do(t, srv, "GET", "/openapi.json", "")
	var doc struct {
		Info  struct{ Title, Version string }
		Paths map[string]map[string]struct {
			Produces   []string
			Parameters []struct{ Name, In string }
		}
		Definitions map[string]any
	}
	if err := json.Unmarshal([]byte(a.text), &doc); err != nil {
		t.Fatal(err)
	}
	all, err := routes()
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 14 {
		t.Errorf("%d routes", len(all))
	}
	for _, r := range all {
		op, ok := doc.Paths[r.path][strings.ToLower(r.verb)]
		if !ok {
			t.Errorf("%s %s is missing", r.verb, r.path)
		}
		if r.method.IsStreamingServer() && (len(op.Produces) != 2 || op.Produces[0] != mediaSSE) {
			t.Errorf("%s: produces %v", r.path, op.Produces)
		}
	}
	for path := range healthPaths {
		if doc.Paths[path] == nil {
			t.Errorf("%s is missing", path)
		}
	}
	refs := strings.Split(a.text, `"#/definitions/`)[1:]
	for _, ref := range refs {
		if name, _, _ := strings.Cut(ref, `"`); doc.Definitions[name] == nil {
			t.Errorf("definition %s is missing", name)
		}
	}
	if doc.Info.Title != "Earshot" || strings.Contains(a.text, "Stream result of") {
		t.Errorf("info %+v", doc.Info)
	}
}

func TestOrigins(t *testing.T) {
	const ours, foreign = "https://app.example", "https://evil.example"
	srv := serve(t, newStand(), func(c *Config, _ *Backends) { c.CORSOrigins = []string{ours} })
	const send, body = "/api/v1/messages/send", `{"sender_id":"a","conversation_id":"c","content":"x"}`

	a := do(t, srv, "OPTIONS", send, "", "Origin", ours, "Access-Control-Request-Method", "POST")
	if a.code != 204 || a.header.Get("Access-Control-Allow-Origin") != ours || a.header.Get("Access-Control-Allow-Methods") != "POST" || a.header.Get("Vary") != "Origin" {
		t.Errorf("preflight: %d %v", a.code, a.header)
	}
	if a := do(t, srv, "POST", send, body, "Origin", ours, "Sec-Fetch-Site", "cross-site"); a.code != 200 || a.header.Get("Access-Control-Allow-Origin") != ours {
		t.Errorf("allowed origin: %d %v", a.code, a.header)
	}
	if a := do(t, srv, "OPTIONS", send, "", "Origin", foreign, "Access-Control-Request-Method", "POST"); a.code != 405 || a.header.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("foreign preflight: %d %v", a.code, a.header)
	}
	if a := do(t, srv, "POST", send, body, "Origin", foreign); a.code != 403 {
		t.Errorf("foreign write: %d %s", a.code, a.text)
	}
	if a := do(t, srv, "GET", "/api/v1/alerts", "", "Origin", foreign); a.code != 200 || a.header.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("foreign read must not be shown to the page: %d %v", a.code, a.header)
	}
	if a := do(t, srv, "POST", send, body, "Origin", srv.URL, "Sec-Fetch-Site", "same-origin"); a.code != 200 {
		t.Errorf("own page: %d %s", a.code, a.text)
	}
}

func TestHosts(t *testing.T) {
	srv := serve(t, newStand(), func(c *Config, _ *Backends) { c.Hosts = []string{"chat.example"} })
	for host, want := range map[string]int{
		"localhost": 200, "localhost:8080": 200, "127.0.0.1:1": 200, "[::1]:8080": 200, "10.1.2.3": 200, "Chat.Example:80": 200, "chat.example.": 200,
		"evil.example": 403, "localhost.evil.example": 403, "127.0.0.1.evil.example": 403,
	} {
		if a := do(t, srv, "GET", "/healthz", "", "Host", host); a.code != want {
			t.Errorf("%s: %d, want %d", host, a.code, want)
		}
	}
	srv = serve(t, newStand(), func(c *Config, _ *Backends) { c.Hosts = []string{"*"} })
	if a := do(t, srv, "GET", "/healthz", "", "Host", "any.example"); a.code != 200 {
		t.Errorf("any host: %d", a.code)
	}
}

// What a client claims about itself reaches no service: only its request id does, and where it comes from in truth.
func TestOnlyListedHeadersPass(t *testing.T) {
	forged := []string{"Grpc-Metadata-User", "root", "X-Forwarded-For", "1.2.3.4", "X-Forwarded-Host", "evil.example", "Cookie", "a=b", "X-Request-Id", "id-1", "User-Agent", "x"}
	for proxy, from := range map[string]string{"10.0.0.0/8": "127.0.0.1", "127.0.0.0/8": "1.2.3.4, 127.0.0.1"} {
		s := newStand()
		srv := serve(t, s, func(c *Config, _ *Backends) { c.TrustedProxies = []string{proxy} })
		if a := do(t, srv, "POST", "/api/v1/messages/send", `{"sender_id":"a","receiver_id":"b","content":"x"}`, forged...); a.code != 200 {
			t.Fatalf("%d %s", a.code, a.text)
		}
		delete(s.sent, "x-forwarded-host")
		if want := (metadata.MD{"x-request-id": {"id-1"}, "x-forwarded-for": {from}}); !maps.EqualFunc(s.sent, want, slices.Equal) {
			t.Errorf("behind %s: %v, want %v", proxy, s.sent, want)
		}
	}
}

func TestErrorsKeepSecrets(t *testing.T) {
	srv := serve(t, newStand(), nil)
	for _, sender := range []string{"panic", "broken"} {
		a := do(t, srv, "POST", "/api/v1/messages/send", `{"sender_id":"`+sender+`","receiver_id":"b","content":"x"}`)
		if a.code != 500 || strings.Contains(a.text, "secret") || !strings.Contains(a.text, `"reason":"INTERNAL"`) {
			t.Errorf("%s: %d %s", sender, a.code, a.text)
		}
	}
	if a := do(t, srv, "GET", "/api/v1/alerts/caf%C3%A9:1", ""); a.code != 404 || !strings.Contains(a.text, "café:1") {
		t.Errorf("%d %s", a.code, a.text)
	}
	if a := do(t, srv, "GET", "/api/v1/alerts", ""); a.text != `{"alerts":[],"next_page_token":""}` {
		t.Errorf("empty list: %s", a.text)
	}
	if a := do(t, srv, "GET", "/api/v1/trends", ""); a.code < 400 || !strings.Contains(a.text, "reason") {
		t.Errorf("unimplemented: %d %s", a.code, a.text)
	}
	if a := do(t, srv, "HEAD", "/api/v1/alerts", ""); a.code != 200 || a.text != "" {
		t.Errorf("HEAD: %d %q", a.code, a.text)
	}
}

func TestHealth(t *testing.T) {
	var kafka, clickhouse atomic.Pointer[error]
	probe := func(p *atomic.Pointer[error]) func(context.Context) error {
		return func(context.Context) error {
			if e := p.Load(); e != nil {
				return *e
			}
			return nil
		}
	}
	hang := make(chan struct{})
	var hanging atomic.Bool
	var started atomic.Int32
	srv := serve(t, newStand(), func(_ *Config, b *Backends) {
		b.Checks = []Check{{"kafka", true, probe(&kafka)}, {"clickhouse", false, probe(&clickhouse)}, {"stuck", false, func(context.Context) error {
			if hanging.Load() {
				started.Add(1)
				<-hang
			}
			return nil
		}}}
		b.Accepted = func(context.Context) (int64, error) { return 7, nil }
	})
	get := func(path string) (int, map[string]any, string) {
		a := do(t, srv, "GET", path, "")
		var m map[string]any
		if err := json.Unmarshal([]byte(a.text), &m); err != nil {
			t.Fatal(err)
		}
		return a.code, m, a.text
	}
	becomes := func(code int, status, has string) {
		t.Helper()
		until(t, status, func() bool {
			c, m, text := get("/api/v1/health")
			return c == code && m["status"] == status && strings.Contains(text, has)
		})
	}
	becomes(200, "ok", `"messages_accepted":7`)
	refused := error(syscall.ECONNREFUSED)
	clickhouse.Store(&refused)
	becomes(200, "degraded", `"clickhouse":{"state":"unavailable","detail":"connection refused"}`)
	secret := errors.New("password hunter2 refused by db.internal")
	kafka.Store(&secret)
	becomes(503, "unavailable", `"kafka":{"state":"unavailable","detail":"not well; the server's log says more"}`)
	if code, m, _ := get("/readyz"); code != 503 || m["status"] != "unavailable" || m["dependencies"] != nil {
		t.Errorf("readyz: %d %v", code, m)
	}
	if code, _, _ := get("/healthz"); code != 200 {
		t.Errorf("healthz: %d", code)
	}
	kafka.Store(nil)
	clickhouse.Store(nil)
	becomes(200, "ok", "")
	hanging.Store(true)
	becomes(200, "degraded", `"stuck":{"state":"unavailable","detail":"no answer in time"}`)
	for range 5 {
		time.Sleep(15 * time.Millisecond) // past ProbeEvery, so that each asks
		get("/readyz")
	}
	if n := started.Load(); n != 1 {
		t.Errorf("a check that hangs was started %d times", n)
	}
	hanging.Store(false)
	close(hang)
	becomes(200, "ok", "")
}

func TestConfigNamesItsFaults(t *testing.T) {
	c := DefaultConfig()
	c.MaxBody, c.MaxBatchBody, c.CallDeadline, c.ProbeWait, c.ProbeEvery = 1, 0, 0, 0, 0
	c.CORSOrigins, c.Hosts, c.TrustedProxies = []string{"*", "https://x/", "app.example"}, []string{"a:80", ""}, []string{"proxy"}
	err := c.Validate()
	for _, want := range []string{
		"gateway.max_body: got 1", "gateway.max_batch_body: got 0", "gateway.call_deadline: got 0s", "gateway.probe_wait", "gateway.probe_every",
		`gateway.cors_origins: got "*"`, `got "https://x/"`, `got "app.example"`, `gateway.hosts: got "a:80"`, `gateway.hosts: got ""`, `gateway.trusted_proxies: got "proxy"`,
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v lacks %q", err, want)
		}
	}
}
