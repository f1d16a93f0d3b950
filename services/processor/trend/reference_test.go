package trend

import (
	"strings"
)

// message is what a test sends. Its number makes its id.
type message struct {
	conversation, sender, content string
	created                       int64 // ms
	number                        uint64
}

type key struct {
	term  string
	start int64 // ms
}

type answer struct{ count, senders uint32 }

// reference counts every word of every window the slow way, from all messages at once.
func reference(cfg Config, all []message) map[key]answer {
	type identity struct {
		conversation string
		created      int64
		number       uint64
	}
	seen := map[identity]bool{}
	counts := map[key]uint32{}
	senders := map[key]map[string]bool{}
	tok := newTokenizer(cfg.MinChars)
	for _, m := range all {
		id := identity{m.conversation, m.created, m.number}
		if seen[id] {
			continue
		}
		seen[id] = true
		for _, w := range split(tok, m.content) {
			if stopWords()[w] {
				continue
			}
			w = strings.Clone(w)
			last := m.created / cfg.Advance.Milliseconds() * cfg.Advance.Milliseconds()
			for start := last; start > last-cfg.Window.Milliseconds(); start -= cfg.Advance.Milliseconds() {
				k := key{w, start}
				counts[k]++
				if senders[k] == nil {
					senders[k] = map[string]bool{}
				}
				senders[k][m.sender] = true
			}
		}
	}
	out := map[key]answer{}
	for k, n := range counts {
		if n >= uint32(cfg.MinCount) {
			out[k] = answer{n, uint32(min(len(senders[k]), 64))}
		}
	}
	return out
}
