// Package telemetry gives every service its log, metrics and traces.
package telemetry

import (
	"log/slog"

	"go.opentelemetry.io/otel/metric"
	metricnoop "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/trace"
	tracenoop "go.opentelemetry.io/otel/trace/noop"
)

// T is what a service is handed to be observed by. All fields are set and safe for concurrent use.
type T struct {
	Log    *slog.Logger
	Meter  metric.Meter
	Tracer trace.Tracer
}

// Nop returns a T that throws everything away.
func Nop() T {
	return T{
		Log:    slog.New(slog.DiscardHandler),
		Meter:  metricnoop.NewMeterProvider().Meter(""),
		Tracer: tracenoop.NewTracerProvider().Tracer(""),
	}
}
