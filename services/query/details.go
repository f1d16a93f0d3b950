package query

import (
	"context"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	apiv1 "github.com/earshot/earshot/gen/earshot/api/v1"
	eventv1 "github.com/earshot/earshot/gen/earshot/event/v1"
	"github.com/earshot/earshot/services/internal/apierror"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// ListConversationMessages returns a conversation's messages, oldest first, with what became of them.
func (s *Service) ListConversationMessages(ctx context.Context, req *apiv1.ListConversationMessagesRequest) (*apiv1.ListConversationMessagesResponse, error) {
	size, err := pageSize(req.GetPageSize())
	if err != nil {
		return nil, err
	}
	if err := checkRange(req.GetStartTime(), req.GetEndTime()); err != nil {
		return nil, err
	}
	q := question{
		view:    "messages",
		columns: "message_id, conversation_id, sender_id, receiver_id, content, created_at, message_type, read_status, read_at, _offset",
		order:   "created_at, _offset, message_id", // the last decides only where a conversation moved to another partition
		limit:   size + 1,
	}
	q.only("conversation_id = {conversation_id:String}", "conversation_id", req.GetConversationId())
	q.between("created_at", req.GetStartTime(), req.GetEndTime())
	filter := newHash("list messages").text(req.GetConversationId()).times(req.GetStartTime(), req.GetEndTime()).sum()
	from, more, err := parsePageToken(req.GetPageToken(), filter, 2)
	if err != nil {
		return nil, err
	}
	if more {
		// The first condition says nothing new, but it is one that the primary key can use.
		q.only("created_at >= fromUnixTimestamp64Milli({from_time:Int64}, 'UTC')", "from_time", from.numbers[0])
		q.only("(created_at, _offset, message_id) > (fromUnixTimestamp64Milli({from_time:Int64}, 'UTC'), {from_offset:Int64}, {from_id:String})",
			"from_offset", from.numbers[1])
		q.bind("from_id", from.text)
	}
	type row struct {
		*apiv1.ConversationMessage
		offset int64
	}
	var found []row
	err = s.history.ask(ctx, "ListConversationMessages", q, func(rows driver.Rows) error {
		m := row{ConversationMessage: new(apiv1.ConversationMessage)}
		var created time.Time
		var read *time.Time
		if err := rows.Scan(&m.MessageId, &m.ConversationId, &m.SenderId, &m.ReceiverId, &m.Content, &created, &m.MessageType, &m.ReadStatus, &read, &m.offset); err != nil {
			return err
		}
		m.CreatedAt = timestamppb.New(created)
		if read != nil {
			m.ReadAt = timestamppb.New(*read)
		}
		found = append(found, m)
		return nil
	})
	if err != nil {
		return nil, err
	}
	found, next := page(found, size, filter, func(m row) cursor {
		return cursor{numbers: []int64{m.GetCreatedAt().AsTime().UnixMilli(), m.offset}, text: m.GetMessageId()}
	})
	messages := make([]*apiv1.ConversationMessage, len(found))
	for i, m := range found {
		messages[i] = m.ConversationMessage
	}
	return &apiv1.ListConversationMessagesResponse{Messages: messages, NextPageToken: next}, nil
}

// GetConversationMetrics returns a conversation's totals and its latest windows.
func (s *Service) GetConversationMetrics(ctx context.Context, req *apiv1.GetConversationMetricsRequest) (*apiv1.GetConversationMetricsResponse, error) {
	size, err := pageSize(req.GetPageSize())
	if err != nil {
		return nil, err
	}
	if err := checkRange(req.GetStartTime(), req.GetEndTime()); err != nil {
		return nil, err
	}
	totals := question{view: "conversation_metrics", columns: "message_count, participant_count, created_at, last_message_at"}
	totals.only("conversation_id = {conversation_id:String}", "conversation_id", req.GetConversationId())
	q := question{
		view:    "conversation_windows",
		columns: "conversation_id, window_start, window_end, message_count, participant_count, rate, peak, reply_seconds, replies, state, revision",
		order:   "window_end DESC, window_start DESC",
		limit:   size + 1,
	}
	q.only("conversation_id = {conversation_id:String}", "conversation_id", req.GetConversationId())
	q.between("window_end", req.GetStartTime(), req.GetEndTime())
	filter := newHash("conversation metrics").text(req.GetConversationId()).times(req.GetStartTime(), req.GetEndTime()).sum()
	if err := q.before("window_end", "window_start", req.GetPageToken(), filter); err != nil {
		return nil, err
	}

	res := &apiv1.GetConversationMetricsResponse{ConversationId: req.GetConversationId()}
	known := false
	both, ctx := errgroup.WithContext(ctx)
	both.Go(func() error {
		return s.history.ask(ctx, "GetConversationMetrics", totals, func(rows driver.Rows) error {
			var first, last time.Time
			if err := rows.Scan(&res.MessageCount, &res.ParticipantCount, &first, &last); err != nil {
				return err
			}
			known = true
			res.CreatedAt, res.LastMessageAt = timestamppb.New(first), timestamppb.New(last)
			return nil
		})
	})
	var windows []*eventv1.ConversationMetrics
	both.Go(func() error {
		return s.history.ask(ctx, "GetConversationMetrics", q, func(rows driver.Rows) error {
			c := new(eventv1.ConversationMetrics)
			var state string
			var start, end time.Time
			if err := rows.Scan(&c.ConversationId, &start, &end, &c.MessageCount, &c.ParticipantCount, &c.Rate, &c.Peak, &c.ReplySeconds, &c.Replies, &state, &c.Revision); err != nil {
				return err
			}
			c.State, c.WindowStart, c.WindowEnd = windowState(state), timestamppb.New(start), timestamppb.New(end)
			windows = append(windows, c)
			return nil
		})
	})
	if err := both.Wait(); err != nil {
		return nil, err
	}
	if !known && len(windows) == 0 {
		return nil, apierror.NotFound("conversation", req.GetConversationId())
	}
	res.Windows, res.NextPageToken = page(windows, size, filter, func(c *eventv1.ConversationMetrics) cursor {
		return cursor{numbers: []int64{c.GetWindowEnd().AsTime().UnixMilli(), c.GetWindowStart().AsTime().UnixMilli()}}
	})
	return res, nil
}

// GetUserActivity returns a user's totals and latest active minutes.
func (s *Service) GetUserActivity(ctx context.Context, req *apiv1.GetUserActivityRequest) (*apiv1.GetUserActivityResponse, error) {
	size, err := pageSize(req.GetPageSize())
	if err != nil {
		return nil, err
	}
	if err := checkRange(req.GetStartTime(), req.GetEndTime()); err != nil {
		return nil, err
	}
	totals := question{view: "user_stats", columns: "message_count, active_conversations, created_at, last_active"}
	totals.only("user_id = {user_id:String}", "user_id", req.GetUserId())
	q := question{
		view:    "user_activity",
		columns: "user_id, window_start, window_end, message_count, active_conversations, last_active, state, revision",
		order:   "window_start DESC, window_end DESC",
		limit:   size + 1,
	}
	q.only("user_id = {user_id:String}", "user_id", req.GetUserId())
	q.between("window_start", req.GetStartTime(), req.GetEndTime())
	filter := newHash("user activity").text(req.GetUserId()).times(req.GetStartTime(), req.GetEndTime()).sum()
	if err := q.before("window_start", "window_end", req.GetPageToken(), filter); err != nil {
		return nil, err
	}

	res := &apiv1.GetUserActivityResponse{UserId: req.GetUserId()}
	known := false
	both, ctx := errgroup.WithContext(ctx)
	both.Go(func() error {
		return s.history.ask(ctx, "GetUserActivity", totals, func(rows driver.Rows) error {
			var first, last time.Time
			if err := rows.Scan(&res.MessageCount, &res.ActiveConversations, &first, &last); err != nil {
				return err
			}
			known = true
			res.CreatedAt, res.LastActive = timestamppb.New(first), timestamppb.New(last)
			return nil
		})
	})
	var minutes []*eventv1.UserActivity
	both.Go(func() error {
		return s.history.ask(ctx, "GetUserActivity", q, func(rows driver.Rows) error {
			u := new(eventv1.UserActivity)
			var state string
			var start, end, last time.Time
			if err := rows.Scan(&u.UserId, &start, &end, &u.MessageCount, &u.ActiveConversations, &last, &state, &u.Revision); err != nil {
				return err
			}
			u.State, u.WindowStart, u.WindowEnd, u.LastActive = windowState(state), timestamppb.New(start), timestamppb.New(end), timestamppb.New(last)
			minutes = append(minutes, u)
			return nil
		})
	})
	if err := both.Wait(); err != nil {
		return nil, err
	}
	if !known && len(minutes) == 0 {
		return nil, apierror.NotFound("user", req.GetUserId())
	}
	res.Minutes, res.NextPageToken = page(minutes, size, filter, func(u *eventv1.UserActivity) cursor {
		return cursor{numbers: []int64{u.GetWindowStart().AsTime().UnixMilli(), u.GetWindowEnd().AsTime().UnixMilli()}}
	})
	return res, nil
}

// before makes the question go on behind a page that ended at the token's two times, newest first.
func (q *question) before(first, second, token string, filter uint64) error {
	from, more, err := parsePageToken(token, filter, 2)
	if err != nil || !more {
		return err
	}
	q.only("("+first+", "+second+") < (fromUnixTimestamp64Milli({from_first:Int64}, 'UTC'), fromUnixTimestamp64Milli({from_second:Int64}, 'UTC'))",
		"from_first", from.numbers[0])
	q.bind("from_second", from.numbers[1])
	return nil
}
