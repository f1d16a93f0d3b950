package query

import (
	"fmt"
	"math"
	"time"

	apiv1 "github.com/earshot/earshot/gen/earshot/api/v1"
	eventv1 "github.com/earshot/earshot/gen/earshot/event/v1"
	"github.com/earshot/earshot/services/internal/apierror"
	"github.com/earshot/earshot/services/internal/ident"
	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// StreamAlerts sends alerts as they are found.
func (s *Service) StreamAlerts(req *apiv1.StreamAlertsRequest, out grpc.ServerStreamingServer[apiv1.StreamAlertsResponse]) error {
	states, err := alertStates(req.GetStates())
	if err != nil {
		return err
	}
	users, conversations, least := setOf(req.GetUserIds()), setOf(req.GetConversationIds()), req.GetMinCount()
	return s.alerts.serve(out.Context(), subscription[*eventv1.Alert]{
		resume: req.GetResumeToken(), since: req.GetSince(),
		filter: newHash("stream alerts").set(req.GetUserIds()).set(req.GetConversationIds()).set(names(states)).number(uint64(least)).sum(),
		match: func(a *eventv1.Alert) bool {
			return a.GetCount() >= least && users.has(a.GetUserId()) && (len(states) == 0 || states[a.GetState()]) && conversations.hasAny(a.GetConversationIds())
		},
		send: func(a *eventv1.Alert, beat *apiv1.Heartbeat, token string) error {
			frame := &apiv1.StreamAlertsResponse{ResumeToken: token}
			if beat != nil {
				frame.Frame = &apiv1.StreamAlertsResponse_Heartbeat{Heartbeat: beat}
			} else {
				frame.Frame = &apiv1.StreamAlertsResponse_Alert{Alert: a}
			}
			return out.Send(frame)
		},
	})
}

// StreamTrends sends trends as they change and close.
func (s *Service) StreamTrends(req *apiv1.StreamTrendsRequest, out grpc.ServerStreamingServer[apiv1.StreamTrendsResponse]) error {
	wanted := make([]string, len(req.GetTerms()))
	for i, t := range req.GetTerms() {
		wanted[i] = foldTerm(t)
	}
	terms, state, score, least := setOf(wanted), req.GetState(), req.GetMinScore(), req.GetMinCount()
	return s.trends.serve(out.Context(), subscription[*eventv1.Trend]{
		resume: req.GetResumeToken(), since: req.GetSince(),
		filter: newHash("stream trends").set(wanted).number(uint64(state)).number(math.Float64bits(score)).number(uint64(least)).sum(), //nolint:gosec // an enum's number
		match: func(t *eventv1.Trend) bool {
			return t.GetCount() >= least && (score == 0 || t.GetScore() >= score) && terms.has(t.GetTerm()) && inState(state, t.GetState())
		},
		send: func(t *eventv1.Trend, beat *apiv1.Heartbeat, token string) error {
			frame := &apiv1.StreamTrendsResponse{ResumeToken: token}
			if beat != nil {
				frame.Frame = &apiv1.StreamTrendsResponse_Heartbeat{Heartbeat: beat}
			} else {
				frame.Frame = &apiv1.StreamTrendsResponse_Trend{Trend: t}
			}
			return out.Send(frame)
		},
	})
}

// StreamConversationMetrics sends conversations' windows as they end.
func (s *Service) StreamConversationMetrics(req *apiv1.StreamConversationMetricsRequest, out grpc.ServerStreamingServer[apiv1.StreamConversationMetricsResponse]) error {
	conversations, least := setOf(req.GetConversationIds()), req.GetMinMessages()
	return s.conversations.serve(out.Context(), subscription[*eventv1.ConversationMetrics]{
		resume: req.GetResumeToken(), since: req.GetSince(),
		filter: newHash("stream conversations").set(req.GetConversationIds()).number(uint64(least)).sum(),
		match: func(c *eventv1.ConversationMetrics) bool {
			return c.GetMessageCount() >= least && conversations.has(c.GetConversationId())
		},
		send: func(c *eventv1.ConversationMetrics, beat *apiv1.Heartbeat, token string) error {
			frame := &apiv1.StreamConversationMetricsResponse{ResumeToken: token}
			if beat != nil {
				frame.Frame = &apiv1.StreamConversationMetricsResponse_Heartbeat{Heartbeat: beat}
			} else {
				frame.Frame = &apiv1.StreamConversationMetricsResponse_Conversation{Conversation: c}
			}
			return out.Send(frame)
		},
	})
}

// StreamUserActivity sends users' minutes as they change and close.
func (s *Service) StreamUserActivity(req *apiv1.StreamUserActivityRequest, out grpc.ServerStreamingServer[apiv1.StreamUserActivityResponse]) error {
	users, least := setOf(req.GetUserIds()), req.GetMinMessages()
	return s.users.serve(out.Context(), subscription[*eventv1.UserActivity]{
		resume: req.GetResumeToken(), since: req.GetSince(),
		filter: newHash("stream users").set(req.GetUserIds()).number(uint64(least)).sum(),
		match: func(u *eventv1.UserActivity) bool {
			return u.GetMessageCount() >= least && users.has(u.GetUserId())
		},
		send: func(u *eventv1.UserActivity, beat *apiv1.Heartbeat, token string) error {
			frame := &apiv1.StreamUserActivityResponse{ResumeToken: token}
			if beat != nil {
				frame.Frame = &apiv1.StreamUserActivityResponse_Heartbeat{Heartbeat: beat}
			} else {
				frame.Frame = &apiv1.StreamUserActivityResponse_User{User: u}
			}
			return out.Send(frame)
		},
	})
}

// set holds what is wanted; an empty one wants everything.
type set map[string]struct{}

func setOf(texts []string) set {
	s := make(set, len(texts))
	for _, t := range texts {
		s[t] = struct{}{}
	}
	return s
}

func (s set) has(text string) bool {
	_, ok := s[text]
	return ok || len(s) == 0
}

func (s set) hasAny(texts []string) bool {
	if len(s) == 0 {
		return true
	}
	for _, t := range texts {
		if s.has(t) {
			return true
		}
	}
	return false
}

// alertStates returns the states asked for; none for all.
func alertStates(in []eventv1.AlertState) (map[eventv1.AlertState]bool, error) {
	states := make(map[eventv1.AlertState]bool, len(in))
	for i, st := range in {
		if _, known := eventv1.AlertState_name[int32(st)]; !known || st == eventv1.AlertState_ALERT_STATE_UNSPECIFIED {
			return nil, apierror.Field(fmt.Sprintf("states[%d]", i), st.String(), "a state such as ALERT_STATE_OPEN", apierror.ReasonFieldInvalid)
		}
		states[st] = true
	}
	return states, nil
}

func names(states map[eventv1.AlertState]bool) []string {
	out := make([]string, 0, len(states))
	for st := range states {
		out = append(out, st.String())
	}
	return out
}

func inState(want, got eventv1.WindowState) bool {
	return want == eventv1.WindowState_WINDOW_STATE_UNSPECIFIED || want == got
}

// foldTerm writes a word as trends write it.
func foldTerm(s string) string { return norm.NFKC.String(cases.Fold().String(norm.NFKC.String(s))) }

// checkTime refuses times that no record can have.
func checkTime(field string, t *timestamppb.Timestamp) error {
	if t == nil {
		return nil
	}
	if t.CheckValid() != nil || t.AsTime().Before(ident.MinTime) || !t.AsTime().Before(ident.MaxTime) {
		return apierror.Field(field, fmt.Sprintf("%d.%09d s", t.GetSeconds(), t.GetNanos()), "a time from 1970 to 2261", apierror.ReasonTimeOutOfRange)
	}
	return nil
}

// checkRange refuses a range of times that holds nothing.
func checkRange(start, end *timestamppb.Timestamp) error {
	if err := checkTime("start_time", start); err != nil {
		return err
	}
	if err := checkTime("end_time", end); err != nil {
		return err
	}
	if start != nil && end != nil && !start.AsTime().Before(end.AsTime()) {
		return apierror.Field("end_time", end.AsTime().Format(time.RFC3339Nano), "after start_time", apierror.ReasonFieldInvalid)
	}
	return nil
}
