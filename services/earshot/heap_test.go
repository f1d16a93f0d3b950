package main

import "testing"

func TestHeapMayGrowWhileLittleLives(t *testing.T) {
	for live, want := range map[uint64]int{0: 1000, 10 << 20: 1000, 56 << 20: 400, 112 << 20: 200, 224 << 20: 100, 448 << 20: 60, 4 << 30: 60} {
		if got := heapPercent(live); got != want {
			t.Errorf("with %d MiB alive the heap may grow by %d %%, want %d", live>>20, got, want)
		}
	}
}
