// Command bench measures the whole mesh as one machine runs it: `earshot up` in its own process, with its broker and its ClickHouse, and this program
// beside it as the load. It prints one line a row, and writes docs/performance.md when it ran all of them.
//
//	make bench                      every row, and the document
//	make bench ROW=batch            one row, printed only
//	make bench BENCH_MESSAGES=1000000 ROW=memory
//
// A rate counts only what was acknowledged, worked off by the processors, stored and readable: messages over the time until all of that was so. The load
// holds back while consumers are more than BacklogLimit behind, so that a rate is one that can go on for ever. Latencies come from an open loop: they
// count from when a message was due, whether or not the load was able to send it then.
//
// Everything is on loopback and in a directory that is removed at the end.
package main
