package anomaly

import (
	"encoding/hex"
	"slices"
	"strings"

	eventv1 "github.com/earshot/earshot/gen/earshot/event/v1"
)

// Restore makes an alert known that was announced before a restart; at is its record time in milliseconds since the epoch. It must be called for all of
// them, in the order of their log, before the first Observe. Alerts of another rule are left alone. The Detector keeps the alert's lists.
//
// What is restored has been heard, and nothing else. Announcements that are thrown away while the host rebuilds were heard, too: it committed only what
// was acknowledged. There is one exception: alerts from beyond the commit may show that two of them are one episode, before the message that
// joins them is read again. Such a retraction is repeated after the silent part, as all are.
func (d *Detector) Restore(a *eventv1.Alert, at int64) {
	if a.GetRule() != d.rule || len(a.GetMessageIds()) == 0 {
		return
	}
	trigger, ok := parse(a.GetMessageIds()[len(a.GetMessageIds())-1])
	if !ok {
		return
	}
	u := d.users[a.GetUserId()]
	if u == nil {
		u = d.add(a.GetUserId())
	}
	e := u.known(a.GetAlertId())
	if e == nil {
		e = d.insert(u, u.after(trigger), trigger)
		e.id = a.GetAlertId()
		e.messages, e.positions, e.conversations = a.GetMessageIds(), a.GetPositions(), a.GetConversationIds()
	}
	e.changedAt = max(e.changedAt, at)
	e.said.end = max(e.said.end, a.GetWindowEnd().AsTime().UnixMilli())
	e.said.count = max(e.said.count, a.GetCount())
	e.end, e.count = max(e.end, e.said.end), max(e.count, e.said.count)
	e.said.revision = max(e.said.revision, a.GetRevision())
	if e.retracted() {
		return
	}
	e.said.state = max(e.said.state, a.GetState())
	if e.retracted() {
		e.said.supersededBy = a.GetSupersededBy()
		u.episodes = slices.DeleteFunc(u.episodes, func(o *episode) bool { return o == e })
		u.retracted = append(u.retracted, e)
		return
	}
	d.settleOverlaps(u)
}

// settleOverlaps joins the episodes of a user that are at most a span apart.
func (d *Detector) settleOverlaps(u *user) {
	for pos := 0; pos < len(u.episodes); pos++ {
		for _, l := range d.join(u, pos) {
			d.retract(l, u.episodes[pos])
		}
	}
}

// known returns the episode with an id, retracted or not; nil if there is none.
func (u *user) known(id string) *episode {
	for _, list := range [][]*episode{u.episodes, u.retracted} {
		for _, e := range list {
			if e.id == id {
				return e
			}
		}
	}
	return nil
}

// parse reads the UUID in a message id.
func parse(messageID string) (id [16]byte, ok bool) {
	h, ok := strings.CutPrefix(messageID, "msg-")
	b, err := hex.DecodeString(strings.ReplaceAll(h, "-", ""))
	if !ok || err != nil || len(b) != len(id) {
		return id, false
	}
	return [16]byte(b), true
}
