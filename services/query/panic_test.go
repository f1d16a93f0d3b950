package query

import (
	"context"
	"testing"
	"time"

	apiv1 "github.com/earshot/earshot/gen/earshot/api/v1"
	eventv1 "github.com/earshot/earshot/gen/earshot/event/v1"
	"github.com/earshot/earshot/services/internal/kafka/kafkatest"
	"github.com/earshot/earshot/services/internal/telemetry"
)

// A panic while sending must reach the call's own goroutine, where the server catches it; on any other it would end the process.
func TestPanicReachesTheCall(t *testing.T) {
	s := New(DefaultConfig(), kafkatest.Start(t), nil, telemetry.Nop())
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- s.Run(ctx) }()
	caught := func() (v any) {
		defer func() { v = recover() }()
		ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
		defer cancel()
		// The feed is not at the log's end yet: it is waited for.
		if err := s.alerts.serve(ctx, subscription[*eventv1.Alert]{send: func(*eventv1.Alert, *apiv1.Heartbeat, string) error { panic("sending") }}); err != nil {
			t.Log(err)
		}
		return nil
	}()
	if caught != "sending" {
		t.Errorf("caught %v", caught)
	}
	if n := s.OpenStreams(); n != 0 {
		t.Errorf("%d streams left", n)
	}
	cancel()
	if err := <-ran; err != nil {
		t.Error(err)
	}
}
