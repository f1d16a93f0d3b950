package trend

import (
	"strings"
	"unicode/utf8"
)

// tokenizer cuts text into words.
//
// A word is what Unicode Standard Annex 29 says, after compatibility composition (NFKC) and full case folding: full-width, half-width and mathematical
// letters are the letters they stand for, so that a word is one word however it is dressed up. It has a letter and at least minChars characters (code
// points after folding) and at most 64. Beyond the annex:
//
//   - Not words: what lies between ``` fences, URLs, e-mail addresses, @mentions, and a chat system's <@user>, <#channel> and <!command>.
//   - The apostrophe ’ is ', and invisible characters and underscores around a word (emphasis) are dropped: _word_ is word.
//   - Scripts that write no spaces (Han with Hiragana, Thai, Lao, Khmer, Myanmar and their kin) become overlapping pairs of characters, combining marks
//     with their base; a single ideograph between others is a word by itself. Katakana is left in words. Neither needs minChars: two characters say
//     there what six letters say here. For the same reason a Hangul syllable counts as its two or three letters.
//
// Text that is ASCII takes a path of its own, driven by a table; it gives the same words. A tokenizer is not safe for concurrent use.
type tokenizer struct {
	minChars int
	buf      []byte // the folded word
	slow     slowTokenizer
}

func newTokenizer(minChars int) *tokenizer {
	return &tokenizer{minChars: minChars, slow: newSlowTokenizer(minChars)}
}

// What a byte means to the ASCII path. The first six are the classes of Annex 29.
const (
	letter    = 1 << iota
	digit     //
	underline // joins letters and digits (ExtendNumLet)
	midLetter // : between letters
	midBoth   // . and ' between letters or between digits
	midDigit  // , and ; between digits
	special   // may begin something that is no word: @ < / and the w of www.
	wide      // not ASCII
)

var (
	class [256]uint8
	lower [256]byte
)

func init() {
	for i := range class {
		b := byte(i)
		lower[b] = b
		switch {
		case 'a' <= b && b <= 'z':
			class[b] = letter
		case 'A' <= b && b <= 'Z':
			class[b] = letter
			lower[b] = b + 'a' - 'A'
		case '0' <= b && b <= '9':
			class[b] = digit
		case b >= utf8.RuneSelf:
			class[b] = wide
		}
	}
	class['_'] = underline
	class[':'] = midLetter
	class['.'], class['\''] = midBoth, midBoth
	class[','], class[';'] = midDigit, midDigit
	class['@'], class['<'], class['/'] = special, special, special
}

// words calls yield with each word of a text, in order. The slice is valid until yield returns. Stop words are words here.
func (t *tokenizer) words(text string, yield func(word []byte)) {
	for {
		before, after, fenced := strings.Cut(text, fence)
		t.unfenced(before, yield)
		if !fenced {
			return
		}
		_, text, fenced = strings.Cut(after, fence)
		if !fenced {
			return // the rest is code
		}
	}
}

const fence = "```"

// unfenced cuts at ASCII spaces. Nothing that composes, folds or joins reaches over one.
func (t *tokenizer) unfenced(text string, yield func(word []byte)) {
	start := 0
	var seen uint8 // classes of the piece so far
	for i := 0; i < len(text); i++ {
		if b := text[i]; b > ' ' {
			seen |= class[b]
			continue
		}
		if seen != 0 {
			t.piece(text[start:i], seen, yield)
		}
		start, seen = i+1, 0
	}
	if seen != 0 {
		t.piece(text[start:], seen, yield)
	}
}

// piece takes text without spaces.
func (t *tokenizer) piece(s string, seen uint8, yield func(word []byte)) {
	if seen&special == 0 && (seen&midBoth == 0 || !hasWWW(s)) {
		t.plain(s, seen, yield)
		return
	}
	for s != "" {
		from, to := nonWord(s)
		if from > 0 {
			t.plain(s[:from], wide, yield)
		}
		s = s[to:]
	}
}

// plain takes text without spaces and without anything that is no word.
func (t *tokenizer) plain(s string, seen uint8, yield func(word []byte)) {
	if seen&wide != 0 && !isASCII(s) {
		t.slow.words(s, yield)
		return
	}
	for i := 0; i < len(s); {
		if class[s[i]]&(letter|digit|underline) == 0 {
			i++
			continue
		}
		t.buf = t.buf[:0]
		var has uint8
		for i < len(s) {
			c := class[s[i]]
			if c&(letter|digit|underline) == 0 && !t.joins(s, i, c) {
				break
			}
			has |= c
			t.buf = append(t.buf, lower[s[i]])
			i++
		}
		if has&letter != 0 {
			t.finish(has, yield)
		}
	}
}

// joins tells whether a character that is no part of a word by itself is one between those beside it (WB6, WB7, WB11, WB12).
func (t *tokenizer) joins(s string, i int, c uint8) bool {
	if len(t.buf) == 0 || i+1 >= len(s) {
		return false
	}
	before, after := class[s[i-1]], class[s[i+1]]
	return before&after&letter != 0 && c&(midLetter|midBoth) != 0 || before&after&digit != 0 && c&(midDigit|midBoth) != 0
}

func (t *tokenizer) finish(has uint8, yield func(word []byte)) {
	word := t.buf
	if has&underline != 0 {
		word = trimUnderlines(word)
	}
	if len(word) >= t.minChars && len(word) <= maxChars {
		yield(word)
	}
}

func trimUnderlines(word []byte) []byte {
	for len(word) > 0 && word[0] == '_' {
		word = word[1:]
	}
	for len(word) > 0 && word[len(word)-1] == '_' {
		word = word[:len(word)-1]
	}
	return word
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}
