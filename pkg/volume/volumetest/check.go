package volumetest

import (
	"bytes"
	"math"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/cask-storage/cask/pkg/quorum"
	"github.com/cask-storage/cask/pkg/volume"
)

// quiet reports whether all is done after healing.
func (w *world) quiet() bool {
	for _, c := range w.clients {
		if len(c.open) > 0 {
			return false
		}
	}
	t := w.targets[len(w.targets)-1]
	if t.core.Phase() != volume.Serving {
		return false
	}
	s := t.core.Status()
	for _, r := range s.Replicas {
		if r.State != "InSync" {
			return false
		}
	}
	return w.sameMark()
}

func (w *world) sameMark() bool {
	for _, n := range w.replicas {
		if n.store.Info().Mark != w.replicas[0].store.Info().Mark {
			return false
		}
	}
	return true
}

// finish checks the whole run.
func (w *world) finish() (Result, error) {
	res := Result{Ops: len(w.ops), Targets: len(w.targets)}
	for _, n := range w.replicas {
		res.Crashes += n.crashes
		res.Rebuilds += n.rebuilds
	}
	if w.err == nil && !w.quiet() {
		t := w.targets[len(w.targets)-1]
		w.fail("not everything completed 120 s after the last fault: %+v, open %d and %d",
			t.core.Status(), len(w.clients[0].open), len(w.clients[1].open))
	}
	if w.err == nil {
		w.checkIdentical()
	}
	if w.err == nil && !w.opt.PowerCuts {
		w.checkLinearizable()
	}
	if w.err == nil {
		w.checkDurable()
	}
	return res, w.err
}

func (w *world) checkIdentical() {
	want := make([]byte, blocks*blockSize)
	got := make([]byte, blocks*blockSize)
	for i, n := range w.replicas {
		if err := n.store.ReadAt(got, 0); err != nil {
			w.fail("read of %s: %v", n.id, err)
		}
		if i == 0 {
			copy(want, got)
		}
		if !bytes.Equal(want, got) {
			for b := range blocks {
				if !bytes.Equal(want[b*blockSize:(b+1)*blockSize], got[b*blockSize:(b+1)*blockSize]) {
					w.fail("replicas %s and %s differ in block %d", w.replicas[0].id, quorum.ReplicaID(n.id), b)
				}
			}
		}
	}
}

type regInput struct {
	kind  accessKind
	value uint64
}

type accessKind uint8

const (
	isRead accessKind = iota
	isWrite
	// mayWrite is an attempt that a client gave up and repeated: it takes
	// effect once before the repetition is acknowledged, or never.
	mayWrite
)

// register is one block: reads return the last write.
var register = porcupine.NondeterministicModel{
	Init: func() []any { return []any{uint64(0)} },
	Step: func(state, input, output any) []any {
		in := input.(regInput)
		switch {
		case in.kind == isWrite:
			return []any{in.value}
		case in.kind == mayWrite && in.value != state.(uint64):
			return []any{state, in.value}
		case in.kind == mayWrite || output.(uint64) == state.(uint64):
			return []any{state}
		}
		return nil
	},
}

// attempts are the accesses that o stands for.
func (o op) attempts() []porcupine.Operation {
	ret := int64(o.ret)
	if o.ret == 0 {
		ret = math.MaxInt64
	}
	if !o.write {
		if o.ret == 0 {
			return nil
		}
		return []porcupine.Operation{{Input: regInput{isRead, o.value}, Call: int64(o.calls[0]), Output: o.value, Return: ret}}
	}
	var out []porcupine.Operation
	for i, call := range o.calls {
		in := regInput{mayWrite, o.value}
		if i == len(o.calls)-1 && o.ret != 0 {
			in.kind = isWrite
		}
		out = append(out, porcupine.Operation{Input: in, Call: int64(call), Output: o.value, Return: ret})
	}
	return out
}

func (w *world) checkLinearizable() {
	byBlock := make([][]porcupine.Operation, blocks)
	for _, o := range w.ops {
		for _, a := range o.attempts() {
			a.ClientId = len(byBlock[o.block])
			byBlock[o.block] = append(byBlock[o.block], a)
		}
	}
	for b, ops := range byBlock {
		if porcupine.CheckOperationsTimeout(register.ToModel(), ops, 20*time.Second) == porcupine.Illegal {
			w.fail("block %d is not linearizable", b)
		}
	}
}
