package server

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc/filters"
	"go.opentelemetry.io/otel/metric"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	tracenoop "go.opentelemetry.io/otel/trace/noop"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/stats"

	"github.com/earshot/earshot/services/internal/telemetry"
)

// Instruments say where a server's own traces and metrics (rpc.server.call.duration) go. The zero value keeps none, and costs nothing.
type Instruments struct {
	Traces  trace.TracerProvider // nil for none
	Metrics metric.MeterProvider // nil for none
}

// GRPC is a gRPC server within bounds. Register services and health checks, then call Serve once.
type GRPC struct {
	cfg     Config
	tel     telemetry.T
	grpc    *grpc.Server
	health  *health.Server
	checks  map[string]readiness // by service; "" is the whole server
	methods map[string]method    // filled before the first call

	draining context.Context
	drain    context.CancelFunc
}

// readiness returns nil when a service can serve.
type readiness = func(context.Context) error

type method struct {
	kind kind
	ours bool
}

// NewGRPC returns a server that does not listen yet.
func NewGRPC(cfg Config, tel telemetry.T, in Instruments) *GRPC {
	s := &GRPC{cfg: cfg, tel: tel, health: health.NewServer(), checks: map[string]readiness{}}
	s.draining, s.drain = context.WithCancel(context.Background())
	options := []grpc.ServerOption{
		grpc.MaxRecvMsgSize(cfg.MaxReceiveBytes),
		grpc.MaxSendMsgSize(cfg.MaxSendBytes),
		grpc.MaxHeaderListSize(uint32(cfg.MaxHeaderBytes)),   //nolint:gosec // bounded by Validate
		grpc.MaxConcurrentStreams(uint32(cfg.MaxStreams)),    //nolint:gosec // bounded by Validate
		grpc.StaticConnWindowSize(int32(cfg.ConnWindow)),     //nolint:gosec // bounded by Validate
		grpc.StaticStreamWindowSize(int32(cfg.StreamWindow)), //nolint:gosec // bounded by Validate
		grpc.ConnectionTimeout(cfg.HandshakeWait),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: cfg.MinPing}),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionIdle:     cfg.IdleWait,
			MaxConnectionAge:      cfg.ConnAge, // grpc-go adds 10 % either way
			MaxConnectionAgeGrace: cfg.ConnGrace,
			Time:                  cfg.Ping,
			Timeout:               cfg.PingWait,
		}),
		grpc.ForceServerCodecV2(newCodec()),
		grpc.InTapHandle(s.tap),
		grpc.UnaryInterceptor(Unary(tel)),
		grpc.StreamInterceptor(Stream(tel)),
		grpc.WaitForHandlers(true), // Serve returns when nothing of ours runs any more
	}
	if h := in.handler(); h != nil {
		options = append(options, grpc.StatsHandler(h))
	}
	s.grpc = grpc.NewServer(options...)
	healthv1.RegisterHealthServer(s.grpc, s.health)
	if cfg.Reflection {
		reflectionv1.RegisterServerReflectionServer(s.grpc, reflection.NewServerV1(reflection.ServerOptions{Services: own{s.grpc}}))
	}
	return s
}

// handler returns what observes calls, nil when nobody looks. Health checks are not observed.
func (in Instruments) handler() stats.Handler {
	if in.Traces == nil && in.Metrics == nil {
		return nil
	}
	if in.Traces == nil {
		in.Traces = tracenoop.NewTracerProvider()
	}
	if in.Metrics == nil {
		in.Metrics = metricnoop.NewMeterProvider()
	}
	return otelgrpc.NewServerHandler(
		otelgrpc.WithTracerProvider(in.Traces),
		otelgrpc.WithMeterProvider(in.Metrics),
		otelgrpc.WithPropagators(propagation.TraceContext{}),
		otelgrpc.WithFilter(filters.Not(filters.HealthCheck())),
	)
}

// own lists our services only: what grpc adds is no part of the API.
type own struct{ *grpc.Server }

func (o own) GetServiceInfo() map[string]grpc.ServiceInfo {
	all := o.Server.GetServiceInfo()
	maps.DeleteFunc(all, func(name string, _ grpc.ServiceInfo) bool { return !isOwn(name) })
	return all
}

func isOwn(service string) bool { return strings.HasPrefix(service, "earshot.") }

// RegisterService adds a service; the generated Register functions call it.
func (s *GRPC) RegisterService(d *grpc.ServiceDesc, impl any) { s.grpc.RegisterService(d, impl) }

// HealthCheck says how to learn whether service (a full name such as earshot.api.v1.MessageService) can serve: ready returns nil when it can. Until
// the first answer, and for as long as ready fails, its health is NOT_SERVING. The server as a whole, "", is well when all its services are.
func (s *GRPC) HealthCheck(service string, ready func(context.Context) error) {
	s.checks[service] = ready
}

// Serve takes calls on lis until ctx ends, then drains: health says NOT_SERVING, streams are told (Draining), calls under way have DrainWait to
// end, and what is left is cut off. It closes lis, and returns nil after a drain.
func (s *GRPC) Serve(ctx context.Context, lis net.Listener) error {
	s.methods = map[string]method{}
	for service, info := range s.grpc.GetServiceInfo() {
		for _, m := range info.Methods {
			k := unary
			if m.IsClientStream {
				k = both
			} else if m.IsServerStream {
				k = answers
			}
			s.methods["/"+service+"/"+m.Name] = method{k, isOwn(service)}
		}
	}
	var background sync.WaitGroup
	defer background.Wait()
	watching, stopWatching := context.WithCancel(ctx)
	defer stopWatching()
	background.Go(func() { s.watchHealth(watching) })

	served := make(chan error, 1)
	background.Go(func() { served <- s.grpc.Serve(s.limit(lis)) })
	select {
	case err := <-served:
		s.grpc.Stop()
		return fmt.Errorf("serve grpc on %s: %w", lis.Addr(), err)
	case <-ctx.Done():
	}
	stopWatching()
	s.stop()
	if err := <-served; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("serve grpc on %s: %w", lis.Addr(), err)
	}
	return nil
}

func (s *GRPC) stop() {
	s.health.Shutdown() // NOT_SERVING, for good
	s.drain()
	late := time.AfterFunc(s.cfg.DrainWait, func() {
		s.tel.Log.Warn("calls are cut off at the end of the drain", "drain_wait", s.cfg.DrainWait)
		s.grpc.Stop()
	})
	defer late.Stop()
	s.grpc.GracefulStop()
}

// watchHealth keeps the health service true until ctx ends.
func (s *GRPC) watchHealth(ctx context.Context) {
	tick := time.NewTicker(s.cfg.HealthEvery)
	defer tick.Stop()
	was := map[string]bool{}
	for service := range s.grpc.GetServiceInfo() {
		if isOwn(service) && s.checks[service] == nil {
			s.setHealth(service, true) // nothing it depends on
		}
	}
	for {
		all := true
		for service, ready := range s.checks {
			asking, cancel := context.WithTimeout(ctx, 5*time.Second)
			err := ready(asking)
			cancel()
			if ctx.Err() != nil {
				return
			}
			well, known := was[service]
			if now := err == nil; !known || now != well {
				was[service] = now
				s.setHealth(service, now)
				switch {
				case !known: // how it starts is no news
				case now:
					s.tel.Log.InfoContext(ctx, "service is ready", "rpc_service", service)
				default:
					s.tel.Log.WarnContext(ctx, "service is not ready", "rpc_service", service, "err", err)
				}
			}
			all = all && err == nil
		}
		s.setHealth("", all)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (s *GRPC) setHealth(service string, well bool) {
	state := healthv1.HealthCheckResponse_NOT_SERVING
	if well {
		state = healthv1.HealthCheckResponse_SERVING
	}
	s.health.SetServingStatus(service, state)
}
