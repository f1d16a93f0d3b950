package main

import (
	"context"
	"log/slog"

	"github.com/spf13/cobra"
)

func (a *app) clientCommands() []*cobra.Command { return nil }
func (a *app) doctorCommand() *cobra.Command { return &cobra.Command{Use: "doctor"} }
func (a *app) healthcheckCommand() *cobra.Command { return &cobra.Command{Use: "healthcheck"} }
func (a *app) demo(ctx context.Context, _ addresses, _ *slog.Logger) error { <-ctx.Done(); return nil }
