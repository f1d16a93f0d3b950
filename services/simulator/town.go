package simulator

import (
	"container/heap"
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"time"

	apiv1 "github.com/earshot/earshot/gen/earshot/api/v1"
	"github.com/earshot/earshot/services/internal/ident"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// chat is a conversation: two users, or a group.
type chat struct {
	id      string
	members []int
}

// event is something that happens in a town: a message or a receipt.
type event struct {
	at      time.Time
	message *apiv1.SendMessageRequest
	view    *apiv1.RecordViewRequest
	term    string // the rising word in the message
	uses    int    // how often
}

// town is a plan of who says what to whom, and when: the same for the same seed, rate, users and start. It knows no clock and is not safe for
// concurrent use.
//
// Messages come in slots of equal length, each at some moment of its slot, so that their number is exact. A slot goes to what is due: spam, a use of a
// rising word or a reply; otherwise somebody begins to talk in one of his favourite conversations. Receipts follow by themselves.
type town struct {
	r     *rand.Rand
	seed  string
	talk  talk
	start time.Time
	slot  time.Duration
	n     int // slots so far
	users int
	quiet int // messages in a minute after which someone who is no spammer keeps silent
	who   *rand.Zipf

	favourites map[int][]chat
	recent     map[int][]time.Time // a user's messages of the last minute
	due        agenda
	waiting    []appointment // due for the next slots, in order
	next       *event        // message of the next slot, which waits for receipts before it
	words      int           // rising words so far
}

// appointment is something planned.
type appointment struct {
	at   time.Duration // since the start
	seq  int           // of two at the same time the first planned comes first
	view *apiv1.RecordViewRequest

	sender int
	in     chat
	kind   int
	word   string
}

const (
	reply = iota
	spam
	rumoured
	spamEpisode
	wordEpisode
	receipt
)

type agenda struct {
	list []appointment
	seq  int
}

func (a *agenda) Len() int { return len(a.list) }
func (a *agenda) Less(i, j int) bool {
	if a.list[i].at != a.list[j].at {
		return a.list[i].at < a.list[j].at
	}
	return a.list[i].seq < a.list[j].seq
}
func (a *agenda) Swap(i, j int) { a.list[i], a.list[j] = a.list[j], a.list[i] }
func (a *agenda) Push(x any)    { a.list = append(a.list, x.(appointment)) }
func (a *agenda) Pop() any {
	last := a.list[len(a.list)-1]
	a.list[len(a.list)-1] = appointment{}
	a.list = a.list[:len(a.list)-1]
	return last
}

func (a *agenda) add(p appointment) {
	a.seq++
	p.seq = a.seq
	heap.Push(a, p)
}

// The first spammer and the first rising word come soon, so that there is something to see.
const (
	firstSpam = 2 * time.Second
	firstWord = 3 * time.Second
)

// newTown returns the plan of a town of so many users who send rate messages a second, from start on. Nobody but spammers sends half of threshold
// messages in a minute, as long as there are users enough.
func newTown(seed uint64, users int, rate float64, threshold int, start time.Time) *town {
	r := rand.New(rand.NewPCG(seed, 0x6561727368_6f74)) //nolint:gosec // the same traffic for the same seed is the point
	t := &town{
		r: r, seed: strconv.FormatUint(seed, 10), talk: newTalk(r), start: start.Truncate(time.Millisecond), slot: time.Duration(float64(time.Second) / rate),
		users: users, quiet: max(threshold/2, 1),
		who:        rand.NewZipf(r, 1.1, float64(users)/4+1, uint64(users-1)), //nolint:gosec // at least 2
		favourites: map[int][]chat{}, recent: map[int][]time.Time{},
	}
	t.due.add(appointment{at: firstSpam, kind: spamEpisode})
	t.due.add(appointment{at: firstWord, kind: wordEpisode})
	return t
}

// follow returns what happens next, in order of time.
func (t *town) follow() event {
	if t.next == nil {
		t.fill()
	}
	if t.due.Len() > 0 && t.due.list[0].kind == receipt && t.due.list[0].at < t.next.at.Sub(t.start) {
		p := heap.Pop(&t.due).(appointment)
		at := t.start.Add(p.at)
		p.view.ViewedAt = timestamppb.New(at)
		return event{at: at, view: p.view}
	}
	e := *t.next
	t.next = nil
	t.receipts(e)
	return e
}

// move puts off all that was not handed out yet.
func (t *town) move(by time.Duration) { t.start = t.start.Add(by) }

// fill decides what the next slot is used for.
func (t *town) fill() {
	at := time.Duration((float64(t.n) + t.r.Float64()) * float64(t.slot))
	t.n++
	var later []appointment // receipts, which follow hands out
	for t.due.Len() > 0 && t.due.list[0].at <= at {
		p := heap.Pop(&t.due).(appointment)
		switch p.kind {
		case receipt:
			later = append(later, p)
		case spamEpisode:
			t.planSpam(p.at)
		case wordEpisode:
			t.planWord(p.at)
		default:
			t.waiting = append(t.waiting, p)
		}
	}
	for _, p := range later {
		heap.Push(&t.due, p)
	}
	for len(t.waiting) > 0 {
		p := t.waiting[0]
		t.waiting = t.waiting[1:]
		if p.kind == rumoured {
			p.sender, p.in = t.someone(at)
		}
		if p.kind == reply && t.busy(p.sender, at) {
			continue
		}
		t.say(at, p)
		return
	}
	sender, in := t.someone(at)
	t.say(at, appointment{kind: reply, sender: sender, in: in})
}

// say makes the message of a slot, and plans what follows from it.
func (t *town) say(at time.Duration, p appointment) {
	created := t.start.Add(at).Truncate(time.Millisecond)
	if mine := t.recent[p.sender]; len(mine) > 0 && !created.After(mine[len(mine)-1]) {
		created = mine[len(mine)-1].Add(time.Millisecond) // a user's messages have an order
	}
	t.recent[p.sender] = append(t.fresh(p.sender, created), created)
	e := event{at: created, term: p.word}
	var content string
	switch p.kind {
	case spam:
		content = pitch(t.r)
	case rumoured:
		content, e.uses = rumour(t.r, p.word)
	default:
		content = t.talk.phrase(t.r)
	}
	e.message = &apiv1.SendMessageRequest{
		MessageId:      ident.Hashed(created, t.seed, strconv.Itoa(t.n)).MessageID(),
		ConversationId: p.in.id, SenderId: userName(p.sender), Content: content, CreatedAt: timestamppb.New(created),
	}
	if len(p.in.members) == 2 {
		e.message.ReceiverId = userName(p.in.other(p.sender))
	}
	t.next = &e
	if p.kind != spam && t.r.Float64() < 0.45 {
		t.due.add(appointment{at: at + t.wait(2*time.Second, 15*time.Second), kind: reply, sender: p.in.members[t.r.IntN(len(p.in.members))], in: p.in})
	}
}

// receipts plans that a message is delivered, and mostly read: in a group by a few.
func (t *town) receipts(e event) {
	in := e.message.GetConversationId()
	at := e.at.Sub(t.start)
	readers := 1
	var members []int
	if e.message.GetReceiverId() == "" {
		readers = 3
		members = t.group(in).members
	}
	first := t.r.IntN(perGroup)
	for i := range readers {
		user := e.message.GetReceiverId()
		if members != nil {
			if user = userName(members[(first+i)%len(members)]); user == e.message.GetSenderId() {
				continue
			}
		}
		if t.r.Float64() < 0.03 {
			continue // the phone is off
		}
		delivered := at + t.wait(80*time.Millisecond, 500*time.Millisecond)
		t.due.add(appointment{at: delivered, kind: receipt, view: &apiv1.RecordViewRequest{
			MessageId: e.message.GetMessageId(), ConversationId: in, UserId: user, Status: "delivered",
		}})
		if t.r.Float64() < 0.75 {
			t.due.add(appointment{at: delivered + t.wait(time.Second, 10*time.Second), kind: receipt, view: &apiv1.RecordViewRequest{
				MessageId: e.message.GetMessageId(), ConversationId: in, UserId: user, Status: "read",
			}})
		}
	}
}

// wait draws a time of at least least, on average mean longer, and never ten times that.
func (t *town) wait(least, mean time.Duration) time.Duration {
	return least + time.Duration(math.Min(t.r.ExpFloat64(), 10)*float64(mean))
}

// planSpam lets someone send too much: 10 to 25 messages in less than a minute, to several people.
func (t *town) planSpam(at time.Duration) {
	who := 0 // everybody knows charlie
	if at > firstSpam {
		who = t.r.IntN(t.users)
	}
	gap := time.Duration(400+t.r.IntN(1200)) * time.Millisecond
	if at == firstSpam {
		gap = 400 * time.Millisecond
	}
	chats := t.favouritesOf(who)
	n := 10 + t.r.IntN(16)
	for i := range n {
		t.due.add(appointment{at: at + time.Duration(i)*gap, kind: spam, sender: who, in: chats[i%len(chats)]})
	}
	t.due.add(appointment{at: at + max(t.wait(40*time.Second, 30*time.Second), t.fifth(n)), kind: spamEpisode})
}

// planWord lets a word be on many lips for a minute and a half: a seventh of what is said, and at least a dozen times.
func (t *town) planWord(at time.Duration) {
	const length = 90 * time.Second
	word := topics[t.words%len(topics)]
	t.words++
	uses := max(12, int(length/t.slot)/7)
	for i := range uses {
		x := float64(i) / float64(uses)
		t.due.add(appointment{at: at + time.Duration(x*float64(length)), kind: rumoured, word: word})
	}
	t.due.add(appointment{at: at + max(t.wait(2*time.Minute, 2*time.Minute), t.fifth(uses)), kind: wordEpisode})
}

// fifth returns the time in which n messages are a fifth of all: at low rates episodes must not take every slot.
func (t *town) fifth(n int) time.Duration { return 5 * time.Duration(n) * t.slot }

// someone chooses who begins to talk, and where. Some talk more than others, at his time of day, and nobody all the time.
func (t *town) someone(at time.Duration) (int, chat) {
	who := 0
	for i := range 64 {
		if i < 16 {
			who = int(t.who.Uint64()) //nolint:gosec // below users
		} else {
			who = t.r.IntN(t.users)
		}
		if !t.busy(who, at) && (i >= 32 || t.r.Float64() < awake(who, t.start.Add(at))) {
			break
		}
	}
	chats := t.favouritesOf(who)
	i := 0
	for i < len(chats)-1 && t.r.Float64() < 0.4 {
		i++
	}
	return who, chats[i]
}

// awake is how likely a user is to talk at a time of day: least at four in the morning where he lives, most twelve hours later.
func awake(who int, at time.Time) float64 {
	hour := float64(at.UTC().Hour()) + float64(at.Minute())/60 + float64(who*7%24)
	return 0.55 - 0.45*math.Cos((hour-4)/24*2*math.Pi)
}

func (t *town) busy(who int, at time.Duration) bool {
	return len(t.fresh(who, t.start.Add(at))) >= t.quiet
}

// fresh returns a user's messages of the minute before at.
func (t *town) fresh(who int, at time.Time) []time.Time {
	mine := t.recent[who]
	for len(mine) > 0 && at.Sub(mine[0]) > time.Minute {
		mine = mine[1:]
	}
	return mine
}

const perGroup = 8 // users for each group

// favouritesOf returns where a user talks: with some others, and in a group.
func (t *town) favouritesOf(who int) []chat {
	if chats, ok := t.favourites[who]; ok {
		return chats
	}
	own := rand.New(rand.NewPCG(uint64(who), 1)) //nolint:gosec // who, and not when he is first asked, decides
	var chats []chat
	for len(chats) < min(4, t.users-1) {
		other := (who + 1 + own.IntN(min(t.users-1, 200))) % t.users
		c := pair(who, other)
		for _, have := range chats {
			if have.id == c.id {
				c.id = ""
			}
		}
		if c.id != "" {
			chats = append(chats, c)
		}
	}
	if t.users >= 3 {
		group := t.group(t.groupID(who))
		chats = append(chats[:1], append([]chat{group}, chats[1:]...)...)
	}
	t.favourites[who] = chats
	return chats
}

func pair(a, b int) chat {
	return chat{ident.Conversation(userName(a), userName(b)), []int{min(a, b), max(a, b)}}
}

func (c chat) other(who int) int {
	if c.members[0] == who {
		return c.members[1]
	}
	return c.members[0]
}

// groupID names the group of a user. Towns of other seeds have other groups.
func (t *town) groupID(who int) string {
	return fmt.Sprintf("team-%s-%d", t.seed, who/perGroup+1)
}

// group returns a group by its id: neighbours, at least three.
func (t *town) group(id string) chat {
	n := 0
	_, _ = fmt.Sscanf(id, "team-"+t.seed+"-%d", &n)
	first := (n - 1) * perGroup
	last := min(first+perGroup, t.users)
	first = max(0, min(first, last-3))
	c := chat{id: id}
	for i := first; i < last; i++ {
		c.members = append(c.members, i)
	}
	return c
}
