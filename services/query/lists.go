package query

import (
	"context"
	"math"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	apiv1 "github.com/earshot/earshot/gen/earshot/api/v1"
	eventv1 "github.com/earshot/earshot/gen/earshot/event/v1"
	"github.com/earshot/earshot/services/internal/apierror"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// ListAlerts returns alerts in their latest state, newest trigger first.
func (s *Service) ListAlerts(ctx context.Context, req *apiv1.ListAlertsRequest) (*apiv1.ListAlertsResponse, error) {
	size, err := pageSize(req.GetPageSize())
	if err != nil {
		return nil, err
	}
	if err := checkRange(req.GetStartTime(), req.GetEndTime()); err != nil {
		return nil, err
	}
	states, err := alertStates(req.GetStates())
	if err != nil {
		return nil, err
	}
	q := alertQuestion()
	q.order, q.limit = "triggered_at DESC, alert_id DESC", size+1
	if req.GetUserId() != "" {
		q.only("user_id = {user_id:String}", "user_id", req.GetUserId())
	}
	if req.GetConversationId() != "" {
		q.only("has(conversation_ids, {conversation_id:String})", "conversation_id", req.GetConversationId())
	}
	if len(states) > 0 {
		words := make([]string, 0, len(states))
		for st := range states {
			words = append(words, word(st.String(), alertPrefix))
		}
		q.only("state IN {states:Array(String)}", "states", words)
	}
	q.between("triggered_at", req.GetStartTime(), req.GetEndTime())
	filter := newHash("list alerts").text(req.GetUserId()).text(req.GetConversationId()).set(names(states)).times(req.GetStartTime(), req.GetEndTime()).sum()
	from, more, err := parsePageToken(req.GetPageToken(), filter, 1)
	if err != nil {
		return nil, err
	}
	if more {
		q.only("(triggered_at, alert_id) < (fromUnixTimestamp64Milli({from_time:Int64}, 'UTC'), {from_id:String})", "from_time", from.numbers[0])
		q.bind("from_id", from.text)
	}
	alerts, err := s.history.alerts(ctx, "ListAlerts", q)
	if err != nil {
		return nil, err
	}
	alerts, next := page(alerts, size, filter, func(a *eventv1.Alert) cursor {
		return cursor{numbers: []int64{a.GetTriggeredAt().AsTime().UnixMilli()}, text: a.GetAlertId()}
	})
	return &apiv1.ListAlertsResponse{Alerts: alerts, NextPageToken: next}, nil
}

// GetAlert returns one alert in its latest state.
func (s *Service) GetAlert(ctx context.Context, req *apiv1.GetAlertRequest) (*apiv1.GetAlertResponse, error) {
	q := alertQuestion()
	q.only("alert_id = {alert_id:String}", "alert_id", req.GetAlertId())
	q.limit = 1
	alerts, err := s.history.alerts(ctx, "GetAlert", q)
	if err != nil {
		return nil, err
	}
	if len(alerts) == 0 {
		return nil, apierror.NotFound("alert", req.GetAlertId())
	}
	return &apiv1.GetAlertResponse{Alert: alerts[0]}, nil
}

func alertQuestion() question {
	return question{view: "alerts", columns: "alert_id, user_id, state, triggered_at, count, threshold, span_seconds, window_start, window_end, message_ids, " +
		"positions.1, positions.2, conversation_ids, superseded_by, revision, rule"}
}

func (h history) alerts(ctx context.Context, operation string, q question) ([]*eventv1.Alert, error) {
	var out []*eventv1.Alert
	err := h.ask(ctx, operation, q, func(rows driver.Rows) error {
		a := new(eventv1.Alert)
		var state string
		var triggered, start, end time.Time
		var partitions []int32
		var offsets []int64
		if err := rows.Scan(&a.AlertId, &a.UserId, &state, &triggered, &a.Count, &a.Threshold, &a.SpanSeconds, &start, &end, &a.MessageIds,
			&partitions, &offsets, &a.ConversationIds, &a.SupersededBy, &a.Revision, &a.Rule); err != nil {
			return err
		}
		a.State = eventv1.AlertState(eventv1.AlertState_value[alertPrefix+strings.ToUpper(state)])
		a.TriggeredAt, a.WindowStart, a.WindowEnd = timestamppb.New(triggered), timestamppb.New(start), timestamppb.New(end)
		for i, p := range partitions {
			a.Positions = append(a.Positions, &eventv1.RecordPosition{Partition: p, Offset: offsets[i]})
		}
		out = append(out, a)
		return nil
	})
	return out, err
}

// ListTrends returns words by window, newest window first, highest score first.
func (s *Service) ListTrends(ctx context.Context, req *apiv1.ListTrendsRequest) (*apiv1.ListTrendsResponse, error) {
	size, err := pageSize(req.GetPageSize())
	if err != nil {
		return nil, err
	}
	if err := checkRange(req.GetStartTime(), req.GetEndTime()); err != nil {
		return nil, err
	}
	// Of words with equal scores some order must hold; a hash keeps page tokens short, whatever the word.
	const tie = "cityHash64(term, window_end)"
	q := question{
		view:    "trends",
		columns: "term, window_start, window_end, count, senders, score, state, approximate, baseline, revision, " + tie,
		order:   "window_start DESC, score DESC, " + tie,
		limit:   size + 1,
	}
	term := foldTerm(req.GetTerm())
	if term != "" {
		q.only("term = {term:String}", "term", term)
	}
	if req.GetState() != eventv1.WindowState_WINDOW_STATE_UNSPECIFIED {
		q.only("state = {state:String}", "state", word(req.GetState().String(), windowPrefix))
	}
	if req.GetMinScore() != 0 {
		q.only("score >= "+floatParameter("min_score"), "min_score", math.Float64bits(req.GetMinScore()))
	}
	q.between("window_start", req.GetStartTime(), req.GetEndTime())
	filter := newHash("list trends").text(term).number(uint64(req.GetState())).number(math.Float64bits(req.GetMinScore())). //nolint:gosec // an enum's number
																times(req.GetStartTime(), req.GetEndTime()).sum()
	from, more, err := parsePageToken(req.GetPageToken(), filter, 3)
	if err != nil {
		return nil, err
	}
	if more {
		q.only("(window_start, score, -toInt128("+tie+")) < (fromUnixTimestamp64Milli({from_time:Int64}, 'UTC'), "+floatParameter("from_score")+", -toInt128({from_tie:UInt64}))",
			"from_time", from.numbers[0])
		q.bind("from_score", uint64(from.numbers[1])) //nolint:gosec // bits
		q.bind("from_tie", uint64(from.numbers[2]))   //nolint:gosec // bits
	}
	type row struct {
		*eventv1.Trend
		tie uint64
	}
	var found []row
	err = s.history.ask(ctx, "ListTrends", q, func(rows driver.Rows) error {
		t := row{Trend: new(eventv1.Trend)}
		var state string
		var start, end time.Time
		if err := rows.Scan(&t.Term, &start, &end, &t.Count, &t.Senders, &t.Score, &state, &t.Approximate, &t.Baseline, &t.Revision, &t.tie); err != nil {
			return err
		}
		t.State, t.WindowStart, t.WindowEnd = windowState(state), timestamppb.New(start), timestamppb.New(end)
		found = append(found, t)
		return nil
	})
	if err != nil {
		return nil, err
	}
	found, next := page(found, size, filter, func(t row) cursor {
		return cursor{numbers: []int64{t.GetWindowStart().AsTime().UnixMilli(), int64(math.Float64bits(t.GetScore())), int64(t.tie)}} //nolint:gosec // bits
	})
	trends := make([]*eventv1.Trend, len(found))
	for i, t := range found {
		trends[i] = t.Trend
	}
	return &apiv1.ListTrendsResponse{Trends: trends, NextPageToken: next}, nil
}

const (
	alertPrefix  = "ALERT_STATE_"
	windowPrefix = "WINDOW_STATE_"
)

// word returns an enum's name as rows hold it: ALERT_STATE_OPEN is open.
func word(name, prefix string) string { return strings.ToLower(strings.TrimPrefix(name, prefix)) }

func windowState(word string) eventv1.WindowState {
	return eventv1.WindowState(eventv1.WindowState_value[windowPrefix+strings.ToUpper(word)])
}

// floatParameter binds a float by its bits: ClickHouse reads decimal text quickly rather than to the last bit.
func floatParameter(name string) string { return "reinterpretAsFloat64({" + name + ":UInt64})" }

// times folds optional times.
func (h hash) times(all ...*timestamppb.Timestamp) hash {
	for _, t := range all {
		if t == nil {
			h.number(0)
			continue
		}
		h.number(1).number(uint64(t.AsTime().UnixNano())) //nolint:gosec // bits
	}
	return h
}
