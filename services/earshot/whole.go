package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"

	apiv1 "github.com/earshot/earshot/gen/earshot/api/v1"
	"github.com/earshot/earshot/services/embedded"
	"github.com/earshot/earshot/services/gateway"
	"github.com/earshot/earshot/services/ingest"
	"github.com/earshot/earshot/services/internal/kafka"
	"github.com/earshot/earshot/services/internal/server"
	"github.com/earshot/earshot/services/internal/telemetry"
	"github.com/earshot/earshot/services/query"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// whole is the mesh in one process: the same services as apart, one server for each port.
type whole struct {
	app  *app
	line *line
	tel  *telemetry.Process
	http net.Listener
	grpc net.Listener

	started   atomic.Bool // the fields below are set
	ingest    *ingest.Service
	query     *query.Service
	processor probe
	sink      probe
	engine    *embedded.ClickHouse
}

// start starts everything and returns once it serves.
func (w *whole) start(ctx context.Context, at *addresses) (err error) {
	a, l := w.app, w.line
	if w.engine, err = a.embed(ctx, l, w.tel, at); err != nil {
		return err
	}
	if err := a.prepare(ctx); err != nil {
		return err
	}
	service := func(word string) telemetry.T { return w.tel.Service(ctx, word) }
	// Those who read start before those who write, and stop after them.
	if w.query, err = a.startQuery(l, service("query")); err != nil {
		return err
	}
	if w.sink, err = a.startSink(ctx, l, service("sink")); err != nil {
		return err
	}
	if w.processor, err = a.startProcessor(ctx, l, service("processor")); err != nil {
		return err
	}
	if w.ingest, err = a.startIngest(l, service("ingest")); err != nil {
		return err
	}
	g := a.newGRPC(service("ingest"))
	registerIngest(g, w.ingest)
	registerQuery(g, w.query)
	serveGRPC(l, g, w.grpc)
	if err := w.startGateway(l, service("gateway")); err != nil {
		return err
	}
	w.started.Store(true)
	return l.ready(ctx, startLimit, map[string]probe{"mesh": w.ready})
}

func (w *whole) startGateway(l *line, tel telemetry.T) error {
	local := gateway.NewLocal(server.Unary(tel), server.Stream(tel), w.app.cfg.Server.CallDeadline)
	apiv1.RegisterMessageServiceServer(local, w.ingest)
	w.query.Register(local)
	admin, err := kafka.NewAdmin(w.app.kafka("gateway"))
	if err != nil {
		return err
	}
	l.closer("gateway's admin", func(context.Context) error { admin.Close(); return nil })
	back := gateway.Backends{
		Ingest: local, Query: local,
		Checks: []gateway.Check{
			{Name: "kafka", Critical: true, Probe: w.ingest.Ready},
			{Name: "clickhouse", Probe: w.query.ReadyHistory},
			{Name: "processor", Probe: w.processor},
			{Name: "sink", Probe: w.sink},
			{Name: "query", Probe: func(context.Context) error { return w.query.ReadyLive() }},
		},
		Accepted: accepted(admin, w.app.cfg.Kafka.Topics.Messages.Name),
	}
	return w.app.serveGateway(l, back, w.http, tel)
}

// accepted counts what the log ever took.
func accepted(admin *kafka.Admin, topic string) func(context.Context) (int64, error) {
	return func(ctx context.Context) (int64, error) {
		end, err := admin.EndOffsets(ctx, topic)
		var n int64
		for _, o := range end {
			n += o
		}
		return n, err
	}
}

// ready succeeds when every part does its work.
func (w *whole) ready(ctx context.Context) error {
	if !w.started.Load() {
		return errors.New("starting")
	}
	var errs []error
	for name, p := range map[string]probe{"ingest": w.ingest.Ready, "query": w.query.Ready, "processor": w.processor, "sink": w.sink} {
		if err := p(ctx); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

func (a *app) serveGateway(l *line, back gateway.Backends, lis net.Listener, tel telemetry.T) error {
	g, err := gateway.New(a.cfg.Gateway, back, tel)
	if err != nil {
		return err
	}
	s := server.NewHTTP(a.cfg.HTTP, g.Handler(), tel)
	l.run("gateway", func(ctx context.Context) error { return s.Serve(ctx, lis) })
	return nil
}

// startGatewayServer is the gateway on its own: it dials the others.
func (a *app) startGatewayServer(ctx context.Context, l *line, tel telemetry.T) (probe, error) {
	lis, err := a.listen(ctx, server.HTTPPort, a.cfg.HTTPPort)
	if err != nil {
		return nil, err
	}
	var back gateway.Backends
	var alive []probe
	for _, r := range []struct {
		name, addr, service string
		critical            bool
	}{
		{"ingest", a.cfg.IngestAddr, apiv1.MessageService_ServiceDesc.ServiceName, true},
		{"query", a.cfg.QueryAddr, apiv1.AlertService_ServiceDesc.ServiceName, false},
	} {
		conn, err := gateway.Dial(r.addr, tel)
		if err != nil {
			return nil, errors.Join(err, lis.Close())
		}
		l.closer("gateway's connection to "+r.name, func(context.Context) error { return conn.Close() })
		health := healthpb.NewHealthClient(conn)
		check := gateway.Check{Name: r.name, Critical: r.critical, Probe: func(ctx context.Context) error {
			resp, err := health.Check(ctx, &healthpb.HealthCheckRequest{Service: r.service})
			if err == nil && resp.GetStatus() != healthpb.HealthCheckResponse_SERVING {
				err = fmt.Errorf("%s at %s says %s", r.name, r.addr, resp.GetStatus())
			}
			return err
		}}
		back.Checks = append(back.Checks, check)
		if r.critical {
			back.Ingest, alive = conn, append(alive, check.Probe)
		} else {
			back.Query = conn
		}
	}
	if err := a.serveGateway(l, back, lis, tel); err != nil {
		return nil, errors.Join(err, lis.Close())
	}
	return alive[0], nil
}
