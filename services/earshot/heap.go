package main

import (
	"context"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// How the garbage collector is paced. Its price is what lives, at every run; so the room between two runs is the same however little lives. As what
// lives grows to headroom and beyond, that becomes what Go does by default, and then a little less. A memory limit would not do: it counts what is
// fragmented and free too, and has the collector run all the time.
const headroom = 224 << 20 // bytes

// paceHeap paces the garbage collector until ctx ends. GOGC and GOMEMLIMIT, where they are set, are left alone.
func paceHeap(ctx context.Context) {
	if os.Getenv("GOGC") != "" || os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for now := 0; ; {
		metrics.Read(live)
		percent := heapPercent(live[0].Value.Uint64())
		if percent < now-20 || percent > now+20 { // setting it stops the world for a moment
			debug.SetGCPercent(percent)
			now = percent
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// heapPercent returns by how many percent the heap may grow over what lives.
func heapPercent(live uint64) int {
	const least, most = 60, 1000
	if live == 0 {
		return most
	}
	return int(max(least, min(most, headroom*100/live))) //nolint:gosec // at most 1000
}

// leastThreads is how many threads may run Go code at once in `up`, where a broker, five services and their clients hand each message on several times.
// With as many as cores, what a message waits for at each hop is the turn of goroutines that compute, up to 10 ms each; the kernel gives a thread that
// wakes up its turn at once.
const leastThreads = 8

// shareCores lets the kernel share few cores between the parts of `up`. GOMAXPROCS, where it is set, is left alone.
func shareCores() {
	if os.Getenv("GOMAXPROCS") == "" && runtime.GOMAXPROCS(0) < leastThreads {
		runtime.GOMAXPROCS(leastThreads)
	}
}
