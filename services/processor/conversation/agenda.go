package conversation

import "slices"

// agenda says which window to look at in which second of log time. A window may stand in it more than once: only the entry under its due second counts.
type agenda struct {
	at   map[uint32][]entry
	now  uint32  // every second up to it is done or in todo
	todo []entry // due by now, oldest second first
	done int     // of todo
	free []entry // an emptied slice, to be filled again
}

// entry names a window.
type entry struct {
	conversation *conversation
	end          int32
	second       uint32 // it stands under
}

func (a *agenda) add(second uint32, e entry) {
	e.second = second
	if second <= a.now {
		a.todo = append(a.todo, e)
		return
	}
	list, ok := a.at[second]
	if !ok && a.free != nil {
		list, a.free = a.free, nil
	}
	a.at[second] = append(list, e)
}

// next moves the clock to a log time in milliseconds, if that is later, and returns an entry that is due by it.
func (a *agenda) next(logTime int64) (entry, bool) {
	if now := floorSecond(logTime); now > a.now {
		a.collect(now)
	}
	if a.done == len(a.todo) {
		clear(a.todo) // no conversation outlives its windows
		a.todo, a.done = a.todo[:0], 0
		return entry{}, false
	}
	a.done++
	return a.todo[a.done-1], true
}

func (a *agenda) collect(now uint32) {
	from := a.now + 1
	a.now = now
	if int64(now)-int64(from) < int64(len(a.at)) {
		for second := from; second <= now; second++ {
			a.take(second)
		}
		return
	}
	var due []uint32 // a jump: fewer lists than seconds
	for second := range a.at {
		if second <= now {
			due = append(due, second)
		}
	}
	slices.Sort(due)
	for _, second := range due {
		a.take(second)
	}
}

func (a *agenda) take(second uint32) {
	list, ok := a.at[second]
	if !ok {
		return
	}
	delete(a.at, second)
	a.todo = append(a.todo, list...)
	clear(list)
	a.free = list[:0]
}

func floorSecond(ms int64) uint32 {
	if ms < 0 {
		return 0
	}
	return uint32(min(ms/1000, 1<<32-2)) //nolint:gosec // bounded
}
