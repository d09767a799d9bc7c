package volumetest

import (
	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/quorum"
	"github.com/cask-storage/cask/pkg/volume"
)

// Blocks rot on one replica at a time, so that another one has them: what it
// cannot read must be repaired, whether a read or a scrub finds it, and must
// never be seen.

// damaged reports whether n cannot read some of what it has.
func (n *node) damaged() bool {
	return n.store != nil && len(n.unreadable()) > 0
}

// rotBlocks makes some blocks unreadable on one replica of several.
func (w *world) rotBlocks() {
	n := w.anyNode()
	for _, m := range w.replicas {
		if m.damaged() || len(w.replicas) == 1 {
			return
		}
	}
	if n.store == nil {
		return
	}
	for range 1 + w.rng.IntN(8) {
		off := w.rng.Uint64N(blocks)
		if w.chance(0.3) {
			off = w.rng.Uint64N(contended)
		}
		if n.store.Rot(off * blockSize) {
			w.rotted++
		}
	}
	w.trace("%s rots: %v", n.id, n.store.Rotten())
	if w.chance(0.5) {
		w.after(w.between(0, 5000*ms), n.scrub)
	}
}

// scrub has n find what it cannot read.
func (n *node) scrub() {
	if n.up && n.store != nil {
		n.core.Damaged(n.store.Rotten())
	}
}

// scrub has every replica look for damage, again and again, once the faults are
// over.
func (w *world) scrub() {
	for _, n := range w.replicas {
		n.scrub()
	}
	w.after(1000*ms, w.scrub)
}

// unreadable is what n cannot read.
func (n *node) unreadable() block.Set { return n.store.Rotten().With(n.core.Lost()...) }

// sound reports whether all damage is repaired, but for what no replica can
// read; the target must then say so.
func (w *world) sound() bool {
	said := map[quorum.ReplicaID]uint64{}
	for _, r := range w.newest().core.Status().Replicas {
		said[r.ID] = r.Damaged
	}
	for _, n := range w.inUse() {
		left := n.unreadable()
		unasked := n.pardoned && len(said) == 1 // nobody repairs what is said still
		if (len(left) > 0) != (said[n.id] > 0) && !unasked {
			return false
		}
		for _, e := range left {
			for _, m := range w.inUse() {
				if m.unreadable().Within(e).Bytes() != e.Len {
					return false
				}
			}
		}
	}
	return true
}

// pardon takes away, when the faults end, the rot that nobody can repair: no
// other replica is in sync.
func (w *world) pardon() {
	t := w.newest()
	for _, n := range w.replicas {
		others := 0
		for _, r := range t.core.Status().Replicas {
			if r.ID != n.id && r.State == "InSync" && t.core.Phase() == volume.Serving {
				others++
			}
		}
		if n.store != nil && others == 0 {
			n.pardoned = n.pardoned || len(n.store.Rotten()) > 0
			n.store.Mend()
		}
	}
}

// nobodyReads reports whether no replica can read e.
func (w *world) nobodyReads(e block.Extent) bool {
	for _, n := range w.inUse() {
		if n.store != nil && !n.unreadable().Overlaps(e) {
			return false
		}
	}
	return true
}

// damage is what each replica cannot read.
func (w *world) damage() (out []block.Set) {
	for _, n := range w.inUse() {
		out = append(out, n.unreadable())
	}
	return out
}
