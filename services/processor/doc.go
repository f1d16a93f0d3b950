// Package processor is the host of the analytics: it reads each message once, hands it to every processor, writes what they find and commits.
//
//	chat.messages --> source loop  --> processors by conversation --> result topics
//	                       |    \----> word totals ----> term-totals  --> rekeyed loop --> processors by term   --> result topics
//	                       \---------> sender's events -> sender-events --> rekeyed loop --> processors by sender --> result topics
//
// Each loop is one goroutine with its own consumer and its own state; they share a producer and two numbers. A loop drives one state machine for each of
// its partitions (source, senders, terms). These know nothing of Kafka's client, of goroutines or of the wall clock, so that a test drives many hosts,
// crashes and replays in virtual time.
//
// What the host promises:
//   - Effect first, commit after: a partition's offset is committed once every record derived from what lies before it is acknowledged.
//   - State needs no store. With the offset goes, as the commit's metadata, the lowest offset whose record is still remembered (mark). Whoever gets the
//     partition starts there, rebuilds silently up to the committed offset, and speaks from there on.
//   - Results depend on the records alone. A result may be written again after a restart; it then has the same key and no smaller count.
//
// Why a silent rebuild never swallows a result that was not written: while it is silent no clock gets further than it was at the commit, and a message's
// log time depends on records only; so what is due in the rebuild was due, written and acknowledged before the commit.
//
// The package may import gen and services/internal. It does not know the processors: services/earshot hands them in. docs/new-processor.md adds one.
package processor
