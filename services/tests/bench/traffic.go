package main

import (
	"fmt"
	"math/rand/v2"
	"strings"

	apiv1 "github.com/earshot/earshot/gen/earshot/api/v1"
)

// The shape of the traffic, unless a row says otherwise.
const (
	senders       = 10_000
	conversations = 5_000
	contentBytes  = 200    // about, of each message's text
	vocabulary    = 20_000 // distinct words; how often each is used follows Zipf's law
	texts         = 20_000 // distinct messages' texts
)

// traffic makes messages. It is not safe for concurrent use; fork gives each sender its own.
type traffic struct {
	rng           *rand.Rand
	texts         []string
	senders       []string
	conversations []string
}

// newTraffic makes the same texts for the same seed.
func newTraffic(seed uint64, users int) *traffic {
	rng := rand.New(rand.NewPCG(seed, 1)) //nolint:gosec // traffic, no secret
	words := make([]string, vocabulary)
	for i := range words {
		words[i] = word(i)
	}
	zipf := rand.NewZipf(rng, 1.1, 2, vocabulary-1)
	t := &traffic{rng: rng, texts: make([]string, texts), senders: make([]string, users), conversations: make([]string, conversations)}
	for i := range t.texts {
		var b strings.Builder
		for b.Len() < contentBytes-20+rng.IntN(40) {
			if b.Len() > 0 {
				b.WriteByte(' ')
			}
			b.WriteString(words[zipf.Uint64()])
		}
		t.texts[i] = b.String()
	}
	for i := range t.senders {
		t.senders[i] = fmt.Sprintf("user-%07d", i)
	}
	for i := range t.conversations {
		t.conversations[i] = fmt.Sprintf("conv-%05d", i)
	}
	return t
}

func (t *traffic) fork(n int) *traffic {
	f := *t
	f.rng = rand.New(rand.NewPCG(uint64(n), 2)) //nolint:gosec // as above
	return &f
}

// fill makes a message of any sender.
func (t *traffic) fill(m *apiv1.SendMessageRequest) {
	t.fillFrom(m, t.rng.IntN(len(t.senders)))
}

func (t *traffic) fillFrom(m *apiv1.SendMessageRequest, sender int) {
	m.SenderId = t.senders[sender]
	m.ConversationId = t.conversations[t.rng.IntN(len(t.conversations))]
	m.Content = t.texts[t.rng.IntN(len(t.texts))]
}

// word returns the i-th word: pronounceable, distinct, four letters or more.
func word(i int) string {
	const consonants, vowels = "bdfgklmnprstvz", "aeiou"
	var b strings.Builder
	for n := i + len(consonants)*len(vowels); n > 0; n /= len(consonants) * len(vowels) {
		b.WriteByte(consonants[n%len(consonants)])
		b.WriteByte(vowels[n/len(consonants)%len(vowels)])
	}
	return b.String()
}
