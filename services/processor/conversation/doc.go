// Package conversation measures conversations over sliding windows: how many messages and senders, how fast, how bursty, how quickly people answer.
//
//	messages of one partition of chat.messages --> Tracker --> conversation-metrics
//
// Time is cut into steps of 5 s, (end-5s, end], aligned to the epoch. A conversation has a record for each step in which it had a message, with the
// numbers of the window of 30 s that ends with the step, (end-30s, end]; and one record of zeros for the first step whose window is empty again.
//
// A record is announced as provisional when log time passes the step's end, again at most every 5 s of log time while it changes, and as closed when log
// time is 10 s past both the step's end and the last message that changed it. A straggler changes the windows that hold it: its own step's and those of
// the later steps with messages; they are closed again once they are settled. The zeros are only ever announced as closed. When a straggler falls into a
// window that was called empty, its numbers are announced under the same key: the larger revision wins.
//
// The numbers are computed from the host's memory at the moment they are announced, so the order of arrival can not matter. The package is pure: no
// Kafka, no clock, no goroutines. It may import gen/earshot/event/v1 and processor/recent.
package conversation
