package trend

import "strings"

// nonWord returns the bounds of the first URL, address, mention or markup in a text without spaces, or its end twice.
func nonWord(s string) (from, to int) {
	for i := range len(s) {
		switch s[i] {
		case '<':
			if i+1 < len(s) && strings.IndexByte("@#!", s[i+1]) >= 0 {
				if end := strings.IndexByte(s[i:], '>'); end > 0 {
					return i, i + end + 1
				}
			}
		case '/':
			if strings.HasPrefix(s[i:], "//") && i > 0 && s[i-1] == ':' {
				if from := schemeStart(s, i-1); from < i-1 {
					return from, i + urlEnd(s[i:])
				}
			}
		case 'w', 'W':
			if (i == 0 || class[s[i-1]]&(letter|digit|underline|wide) == 0) && isWWW(s[i:]) {
				return i, i + urlEnd(s[i:])
			}
		case '@':
			from, to := i, i+1
			for from > 0 && isName(s[from-1]) {
				from--
			}
			for to < len(s) && isName(s[to]) {
				to++
			}
			if to > i+1 {
				return min(from, schemeStart(s, from-1)), to
			}
		}
	}
	return len(s), len(s)
}

// schemeStart returns where the scheme before a colon at i begins: mailto:, https:. Without one it returns i, or i+1 when there is no colon.
func schemeStart(s string, i int) int {
	if i < 0 || s[i] != ':' {
		return i + 1
	}
	for i > 0 && (class[s[i-1]]&(letter|digit) != 0 || strings.IndexByte("+-.", s[i-1]) >= 0) {
		i--
	}
	return i
}

// urlEnd returns the length of a URL: all of it but the end of the markup around it.
func urlEnd(s string) int {
	if end := strings.IndexAny(s, "<>|\"`"); end >= 0 {
		return end
	}
	return len(s)
}

// isName tells whether a byte can be part of a mailbox, a host or a user's name.
func isName(b byte) bool {
	return class[b]&(letter|digit|underline|wide) != 0 || strings.IndexByte(".%+-", b) >= 0
}

func isWWW(s string) bool { return len(s) > 4 && strings.EqualFold(s[:4], "www.") }

// hasWWW tells whether a text holds something that may be a URL without its scheme.
func hasWWW(s string) bool {
	for i := 3; i < len(s); i++ {
		if s[i] == '.' && (s[i-1]|0x20) == 'w' && (s[i-2]|0x20) == 'w' && (s[i-3]|0x20) == 'w' {
			return true
		}
	}
	return false
}
