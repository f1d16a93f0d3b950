package ident_test

import (
	"strings"
	"testing"
	"time"

	"github.com/earshot/earshot/services/internal/ident"
	"pgregory.net/rapid"
)

func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ms := rapid.Int64Range(0, ident.MaxTime.UnixMilli()).Draw(t, "ms")
		u := ident.New(time.UnixMilli(ms))
		id := u.MessageID()
		got, err := ident.Parse(id)
		if err != nil || got != u {
			t.Fatalf("Parse(%q) = %v, %v; want %v", id, got, err, u)
		}
		if got.Millis() != ms {
			t.Fatalf("Millis() = %d, want %d", got.Millis(), ms)
		}
	})
}

func TestOrderIsTimeThenID(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := ident.New(time.UnixMilli(rapid.Int64Range(0, 1<<40).Draw(t, "a")))
		b := ident.New(time.UnixMilli(rapid.Int64Range(0, 1<<40).Draw(t, "b")))
		if a.Millis() < b.Millis() && a.MessageID() >= b.MessageID() {
			t.Fatalf("%s is older than %s but sorts after it", a.MessageID(), b.MessageID())
		}
	})
}

func TestParseRefuses(t *testing.T) {
	good := ident.New(time.UnixMilli(1_700_000_000_000)).MessageID()
	for name, id := range map[string]string{
		"empty":             "",
		"no prefix":         strings.TrimPrefix(good, "msg-"),
		"upper case":        "msg-" + strings.ToUpper(strings.TrimPrefix(good, "msg-")),
		"version 4":         good[:18] + "4" + good[19:],
		"wrong variant":     good[:23] + "0" + good[24:],
		"trailing":          good + "0",
		"dash moved":        good[:11] + "-" + good[11:12] + good[13:],
		"a dash too many":   "msg-00000000-0000-7000-8000-0000000000-0",
		"only dashes":       "msg-" + strings.Repeat("-", 36),
		"not hex":           good[:len(good)-1] + "g",
		"nanoseconds":       "msg-1705412345678901234",
		"bytes of a letter": good[:len(good)-2] + "é",
	} {
		if _, err := ident.Parse(id); err == nil {
			t.Errorf("%s: Parse(%q) succeeded", name, id)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(ident.New(time.UnixMilli(0)).MessageID())
	f.Add("msg-00000000-0000-7000-8000-0000000000-0")
	f.Fuzz(func(t *testing.T, id string) {
		if u, err := ident.Parse(id); err == nil && u.MessageID() != id {
			t.Errorf("Parse(%q) succeeded, but that is written %q", id, u.MessageID())
		}
	})
}

func TestHashedDependsOnEveryPart(t *testing.T) {
	at := time.UnixMilli(1_500_000_000_123)
	base := ident.Hashed(at, "ab", "c")
	if base != ident.Hashed(at, "ab", "c") {
		t.Error("the same parts gave two ids")
	}
	if base == ident.Hashed(at, "a", "bc") || base == ident.Hashed(at, "ab", "c", "") {
		t.Error("different parts gave one id")
	}
	if base.Millis() != at.UnixMilli() {
		t.Errorf("Millis() = %d, want %d", base.Millis(), at.UnixMilli())
	}
}

func TestConversationIgnoresDirection(t *testing.T) {
	if ident.Conversation("alice", "bob") != ident.Conversation("bob", "alice") {
		t.Error("direction changed the conversation")
	}
	if ident.Conversation("ab", "c") == ident.Conversation("a", "bc") {
		t.Error("different pairs share a conversation")
	}
}
