package main

import (
	"context"
	"math"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// How the garbage collector is paced. While little lives it runs seldom: the heap may grow to fiveTimes what lives, up to roomyHeap; past that the heap
// is kept near twice what lives, as Go does by default.
const (
	fiveTimes = 400       // percent, as GOGC counts
	roomyHeap = 256 << 20 // bytes
)

// paceHeap paces the garbage collector until ctx ends. GOGC and GOMEMLIMIT, where they are set, are left alone.
func paceHeap(ctx context.Context) {
	if os.Getenv("GOGC") != "" || os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	debug.SetGCPercent(fiveTimes)
	debug.SetMemoryLimit(roomyHeap)
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			metrics.Read(live)
			// A limit that is below what lives would have the collector run without a pause.
			debug.SetMemoryLimit(int64(max(roomyHeap, min(2*live[0].Value.Uint64(), math.MaxInt64))))
		case <-ctx.Done():
			return
		}
	}
}
