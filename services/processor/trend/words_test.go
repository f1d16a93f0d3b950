package trend

import (
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"
	"pgregory.net/rapid"
)

func split(t *tokenizer, text string) []string {
	var out []string
	t.words(text, func(w []byte) { out = append(out, string(w)) })
	return out
}

func TestWords(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"more than three characters", "a an the moon Rises", "moon rises"},
		{"numbers are no words", "2018 12,345 3.14159 route66 x86_64", "route66 x86_64"},
		{"apostrophes", "don't Don’t rock'n'roll 'quoted'", "don't don't rock'n'roll quoted"},
		{"points inside", "e.g.this lang.rkt done. end...start", "e.g.this lang.rkt done start"},
		{"case folding", "STRASSE Straße ΣΊΣΥΦΟΣ Σίσυφος", "strasse strasse σίσυφοσ σίσυφοσ"},
		{"one word however it is composed", "Cafe\u0301s caf\u00e9s ｆｕｌｌｗｉｄｔｈ 𝓯𝓪𝓷𝓬𝔂 ﬁne", "cafés cafés fullwidth fancy fine"},
		{"invisible characters", "in\u00adcred\u200dible", "incredible"},
		{"emphasis", "_really_ *very* __init__ snake_case ___", "really very init snake_case"},
		{"hyphens part", "well-known state-of-the-art", "well known state"},
		{"urls", "see https://example.com/Some/Path?q=words, (http://a.b/cccc) www.example.org/page ftp://host/file", ""},
		{"a url with a label", "<https://example.com/path|the label>", "label"},
		{"a colon is no scheme", "note: //comment foo:bar and/or://", "note comment foo:bar"},
		{"addresses", "mail bob.smith@example.com or mailto:ann@example.org now", "mail"},
		{"mentions", "<@Carlyn> hackett @someone's <#general> <!here> <@U123|name>hello", "hackett hello"},
		{"an at sign alone", "meet @ noon", "meet noon"},
		{"tags are words", "#gopher #Gopher", "gopher gopher"},
		{"code fences", "before ```func hidden() {}``` between ``` never ends", "before between"},
		{"inline code", "use `Applicative` here", "applicative here"},
		{"emoji", "party 🎉🎉 :tada: 👩‍👩‍👧", "party tada"},
		{"chinese", "我喜欢猫。", "我喜 喜欢 欢猫"},
		{"one ideograph", "mein 猫 schläft", "mein 猫 schläft"},
		{"japanese", "サーバーが落ちた らーめん テスト", "サーバー が落 落ち ちた らー ーめ めん テスト"},
		{"half-width", "ｻｰﾊﾞｰ", "サーバー"},
		{"thai, marks with their base", "น้ำใจ", "น้ํา าใ ใจ"},
		{"korean", "서버가 다운 왜", "서버가 다운"},
		{"arabic, hebrew, russian", "مرحبا שלום привет", "مرحبا שלום привет"},
		{"no word is that long", strings.Repeat("x", 64) + " " + strings.Repeat("y", 65), strings.Repeat("x", 64)},
		{"too long in any script", strings.Repeat("é", 64) + " " + strings.Repeat("è", 65), strings.Repeat("é", 64)},
		{"nothing", " \n\t", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := split(newTokenizer(4), c.in); !slices.Equal(got, strings.Fields(c.want)) {
				t.Errorf("%q: got %q, want %q", c.in, got, strings.Fields(c.want))
			}
		})
	}
}

// both cuts a text by the ASCII path and by its definition.
func both(text string, minChars int) (fast, slow []string) {
	tok := newTokenizer(minChars)
	for piece := range strings.FieldsFuncSeq(text, func(r rune) bool { return r <= ' ' }) {
		var seen uint8
		for i := range len(piece) {
			seen |= class[piece[i]]
		}
		tok.plain(piece, seen, func(w []byte) { fast = append(fast, string(w)) })
	}
	def := newSlowTokenizer(minChars)
	def.words(text, func(w []byte) { slow = append(slow, string(w)) })
	return fast, slow
}

func TestFastIsSlow(t *testing.T) {
	alphabet := []rune("aabcXYZ019__::..'',,;;  -!?\t\n\"\x00\x7féßИ猫がカー\u0301\u200d\u00ad’")
	ascii := alphabet[:slices.Index(alphabet, 'é')]
	rapid.Check(t, func(t *rapid.T) {
		runes := ascii
		if rapid.Bool().Draw(t, "all") {
			runes = alphabet
		}
		text := rapid.StringOfN(rapid.SampledFrom(runes), 0, 60, -1).Draw(t, "text")
		least := rapid.IntRange(1, 5).Draw(t, "least")
		if fast, slow := both(text, least); !slices.Equal(fast, slow) {
			t.Fatalf("%q:\nfast %q\nslow %q", text, fast, slow)
		}
	})
}

func FuzzWords(f *testing.F) {
	for _, s := range []string{"Hello, world", "a.b.c 1,2.3 x_y:z", "<@U1> https://a.b|c www.x.y a@b.c ``` x", "サーバーが落ちた", "น้ำใจ", "\xff\xfe"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		fold, n := cases.Fold(), 0
		for _, w := range split(newTokenizer(4), text) {
			n++
			if !utf8.ValidString(text) {
				continue // refused at the door; here it must only not crash
			}
			if w == "" || utf8.RuneCountInString(w) > maxChars {
				t.Errorf("%q: word %q", text, w)
			}
			if again := norm.NFKC.String(fold.String(w)); again != w {
				t.Errorf("%q: word %q is not folded: %q", text, w, again)
			}
		}
		if n > 18*len(text) { // the longest expansion there is: U+FDFA
			t.Errorf("%q: %d words", text, n)
		}
		if isASCII(text) {
			if fast, slow := both(text, 4); !slices.Equal(fast, slow) {
				t.Errorf("%q:\nfast %q\nslow %q", text, fast, slow)
			}
		}
	})
}

func TestStopWordsAreWords(t *testing.T) {
	tok := newTokenizer(3)
	for w := range stopWords() {
		if got := split(tok, w); len(got) != 1 || got[0] != w {
			t.Errorf("stop word %q is cut into %q and would never be met", w, got)
		}
	}
}

const sample = "I'm fiddling around with typeclass hierarchies and it's a blast, would you be interested in a pull request that rounds out the hierarchy?"

func BenchmarkWordsASCII(b *testing.B) {
	tok := newTokenizer(4)
	n := 0
	b.SetBytes(int64(len(sample)))
	b.ReportAllocs()
	for b.Loop() {
		tok.words(sample, func([]byte) { n++ })
	}
}

func BenchmarkWordsMixed(b *testing.B) {
	tok := newTokenizer(4)
	text := "L’équipe déploie la nouvelle version ce soir, サーバーが落ちた 😀 " + sample
	n := 0
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		tok.words(text, func([]byte) { n++ })
	}
}
