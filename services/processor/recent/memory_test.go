package recent_test

import (
	"bytes"
	"cmp"
	"fmt"
	"runtime"
	"slices"
	"testing"
	"time"
	"unique"
	"unsafe"

	"pgregory.net/rapid"

	"github.com/earshot/earshot/services/internal/ident"
	"github.com/earshot/earshot/services/processor/recent"
)

const keep = 120 * time.Second

func entry(ms int64, n int, other string) recent.Entry {
	return recent.Entry{
		ID:     ident.Hashed(time.UnixMilli(ms), fmt.Sprint(n)),
		Other:  unique.Make(other),
		Offset: int64(n),
	}
}

func TestCopyRenewsAndKeepsTheFirst(t *testing.T) {
	m := recent.New(keep)
	first := m.Observe("c", entry(1000, 1, "ann"), 10_000)
	if !first.First || first.Index != 0 || first.LogTime != 10_000 {
		t.Fatalf("first copy: %+v", first)
	}
	again := entry(1000, 1, "bob")
	again.Offset = 77
	second := m.Observe("c", again, 100_000)
	if second.First || second.Log != first.Log || second.LogTime != 100_000 {
		t.Fatalf("second copy: %+v", second)
	}
	got := second.Log.Entries[second.Index]
	if got.Other.Value() != "ann" || got.Offset != 1 || got.LogSecond != 100 {
		t.Errorf("after a copy the entry is %+v, want the first one's with log second 100", got)
	}
	m.Observe("c", again, 50_000) // an older clock takes nothing back
	m.Advance(100_000 + keep.Milliseconds())
	if m.Len() != 1 {
		t.Errorf("a renewed message was forgotten %s after its log time", keep)
	}
	m.Advance(101_000 + keep.Milliseconds())
	if m.Len() != 0 || m.Keys() != 0 {
		t.Errorf("%d messages, %d keys remembered more than %s after the log time", m.Len(), m.Keys(), keep)
	}
}

// The package is kept free of other packages of ours, so it reads and writes ids itself.
func TestEntryReadsIDsAsIdentDoes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		u := ident.Hashed(time.UnixMilli(rapid.Int64Range(0, ident.MaxTime.UnixMilli()).Draw(t, "ms")), rapid.String().Draw(t, "part"))
		e := recent.Entry{ID: u}
		if e.MessageID() != u.MessageID() || e.Millis() != u.Millis() {
			t.Fatalf("entry says %s at %d, want %s at %d", e.MessageID(), e.Millis(), u.MessageID(), u.Millis())
		}
	})
}

func TestIdentity(t *testing.T) {
	byConversation, bySender := recent.New(keep), recent.NewBySender(keep)
	for _, other := range []string{"x", "y", "x"} {
		byConversation.Observe("k", entry(5, 1, other), 5)
		bySender.Observe("k", entry(5, 1, other), 5)
	}
	if byConversation.Len() != 1 || bySender.Len() != 2 {
		t.Errorf("one id with two others: %d in a log by conversation, %d in one by sender; want 1 and 2", byConversation.Len(), bySender.Len())
	}
}

func TestRangeIsHalfOpen(t *testing.T) {
	m := recent.New(keep)
	var log *recent.Log
	for i, ms := range []int64{100, 200, 200, 300} {
		log = m.Observe("c", entry(ms, i, "ann"), 1000).Log
	}
	for _, c := range []struct{ from, to, lo, hi int64 }{
		{0, 100, 0, 0}, {0, 101, 0, 1}, {100, 200, 0, 1}, {200, 300, 1, 3}, {200, 301, 1, 4}, {201, 299, 3, 3}, {400, 500, 4, 4}, {300, 100, 3, 3},
	} {
		if lo, hi := log.Range(c.from, c.to); int64(lo) != c.lo || int64(hi) != c.hi {
			t.Errorf("Range(%d, %d) = %d, %d; want %d, %d", c.from, c.to, lo, hi, c.lo, c.hi)
		}
	}
}

func TestEntryIsSmall(t *testing.T) {
	if n := unsafe.Sizeof(recent.Entry{}); n > 40 {
		t.Errorf("an entry takes %d bytes, want at most 40", n)
	}
}

// remembered is the slow reference: a list, searched from one end to the other.
type remembered struct {
	key string
	recent.Entry
}

func TestMemoryEqualsAList(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		bySender := rapid.Bool().Draw(t, "by sender")
		m := recent.New(keep)
		if bySender {
			m = recent.NewBySender(keep)
		}
		var list []remembered
		clock, horizon := int64(1_700_000_000_000), int64(0)
		for range rapid.IntRange(1, 120).Draw(t, "steps") {
			if rapid.IntRange(0, 4).Draw(t, "advance") == 0 {
				clock += rapid.SampledFrom([]int64{0, 1, 999, 1000, 30_000, 121_000, 1_000_000}).Draw(t, "by")
				m.Advance(clock)
				horizon = max(horizon, (clock-keep.Milliseconds())/1000)
				list = slices.DeleteFunc(list, func(r remembered) bool { return int64(r.LogSecond) < horizon })
			} else {
				key := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "key")
				e := entry(rapid.Int64Range(0, 4).Draw(t, "ms"), rapid.IntRange(0, 3).Draw(t, "id"), rapid.SampledFrom([]string{"x", "y"}).Draw(t, "other"))
				at := clock + rapid.Int64Range(-60_000, 60_000).Draw(t, "log time")
				seen := m.Observe(key, e, at)
				second := uint32((at + 999) / 1000)
				k := slices.IndexFunc(list, func(r remembered) bool {
					return r.key == key && r.ID == e.ID && (!bySender || r.Other == e.Other)
				})
				if seen.First != (k < 0) {
					t.Fatalf("First = %v, but the list has it at %d", seen.First, k)
				}
				if k < 0 {
					e.LogSecond = second
					list = append(list, remembered{key, e})
					k = len(list) - 1
				} else {
					list[k].LogSecond = max(list[k].LogSecond, second)
				}
				if got := seen.Log.Entries[seen.Index]; seen.Log.Key != key || got != list[k].Entry {
					t.Fatalf("Observe(%s) = %+v, want %+v", key, got, list[k].Entry)
				}
				want := sorted(list, key)
				if !slices.Equal(seen.Log.Entries, want) {
					t.Fatalf("log of %s:\n%v\nwant\n%v", key, seen.Log.Entries, want)
				}
			}
			keys := map[string]bool{}
			for _, r := range list {
				keys[r.key] = true
			}
			if m.Len() != len(list) || m.Keys() != len(keys) {
				t.Fatalf("%d messages of %d keys, want %d of %d", m.Len(), m.Keys(), len(list), len(keys))
			}
		}
	})
}

func sorted(list []remembered, key string) []recent.Entry {
	var out []recent.Entry
	for _, r := range list {
		if r.key == key {
			out = append(out, r.Entry)
		}
	}
	slices.SortFunc(out, func(a, b recent.Entry) int {
		return cmp.Or(bytes.Compare(a.ID[:], b.ID[:]), cmp.Compare(a.Other.Value(), b.Other.Value()))
	})
	return out
}

// A Log that was handed out must go on being the key's log for as long as something is remembered of it.
func TestLogStaysTheSameWhileItHasEntries(t *testing.T) {
	m := recent.New(keep)
	log := m.Observe("c", entry(1, 0, "ann"), 1000).Log
	for i := range 200 {
		at := int64(i) * 10_000
		m.Advance(at)
		if got := m.Observe("c", entry(at, i+1, "ann"), at).Log; got != log {
			t.Fatalf("another log after %d s", i*10)
		}
	}
	if m.Len() > 15 {
		t.Errorf("%d messages remembered, want those of two minutes", m.Len())
	}
}

func BenchmarkObserveInOrder(b *testing.B) {
	m := recent.New(keep)
	keys := make([]string, 10_000)
	for i := range keys {
		keys[i] = fmt.Sprintf("user-%d", i)
	}
	other := unique.Make("conversation")
	b.ReportAllocs()
	clock := int64(1_700_000_000_000)
	for i := 0; b.Loop(); i++ {
		if i%10 == 0 { // 10,000 messages a second
			clock++
			m.Advance(clock)
		}
		m.Observe(keys[i*7919%len(keys)], recent.Entry{ID: id(clock, uint64(i)), Other: other}, clock)
	}
}

func id(ms int64, n uint64) (u ident.UUID) {
	for i := range 6 {
		u[i] = byte(ms >> (40 - 8*i))
	}
	for i := range 8 {
		u[8+i] = byte(n >> (56 - 8*i))
	}
	return u
}

// One message of each of a million keys.
func BenchmarkMillionKeys(b *testing.B) {
	for b.Loop() {
		m := recent.New(keep)
		for i := range 1_000_000 {
			m.Observe(fmt.Sprintf("user-%d", i), recent.Entry{ID: id(int64(i), uint64(i))}, int64(i/10))
		}
		if m.Keys() != 1_000_000 {
			b.Fatal(m.Keys())
		}
	}
	b.ReportMetric(heapPerKey(), "heap-B/key")
}

func heapPerKey() float64 {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	m := recent.New(keep)
	for i := range 1_000_000 {
		m.Observe(fmt.Sprintf("user-%d", i), recent.Entry{ID: id(int64(i), uint64(i))}, int64(i/10))
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	return float64(after.HeapAlloc-before.HeapAlloc) / float64(m.Keys())
}
