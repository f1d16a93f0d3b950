// Package server gives every service the same gRPC and HTTP servers: bounds for what a client may cost, one list of interceptors, one edge where errors
// become what callers see, health, reflection and a drain with a deadline.
//
//	listener (caps) -> transport (limits) -> codec -> recovery -> error edge -> checks -> service
//
// It knows no service: they register on GRPC, which is a grpc.ServiceRegistrar.
package server

import (
	"errors"
	"fmt"
	"time"
)

// Config bounds a gRPC server. Start from DefaultConfig.
type Config struct {
	MaxReceiveBytes    int           `yaml:"max_receive_bytes"`  // largest request; at least 1 KiB
	MaxSendBytes       int           `yaml:"max_send_bytes"`     // largest answer; at least 1 KiB
	MaxHeaderBytes     int           `yaml:"max_header_bytes"`   // all headers of a call; at least 4 KiB
	MaxStreams         int           `yaml:"max_streams"`        // calls at a time on one connection; at least 1
	MaxConns           int           `yaml:"max_conns"`          // connections; 0 for no bound
	MaxConnsPerAddress int           `yaml:"max_conns_per_addr"` // connections from one address (IPv6: one /64); 0 for no bound
	ConnWindow         int           `yaml:"conn_window"`        // bytes a connection may send ahead of our reading; 64 KiB to 64 MiB
	StreamWindow       int           `yaml:"stream_window"`      // the same of one call; 64 KiB to 64 MiB
	HandshakeWait      time.Duration `yaml:"handshake_wait"`     // longest handshake; at least 100ms
	CallDeadline       time.Duration `yaml:"call_deadline"`      // longest unary call, its request's arrival included; shorter deadlines of callers hold; at least 100ms
	RequestWait        time.Duration `yaml:"request_wait"`       // longest wait for the request that opens a stream of answers; at least 100ms
	MinPing            time.Duration `yaml:"min_ping"`           // clients that ping more often, or without a call, are sent away; at least 1s
	Ping               time.Duration `yaml:"ping"`               // silence after which we ping; at least 1s
	PingWait           time.Duration `yaml:"ping_wait"`          // silence after a ping that ends the connection; at least 1s
	IdleWait           time.Duration `yaml:"idle_wait"`          // a connection without calls is closed after this; at least 1s
	ConnAge            time.Duration `yaml:"conn_age"`           // a connection is asked to go after about this, so that load spreads; at least 1m
	ConnGrace          time.Duration `yaml:"conn_grace"`         // its calls end at the latest this much later; at least 1s
	DrainWait          time.Duration `yaml:"drain_wait"`         // longest wait for calls under way when the server stops; at least 100ms
	HealthEvery        time.Duration `yaml:"health_every"`       // how often readiness is asked for; at least 100ms
	Reflection         bool          `yaml:"reflection"`         // lets grpcurl and the like list our services
}

// DefaultConfig returns the bounds as documented. 4 MiB is a full batch; the 64 KiB beyond leave room for its framing.
func DefaultConfig() Config {
	return Config{
		MaxReceiveBytes:    4<<20 + 64<<10,
		MaxSendBytes:       4 << 20,
		MaxHeaderBytes:     16 << 10,
		MaxStreams:         256,
		MaxConns:           2048,
		MaxConnsPerAddress: 64,
		ConnWindow:         1 << 20,
		StreamWindow:       256 << 10,
		HandshakeWait:      10 * time.Second,
		CallDeadline:       10 * time.Second,
		RequestWait:        10 * time.Second,
		MinPing:            30 * time.Second,
		Ping:               30 * time.Second,
		PingWait:           10 * time.Second,
		IdleWait:           5 * time.Minute,
		ConnAge:            30 * time.Minute,
		ConnGrace:          time.Minute,
		DrainWait:          20 * time.Second,
		HealthEvery:        time.Second,
		Reflection:         true,
	}
}

// Validate returns every fault at once, by its setting.
func (c Config) Validate() error {
	var errs []error
	size := func(name string, got, low, high int) {
		if got < low || got > high {
			errs = append(errs, fmt.Errorf("server.%s: got %d, want %d to %d", name, got, low, high))
		}
	}
	wait := func(name string, got, low time.Duration) {
		if got < low {
			errs = append(errs, fmt.Errorf("server.%s: got %v, want at least %v", name, got, low))
		}
	}
	const most = 1 << 30
	size("max_receive_bytes", c.MaxReceiveBytes, 1<<10, most)
	size("max_send_bytes", c.MaxSendBytes, 1<<10, most)
	size("max_header_bytes", c.MaxHeaderBytes, 4<<10, most)
	size("max_streams", c.MaxStreams, 1, most)
	size("max_conns", c.MaxConns, 0, most)
	size("max_conns_per_addr", c.MaxConnsPerAddress, 0, most)
	size("conn_window", c.ConnWindow, 64<<10, 64<<20)
	size("stream_window", c.StreamWindow, 64<<10, 64<<20)
	wait("handshake_wait", c.HandshakeWait, 100*time.Millisecond)
	wait("call_deadline", c.CallDeadline, 100*time.Millisecond)
	wait("request_wait", c.RequestWait, 100*time.Millisecond)
	wait("min_ping", c.MinPing, time.Second)
	wait("ping", c.Ping, time.Second)
	wait("ping_wait", c.PingWait, time.Second)
	wait("idle_wait", c.IdleWait, time.Second)
	wait("conn_age", c.ConnAge, time.Minute)
	wait("conn_grace", c.ConnGrace, time.Second)
	wait("drain_wait", c.DrainWait, 100*time.Millisecond)
	wait("health_every", c.HealthEvery, 100*time.Millisecond)
	return errors.Join(errs...)
}
