// Package simulator makes traffic: a replay of recorded chat, and users whose doings are known in advance.
//
// It uses the public API like any other client, and Kafka directly where it is asked to. It may import gen and internal packages only.
package simulator
