package volumetest

import (
	"bytes"
	"slices"

	"github.com/cask-storage/cask/pkg/block/historytest"
	"github.com/cask-storage/cask/pkg/volume"
)

// quiet reports whether all is done after healing.
func (w *world) quiet() bool {
	for _, c := range w.clients {
		if len(c.open) > 0 {
			return false
		}
	}
	t := w.newest()
	if t.core.Phase() != volume.Serving {
		return false
	}
	s := t.core.Status()
	for _, r := range s.Replicas {
		if r.State != "InSync" {
			return false
		}
	}
	return w.sized() && w.asLaidOut() && w.sameMark() && w.sound() && !slices.ContainsFunc(w.replicas, (*node).keepsTurn)
}

// keepsTurn reports whether n has others wait for a turn to be rebuilt; the
// kernel takes back what a dead process held.
func (n *node) keepsTurn() bool { return n.up && n.turns != 0 }

func (w *world) sameMark() bool {
	ns := w.inUse()
	for _, n := range ns {
		if n.store.Info().Mark != ns[0].store.Info().Mark {
			return false
		}
	}
	return true
}

// finish checks the whole run.
func (w *world) finish() (Result, *Broken) {
	if w.err == nil && !w.quiet() {
		w.fail(Live, "not everything completed %d s after the last fault: %+v, unreadable %v, open %d and %d", liveness/ms/1000,
			w.newest().core.Status(), w.damage(), len(w.clients[0].open), len(w.clients[1].open))
	}
	if w.err == nil {
		w.checkIdentical()
		for _, n := range w.replicas {
			w.checkPrefix(n)
		}
		w.checkTaken()
	}
	if w.err == nil {
		w.checkHistory()
	}
	if w.err == nil {
		w.plant()
	}
	return w.result(), w.err
}

func (w *world) result() Result {
	res := Result{Ops: len(w.ops), Targets: len(w.targets), Events: int(w.order), Rotted: w.rotted, Verified: w.verified, Unjudged: w.unjudged, SessionsOver: w.sessionsOver} //nolint:gosec // at most maxEvents
	for _, n := range w.replicas {
		res.Crashes += n.crashes
		res.Rebuilds += n.rebuilds
		res.Resumed += n.resumed
		res.Pulled += n.pulled
		res.Returns += n.returns
	}
	for _, t := range w.targets {
		for _, r := range t.core.Status().Replicas {
			res.Healed += int(r.Healed) / recordSize //nolint:gosec // at most what is stored, often
		}
	}
	return res
}

// maxWork bounds what the judgement of one block may cost; beyond it nothing is
// said, and Result counts it.
const maxWork = 200_000

// checkHistory judges what hosts saw. After a power cut only what was flushed
// must be there.
func (w *world) checkHistory() {
	h := historytest.History{Flushes: w.flushed}
	for _, o := range w.ops {
		if len(o.Calls) > 0 {
			h.Accesses = append(h.Accesses, o.Access)
		}
	}
	if !w.opt.PowerCuts {
		undecided, err := h.CheckLinearizable(maxWork)
		if w.unjudged = undecided; err != nil {
			w.fail(Linearizable, "%v", err)
			return
		}
	}
	if err := h.CheckDurable(); err != nil {
		w.fail(Durable, "%v", err)
	}
}

func (w *world) checkIdentical() {
	want := make([]byte, blocks*blockSize)
	got := make([]byte, blocks*blockSize)
	ns := w.inUse()
	for i, n := range ns {
		size := n.store.Info().Size
		if size != w.size.want {
			w.fail(Identical, "replica %s has %d bytes, not %d", n.id, size, w.size.want)
		}
		clear(got)
		if err := n.store.Peek(got[:size], 0); err != nil {
			w.fail(Protocol, "read of %s: %v", n.id, err)
		}
		for _, e := range n.unreadable() { // the same on every replica: see sound
			clear(got[e.Off:e.End()])
		}
		if i == 0 {
			copy(want, got)
		}
		if a, b := ns[0].store.Snapshots(), n.store.Snapshots(); !slices.Equal(a, b) {
			w.fail(Identical, "replica %s has snapshots %v and %s %v", ns[0].id, a, n.id, b)
		}
		if !bytes.Equal(want, got) {
			for b := range blocks {
				if !bytes.Equal(want[b*blockSize:(b+1)*blockSize], got[b*blockSize:(b+1)*blockSize]) {
					w.fail(Identical, "replicas %s and %s differ in block %d", ns[0].id, n.id, b)
				}
			}
		}
	}
}
