package server

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/status"

	apiv1 "github.com/earshot/earshot/gen/earshot/api/v1"
)

func TestCallDeadline(t *testing.T) {
	left := make(chan time.Duration, 1)
	r := start(t, &service{send: func(ctx context.Context, _ *apiv1.SendMessageRequest) error {
		d, _ := ctx.Deadline()
		left <- time.Until(d)
		return nil
	}}, func(c *Config) { c.CallDeadline = time.Second })
	client := apiv1.NewMessageServiceClient(r.conn)
	if _, err := client.SendMessage(t.Context(), message()); err != nil {
		t.Fatal(err)
	}
	if d := <-left; d <= 0 || d > time.Second {
		t.Errorf("%v left of 1s", d)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	if _, err := client.SendMessage(ctx, message()); err != nil {
		t.Fatal(err)
	}
	if d := <-left; d > time.Second {
		t.Errorf("a caller's hour was kept: %v", d)
	}
	t.Run("a request that never comes", func(t *testing.T) {
		for _, method := range []string{"/earshot.api.v1.MessageService/SendMessage", "/earshot.api.v1.AlertService/StreamAlerts"} {
			r.grpc.cfg.RequestWait = 300 * time.Millisecond
			stream, err := r.conn.NewStream(t.Context(), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method)
			if err != nil {
				t.Fatal(err)
			}
			if err := stream.RecvMsg(&apiv1.SendMessageResponse{}); status.Code(err) != codes.DeadlineExceeded {
				t.Errorf("%s: got %v", method, err)
			}
		}
	})
}

func TestSizes(t *testing.T) {
	r := start(t, &service{}, nil)
	client := apiv1.NewMessageServiceClient(r.conn)
	big := &apiv1.SendMessageRequest{SenderId: "a", ReceiverId: "b", Content: strings.Repeat("x", 8<<20)}
	for name, opts := range map[string][]grpc.CallOption{"plain": nil, "gzip bomb": {grpc.UseCompressor(gzip.Name)}} {
		if _, err := client.SendMessage(t.Context(), big, opts...); status.Code(err) != codes.ResourceExhausted {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if _, err := client.SendMessage(t.Context(), message(), grpc.UseCompressor(gzip.Name)); err != nil {
		t.Errorf("honest gzip: %v", err)
	}
}

func TestConnectionCaps(t *testing.T) {
	r := start(t, &service{}, func(c *Config) { c.MaxConnsPerAddress = 2 })
	hold := func() net.Conn {
		c, err := net.Dial("tcp", r.addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
		return c
	}
	a, b := hold(), hold()
	one := make([]byte, 1)
	for _, c := range []net.Conn{a, b} {
		if _, err := c.Read(one); err != nil { // the server's settings frame
			t.Fatal(err)
		}
	}
	if _, err := hold().Read(one); err == nil {
		t.Error("a third connection was served")
	}
	_ = a.Close()
	deadline := time.Now().Add(5 * time.Second)
	for {
		if _, err := hold().Read(one); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("no room after one left")
		}
	}
	if !strings.Contains(r.log.String(), "over the cap") {
		t.Error("not logged")
	}
}

func TestSilentConnectionIsClosed(t *testing.T) {
	r := start(t, &service{}, func(c *Config) { c.HandshakeWait = 200 * time.Millisecond })
	c, err := net.Dial("tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.Copy(io.Discard, c); err != nil && errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("still open after 5s")
	}
}

func TestListenNamesThePort(t *testing.T) {
	lis, err := Listen(t.Context(), GRPCPort, "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	_, port, _ := net.SplitHostPort(lis.Addr().String())
	_, err = Listen(t.Context(), GRPCPort, lis.Addr().String())
	want := "grpc port " + port + " is taken; choose another with --grpc-port or GRPC_PORT, 0 for a free one"
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestConfigNamesEveryFault(t *testing.T) {
	err := errors.Join(Config{}.Validate(), HTTPConfig{}.Validate())
	for _, want := range []string{"server.max_streams: got 0", "server.drain_wait: got 0s, want at least 100ms", "http.body_wait: got 0s", "http.max_header_bytes"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q lacks %q", err, want)
		}
	}
	if err := errors.Join(DefaultConfig().Validate(), DefaultHTTPConfig().Validate()); err != nil {
		t.Error(err)
	}
}
