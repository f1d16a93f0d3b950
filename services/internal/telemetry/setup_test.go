package telemetry_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/earshot/earshot/services/internal/telemetry"
	"go.opentelemetry.io/otel/trace"
)

func TestMetricsNamesAndLogs(t *testing.T) {
	t.Setenv("OTEL_SDK_DISABLED", "true")
	var logs bytes.Buffer
	p, err := telemetry.Start(t.Context(), telemetry.DefaultConfig(), "earshot", "test", &logs, false)
	if err != nil {
		t.Fatal(err)
	}
	tel := p.Service(t.Context(), "ingest")
	c, err := tel.Meter.Int64Counter("earshot.ingest.messages")
	if err != nil {
		t.Fatal(err)
	}
	c.Add(t.Context(), 3)
	for _, service := range []string{"ingest", "gateway"} { // both have a server whose failures count
		failures, err := p.Service(t.Context(), service).Meter.Int64Counter("earshot.server.failures")
		if err != nil {
			t.Fatal(err)
		}
		failures.Add(t.Context(), 2)
	}
	s := httptest.NewServer(p.Handler())
	defer s.Close()
	resp, err := http.Get(s.URL + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	for _, want := range []string{"earshot_ingest_messages_total 3", "earshot_server_failures_total 4", "go_goroutines"} {
		if !strings.Contains(string(body), want) {
			t.Errorf("/metrics lacks %q:\n%.2000s", want, body)
		}
	}
	sc := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}})
	tel.Log.InfoContext(trace.ContextWithSpanContext(context.Background(), sc), "hello")
	if got := logs.String(); !strings.Contains(got, `"trace_id":"01`) || !strings.Contains(got, `"service":"ingest"`) {
		t.Errorf("log line lacks trace or service: %s", got)
	}
	if p.Tracing() {
		t.Error("tracing is on without an endpoint")
	}
	if err := p.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestValidateNamesTheSetting(t *testing.T) {
	err := telemetry.Config{LogLevel: "loud", LogFormat: "xml"}.Validate()
	for _, want := range []string{`log.level: got "loud"`, `log.format: got "xml"`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Validate: %v, want %q", err, want)
		}
	}
}
