package anomaly_test

import (
	"cmp"
	"slices"
	"strings"

	eventv1 "github.com/earshot/earshot/gen/earshot/event/v1"
	"github.com/earshot/earshot/services/internal/ident"
	"github.com/earshot/earshot/services/processor/anomaly"
)

// message is one line of a chat, before anything is known of when it is accepted.
type message struct {
	user, conversation string
	id                 ident.UUID
}

// episode is what the reference says of one.
type episode struct {
	User, Trigger string
	Count         uint32
	Start, End    int64
	Messages      string // the threshold messages up to the trigger
}

// reference sorts everything, then counts. It is the definition of the rule.
func reference(cfg anomaly.Config, messages []message) map[string]episode {
	span := cfg.Span.Milliseconds()
	byUser := map[string][]message{}
	for _, m := range messages {
		if !slices.Contains(byUser[m.user], m) { // copies
			byUser[m.user] = append(byUser[m.user], m)
		}
	}
	out := map[string]episode{}
	for user, all := range byUser {
		slices.SortFunc(all, func(a, b message) int {
			return cmp.Or(strings.Compare(string(a.id[:]), string(b.id[:])), strings.Compare(a.conversation, b.conversation))
		})
		var now *episode
		finish := func() {
			if now != nil {
				out[now.Trigger] = *now
			}
		}
		for k, m := range all {
			t, n := m.id.Millis(), 0
			for _, before := range all[:k+1] {
				if before.id.Millis() > t-span {
					n++
				}
			}
			if n < cfg.Threshold {
				continue
			}
			if now == nil || t-now.End > span {
				finish()
				now = &episode{User: user, Trigger: m.id.MessageID(), Start: t}
				for _, c := range all[k+1-cfg.Threshold : k+1] {
					now.Messages += c.id.MessageID() + " "
				}
			}
			now.End, now.Count = t, max(now.Count, uint32(n))
		}
		finish()
	}
	return out
}

// table keeps alerts as the stored table does: per id the furthest state, the largest numbers.
type table map[string]*eventv1.Alert

func (tab table) add(a *eventv1.Alert) {
	row := tab[a.GetAlertId()]
	if row == nil {
		row = &eventv1.Alert{AlertId: a.GetAlertId(), UserId: a.GetUserId(), TriggeredAt: a.GetTriggeredAt(), MessageIds: a.GetMessageIds()}
		tab[a.GetAlertId()] = row
	}
	if a.GetState() >= row.GetState() {
		row.State, row.SupersededBy = a.GetState(), a.GetSupersededBy()
	}
	row.Count = max(row.GetCount(), a.GetCount())
	if row.GetWindowEnd() == nil || a.GetWindowEnd().AsTime().After(row.GetWindowEnd().AsTime()) {
		row.WindowEnd = a.GetWindowEnd()
	}
}

// episodes are the rows that stand.
func (tab table) episodes() (out map[string]episode, unresolved int) {
	out = map[string]episode{}
	for _, row := range tab {
		switch row.GetState() {
		case eventv1.AlertState_ALERT_STATE_RETRACTED:
			continue
		case eventv1.AlertState_ALERT_STATE_RESOLVED:
		default:
			unresolved++
		}
		ids := row.GetMessageIds()
		e := episode{
			User: row.GetUserId(), Trigger: ids[len(ids)-1], Count: row.GetCount(),
			Start: row.GetTriggeredAt().AsTime().UnixMilli(), End: row.GetWindowEnd().AsTime().UnixMilli(),
			Messages: strings.Join(ids, " ") + " ",
		}
		out[e.Trigger] = e
	}
	return out, unresolved
}
