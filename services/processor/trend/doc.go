// Package trend finds the words that are used unusually much.
//
//	messages of one partition of chat.messages --> Counter --> term-totals --> Ranker, one per internal partition --> trending-words
//
// Time is cut into panes of 30 s, aligned to the epoch; a window is four of them and begins with each pane. A Counter counts the words of one source
// partition by pane and sends totals so far. A Ranker holds the totals of all source partitions for its share of the words, adds them up by window,
// scores each word against the half hour before, and announces the best.
//
// Totals travel instead of increments so that repeating them is harmless: the Ranker keeps, for each source partition, pane and word, the largest count
// and every sender it was told of. In whatever order they come, and however often, the result is the same.
//
// The package is pure: no Kafka, no clock, no goroutines. It may import gen/earshot/event/v1, processor/recent, and libraries for text and hashing.
package trend
