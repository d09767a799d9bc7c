package volumetest

import (
	"github.com/cask-storage/cask/pkg/quorum"
	"github.com/cask-storage/cask/pkg/replication"
	"github.com/cask-storage/cask/pkg/volume"
)

// Faults made of several that hurt together; traps.go has those that wait for
// a step of the protocol.

// minority leaves the target the replica it reads from, for a moment in which
// nothing is acknowledged, and then takes that replica away with the target.
// When it comes back, with more operations than the others and of an older
// epoch, another one is away.
func (w *world) minority() {
	t := w.newest()
	keep := w.replicas[0]
	if w.favours("hedge", 0.3) {
		keep = w.anyNode() // where reads are hedged to
	}
	for _, n := range w.replicas {
		if n != keep {
			t.cut[n.id] = toNode
			if w.chance(0.5) {
				t.cut[n.id] = bothWays
			}
		}
	}
	drops := w.favours("drop", 0.2) && w.dropAt(keep)
	w.after(w.between(0, 400*ms), func() {
		if w.healing {
			return
		}
		keep.isolated = true
		if drops {
			w.rebootAll()
		}
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

// dropAt has a snapshot of n's dropped that was acknowledged, if it has one.
func (w *world) dropAt(n *node) bool {
	if n.store == nil {
		return false
	}
	for _, x := range n.store.Snapshots() {
		if w.snap(x.Name).ret != 0 {
			w.clients[0].dropSnapshot(x)
			return true
		}
	}
	return false
}

// rebootAll has nobody repeat what is under way.
func (w *world) rebootAll() {
	for _, c := range w.clients {
		c.reboot()
	}
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

// lag has what all replicas but one send to a target under way for long: the
// confirmations of its lease come when a newer target serves and has taken
// writes, and a reader has stayed.
func (w *world) lag() {
	t := w.newest()
	if len(w.inSync(t)) < len(w.replicas) {
		return
	}
	w.calm = w.now + 700*ms // nothing of its own is open
	w.after(100*ms, func() {
		for _, n := range w.replicas[1:] {
			t.cut[n.id] = toTarget
		}
	})
	w.after(600*ms, func() { // it has asked each of them once more
		if w.healing {
			return
		}
		w.another()
		next := w.newest()
		next.cut[w.replicas[0].id] = bothWays
		for _, c := range w.clients {
			if c.writes > 0 {
				c.goTo(next)
			} else {
				c.goTo(t)
				c.pinned = w.now + 4500*ms
			}
		}
		next.ambush = func(p volume.Phase) {
			if p == volume.Serving {
				next.ambush = nil
				w.after(w.between(50*ms, 500*ms), t.hearLate)
			}
		}
		w.after(w.between(3500*ms, 5000*ms), func() {
			clear(t.cut)
			clear(next.cut)
		})
	})
}

// hearLate has all that was sent to t arrive, and nothing that will be. Then
// hosts read there.
func (t *target) hearLate() {
	w := t.w
	for _, n := range w.replicas {
		if k := t.conns[n.id]; k != nil {
			w.handOver(k, &k.toTgt, len(k.toTgt.queue))
		}
	}
	for i := range volume.Time(10) {
		w.after((5+5*i)*ms, func() {
			for _, c := range w.clients {
				if c.target == t && c.writes == 0 && !w.healing {
					c.start()
				}
			}
		})
	}
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
	t.cut[n.id] = bothWays // or it would hear of the promise
	side := w.rng.IntN(2)
	for _, m := range w.replicas {
		if m != n {
			[]*target{t, next}[side].cut[m.id] = bothWays
			side = 1 - side
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
		delete(t.cut, n.id)
		w.after(w.between(300*ms, 1500*ms), func() {
			t.cut[n.id] = bothWays
			delete(next.cut, n.id)
		})
	}
	w.after(w.between(2000*ms, 6000*ms), func() {
		n.slow = false
		clear(t.cut)
		clear(next.cut)
	})
}

// missEpoch has one replica lose its memory before the next target has it begin,
// and another: when the third has adopted the history and nothing more, or when the
// other has begun and the third was away, or later. Best of all the third had not
// what the two had acknowledged together.
func (w *world) missEpoch() {
	t, order := w.newest(), w.rng.Perm(len(w.replicas))
	if len(order) < 3 {
		return
	}
	first, second, third := w.replicas[order[0]], w.replicas[order[1]], w.replicas[order[2]]
	if w.chance(0.6) {
		for _, i := range order[2:] {
			t.cut[w.replicas[i].id] = toNode
		}
	}
	strike := func() {
		next := w.newest()
		if w.healing {
			return
		}
		next.ambush = nil
		first.crash()
		second.crash()
		next.kill()
		w.another()
	}
	w.after(w.between(50*ms, 400*ms), func() {
		if w.healing {
			return
		}
		w.calm = w.now + 1500*ms // what is lost stays so
		t.kill()
		w.another()
		switch w.rng.IntN(3) {
		case 0:
			first.crash()
			third.trap = trap{replication.Adopt, strike}
		case 1:
			third.isolated = true
			second.trap = trap{replication.Begin, strike}
		default:
			at := []volume.Phase{volume.Joining, volume.Leasing, volume.Serving}[w.rng.IntN(3)]
			w.newest().ambush = func(p volume.Phase) {
				if p == at {
					w.after(w.between(0, 300*ms), strike)
				}
			}
		}
		w.after(w.between(1000*ms, 3000*ms), func() {
			third.trap, second.trap, third.isolated = trap{}, trap{}, false
			first.start()
		})
		w.after(w.between(1000*ms, 9000*ms), second.start)
	})
}

// flap has the writers go to a new target before any replica has promised it
// anything, and back to the old one, which still gets writes accepted.
func (w *world) flap() {
	t := w.newest()
	w.another()
	next := w.newest()
	if next == t {
		return
	}
	for _, n := range w.replicas {
		next.cut[n.id] = bothWays
	}
	next.ambush = func(p volume.Phase) {
		if p != volume.Fencing || w.healing {
			return
		}
		next.ambush = nil
		for _, c := range w.clients {
			if c.writes == 0 {
				continue
			}
			c.pinned = w.now + 2000*ms
			c.goTo(next)
			w.after(w.between(20*ms, 200*ms), func() { c.goTo(t) })
		}
	}
	w.after(w.between(200*ms, 2000*ms), func() { clear(next.cut) })
}

// strengthen has one replica alone hold what was flushed last, under the level
// one, and then asks for a level that could do without that replica; see
// ambushRecord.
func (w *world) strengthen() {
	if w.layout == nil || !w.opt.PowerCuts {
		return
	}
	l := *w.layout
	l.Level = quorum.One
	w.setLayout(l)
	w.after(w.between(500*ms, 2500*ms), func() {
		if w.healing {
			return
		}
		w.alone = w.anyNode()
		for _, n := range w.replicas {
			n.slow = n != w.alone
		}
		l := *w.layout
		l.Level = []quorum.Level{quorum.Quorum, quorum.All}[w.rng.IntN(2)]
		w.setLayout(l)
		w.after(w.between(1000*ms, 4000*ms), func() {
			w.alone = nil
			for _, n := range w.replicas {
				n.slow = false
			}
		})
	})
}

// outgrow keeps a replica away until it is beyond the backlog: it has to be
// rebuilt although it lost nothing.
func (w *world) outgrow() {
	n, pace, until := w.anyNode(), w.pace, w.values+3*uint64(bounds.BacklogOps)/2
	if len(w.inSync(w.newest())) < len(w.replicas) {
		return
	}
	n.isolated, w.pace = true, 10*ms
	end := w.now + 5000*ms
	var wait func()
	wait = func() {
		if w.values < until && w.now < end && !w.healing {
			w.after(20*ms, wait)
			return
		}
		n.isolated, w.pace = false, pace
	}
	wait()
}

// outlive has a replica alone hold operations that were never acknowledged. It
// comes back when the others hold fewer, of a newer epoch, and one of them is
// away.
func (w *world) outlive() {
	t, keep, pace := w.newest(), w.anyNode(), w.pace
	if len(w.inSync(t)) < len(w.replicas) {
		return
	}
	var others []*node
	for _, n := range w.replicas {
		if n != keep {
			t.cut[n.id] = bothWays
			others = append(others, n)
		}
	}
	w.pace = 10 * ms
	w.after(300*ms, func() {
		w.pace = 100 * ms
		if !w.healing {
			w.calm = w.now + 2000*ms // until the next target serves
			keep.isolated = true
			t.lose(others)
			t.kill()
			w.rebootAll()
			w.another()
		}
	})
	w.after(w.between(2350*ms, 3000*ms), func() {
		w.pace, keep.isolated = pace, false
		if !w.healing && len(others) > 1 {
			n := others[w.rng.IntN(len(others))]
			n.isolated = true
			w.after(w.between(1000*ms, 4000*ms), func() { n.isolated = false })
			w.newest().kill()
			w.another()
		}
	})
}

// lose drops what is under way to some replicas.
func (t *target) lose(ns []*node) {
	for _, n := range ns {
		if k := t.conns[n.id]; k != nil {
			k.toNode.queue = nil
		}
	}
}
