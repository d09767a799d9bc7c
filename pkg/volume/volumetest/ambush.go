package volumetest

import (
	"github.com/cask-storage/cask/pkg/volume"
)

// Faults that wait for the moment in which they could hurt.

// minority leaves the target the replica it reads from, for a moment in which
// nothing is acknowledged, and then takes that replica away with the target.
// When it comes back, with more operations than the others and of an older
// epoch, another one is away.
func (w *world) minority() {
	t := w.newest()
	keep := w.replicas[0]
	for _, n := range w.replicas {
		if n != keep {
			t.cut[n.id] = toNode
			if w.chance(0.5) {
				t.cut[n.id] = bothWays
			}
		}
	}
	w.after(w.between(0, 400*ms), func() {
		if w.healing {
			return
		}
		keep.isolated = true
		if w.chance(0.7) {
			t.kill()
		}
		w.another()
		w.after(w.between(2000*ms, 4000*ms), func() {
			keep.isolated = false
			if !w.healing && w.chance(0.5) {
				w.isolateReplica()
				w.newest().kill()
				w.another()
			}
		})
	})
	w.after(w.between(2000*ms, 8000*ms), func() { clear(t.cut) })
}

// zombie takes all but one replica from a target that nobody writes through,
// gives them to a new one where all writers go, and has a reader stay.
func (w *world) zombie() {
	t := w.newest()
	w.calm = w.now + 100*ms
	w.after(100*ms, func() {
		if w.healing || !t.alive {
			return
		}
		lasts := w.between(2200*ms, 3900*ms)
		w.another()
		next := w.newest()
		next.cut[w.replicas[0].id] = bothWays
		for _, n := range w.replicas[1:] {
			t.cut[n.id] = []way{toTarget, bothWays}[w.rng.IntN(2)]
		}
		for _, c := range w.clients {
			if c.writes > 0 {
				c.move()
			} else {
				c.pinned = w.now + lasts + 1000*ms
			}
		}
		w.after(lasts, func() {
			clear(t.cut)
			clear(next.cut)
		})
	})
}

// interruptTakeover has a new target lose a replica that has just promised,
// and the old one find it again.
func (w *world) interruptTakeover() {
	t := w.newest()
	w.another()
	next := w.newest()
	if next == t {
		return
	}
	for _, c := range w.clients {
		c.pinned = w.now + 4000*ms
	}
	n := w.anyNode()
	n.slow = true
	for _, m := range w.replicas {
		if m != n {
			[]*target{t, next}[w.rng.IntN(2)].cut[m.id] = bothWays
		}
	}
	at := []volume.Phase{volume.Fencing, volume.Tailing, volume.Joining, volume.Joining, volume.Leasing}[w.rng.IntN(5)]
	next.ambush = func(p volume.Phase) {
		if p < at || w.healing {
			return
		}
		next.ambush = nil
		next.cut[n.id], n.slow = bothWays, false
		if w.mayLose(n) {
			n.crash()
			w.after(w.between(0, 100*ms), n.start)
		}
	}
	w.after(w.between(1000*ms, 6000*ms), func() {
		n.slow = false
		clear(t.cut)
		clear(next.cut)
	})
}

// ambushRebuild is called when replica n begins to be rebuilt.
func (w *world) ambushRebuild(n *node, k *conn) {
	if w.healing || !w.ambushes || w.chance(0.3) {
		return
	}
	n.slow = true
	w.after(w.between(0, 3000*ms), func() { n.slow = false })
	if w.chance(0.4) {
		// What is under way comes when the rebuild has begun anew.
		w.calm = w.now + 500*ms
		w.after(w.between(0, 500*ms), func() {
			w.hangUp(k)
			k.linger = w.between(300*ms, 1500*ms)
		})
		return
	}
	// The source and the target die while the third is away.
	var others []*node
	for _, i := range w.rng.Perm(len(w.replicas)) {
		if m := w.replicas[i]; m != n {
			others = append(others, m)
		}
	}
	for i, m := range others {
		if i > 0 {
			m.isolated = true
			w.after(w.between(500*ms, 3000*ms), func() { m.isolated = false })
		}
	}
	w.after(w.between(0, 400*ms), func() {
		if w.healing || len(others) == 0 {
			return
		}
		if w.mayLose(others[0]) {
			others[0].crash()
			w.after(w.between(0, 1000*ms), others[0].start)
		}
		w.newest().kill()
		w.another()
	})
}

// ambushCopied is called when replica n is told how far it was brought: soon
// one of those that take part in the rebuild goes, or n cannot be reached, and
// writes go on.
func (w *world) ambushCopied(n *node, k *conn) {
	if w.healing || !w.ambushes || w.chance(0.4) {
		return
	}
	w.after(w.between(0, 25*ms), func() {
		if w.healing {
			return
		}
		switch w.rng.IntN(5) {
		case 0:
			w.hangUp(k)
			n.isolated = true
			w.after(w.between(0, 3000*ms), func() { n.isolated = false })
		case 1:
			w.newest().kill()
			w.another()
		case 2:
			if m := w.anyNode(); w.mayLose(m) {
				m.crash()
				w.after(w.between(0, 1000*ms), m.start)
			}
		case 3:
			// It has what no other has when the next target takes over.
			for _, m := range w.replicas {
				if m != n {
					k.t.cut[m.id] = toNode
				}
			}
			w.after(w.between(5*ms, 100*ms), func() {
				k.t.kill()
				w.another()
			})
		case 4:
			if w.mayLose(n) {
				n.crash()
				w.after(w.between(0, 1000*ms), n.start)
			}
		}
	})
}

// ambushChange is called when a target asks for a change of its record: soon
// another one takes over, before or after the change was stored and the old one
// heard of it, and some replicas are away.
func (w *world) ambushChange(t *target) {
	if w.healing || w.chance(0.5) {
		return
	}
	w.after(w.between(0, 60*ms), func() {
		if w.healing {
			return
		}
		if w.chance(0.3) {
			t.noAPI = true
			w.after(w.between(0, 3000*ms), func() { t.noAPI = false })
		}
		w.after(w.between(0, 1500*ms), func() {
			for _, n := range w.replicas {
				switch {
				case w.chance(0.3):
					n.isolated = true
					w.after(w.between(1000*ms, 5000*ms), func() { n.isolated = false })
				case w.chance(0.2) && w.mayLose(n):
					n.crash()
					w.after(w.between(0, 1000*ms), n.start)
				}
			}
			if w.chance(0.6) {
				t.kill()
			}
			w.another()
		})
	})
}
