package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	apiv1 "github.com/earshot/earshot/gen/earshot/api/v1"
	"github.com/earshot/earshot/services/simulator"
	"github.com/spf13/cobra"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// clientCommands are for people and scripts that use a running mesh.
func (a *app) clientCommands() []*cobra.Command {
	return []*cobra.Command{a.sendCommand(), a.tailCommand(), a.replayCommand(), a.simulateCommand()}
}

// dial connects to the mesh's gRPC port, or to another address.
func (a *app) dial(addr string) (*grpc.ClientConn, error) {
	if addr == "" {
		addr = a.cfg.listen(a.cfg.GRPCPort)
	}
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", addr, err)
	}
	return conn, nil
}

func (a *app) sendCommand() *cobra.Command {
	var req apiv1.SendMessageRequest
	var addr string
	cmd := &cobra.Command{
		Use: "send TEXT", Short: "Send one message", Args: exactArgs(1),
		Example: "  earshot send --from alice --to bob \"Hello Bob!\"\n  earshot send --from alice --conversation team-7 \"Deadline?\"",
		RunE: func(cmd *cobra.Command, args []string) error {
			conn, err := a.dial(addr)
			if err != nil {
				return err
			}
			defer conn.Close()
			req.Content = args[0]
			ctx, cancel := context.WithTimeout(cmd.Context(), 10*time.Second)
			defer cancel()
			resp, err := apiv1.NewMessageServiceClient(conn).SendMessage(ctx, &req)
			if err != nil {
				return said(err)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s %s\n", resp.GetMessageId(), resp.GetConversationId())
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&req.SenderId, "from", "", "user who sends")
	f.StringVar(&req.ReceiverId, "to", "", "user it is for")
	f.StringVar(&req.ConversationId, "conversation", "", "conversation; derived from the two users when absent")
	f.StringVar(&req.MessageId, "message-id", "", "id of an earlier try, to send it again")
	f.StringVar(&addr, "addr", "", "host:port of gRPC, where it is not this machine's")
	return cmd
}

func (a *app) replayCommand() *cobra.Command {
	var o simulator.ReplayOptions
	var addr, speed string
	cmd := &cobra.Command{
		Use: "replay FILE", Short: "Send recorded chat with its own times", Args: exactArgs(1),
		Long: `Send recorded chat with its own times, one JSON object a line: conversation_id, sender_id, content and created_at, and if need be receiver_id,
message_type and message_id. A file that is replayed twice, or shuffled, changes nothing: a line without message_id gets one made of what it says.
A replay that was cut off goes on at the first line that was not acknowledged. "-" reads standard input.`,
		Example: "  earshot replay chat.jsonl\n  earshot replay --speed 60 chat.jsonl      an hour a minute",
		RunE: func(cmd *cobra.Command, args []string) error {
			o.File = args[0]
			if speed != "max" {
				n, err := strconv.ParseFloat(strings.TrimSuffix(speed, "x"), 64)
				if err != nil || n <= 0 || n > 1e9 {
					return usageError{fmt.Errorf("--speed: got %q, want max or a number above 0, times real time", speed)}
				}
				o.Speed = n
			}
			conn, err := a.dial(addr)
			if err != nil {
				return err
			}
			defer conn.Close()
			return replay(cmd.Context(), cmd.OutOrStdout(), conn, o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&speed, "speed", "max", "max, as fast as it is acknowledged, or times real time")
	f.StringVar(&addr, "addr", "", "host:port of gRPC, where it is not this machine's")
	f.BoolVar(&o.SkipBad, "skip-bad", false, "report bad lines and go on")
	f.BoolVar(&o.FromStart, "from-start", false, "do not resume a replay that was cut off")
	f.DurationVar(&o.Patience, "timeout", 2*time.Minute, "longest time without an acknowledgement before it gives up")
	return cmd
}

// replay shows a bar on a terminal and ends with a line of totals, cut off or not.
func replay(ctx context.Context, out io.Writer, conn *grpc.ClientConn, o simulator.ReplayOptions) error {
	report := func(s string) { fmt.Fprintln(os.Stderr, s) }
	o.Report = report
	var bars *mpb.Progress
	if info, err := os.Stat(o.File); err == nil && term.IsTerminal(int(os.Stderr.Fd())) {
		bars = mpb.New(mpb.WithOutput(os.Stderr), mpb.WithAutoRefresh())
		var acknowledged int64
		bar := bars.AddBar(info.Size(),
			mpb.PrependDecorators(decor.Any(func(decor.Statistics) string { return fmt.Sprintf("%d messages ", acknowledged) })),
			mpb.AppendDecorators(decor.Percentage(), decor.OnComplete(decor.AverageETA(decor.ET_STYLE_GO, decor.WCSyncSpace), "")))
		o.Report = func(s string) { fmt.Fprintln(bars, s) }
		o.Progress = func(n, bytes int64) {
			acknowledged = n
			bar.SetCurrent(bytes)
		}
		defer func() { bar.Abort(false) }()
	}
	totals, err := simulator.Replay(ctx, conn, o)
	if bars != nil {
		o.Progress(int64(totals.Acknowledged), 1<<62)
		bars.Shutdown()
	}
	if err != nil && totals.Lines == 0 {
		return said(err)
	}
	fmt.Fprintln(out, totals)
	return said(err)
}

// said returns what a service answered, without the frame that the client library puts around it.
func said(err error) error {
	var e interface{ GRPCStatus() *grpcStatus }
	if errors.As(err, &e) && e.GRPCStatus() != nil {
		return fmt.Errorf("%s (%s)", e.GRPCStatus().Message(), e.GRPCStatus().Code())
	}
	return err
}

func (a *app) healthcheckCommand() *cobra.Command {
	var url string
	cmd := &cobra.Command{
		Use: "healthcheck", Short: "Exit 0 when the process on the metrics port does its work, 1 when not", Args: noArgs,
		Example: "  earshot healthcheck\n  earshot healthcheck --url http://127.0.0.1:8080/readyz",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if url == "" {
				host := a.cfg.ListenHost
				if host == "0.0.0.0" || host == "::" {
					host = "127.0.0.1"
				}
				local := config{ListenHost: host}
				url = "http://" + local.listen(a.cfg.MetricsPort) + "/readyz"
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), 3*time.Second)
			defer cancel()
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
			if err != nil {
				return usageError{fmt.Errorf("--url: %w", err)}
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				return fmt.Errorf("health: %w", err)
			}
			defer resp.Body.Close()
			body, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
			if resp.StatusCode != http.StatusOK {
				return fmt.Errorf("health: %s says %d: %s", url, resp.StatusCode, strings.TrimSpace(string(body)))
			}
			fmt.Fprintln(cmd.OutOrStdout(), "ok")
			return nil
		},
	}
	cmd.Flags().StringVar(&url, "url", "", "what to ask instead")
	return cmd
}
