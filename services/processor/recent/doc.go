// Package recent remembers the messages of the last minutes, by conversation or by sender, so that processors can compute a window's numbers again when
// a straggler arrives, and so that a copy is not counted twice.
//
//	record --> Memory.Observe --> Seen{Log, Index, First} --> a processor
//	clock  --> Memory.Advance --> what is old enough is forgotten
//
// Order within a key is event time (the message's UUIDv7); how long an entry is kept follows log time, the moment of acceptance. All times are
// milliseconds since the epoch. The package is pure: no Kafka, no clock, no goroutines. A Memory is not safe for concurrent use.
package recent
