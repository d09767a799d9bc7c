package volumetest

import (
	"math/rand/v2"
	"slices"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/history"
	"github.com/cask-storage/cask/pkg/store"
	"github.com/cask-storage/cask/pkg/volume"
)

// In some runs the volume begins smaller and grows. Clients ask for all blocks
// from the beginning: those beyond the size must be refused, until a target has
// served a larger one; from then on they never are.

// sizing is what a run knows of the volume's size, in bytes. It has a source of
// random numbers of its own: runs without it are what they are.
type sizing struct {
	rng    *rand.Rand
	want   uint64
	grown  uint64                   // the largest size served
	served map[history.Epoch]uint64 // likewise, by each epoch
	base   uint64                   // of the first operations
}

func (w *world) setUpSize() {
	s := &w.size
	s.rng = rand.New(rand.NewPCG(w.opt.Seed, 2))
	s.want, s.served = blocks*blockSize, map[history.Epoch]uint64{}
	if w.opt.Focus == nil && s.rng.IntN(3) > 0 || w.opt.Focus != nil && !slices.Contains(w.opt.Focus, "resize") {
		return
	}
	s.want = (8 + s.rng.Uint64N(12)) * recordSize
	steps, pause := uint64(6), 5000*ms
	if w.focused("resize") { // in many small steps
		s.want, steps, pause = 8*recordSize, 1, 1200*ms
	}
	var next func()
	next = func() {
		if w.healing || s.want == blocks*blockSize {
			return
		}
		s.want = min(s.want+(1+s.rng.Uint64N(steps))*recordSize, blocks*blockSize)
		w.trace("RESIZE to %d blocks", s.want/blockSize)
		for _, t := range w.targets {
			t.step(func() { t.core.Resize(t.now(), s.want) })
		}
		w.after(volume.Time(s.rng.Int64N(int64(pause))), next)
	}
	w.after(volume.Time(s.rng.Int64N(int64(4000*ms))), next)
}

// noteSize takes in what a target serves: never less than it, or one before it,
// has served.
func (t *target) noteSize() {
	w, e := t.w, t.core.Epoch()
	size, known := t.core.Size()
	if !known || t.core.Phase() != volume.Serving || size == w.size.served[e] {
		return
	}
	w.size.served[e] = max(size, w.size.served[e])
	w.size.grown = max(size, w.size.grown)
	for earlier, was := range w.size.served {
		if earlier <= e && was > size {
			w.fail(Durable, "%s serves %d blocks in epoch %d, in epoch %d it were %d", t.name, size/blockSize, e, earlier, was/blockSize)
		}
	}
	w.trace("%s serves %d blocks", t.name, size/blockSize)
}

// refused takes a request off that is beyond the size, and reports whether it
// may be refused: nobody had served it when it was asked for.
func (c *client) refused(i int, q *volume.Request) bool {
	if i < 0 || q.Extent.End() <= c.w.ops[i].size {
		return false
	}
	c.w.ops[i].Calls = nil // it never happened
	delete(c.open, i)
	c.under[kindOf(q)]--
	return true
}

// Grow makes node's extent larger, unless its disk is full.
func (n *node) grow(_ store.Store, size uint64) error {
	if n.full {
		return store.ErrNoSpace
	}
	n.room = max(n.room, size)
	return nil
}

// checkRoom: nothing becomes larger than its extent.
func (n *node) checkRoom(ops []store.Op) {
	size := n.store.Info().Size
	for i := range ops {
		if size = ops[i].Resized(size); size > n.room {
			n.w.fail(Protocol, "%s is to have %d bytes, its extent has room for %d", n.id, size, n.room)
		}
	}
}

// checkSize compares a member's size with what its history says.
func (w *world) checkSize(n *node) {
	got, want := n.store.Info().Size, n.shadow.size
	switch {
	case n.shadow.seq == 0: // it may be given another one
	case want == 0:
		w.noteBase(n, got)
	case got != want:
		w.fail(Prefix, "%s at operation %d of epoch %d has %d bytes, not %d", n.id, n.shadow.seq, n.shadow.epoch, got, want)
	}
}

// noteBase learns the size before the first Resize: there is one.
func (w *world) noteBase(n *node, size uint64) {
	if w.size.base == 0 {
		w.size.base = size
	}
	if size != w.size.base {
		w.fail(Prefix, "%s begins with %d bytes, another with %d", n.id, size, w.size.base)
	}
}

// content is what node's store has, without a look at what is rotten.
func (n *node) content() content {
	buf := make([]byte, blocks*blockSize)
	if err := n.store.Peek(buf[:n.store.Info().Size], 0); err != nil {
		n.w.fail(Protocol, "read of %s: %v", n.id, err)
	}
	return decode(buf)
}

// sized reports whether the volume has the size that it is to have.
func (w *world) sized() bool {
	size, known := w.newest().core.Size()
	return known && size == w.size.want
}

// beyond reports whether block b was served by nobody yet.
func (w *world) beyond(e block.Extent) bool { return e.End() > w.size.grown }
