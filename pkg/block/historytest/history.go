// Package historytest judges what the hosts of a block device saw: a History of
// their reads, writes and flushes must be one that a single disk could have
// given. The simulator and the attack on real processes share it.
//
// A block is whatever is read and written as a whole; a write's value names its
// content. Zero is the content of a block that was never written or was
// unmapped; other values are used once.
//
// # Concurrency
//
// A History is a value; whoever records into it from several goroutines locks.
package historytest

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Access is a read or a write of one block.
type Access struct {
	Block int
	Write bool
	FUA   bool   // of a write: stable once it returned
	Value uint64 // written, or read
	// Calls are the times of its attempts, ascending; an attempt that was
	// given up may still have been done, until Ret.
	Calls []time.Duration
	Ret   time.Duration // 0: never returned
	// Session is the one that was told of its return: a name that hosts share
	// as long as nothing that was acknowledged may have been lost.
	Session string
}

// Flush is one that returned, to a session.
type Flush struct {
	Call, Ret time.Duration
	Session   string
}

// History is all that the hosts of one device did, by one clock that never
// reads zero.
type History struct {
	Accesses []Access
	Flushes  []Flush
}

// returned is when a may have taken effect at the latest.
func (a Access) returned() time.Duration {
	if a.Ret == 0 {
		return never
	}
	return a.Ret
}

// CheckLinearizable returns an error when a block's accesses have no order that
// a register allows. It tries up to work possibilities of each block; undecided
// counts those for which that was too little.
func (h *History) CheckLinearizable(work int) (undecided int, err error) {
	read, byBlock := map[int]map[uint64]bool{}, map[int][]access{}
	for _, a := range h.Accesses {
		if read[a.Block] == nil {
			read[a.Block] = map[uint64]bool{}
		}
		if !a.Write && a.Ret != 0 {
			read[a.Block][a.Value] = true
		}
	}
	for _, a := range h.Accesses {
		byBlock[a.Block] = append(byBlock[a.Block], a.attempts(read[a.Block])...)
	}
	for _, b := range slices.Sorted(maps.Keys(byBlock)) {
		switch ok, judged := linearizable(byBlock[b], work); {
		case !ok:
			return undecided, fmt.Errorf("block %d: no order of its accesses explains what was read", b)
		case !judged:
			undecided++
		}
	}
	return undecided, nil
}

// durable says that from a time on no write that returned before call is seen.
type durable struct {
	call, at time.Duration
	by       Access // the write that replaced those
}

// CheckDurable returns an error when a write that was acknowledged and then
// flushed, or done with FUA, was undone: no read that begins later returns a
// value that was overwritten before that write began. A flush covers what its own
// session was told: another one may have begun after a loss.
func (h *History) CheckDurable() error {
	writes, floors := map[int][]Access{}, map[int][]durable{}
	for _, a := range h.Accesses {
		if !a.Write {
			continue
		}
		writes[a.Block] = append(writes[a.Block], a)
		if at := h.durableAt(a); at != 0 {
			floors[a.Block] = append(floors[a.Block], durable{a.Calls[len(a.Calls)-1], at, a})
		}
	}
	for _, f := range floors {
		slices.SortFunc(f, func(a, b durable) int { return cmp.Compare(a.at, b.at) })
		for i := 1; i < len(f); i++ {
			if f[i].call < f[i-1].call {
				f[i].call, f[i].by = f[i-1].call, f[i-1].by
			}
		}
	}
	for _, a := range h.Accesses {
		if a.Write || a.Ret == 0 {
			continue
		}
		if d := floor(floors[a.Block], a.Calls[0]); d != nil && !allowed(a, writes[a.Block], d.call) {
			return fmt.Errorf("block %d: %+v found a value that was replaced by %+v, which was durable at %v", a.Block, a, d.by, d.at)
		}
	}
	return nil
}

// durableAt is when a was known to be on stable storage, 0 if never.
func (h *History) durableAt(a Access) time.Duration {
	if a.Ret == 0 || a.FUA {
		return a.Ret
	}
	best := time.Duration(0)
	for _, f := range h.Flushes {
		if f.Call >= a.Ret && (best == 0 || f.Ret < best) && f.Session == a.Session {
			best = f.Ret
		}
	}
	return best
}

// floor is what is known to be durable at a time.
func floor(ds []durable, at time.Duration) *durable {
	n, _ := slices.BinarySearchFunc(ds, at, func(d durable, t time.Duration) int { return cmp.Compare(d.at, t) })
	if n == 0 {
		return nil
	}
	return &ds[n-1]
}

// allowed reports whether one of the writes that did not return before floor
// explains what r read.
func allowed(r Access, writes []Access, floor time.Duration) bool {
	return slices.ContainsFunc(writes, func(w Access) bool {
		return w.Value == r.Value && w.returned() >= floor && w.Calls[0] <= r.Ret
	})
}
