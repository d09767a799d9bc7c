package historytest

import (
	"cmp"
	"math"
	"math/bits"
	"slices"
	"time"
)

// A history of one block is linearizable if each access can be given one
// moment between its call and its return such that every read returns what was
// written last. The accesses are taken in the order of calls and returns;
// what is kept is the set of all states that the block can be in. An access is
// given its moment as late as possible: a write when it returns or when a read
// needs its value. Two short cuts change nothing: a read gets its moment as
// soon as the block has its value, and a write whose value nobody is still to
// read hides behind the next one, or never happens if it need not. linear_test.go
// compares this with porcupine.

type accessKind uint8

const (
	isRead accessKind = iota
	isWrite
	// mayWrite is an attempt that a client gave up and repeated: it takes
	// effect once before the repetition is acknowledged, or never.
	mayWrite
)

const never = time.Duration(math.MaxInt64)

// access is one attempt to read or write a block.
type access struct {
	kind      accessKind
	value     uint64
	call, ret time.Duration
	slot      int
	last      time.Duration // the last return of a read of value, 0 if none
}

// configuration is a state that a block may be in.
type configuration struct {
	value uint64
	done  uint64 // by slot: the accesses under way that have had their moment
}

type judge struct {
	states map[configuration]bool
	open   [64]*access
	reads  uint64 // of open, by slot
	writes uint64 // of open, by slot
	hidden uint64 // of writes: those whose value nobody is still to read
	work   int    // that is left
}

// attempts are those that a stands for. One that was given up and whose value
// nobody read is left out: it can as well never have taken effect.
func (a Access) attempts(read map[uint64]bool) (out []access) {
	for i, call := range a.Calls {
		x := access{kind: mayWrite, value: a.Value, call: call, ret: a.returned()}
		switch last := i == len(a.Calls)-1; {
		case !a.Write && (a.Ret == 0 || i > 0):
			continue
		case !a.Write:
			x.kind = isRead
		case last && a.Ret != 0:
			x.kind = isWrite
		case !read[a.Value]:
			continue
		}
		out = append(out, x)
	}
	return out
}

// linearizable judges one block's accesses. Of more than 64 at one time, or
// of more than work possibilities, it says nothing: judged is false.
func linearizable(accesses []access, work int) (ok, judged bool) {
	j := judge{states: map[configuration]bool{{}: true}, work: work}
	last := map[uint64]time.Duration{}
	type edge struct {
		at     time.Duration
		access *access
		ret    bool
	}
	var edges []edge
	for _, a := range accesses {
		if a.kind == isRead {
			last[a.value] = max(last[a.value], a.ret)
		}
	}
	for i := range accesses {
		a, ret := &accesses[i], accesses[i].ret
		if a.last = last[a.value]; a.kind == mayWrite {
			ret = min(ret, a.last+1) // that it takes effect later explains nothing
		}
		if ret > a.call {
			edges = append(edges, edge{a.call, a, false}, edge{ret, a, true})
		}
	}
	slices.SortStableFunc(edges, func(a, b edge) int {
		// At one instant calls come before returns: they may overlap. What
		// may as well never have happened ends last: it may explain a read.
		return cmp.Or(cmp.Compare(a.at, b.at), b2i(a.ret)-b2i(b.ret),
			b2i(a.ret && a.access.kind == mayWrite)-b2i(b.ret && b.access.kind == mayWrite))
	})
	for _, e := range edges {
		j.hide(e.at)
		if e.ret {
			if j.returned(e.access); j.work < 0 {
				return true, false
			}
			if len(j.states) == 0 {
				return false, true
			}
		} else if !j.called(e.access) {
			return true, false
		}
	}
	return true, true
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// called finds a slot for a.
func (j *judge) called(a *access) bool {
	a.slot = slices.Index(j.open[:], nil)
	if a.slot < 0 {
		return false
	}
	j.open[a.slot] = a
	if a.kind != isRead {
		j.writes |= 1 << a.slot
		return true
	}
	j.reads |= 1 << a.slot
	next := make(map[configuration]bool, len(j.states))
	for s := range j.states {
		next[j.settle(s)] = true
	}
	j.states = next
	return true
}

// closed frees a's slot.
func (j *judge) closed(a *access) {
	j.open[a.slot] = nil
	j.reads &^= 1 << a.slot
	j.writes &^= 1 << a.slot
}

// hide finds the writes whose value nobody is still to read.
func (j *judge) hide(now time.Duration) {
	j.hidden = 0
	for m := j.writes; m != 0; m &= m - 1 {
		if i := bits.TrailingZeros64(m); j.open[i].last < now {
			j.hidden |= 1 << i
		}
	}
}

// settle gives the reads of the block's value their moment.
func (j *judge) settle(s configuration) configuration {
	for m := j.reads &^ s.done; m != 0; m &= m - 1 {
		if i := bits.TrailingZeros64(m); j.open[i].value == s.value {
			s.done |= 1 << i
		}
	}
	return s
}

// write gives a its moment, and before it those that can hide behind it.
func (j *judge) write(s configuration, a *access) configuration {
	s.value, s.done = a.value, s.done|j.hidden|1<<a.slot
	return j.settle(s)
}

// returned keeps the states in which a has had its moment.
func (j *judge) returned(a *access) {
	bit := uint64(1) << a.slot
	next := make(map[configuration]bool, len(j.states))
	if a.kind == mayWrite && j.hidden&bit != 0 { // too late to explain a read
		for s := range j.states {
			s.done &^= bit
			next[s] = true
		}
		j.closed(a)
		j.states = next
		return
	}
	seen := map[configuration]bool{}
	var reach func(configuration)
	reach = func(s configuration) {
		if s.done&bit != 0 {
			s.done &^= bit
			next[s] = true
			return
		}
		if j.work--; seen[s] || j.work < 0 {
			return
		}
		seen[s] = true
		if a.kind == mayWrite {
			next[s] = true
		}
		for m := j.writes &^ s.done; m != 0; m &= m - 1 {
			reach(j.write(s, j.open[bits.TrailingZeros64(m)]))
		}
	}
	for s := range j.states {
		reach(s)
	}
	j.closed(a)
	j.states = next
}
