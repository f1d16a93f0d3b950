package main

import (
	"context"
	"errors"
	"net"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	apiv1 "github.com/earshot/earshot/gen/earshot/api/v1"
	"github.com/earshot/earshot/services/ingest"
	"github.com/earshot/earshot/services/internal/clickhouse"
	"github.com/earshot/earshot/services/internal/kafka"
	"github.com/earshot/earshot/services/internal/server"
	"github.com/earshot/earshot/services/internal/telemetry"
	"github.com/earshot/earshot/services/processor"
	"github.com/earshot/earshot/services/processor/activity"
	"github.com/earshot/earshot/services/processor/anomaly"
	"github.com/earshot/earshot/services/processor/conversation"
	"github.com/earshot/earshot/services/processor/trend"
	"github.com/earshot/earshot/services/query"
	"github.com/earshot/earshot/services/sink"
	"github.com/spf13/cobra"
	"go.opentelemetry.io/otel"
	"google.golang.org/grpc"
)

// probe tells whether something can do its work.
type probe = func(context.Context) error

// serviceCommands are the services on their own, against brokers and a ClickHouse that run elsewhere.
func (a *app) serviceCommands() []*cobra.Command {
	one := func(word, short, example string, start func(context.Context, *line, telemetry.T) (probe, error)) *cobra.Command {
		return &cobra.Command{
			Use: word, Short: short, Args: noArgs, Example: "  " + example,
			RunE: func(cmd *cobra.Command, _ []string) error { return a.serve(cmd.Context(), word, start) },
		}
	}
	return []*cobra.Command{
		one("ingest", "Take messages and receipts over gRPC", "KAFKA_BROKERS=kafka:9092 earshot ingest", a.startIngestServer),
		one("query", "Serve live streams and history over gRPC", "KAFKA_BROKERS=kafka:9092 CLICKHOUSE_URL=clickhouse:9000 earshot query", a.startQueryServer),
		one("processor", "Find alerts, trends and metrics", "KAFKA_BROKERS=kafka:9092 earshot processor", a.startProcessor),
		one("sink", "Store every topic in ClickHouse", "KAFKA_BROKERS=kafka:9092 CLICKHOUSE_URL=clickhouse:9000 earshot sink", a.startSink),
		one("gateway", "Serve REST and the console in front of ingest and query", "INGEST_ADDR=ingest:50051 QUERY_ADDR=query:50051 earshot gateway", a.startGatewayServer),
	}
}

// serve runs one service until ctx ends.
func (a *app) serve(ctx context.Context, word string, start func(context.Context, *line, telemetry.T) (probe, error)) (err error) {
	tel, err := a.telemetry(ctx, word)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tel.Stop(ctx)) }()
	side, err := a.listen(ctx, server.MetricsPort, a.cfg.MetricsPort)
	if err != nil {
		return err
	}
	l := newLine(tel.Log())
	ready, err := start(ctx, l, tel.Service(ctx, word))
	if err != nil {
		return errors.Join(err, side.Close(), l.stop())
	}
	l.run("metrics", a.sideServer(tel.Handler(), side, ready))
	tel.Log().InfoContext(ctx, "serving", "version", version(), "metrics", side.Addr().String())
	err = l.wait(ctx)
	return errors.Join(err, l.stop())
}

// startIngest starts the service that takes messages, without a server.
func (a *app) startIngest(l *line, tel telemetry.T) (*ingest.Service, error) {
	out, err := kafka.NewProducer(a.kafka("ingest"), tel)
	if err != nil {
		return nil, err
	}
	admin, err := kafka.NewAdmin(a.kafka("ingest"))
	if err != nil {
		out.Close()
		return nil, err
	}
	s := ingest.New(a.cfg.Ingest, out, admin, tel)
	l.closer("ingest's producer", func(ctx context.Context) error {
		err := out.Flush(ctx)
		out.Close()
		admin.Close()
		return err
	})
	l.run("ingest", s.Run)
	return s, nil
}

func (a *app) startIngestServer(ctx context.Context, l *line, tel telemetry.T) (probe, error) {
	s, err := a.startIngest(l, tel)
	if err != nil {
		return nil, err
	}
	g := a.newGRPC(tel)
	registerIngest(g, s)
	return s.Ready, a.startGRPC(ctx, l, g)
}

func registerIngest(g *server.GRPC, s *ingest.Service) {
	apiv1.RegisterMessageServiceServer(g, s)
	g.HealthCheck(apiv1.MessageService_ServiceDesc.ServiceName, s.Ready)
}

// startQuery starts the service that answers questions, without a server.
func (a *app) startQuery(l *line, tel telemetry.T) (*query.Service, error) {
	db, err := a.openClickHouse(l, "query's connections")
	if err != nil {
		return nil, err
	}
	s := query.New(a.cfg.Query, a.kafka("query"), db, tel)
	l.run("query", s.Run)
	return s, nil
}

func (a *app) startQueryServer(ctx context.Context, l *line, tel telemetry.T) (probe, error) {
	s, err := a.startQuery(l, tel)
	if err != nil {
		return nil, err
	}
	g := a.newGRPC(tel)
	registerQuery(g, s)
	return s.Ready, a.startGRPC(ctx, l, g)
}

func registerQuery(g *server.GRPC, s *query.Service) {
	s.Register(g)
	for _, d := range []grpc.ServiceDesc{apiv1.AlertService_ServiceDesc, apiv1.TrendService_ServiceDesc, apiv1.ConversationService_ServiceDesc, apiv1.UserService_ServiceDesc} {
		g.HealthCheck(d.ServiceName, s.Ready)
	}
}

// startProcessor starts the host. A new processor is one folder and one line here.
func (a *app) startProcessor(_ context.Context, l *line, tel telemetry.T) (probe, error) {
	cfg := a.cfg
	terms := cfg.Kafka.Topics.TermTotals.Partitions
	host := processor.New(cfg.Processor, a.kafka("processor"), tel,
		[]processor.ConversationFactory{
			{Name: "conversation", New: func(int32) processor.ByConversation { return conversation.New(cfg.Conversation) }},
			{Name: "trend", New: func(p int32) processor.ByConversation { return trend.NewCounter(cfg.Trend, p, terms) }},
		},
		[]processor.SenderFactory{
			{Name: "anomaly", New: func(int32) processor.BySender { return anomaly.New(cfg.Anomaly) }},
			{Name: "activity", New: func(int32) processor.BySender { return activity.New() }},
		},
		processor.WithTerms(processor.TermFactory{Name: "trend", New: func(int32) processor.ByTerm { return trend.NewRanker(cfg.Trend) }}),
	)
	l.run("processor", host.Run)
	return host.Ready, nil
}

func (a *app) startSink(_ context.Context, l *line, tel telemetry.T) (probe, error) {
	db, err := a.openClickHouse(l, "sink's connections")
	if err != nil {
		return nil, err
	}
	s := sink.New(a.cfg.Sink, a.kafka("sink"), db, tel)
	l.run("sink", s.Run)
	return s.Ready, nil
}

// kafka returns the settings for a service's clients.
func (a *app) kafka(service string) kafka.Config {
	cfg := a.cfg.Kafka
	cfg.ClientID = "earshot-" + service
	if service == "sink" {
		cfg.FetchBytes = 128 << 10 // it waits to fill its batches anyhow, and every fetch costs broker and client alike
	}
	return cfg
}

func (a *app) openClickHouse(l *line, name string) (driver.Conn, error) {
	db, err := clickhouse.Open(a.cfg.ClickHouse)
	if err != nil {
		return nil, err
	}
	l.closer(name, func(context.Context) error { return db.Close() })
	return db, nil
}

func (a *app) newGRPC(tel telemetry.T) *server.GRPC {
	return server.NewGRPC(a.cfg.Server, tel, server.Instruments{Traces: otel.GetTracerProvider(), Metrics: otel.GetMeterProvider()})
}

func (a *app) startGRPC(ctx context.Context, l *line, g *server.GRPC) error {
	lis, err := a.listen(ctx, server.GRPCPort, a.cfg.GRPCPort)
	if err != nil {
		return err
	}
	serveGRPC(l, g, lis)
	return nil
}

func serveGRPC(l *line, g *server.GRPC, lis net.Listener) {
	l.run("grpc", func(ctx context.Context) error { return g.Serve(ctx, lis) })
}
