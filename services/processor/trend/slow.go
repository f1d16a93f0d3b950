package trend

import (
	"unicode"
	"unicode/utf8"

	"github.com/clipperhouse/uax29/v2/words"
	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"
	"golang.org/x/text/unicode/rangetable"
)

// slowTokenizer cuts any text that is free of URLs and the like. It is the definition that the ASCII path must agree with.
type slowTokenizer struct {
	minChars int
	fold     cases.Caser
	buf      []byte
}

func newSlowTokenizer(minChars int) slowTokenizer {
	return slowTokenizer{minChars: minChars, fold: cases.Fold()}
}

// unspaced are the scripts in which words are not set apart. Annex 29 cuts them into characters (Katakana it does not).
var unspaced = rangetable.Merge(unicode.Han, unicode.Hiragana, unicode.Bopomofo, unicode.Thai, unicode.Lao, unicode.Khmer, unicode.Myanmar,
	unicode.Tai_Le, unicode.New_Tai_Lue, unicode.Tai_Tham, unicode.Tai_Viet, unicode.Ahom)

const (
	longVowel  = 'ー' // belongs to no one script
	apostrophe = '’'
)

// words calls yield with each word, in order. The slice is valid until yield returns.
func (t *slowTokenizer) words(text string, yield func(word []byte)) {
	// Folding can undo composition, and composition folding (U+0345): hence twice.
	s := norm.NFKC.String(t.fold.String(norm.NFKC.String(text)))
	for s != "" {
		n := 0 // length of what comes before the first run without spaces
		for n < len(s) {
			r, size := utf8.DecodeRuneInString(s[n:])
			if isUnspaced(r) {
				break
			}
			n += size
		}
		t.spaced(s[:n], yield)
		s = s[n:]
		s = s[t.pairs(s, yield):]
	}
}

func isUnspaced(r rune) bool {
	return r > unicode.MaxLatin1 && unicode.IsLetter(r) && unicode.Is(unspaced, r)
}

// spaced takes text in scripts that Annex 29 cuts into words.
func (t *slowTokenizer) spaced(s string, yield func(word []byte)) {
	for it := words.FromString(s); it.Next(); {
		t.buf = t.buf[:0]
		chars, letters := 0, 0
		katakana := true
		for _, r := range it.Value() {
			if isInvisible(r) {
				continue
			}
			if r == apostrophe {
				r = '\''
			}
			chars++
			if unicode.IsLetter(r) {
				letters++
			}
			if isHangul(r) {
				chars += hangulLetters(r) - 1
			}
			katakana = katakana && (unicode.Is(unicode.Katakana, r) || r == longVowel)
			t.buf = utf8.AppendRune(t.buf, r)
		}
		word := trimUnderlines(t.buf)
		chars -= len(t.buf) - len(word)
		least := t.minChars
		if katakana {
			least = min(least, 2)
		}
		if letters > 0 && chars >= least && utf8.RuneCount(word) <= maxChars {
			yield(word)
		}
	}
}

// pairs yields the overlapping pairs of characters of the run without spaces that s begins with, and returns the run's length.
func (t *slowTokenizer) pairs(s string, yield func(word []byte)) int {
	t.buf = t.buf[:0]
	end, chars := 0, 0
	last := 0 // where the character before the current one begins in buf
	here := 0
	pair := func() {
		if chars >= 2 {
			if word := t.buf[last:]; utf8.RuneCount(word) <= maxChars {
				yield(word)
			}
		}
	}
	var first rune
	for i, r := range s {
		switch {
		case isInvisible(r):
		case unicode.IsMark(r) && end > 0:
			t.buf = utf8.AppendRune(t.buf, r)
		case isUnspaced(r) || r == longVowel && end > 0:
			pair()
			first = r
			chars++
			last, here = here, len(t.buf)
			t.buf = utf8.AppendRune(t.buf, r)
		default:
			goto done
		}
		end = i + utf8.RuneLen(r)
	}
done:
	pair()
	if chars == 1 && unicode.Is(unicode.Han, first) && utf8.RuneCount(t.buf) <= maxChars {
		yield(t.buf)
	}
	return end
}

// isInvisible tells whether a character shows nothing: soft hyphen, joiners, marks of direction, variation selectors.
func isInvisible(r rune) bool {
	return r > unicode.MaxASCII && (unicode.Is(unicode.Cf, r) || unicode.Is(unicode.Variation_Selector, r) || r == '\u034f')
}

func isHangul(r rune) bool { return r >= 0xac00 && r <= 0xd7a3 }

// hangulLetters returns of how many letters a composed syllable is made (Unicode Standard, section 3.12).
func hangulLetters(r rune) int {
	if (r-0xac00)%28 == 0 {
		return 2
	}
	return 3
}
