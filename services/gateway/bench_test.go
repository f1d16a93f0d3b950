package gateway

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/earshot/earshot/services/internal/server"
	"github.com/earshot/earshot/services/internal/telemetry"
)

// BenchmarkSend is what REST costs before ingest: in process, and over a connection to another process's server.
func BenchmarkSend(b *testing.B) {
	tel := telemetry.Nop()
	run := func(name string, back Backends) {
		b.Run(name, func(b *testing.B) {
			g, err := New(DefaultConfig(), back, tel)
			if err != nil {
				b.Fatal(err)
			}
			h := g.Handler()
			b.ReportAllocs()
			for b.Loop() {
				r := httptest.NewRequestWithContext(b.Context(), http.MethodPost, "/api/v1/messages/send",
					strings.NewReader(`{"sender_id":"alice","receiver_id":"bob","content":"Hello Bob! Let's discuss the project deadline.","message_type":"text"}`))
				r.Host = "localhost"
				w := httptest.NewRecorder()
				h.ServeHTTP(w, r)
				if w.Code != http.StatusOK {
					b.Fatal(w.Body)
				}
			}
		})
	}
	local := NewLocal(server.Unary(tel), server.Stream(tel), DefaultConfig().CallDeadline)
	newStand().register(local)
	run("in process", Backends{Ingest: local, Query: local})

	g := server.NewGRPC(server.DefaultConfig(), tel, server.Instruments{})
	newStand().register(g)
	lis, err := server.Listen(b.Context(), server.GRPCPort, "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- g.Serve(ctx, lis) }()
	defer func() {
		cancel()
		if err := <-served; err != nil {
			b.Error(err)
		}
	}()
	remote, err := Dial(lis.Addr().String(), tel)
	if err != nil {
		b.Fatal(err)
	}
	defer remote.Close()
	run("apart", Backends{Ingest: remote, Query: remote})
}
