package anomaly

import (
	"bytes"
	"container/heap"
	"hash/fnv"
	"slices"
	"sort"
	"time"

	eventv1 "github.com/earshot/earshot/gen/earshot/event/v1"
	"github.com/earshot/earshot/services/processor/recent"
)

const (
	open      = eventv1.AlertState_ALERT_STATE_OPEN
	confirmed = eventv1.AlertState_ALERT_STATE_CONFIRMED
	resolved  = eventv1.AlertState_ALERT_STATE_RESOLVED
	retracted = eventv1.AlertState_ALERT_STATE_RETRACTED
)

const (
	grace  = 10 * time.Second // how long after the last change a result is settled
	memory = 60 * time.Second // how long beyond a span an episode is known
	pace   = time.Second      // the least time between two announcements of growth, while an episode is small
	slow   = 15 * time.Second // the same of a large one
)

// Detector finds the episodes of all senders whose messages it sees. It must see the messages of a recent.Memory keyed by sender that keeps them for at
// least Span and 60 s; the first copies suffice.
type Detector struct {
	cfg   Config
	rule  string
	span  int64
	users map[string]*user // those with known episodes
	queue queue            // all episodes
	dirty []*episode       // those with windows to count, and some that have none any more
	clock int64            // the watermark; 0 until it is known
}

// New returns a Detector for a valid Config.
func New(cfg Config) *Detector {
	return &Detector{cfg: cfg, rule: cfg.rule(), span: cfg.Span.Milliseconds(), users: map[string]*user{}}
}

// Observe takes in a new message and emits at once what is new about who: alerts that open, and alerts retracted in their favour.
//
// Only windows that end in [t, t+Span) hold the message. Of the events there, none can begin to cross but the Threshold from the message on: one
// farther on has crossed without it. So a message that leaves its sender quiet costs a few comparisons; windows of a known episode are counted all at
// once by the next Advance.
func (d *Detector) Observe(at recent.Seen, emit recent.Emit) {
	if !at.First {
		return
	}
	if len(d.users) > 0 {
		if u := d.users[at.Log.Key]; u != nil {
			u.log = at.Log // a new one if the old one was forgotten
		}
	}
	all, n := at.Log.Entries, d.cfg.Threshold
	t := all[at.Index].Millis()
	first, last := -1, -1
	for j := max(at.Index, n-1); j < min(at.Index+n, len(all)); j++ {
		tj := all[j].Millis()
		if tj-t >= d.span {
			break
		}
		if tj-all[j-n+1].Millis() < d.span {
			last = j
			if first < 0 {
				first = j
			}
		}
	}
	if first >= 0 {
		d.cross(at, first, last, emit)
	}
}

// cross enters crossings that the message at at.Index is part of. They lie within one span, so they belong to one episode; the first tells which.
func (d *Detector) cross(at recent.Seen, first, last int, emit recent.Emit) {
	u := d.users[at.Log.Key]
	if u == nil {
		u = d.add(at.Log.Key)
		u.log = at.Log
	}
	all := at.Log.Entries
	t := all[at.Index].Millis()
	start, end := all[first].Millis(), all[last].Millis()
	pos, found := u.find(all[first].ID, start, d.span)
	if !found {
		e := d.insert(u, pos, all[first].ID)
		e.id = alertID(d.rule, u.name, all[first].MessageID())
		e.cite(all[first-d.cfg.Threshold+1 : first+1])
	}
	e := u.episodes[pos]
	e.end = max(e.end, end)
	e.changedAt = max(e.changedAt, at.LogTime)
	if !e.dirty() {
		d.dirty = append(d.dirty, e)
	}
	e.soil(t, t+d.span-1)
	e.pending = true
	if e.repeats <= d.clock { // it was resolved
		e.repeats = d.nextRepeat(e)
	}
	losers := d.join(u, pos)
	if !found || len(losers) > 0 {
		e.refresh(d.span)
		d.announce(e, max(e.said.state, open), emit)
	}
	for _, l := range losers {
		d.retract(l, e)
		d.announce(l, retracted, emit)
		d.schedule(l, d.clock+1)
	}
	d.schedule(e, d.clock+1)
}

func (d *Detector) add(name string) *user {
	u := &user{name: name}
	d.users[name] = u
	return u
}

// find returns the place of the episode a crossing at t belongs to, or the place for one that begins with it. Messages with one UUID are one trigger:
// they give one alert_id.
func (u *user) find(trigger [16]byte, t, span int64) (int, bool) {
	after := u.after(trigger)
	if after > 0 && t-u.episodes[after-1].end <= span {
		return after - 1, true
	}
	return after, false
}

// after returns the place of the first episode with a later trigger.
func (u *user) after(trigger [16]byte) int {
	return sort.Search(len(u.episodes), func(i int) bool { return bytes.Compare(u.episodes[i].trigger[:], trigger[:]) > 0 })
}

// insert makes an episode known that begins with a trigger.
func (d *Detector) insert(u *user, pos int, trigger [16]byte) *episode {
	start := (&recent.Entry{ID: trigger}).Millis()
	e := &episode{user: u, trigger: trigger, start: start, end: start, dirtyFrom: cleanFrom, dirtyTo: cleanTo}
	u.episodes = slices.Insert(u.episodes, pos, e)
	heap.Push(&d.queue, e)
	return e
}

// join lets an episode absorb those after it that begin at most a span after its end, and returns them.
func (d *Detector) join(u *user, pos int) (losers []*episode) {
	e := u.episodes[pos]
	for pos+1 < len(u.episodes) && u.episodes[pos+1].start-e.end <= d.span {
		l := u.episodes[pos+1]
		e.absorb(l)
		losers = append(losers, l)
		u.episodes = slices.Delete(u.episodes, pos+1, pos+2)
	}
	return losers
}

// retract moves a joined episode to those that are only repeated. If its successor is itself retracted later, that one names the next.
func (d *Detector) retract(l, winner *episode) {
	l.user.retracted = append(l.user.retracted, l)
	l.said.state, l.said.supersededBy = retracted, winner.id
	l.said.revision++
	l.changedAt = max(l.changedAt, winner.changedAt)
	l.dirtyFrom, l.dirtyTo = cleanFrom, cleanTo
}

// announce emits an episode with its present numbers; a retracted one with those it last had.
func (d *Detector) announce(e *episode, state eventv1.AlertState, emit recent.Emit) {
	if !e.retracted() && (state != e.said.state || e.count != e.said.count || e.end != e.said.end) {
		e.said.state, e.said.count, e.said.end = state, e.count, e.end
		e.said.revision++
	}
	e.said.at = d.clock
	e.repeats = d.nextRepeat(e)
	emit(e.user.name, e.alert(d.cfg, d.rule))
}

// nextRepeat is the next instant of the clock, one in each span, at which the episode is announced again. It depends on the id and the clock alone:
// a repeat that falls into a silent rebuild has been heard before it.
func (d *Detector) nextRepeat(e *episode) int64 {
	h := fnv.New32a()
	h.Write([]byte(e.id))
	phase := int64(h.Sum32()) % d.span
	return d.clock - (d.clock-phase+d.span)%d.span + d.span
}

// Advance emits what the watermark makes due: growth, settled episodes and repeats. It costs nothing when nothing is due. Messages must not be forgotten
// for this watermark before it.
func (d *Detector) Advance(watermark int64, emit recent.Emit) {
	if watermark <= d.clock {
		return
	}
	d.clock = watermark
	for i, e := range d.dirty { // before a message can be forgotten
		if e.dirty() {
			e.refresh(d.span)
			d.schedule(e, watermark)
		}
		d.dirty[i] = nil
	}
	d.dirty = d.dirty[:0]
	for len(d.queue) > 0 && d.queue[0].due <= watermark {
		e := d.queue[0]
		switch {
		case e.retracted():
			d.repeat(e, emit)
		default:
			d.act(e, emit)
		}
		if d.forgettable(e) {
			d.forget(e)
			continue
		}
		d.schedule(e, watermark+1)
	}
}

// act announces what has become of an episode. A state never goes back: growth of a confirmed or resolved episode is announced in that state, once it
// is settled again or, so that a restart finds the episode's end, once per span; a larger count sooner.
func (d *Detector) act(e *episode, emit recent.Emit) {
	if d.clock >= d.settles(e) && (e.said.state == open || e.said.state == confirmed && e.pending) {
		e.pending = false
		d.announce(e, confirmed, emit)
	}
	if d.clock >= d.resolves(e) && (e.said.state == confirmed || e.pending) {
		e.pending = false
		d.announce(e, resolved, emit)
	}
	if e.urgent() && d.clock >= d.grows(e) {
		d.announce(e, e.said.state, emit)
	}
	if d.clock >= e.repeats && (e.said.state < resolved || e.pending) {
		d.announce(e, e.said.state, emit)
	}
}

// repeat announces a retraction again, once or twice before it is forgotten. After a restart the first may have been found from alerts that were read
// back, during the silent part, although nobody had heard of it.
func (d *Detector) repeat(e *episode, emit recent.Emit) {
	if d.clock >= e.repeats {
		d.announce(e, retracted, emit)
	}
}

// grows is the clock at which growth may be announced again. The more is known of an episode the less one message more tells, and with thousands of
// senders beyond the threshold at once there would be an alert for nearly every message.
func (d *Detector) grows(e *episode) int64 {
	times := int64(max(1, int(e.said.count)/d.cfg.Threshold))
	return e.said.at + min(pace.Milliseconds()*times*times, slow.Milliseconds())
}

func (d *Detector) settles(e *episode) int64 { return max(e.end, e.changedAt) + grace.Milliseconds() }

func (d *Detector) resolves(e *episode) int64 {
	return max(d.settles(e), e.end+d.span+grace.Milliseconds())
}

func (d *Detector) expires(e *episode) int64 {
	return e.changedAt + d.span + memory.Milliseconds()
}

// forgettable tells whether nothing can come any more of an episode: all is said, and neither a crossing nor a message nearby is remembered.
func (d *Detector) forgettable(e *episode) bool {
	if d.clock < d.expires(e) || e.said.state < resolved {
		return false
	}
	return e.retracted() || !e.pending && !e.remembered(d.span)
}

func (d *Detector) forget(e *episode) {
	heap.Remove(&d.queue, e.index)
	u := e.user
	same := func(o *episode) bool { return o == e }
	if e.retracted() {
		u.retracted = slices.DeleteFunc(u.retracted, same)
	} else {
		u.episodes = slices.DeleteFunc(u.episodes, same)
	}
	if len(u.episodes)+len(u.retracted) == 0 {
		delete(d.users, u.name)
	}
}

// schedule puts an episode where the queue will find it, not before a clock.
func (d *Detector) schedule(e *episode, earliest int64) {
	if due := max(d.next(e), earliest); due != e.due {
		e.due = due
		heap.Fix(&d.queue, e.index)
	}
}

// next is the clock at which there may be something to do.
func (d *Detector) next(e *episode) int64 {
	var due int64
	switch {
	case e.retracted():
		return min(e.repeats, d.expires(e))
	case e.said.state == open || e.said.state == confirmed && e.pending:
		due = min(e.repeats, d.settles(e))
	case e.said.state == confirmed || e.pending:
		due = min(e.repeats, d.resolves(e))
	default: // look once a second whether a message nearby is still remembered
		return max(d.expires(e), d.clock+time.Second.Milliseconds())
	}
	if e.urgent() {
		due = min(due, d.grows(e))
	}
	return due
}
