package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode"

	apiv1 "github.com/earshot/earshot/gen/earshot/api/v1"
	eventv1 "github.com/earshot/earshot/gen/earshot/event/v1"
	"github.com/spf13/cobra"
	"golang.org/x/term"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

type grpcStatus = status.Status

// tailOptions say what to hear and how to show it.
type tailOptions struct {
	json    bool
	since   time.Duration
	users   []string
	convs   []string
	terms   []string
	closed  bool
	atLeast uint32
	color   bool
	out     io.Writer
}

func (a *app) tailCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "tail", Short: "Show a live stream: alerts, trends, conversations or users", Args: noArgs,
		Example: "  earshot tail alerts\n  earshot tail trends --since 10m\n  earshot tail users --json | jq .user.user_id",
	}
	for _, s := range []struct {
		name, short string
		follow      func(context.Context, *grpc.ClientConn, tailOptions, string) (string, error)
		flags       func(*cobra.Command, *tailOptions)
	}{
		{"alerts", "Who sends too much", followAlerts, func(c *cobra.Command, o *tailOptions) {
			c.Flags().StringSliceVar(&o.users, "user", nil, "only these users")
			c.Flags().StringSliceVar(&o.convs, "conversation", nil, "only with these conversations")
		}},
		{"trends", "Which words are used unusually much", followTrends, func(c *cobra.Command, o *tailOptions) {
			c.Flags().StringSliceVar(&o.terms, "term", nil, "only these words")
			c.Flags().BoolVar(&o.closed, "closed", false, "only windows that are closed")
		}},
		{"conversations", "How conversations are doing", followConversations, func(c *cobra.Command, o *tailOptions) {
			c.Flags().StringSliceVar(&o.convs, "conversation", nil, "only these conversations")
		}},
		{"users", "How active users are", followUsers, func(c *cobra.Command, o *tailOptions) {
			c.Flags().StringSliceVar(&o.users, "user", nil, "only these users")
		}},
	} {
		var o tailOptions
		var addr string
		sub := &cobra.Command{
			Use: s.name, Short: s.short, Args: noArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				o.out = cmd.OutOrStdout()
				o.color = !o.json && term.IsTerminal(int(os.Stdout.Fd())) && os.Getenv("NO_COLOR") == ""
				conn, err := a.dial(addr)
				if err != nil {
					return err
				}
				defer conn.Close()
				return tail(cmd.Context(), func(token string) (string, error) { return s.follow(cmd.Context(), conn, o, token) })
			},
		}
		sub.Flags().BoolVar(&o.json, "json", false, "one JSON object a line, as in the REST stream")
		sub.Flags().DurationVar(&o.since, "since", 0, "begin this long ago; otherwise now")
		sub.Flags().Uint32Var(&o.atLeast, "min-count", 0, "only with at least this many messages or uses")
		sub.Flags().StringVar(&addr, "addr", "", "host:port of gRPC, where it is not this machine's")
		s.flags(sub, &o)
		cmd.AddCommand(sub)
	}
	return cmd
}

// tail follows a stream and goes on by its resume token when it breaks, until ctx ends.
func tail(ctx context.Context, follow func(token string) (string, error)) error {
	token, wait := "", 100*time.Millisecond
	for {
		next, err := follow(token)
		if next != "" && next != token {
			token, wait = next, 100*time.Millisecond
		}
		if ctx.Err() != nil {
			return nil //nolint:nilerr // Ctrl-C is how a tail ends
		}
		switch status.Code(err) {
		case codes.Unavailable, codes.ResourceExhausted, codes.DeadlineExceeded, codes.Canceled, codes.OK:
			if token == "" && status.Code(err) == codes.Unavailable {
				return fmt.Errorf("%w; is the mesh running? start it with: earshot up", said(err))
			}
			fmt.Fprintf(os.Stderr, "stream ended (%s); going on where it was\n", status.Convert(err).Message())
		default:
			return said(err)
		}
		select {
		case <-time.After(wait):
			wait = min(2*wait, 5*time.Second)
		case <-ctx.Done():
			return nil
		}
	}
}

// frames reads one stream to its end and returns the last resume token.
func frames[R interface {
	proto.Message
	GetResumeToken() string
}](o tailOptions, token string, field string, recv func() (R, error), show func(R) (proto.Message, string)) (string, error) {
	enc := protojson.MarshalOptions{UseProtoNames: true, EmitUnpopulated: true}
	for {
		f, err := recv()
		if err != nil {
			return token, err
		}
		if f.GetResumeToken() != "" {
			token = f.GetResumeToken()
		}
		result, text := show(f)
		if result == nil { // a heartbeat
			continue
		}
		if o.json {
			b, err := enc.Marshal(result)
			if err != nil {
				return token, err
			}
			text = `{"` + field + `":` + string(b) + `}`
		}
		if _, err := fmt.Fprintln(o.out, text); err != nil {
			return token, err
		}
	}
}

func (o tailOptions) start(token string) *timestamppb.Timestamp {
	if token != "" || o.since == 0 {
		return nil
	}
	return timestamppb.New(time.Now().Add(-o.since))
}

func followAlerts(ctx context.Context, conn *grpc.ClientConn, o tailOptions, token string) (string, error) {
	s, err := apiv1.NewAlertServiceClient(conn).StreamAlerts(ctx, &apiv1.StreamAlertsRequest{
		ResumeToken: token, Since: o.start(token), UserIds: o.users, ConversationIds: o.convs, MinCount: o.atLeast,
	})
	if err != nil {
		return token, err
	}
	return frames(o, token, "alert", s.Recv, func(f *apiv1.StreamAlertsResponse) (proto.Message, string) {
		a := f.GetAlert()
		if a == nil {
			return nil, ""
		}
		state := strings.ToLower(strings.TrimPrefix(a.GetState().String(), "ALERT_STATE_"))
		tint := map[eventv1.AlertState]string{eventv1.AlertState_ALERT_STATE_OPEN: red, eventv1.AlertState_ALERT_STATE_CONFIRMED: yellow}[a.GetState()]
		return a, fmt.Sprintf("%s  %s  %s  %3d messages in %ds (threshold %d)  %s",
			clock(a.GetTriggeredAt()), o.paint(tint, fmt.Sprintf("%-9s", state)), o.paint(bold, pad(a.GetUserId(), 20)), a.GetCount(), a.GetSpanSeconds(), a.GetThreshold(), a.GetAlertId())
	})
}

func followTrends(ctx context.Context, conn *grpc.ClientConn, o tailOptions, token string) (string, error) {
	req := &apiv1.StreamTrendsRequest{ResumeToken: token, Since: o.start(token), Terms: o.terms, MinCount: o.atLeast}
	if o.closed {
		req.State = eventv1.WindowState_WINDOW_STATE_CLOSED
	}
	s, err := apiv1.NewTrendServiceClient(conn).StreamTrends(ctx, req)
	if err != nil {
		return token, err
	}
	return frames(o, token, "trend", s.Recv, func(f *apiv1.StreamTrendsResponse) (proto.Message, string) {
		t := f.GetTrend()
		if t == nil {
			return nil, ""
		}
		return t, fmt.Sprintf("%s – %s  %s  %4d uses by %2d%s  usually %5.1f  score %6.1f  %s", clock(t.GetWindowStart()), clock(t.GetWindowEnd()),
			o.paint(bold, pad(t.GetTerm(), 20)), t.GetCount(), t.GetSenders(), map[bool]string{true: "+", false: " "}[t.GetSenders() >= 64],
			t.GetBaseline(), t.GetScore(), o.window(t.GetState()))
	})
}

func followConversations(ctx context.Context, conn *grpc.ClientConn, o tailOptions, token string) (string, error) {
	s, err := apiv1.NewConversationServiceClient(conn).StreamConversationMetrics(ctx, &apiv1.StreamConversationMetricsRequest{
		ResumeToken: token, Since: o.start(token), ConversationIds: o.convs, MinMessages: o.atLeast,
	})
	if err != nil {
		return token, err
	}
	return frames(o, token, "conversation", s.Recv, func(f *apiv1.StreamConversationMetricsResponse) (proto.Message, string) {
		c := f.GetConversation()
		if c == nil {
			return nil, ""
		}
		reply := "     -"
		if c.GetReplies() > 0 {
			reply = fmt.Sprintf("%5.1fs", c.GetReplySeconds())
		}
		return c, fmt.Sprintf("%s  %s  %4d messages by %2d  %5.2f/s  peak %3d  reply %s  %s", clock(c.GetWindowEnd()), o.paint(bold, pad(c.GetConversationId(), 24)),
			c.GetMessageCount(), c.GetParticipantCount(), c.GetRate(), c.GetPeak(), reply, o.window(c.GetState()))
	})
}

func followUsers(ctx context.Context, conn *grpc.ClientConn, o tailOptions, token string) (string, error) {
	s, err := apiv1.NewUserServiceClient(conn).StreamUserActivity(ctx, &apiv1.StreamUserActivityRequest{
		ResumeToken: token, Since: o.start(token), UserIds: o.users, MinMessages: o.atLeast,
	})
	if err != nil {
		return token, err
	}
	return frames(o, token, "user", s.Recv, func(f *apiv1.StreamUserActivityResponse) (proto.Message, string) {
		u := f.GetUser()
		if u == nil {
			return nil, ""
		}
		return u, fmt.Sprintf("%s  %s  %4d messages in %2d conversations  %s", clock(u.GetWindowStart()), o.paint(bold, pad(u.GetUserId(), 20)),
			u.GetMessageCount(), u.GetActiveConversations(), o.window(u.GetState()))
	})
}

const (
	red    = "\x1b[31m"
	yellow = "\x1b[33m"
	bold   = "\x1b[1m"
	dim    = "\x1b[2m"
)

func (o tailOptions) paint(code, s string) string {
	if !o.color || code == "" {
		return s
	}
	return code + s + "\x1b[0m"
}

func (o tailOptions) window(s eventv1.WindowState) string {
	if s == eventv1.WindowState_WINDOW_STATE_CLOSED {
		return "closed"
	}
	return o.paint(dim, "provisional")
}

// pad shows a name in so many columns. Names come from strangers: what is not printable must not steer the terminal.
func pad(s string, width int) string {
	clean := []rune(strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '\uFFFD'
	}, s))
	if len(clean) > width {
		clean = append(clean[:width-1], '…')
	}
	return string(clean) + strings.Repeat(" ", width-len(clean))
}

func clock(t *timestamppb.Timestamp) string {
	at := t.AsTime().Local()
	if time.Since(at).Abs() > 20*time.Hour {
		return at.Format("2006-01-02 15:04:05")
	}
	return at.Format("15:04:05")
}
