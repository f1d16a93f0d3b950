package rig

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

// Tests are a package's tests; hand them to goleak. What their HTTP clients kept open is closed at the end.
type Tests struct{ *testing.M }

// Run runs them and returns the exit code.
func (t Tests) Run() int {
	defer web.CloseIdleConnections()
	defer http.DefaultClient.CloseIdleConnections()
	return t.M.Run()
}

// Answer is what an HTTP request came back with.
type Answer struct {
	Code int
	Text string
	JSON map[string]any // nil when the body is no JSON object
}

// Do sends a request with a JSON body, "" for none.
func Do(method, url, body string) (Answer, error) {
	req, err := http.NewRequestWithContext(context.Background(), method, url, strings.NewReader(body)) // the client has a limit of its own
	if err != nil {
		return Answer{}, err
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := web.Do(req)
	if err != nil {
		return Answer{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return Answer{}, fmt.Errorf("read answer: %w", err)
	}
	a := Answer{Code: resp.StatusCode, Text: string(b)}
	_ = json.Unmarshal(b, &a.JSON)
	return a, nil
}

// Post sends JSON; anything but 200 fails the test.
func Post(tb testing.TB, url, body string) Answer {
	tb.Helper()
	return must(tb, http.MethodPost, url, body)
}

// Get asks; anything but 200 fails the test.
func Get(tb testing.TB, url string) Answer {
	tb.Helper()
	return must(tb, http.MethodGet, url, "")
}

func must(tb testing.TB, method, url, body string) Answer {
	tb.Helper()
	a, err := Do(method, url, body)
	if err != nil {
		tb.Fatal(err)
	}
	if a.Code != http.StatusOK {
		tb.Fatalf("%s %s: got %d: %s", method, url, a.Code, a.Text)
	}
	return a
}
