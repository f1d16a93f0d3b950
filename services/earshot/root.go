package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"

	"github.com/earshot/earshot/services/internal/telemetry"
	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// app is what every command starts from: the settings, once they are loaded.
type app struct {
	cfg   config
	table *settings
	file  string
}

func newRoot() *cobra.Command {
	a := &app{cfg: defaultConfig()}
	a.table = a.cfg.table()
	root := &cobra.Command{
		Use:   "earshot",
		Short: "Real-time messaging analytics: who is spamming, what is trending, how conversations are doing",
		Example: `  earshot up --demo                      the whole mesh on this machine, with traffic to look at
  earshot replay chat.jsonl              send recorded chat
  earshot tail alerts                    hear alerts as they come
  earshot config print --effective       every setting and where it came from`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          noArgs,
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w; see: %s --help", err, cmd.CommandPath())}
	})
	root.PersistentFlags().StringVar(&a.file, "config", os.Getenv("EARSHOT_CONFIG"), "YAML file with settings [EARSHOT_CONFIG]")
	a.table.flags(root.PersistentFlags())
	for _, s := range a.table.list { // a hundred settings would bury a command's own flags; `config print` lists them
		if !everyday[s.path] {
			_ = root.PersistentFlags().MarkHidden(s.flag)
		}
	}
	root.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
		if err := a.table.load(cmd.Flags(), a.file, os.LookupEnv); err != nil {
			return usageError{err}
		}
		a.cfg.settle(a.table)
		if err := a.cfg.validate(); err != nil {
			return usageError{err}
		}
		return nil
	}
	root.AddGroup(&cobra.Group{ID: "mesh", Title: "Run it:"}, &cobra.Group{ID: "use", Title: "Use it:"}, &cobra.Group{ID: "setup", Title: "Set up and diagnose:"})
	for group, commands := range map[string][]*cobra.Command{
		"mesh":  append(a.serviceCommands(), a.upCommand()),
		"use":   a.clientCommands(),
		"setup": a.setupCommands(),
	} {
		for _, c := range commands {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	wantCommand(root)
	return root
}

// wantCommand makes it wrong usage to name a command that only holds others: without something to run cobra prints the help and is content.
func wantCommand(cmd *cobra.Command) {
	for _, sub := range cmd.Commands() {
		wantCommand(sub)
	}
	if cmd.Run == nil && cmd.RunE == nil {
		cmd.RunE = func(cmd *cobra.Command, _ []string) error {
			return usageError{errors.New("no command given; see: " + cmd.CommandPath() + " --help")}
		}
	}
}

// everyday settings are shown in each command's help.
var everyday = map[string]bool{
	"http.port": true, "grpc.port": true, "metrics.port": true, "kafka.brokers": true, "clickhouse.url": true, "listen.host": true, "log.level": true,
}

// noArgs refuses arguments as wrong usage.
func noArgs(cmd *cobra.Command, args []string) error {
	if err := cobra.NoArgs(cmd, args); err != nil {
		return usageError{fmt.Errorf("%w; see: %s --help", err, cmd.CommandPath())}
	}
	return nil
}

// exactArgs wants n arguments.
func exactArgs(n int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := cobra.ExactArgs(n)(cmd, args); err != nil {
			return usageError{fmt.Errorf("%w; see: %s --help", err, cmd.CommandPath())}
		}
		return nil
	}
}

// telemetry starts the telemetry of a process that runs services.
func (a *app) telemetry(ctx context.Context, main string) (*telemetry.Process, error) {
	return telemetry.Start(ctx, a.cfg.Telemetry, main, version(), os.Stderr, term.IsTerminal(int(os.Stderr.Fd())))
}

// version is set by the linker in releases, and otherwise told by the toolchain.
var release string

func version() string {
	if release != "" {
		return release
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}
