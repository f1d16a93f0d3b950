package main

import "testing"

func TestHeapMayGrowWhileLittleLives(t *testing.T) {
	for live, want := range map[uint64]int{0: 100, 10 << 20: 400, 64 << 20: 300, 128 << 20: 100, 300 << 20: 100, 4 << 30: 100} {
		if got := heapPercent(live); got != want {
			t.Errorf("with %d MiB alive the heap may grow by %d %%, want %d", live>>20, got, want)
		}
	}
}
