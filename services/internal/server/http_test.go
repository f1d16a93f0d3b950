package server

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/earshot/earshot/services/internal/apierror"
	"github.com/earshot/earshot/services/internal/telemetry"
)

func startHTTP(t *testing.T, h http.HandlerFunc, change func(*HTTPConfig)) (addr string, stop func() error) {
	t.Helper()
	cfg := DefaultHTTPConfig()
	change(&cfg)
	lis, err := Listen(t.Context(), HTTPPort, "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- NewHTTP(cfg, h, telemetry.Nop()).Serve(ctx, lis) }()
	ended := false
	stop = func() error {
		if ended {
			return nil
		}
		ended = true
		cancel()
		return <-done
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	return lis.Addr().String(), stop
}

func send(t *testing.T, addr, text string) *bufio.Reader {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	return bufio.NewReader(c)
}

func TestSlowBodyAndSlowHeader(t *testing.T) {
	read := make(chan error, 1)
	addr, _ := startHTTP(t, func(w http.ResponseWriter, r *http.Request) {
		_, err := io.ReadAll(r.Body)
		read <- err
		w.WriteHeader(apierror.ReasonOf(err).HTTPStatus())
	}, func(c *HTTPConfig) { c.BodyWait, c.HeaderWait = 200*time.Millisecond, 200*time.Millisecond })

	r := send(t, addr, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab")
	if line, _ := r.ReadString('\n'); !strings.Contains(line, " 408 ") {
		t.Errorf("slow body: %q", line)
	}
	if err := <-read; apierror.ReasonOf(err) != apierror.ReasonRequestTimeout {
		t.Errorf("read: %v", err)
	}
	began := time.Now()
	if answer, err := io.ReadAll(send(t, addr, "POST / HTTP/1.1\r\nHo")); err != nil || time.Since(began) > 5*time.Second {
		t.Errorf("slow header: connection not closed in time: %q, %v", answer, err)
	}
}

func TestHeaderBound(t *testing.T) {
	addr, _ := startHTTP(t, func(http.ResponseWriter, *http.Request) {}, func(*HTTPConfig) {})
	for size, want := range map[int]string{15 << 10: " 200 ", 17 << 10: " 431 "} {
		r := send(t, addr, "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX: "+strings.Repeat("x", size)+"\r\n\r\n")
		if line, _ := r.ReadString('\n'); !strings.Contains(line, want) {
			t.Errorf("%d bytes: %q, want %s", size, line, want)
		}
	}
}

// A stream outlives the bounds of whole requests and ends in good order when the server stops.
func TestStreamOutlivesTheWriteBound(t *testing.T) {
	const frames = 5
	addr, stop := startHTTP(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.ReadAll(r.Body)
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for n := 0; ; n++ {
			if err := StreamFrame(w, r); err != nil {
				t.Error(err)
			}
			_, _ = io.WriteString(w, "frame\n")
			if err := http.NewResponseController(w).Flush(); err != nil {
				return
			}
			if n < frames {
				<-tick.C
				continue
			}
			<-Draining(r.Context())
			_, _ = io.WriteString(w, "bye\n")
			return
		}
	}, func(c *HTTPConfig) {
		c.WriteWait, c.BodyWait = 200*time.Millisecond, 200*time.Millisecond
	})
	res, err := http.Post("http://"+addr, "text/plain", strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	lines := bufio.NewScanner(res.Body)
	for range frames + 1 {
		if !lines.Scan() || lines.Text() != "frame" {
			t.Fatalf("stream broke: %v", lines.Err())
		}
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	if !lines.Scan() || lines.Text() != "bye" {
		t.Errorf("no farewell: %v", lines.Err())
	}
	http.DefaultClient.CloseIdleConnections()
}
