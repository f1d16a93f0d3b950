package processor

// marks finds the lowest offset of a partition whose record is still remembered: what a rebuild has to read again. It is coarse on purpose: one mark
// stands for up to a second of log time. S is the state just before the mark's first record, from which a rebuild starts.
type marks[S any] struct {
	fifo []mark[S]
}

type mark[S any] struct {
	offset int64 // of its first record
	opened int64 // log time of its first record
	newest int64 // largest log time of its records
	before S
}

// markSpan is how much log time one mark stands for.
const markSpan = 1000

// add notes that the record at offset is remembered under logTime; before is asked for the state just before it when a new mark begins.
func (m *marks[S]) add(offset, logTime int64, before func() S) {
	if n := len(m.fifo); n > 0 {
		if last := &m.fifo[n-1]; logTime < last.opened+markSpan {
			last.newest = max(last.newest, logTime)
			return
		}
	}
	m.fifo = append(m.fifo, mark[S]{offset: offset, opened: logTime, newest: logTime, before: before()})
}

// forget drops the marks whose records are all older than horizon. Memories forget in whole seconds, so two are added.
func (m *marks[S]) forget(horizon int64) {
	gone := 0
	for gone < len(m.fifo) && m.fifo[gone].newest < horizon-2000 {
		gone++
	}
	if gone > 0 {
		m.fifo = append(m.fifo[:0], m.fifo[gone:]...)
	}
}

// low returns where a rebuild starts and the state there; ok is false when nothing is remembered.
func (m *marks[S]) low() (offset int64, before S, ok bool) {
	if len(m.fifo) == 0 {
		return 0, before, false
	}
	return m.fifo[0].offset, m.fifo[0].before, true
}
