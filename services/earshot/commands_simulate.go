package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"

	"github.com/earshot/earshot/services/internal/telemetry"
	"github.com/earshot/earshot/services/simulator"
	"github.com/spf13/cobra"
	"golang.org/x/term"
)

func (a *app) simulateCommand() *cobra.Command {
	o := simulator.DefaultOptions()
	var addr string
	var quiet bool
	cmd := &cobra.Command{
		Use: "simulate", Short: "Make traffic whose truth is known: users who chat, spam and talk of the same things", Args: noArgs,
		Long: `Make traffic whose truth is known, until Ctrl-C or for --duration: users who chat in pairs and groups, answer and read, now and then somebody who
sends too much, and words that are suddenly on many lips. The same seed, rate and users make the same traffic. It keeps to its plan however slow
the answers are, and says how far it fell behind.

--truth writes what was sent and what there is to be found in it: messages, receipts, alerts and rising words, as JSON lines.`,
		Example: `  earshot simulate --rate 50
  earshot simulate --mode rest --rate 200 --duration 1m --truth truth.jsonl
  PRODUCER_MODE=grpc earshot simulate`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.Validate(); err != nil {
				return usageError{err}
			}
			conn, err := a.dial(addr)
			if err != nil {
				return err
			}
			defer conn.Close()
			o.GRPC = conn
			if o.RESTURL == "" {
				o.RESTURL = "http://" + a.cfg.listen(a.cfg.HTTPPort)
			}
			o.Kafka, o.Threshold, o.Span = a.kafka("simulator"), a.cfg.Anomaly.Threshold, a.cfg.Anomaly.Span
			if !quiet {
				o.Out = cmd.OutOrStdout()
			}
			o.Report = func(s string) { fmt.Fprintln(cmd.ErrOrStderr(), s) }
			total, err := simulator.Run(cmd.Context(), o)
			if err != nil && total.Took == 0 {
				return err
			}
			fmt.Fprintln(cmd.OutOrStdout(), total)
			return err
		},
	}
	if mode := os.Getenv("PRODUCER_MODE"); mode != "" {
		o.Mode = mode
	}
	f := cmd.Flags()
	f.StringVar(&o.Mode, "mode", o.Mode, "way in: kafka, grpc or rest [PRODUCER_MODE]")
	f.Float64Var(&o.Rate, "rate", o.Rate, "messages a second; receipts come on top, about two each")
	f.IntVar(&o.Users, "users", o.Users, "how many chat; below 15 for each message a second many look like spammers")
	f.Uint64Var(&o.Seed, "seed", o.Seed, "another number, other traffic")
	f.DurationVar(&o.Duration, "duration", 0, "how long; 0 is until Ctrl-C")
	f.StringVar(&o.Truth, "truth", "", "file to write the truth to")
	f.DurationVar(&o.Patience, "timeout", o.Patience, "longest time without an acknowledgement before it gives up; 0 never does")
	f.StringVar(&addr, "addr", "", "host:port of gRPC, where it is not this machine's")
	f.StringVar(&o.RESTURL, "url", "", "where REST is, such as http://mesh:8080, where it is not this machine's")
	f.BoolVar(&quiet, "quiet", false, "print the totals only")
	return cmd
}

// demo makes traffic to look at until ctx ends, whatever happens to broker and engine meanwhile. Samples go to a terminal only.
func (a *app) demo(ctx context.Context, at addresses, log *slog.Logger) error {
	conn, err := a.dial(at.GRPC)
	if err != nil {
		return err
	}
	defer conn.Close()
	o := simulator.DefaultOptions()
	o.Mode, o.GRPC, o.Rate, o.Users, o.Patience = "grpc", conn, 10, 400, 0
	o.Threshold, o.Span = a.cfg.Anomaly.Threshold, a.cfg.Anomaly.Span
	o.Tel = telemetry.Nop()
	if term.IsTerminal(int(os.Stdout.Fd())) {
		o.Out = os.Stdout
	}
	o.Report = func(s string) { log.WarnContext(ctx, "demo traffic is held up", "service", "simulator", "detail", s) }
	total, err := simulator.Run(ctx, o)
	log.InfoContext(ctx, "demo traffic ended", "service", "simulator", "messages", total.Messages, "receipts", total.Receipts)
	return err
}
