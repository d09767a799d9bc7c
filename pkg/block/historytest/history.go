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
	"math"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"
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
}

// Span is the time from a call to its return.
type Span struct{ Call, Ret time.Duration }

// History is all that the hosts of one device did, by one clock that never
// reads zero.
type History struct {
	Accesses []Access
	Flushes  []Span // that returned
	// Cuts are the times at which too many replicas lost their memory at
	// once: unflushed writes may be gone.
	Cuts []time.Duration
}

type input struct {
	kind  kind
	value uint64
}

type kind uint8

const (
	isRead kind = iota
	isWrite
	// mayWrite is an attempt that was given up and repeated: it takes
	// effect once before the repetition is acknowledged, or never.
	mayWrite
)

// register is one block: reads return the last write.
var register = porcupine.NondeterministicModel{
	Init: func() []any { return []any{uint64(0)} },
	Step: func(state, in, out any) []any {
		switch i := in.(input); {
		case i.kind == isWrite:
			return []any{i.value}
		case i.kind == mayWrite && i.value != state.(uint64):
			return []any{state, i.value}
		case i.kind == mayWrite || out.(uint64) == state.(uint64):
			return []any{state}
		}
		return nil
	},
}

// returned is when a may have taken effect at the latest.
func (a Access) returned() time.Duration {
	if a.Ret == 0 {
		return math.MaxInt64
	}
	return a.Ret
}

func (a Access) attempts() []porcupine.Operation {
	if !a.Write && a.Ret == 0 {
		return nil
	}
	op := porcupine.Operation{Output: a.Value, Return: int64(a.returned())}
	if !a.Write {
		op.Input, op.Call = input{isRead, a.Value}, int64(a.Calls[0])
		return []porcupine.Operation{op}
	}
	var out []porcupine.Operation
	for i, call := range a.Calls {
		op.Input, op.Call = input{mayWrite, a.Value}, int64(call)
		if i == len(a.Calls)-1 && a.Ret != 0 {
			op.Input = input{isWrite, a.Value}
		}
		out = append(out, op)
	}
	return out
}

// CheckLinearizable returns an error when a block's accesses have no order that
// a register allows. It spends up to limit on each block; undecided counts
// those for which that was too little.
func (h *History) CheckLinearizable(limit time.Duration) (undecided int, err error) {
	byBlock := map[int][]porcupine.Operation{}
	for _, a := range h.Accesses {
		for _, op := range a.attempts() {
			op.ClientId = len(byBlock[a.Block])
			byBlock[a.Block] = append(byBlock[a.Block], op)
		}
	}
	for b, ops := range byBlock {
		switch porcupine.CheckOperationsTimeout(register.ToModel(), ops, limit) {
		case porcupine.Illegal:
			return undecided, fmt.Errorf("block %d is not linearizable", b)
		case porcupine.Unknown:
			undecided++
		}
	}
	return undecided, nil
}

// durable is a write and when it became so.
type durable struct{ call, at time.Duration }

// CheckDurable returns an error when a write that was acknowledged and then
// flushed, or done with FUA, was undone: no read that begins later returns a
// value that was overwritten before that write began. Cuts or not.
func (h *History) CheckDurable() error {
	writes, floors := map[int][]Access{}, map[int][]durable{}
	for _, a := range h.Accesses {
		if !a.Write {
			continue
		}
		writes[a.Block] = append(writes[a.Block], a)
		if at := h.durableAt(a); at != 0 {
			floors[a.Block] = append(floors[a.Block], durable{a.Calls[len(a.Calls)-1], at})
		}
	}
	for _, f := range floors {
		slices.SortFunc(f, func(a, b durable) int { return cmp.Compare(a.at, b.at) })
		for i := 1; i < len(f); i++ {
			f[i].call = max(f[i].call, f[i-1].call)
		}
	}
	for _, a := range h.Accesses {
		if !a.Write && a.Ret != 0 && !allowed(a, writes[a.Block], floors[a.Block]) {
			return fmt.Errorf("block %d read %d, which a flushed write had replaced: %+v", a.Block, a.Value, a)
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
		if f.Call >= a.Ret && (best == 0 || f.Ret < best) && !h.cutBetween(Span{a.Calls[0], f.Ret}) {
			best = f.Ret
		}
	}
	return best
}

// cutBetween: after a cut, a flush says nothing of the writes before it.
func (h *History) cutBetween(s Span) bool {
	return slices.ContainsFunc(h.Cuts, func(t time.Duration) bool { return s.Call <= t && t <= s.Ret })
}

func allowed(r Access, writes []Access, floors []durable) bool {
	n, _ := slices.BinarySearchFunc(floors, r.Calls[0], func(d durable, t time.Duration) int { return cmp.Compare(d.at, t) })
	return n == 0 || slices.ContainsFunc(writes, func(w Access) bool {
		return w.Value == r.Value && w.returned() >= floors[n-1].call && w.Calls[0] <= r.Ret
	})
}
