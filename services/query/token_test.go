package query

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func drawPositions(t *rapid.T) positions {
	return rapid.SliceOfN(rapid.Int64Range(unnamed, 1<<61), 0, 40).Draw(t, "positions")
}

func TestResumeTokenRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := resumeToken{rapid.Uint64().Draw(t, "filter"), rapid.Uint64().Draw(t, "topic"), drawPositions(t)}
		text := want.String()
		if len(tokenOwn(want.filter)) != tokenOwnChars {
			t.Fatalf("own half has %d characters", len(tokenOwn(want.filter)))
		}
		got, err := parseResumeToken(text)
		if err != nil || got.filter != want.filter || got.topic != want.topic || !slices.Equal(got.at, want.at) {
			t.Fatalf("%+v came back as %+v, %v", want, got, err)
		}
		// Any change of one character makes it none of ours, or, in the half that names the filter, one of another filter.
		i := rapid.IntRange(0, len(text)-1).Draw(t, "at")
		c := rapid.SampledFrom([]byte("ABCDwxyz019_-=+/ ")).Draw(t, "char")
		if text[i] == c {
			return
		}
		if other, err := parseResumeToken(text[:i] + string(c) + text[i+1:]); err == nil && other.filter == want.filter {
			t.Fatalf("forged token taken: %+v", other)
		}
	})
}

// The limit on resume tokens holds a topic of 200 partitions, each at a record number beyond a billion.
func TestResumeTokenFitsItsField(t *testing.T) {
	at := slices.Repeat(positions{1_000_000_000_000}, 200)
	if n := len(resumeToken{1, 2, at}.String()); n > 4096 {
		t.Errorf("%d characters", n)
	}
}

func FuzzResumeToken(f *testing.F) {
	f.Add("")
	f.Add(resumeToken{1, 2, positions{0, -1, 1 << 40}}.String())
	f.Add(resumeToken{}.String())
	f.Add(strings.Repeat("A", 64))
	f.Fuzz(func(t *testing.T, text string) {
		token, err := parseResumeToken(text)
		if err == nil && token.String() != text {
			t.Errorf("%q was taken for %q", text, token)
		}
	})
}

func FuzzPageToken(f *testing.F) {
	f.Add("", uint64(1), 1)
	f.Add(pageToken(7, cursor{[]int64{-5, 1 << 60}, "alert"}), uint64(7), 2)
	f.Fuzz(func(t *testing.T, text string, filter uint64, numbers int) {
		c, ok, err := parsePageToken(text, filter, numbers)
		if err == nil && ok && (pageToken(filter, c) != text || len(c.numbers) != numbers) {
			t.Errorf("%q was taken for %v", text, c)
		}
	})
}

func TestPageTokenRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		filter := rapid.Uint64().Draw(t, "filter")
		want := cursor{rapid.SliceOfN(rapid.Int64(), 0, maxNumbers).Draw(t, "numbers"), rapid.String().Draw(t, "text")}
		got, ok, err := parsePageToken(pageToken(filter, want), filter, len(want.numbers))
		if err != nil || !ok || !slices.Equal(got.numbers, want.numbers) || got.text != want.text {
			t.Fatalf("%v came back as %v, %v, %v", want, got, ok, err)
		}
		if _, _, err := parsePageToken(pageToken(filter, want), filter+1, len(want.numbers)); err == nil {
			t.Fatal("taken for another filter")
		}
	})
}

func TestPositions(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, q := drawPositions(t), drawPositions(t)
		both := p.later(q)
		if !both.covers(p) || !both.covers(q) || !slices.Equal(both, q.later(p)) {
			t.Fatalf("%v and %v make %v", p, q, both)
		}
		if p.covers(q) && q.covers(p) && behind(p, q) != 0 {
			t.Fatalf("%v is behind %v", p, q)
		}
	})
}

func TestFilterHash(t *testing.T) {
	same := newHash("x").set([]string{"a", "b", "a"}).sum() == newHash("x").set([]string{"b", "a"}).sum()
	other := []uint64{
		newHash("x").set([]string{"a", "b"}).sum(), newHash("y").set([]string{"a", "b"}).sum(), newHash("x").set([]string{"ab"}).sum(),
		newHash("x").set([]string{"a"}).set([]string{"b"}).sum(), newHash("x").set(nil).sum(), newHash("x").text("ab").sum(),
	}
	slices.Sort(other)
	if !same || len(slices.Compact(other)) != 6 {
		t.Error("hash depends on what it should not, or not on what it should")
	}
	// Tokens outlive the process that made them: the hash may never change.
	if got := newHash("stream alerts").set([]string{"anna"}).number(3).sum(); got != 0xb747be109ebdf7a {
		t.Errorf("hash is %#x", got)
	}
}
