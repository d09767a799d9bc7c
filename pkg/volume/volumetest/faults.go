package volumetest

import "github.com/cask-storage/cask/pkg/quorum"

// faults schedules what goes wrong.
func (w *world) faults() {
	var next func()
	next = func() {
		if w.healing {
			return
		}
		w.fault()
		w.after(w.between(50*ms, 3000*ms), next)
	}
	w.after(w.between(0, 3000*ms), next)
}

// another target starts, unless the faults are over.
func (w *world) another() {
	if !w.healing {
		w.newTarget()
	}
}

func (w *world) anyNode() *node { return w.replicas[w.rng.IntN(len(w.replicas))] }

//lint:dispatch
func (w *world) fault() {
	n, t := w.anyNode(), w.targets[len(w.targets)-1]
	switch w.rng.IntN(15) {
	case 0, 1: // a replica loses its memory
		if w.mayCrash(n) {
			n.crash()
			w.after(w.between(0, 4000*ms), n.start)
		}
	case 2: // a replica restarts in good order
		n.stop()
		w.after(w.between(0, 2000*ms), n.start)
	case 3: // a connection breaks
		if k := t.conns[n.id]; k != nil {
			w.hangUp(k)
		}
	case 4: // a replica cannot be reached
		n.isolated = true
		w.after(w.between(0, 8000*ms), func() { n.isolated = false })
	case 5: // a replica is slow
		n.slow = true
		w.after(w.between(0, 5000*ms), func() { n.slow = false })
	case 6, 7: // the target dies
		t.kill()
		w.after(w.between(0, 2000*ms), w.another)
	case 8: // a new target while the old one lives, cut off in part or not at all
		for _, n := range w.replicas {
			t.cut[n.id] = w.chance(0.4)
		}
		t.noAPI = w.chance(0.5)
		w.after(w.between(0, 500*ms), w.another)
		w.after(w.between(0, 6000*ms), func() { clear(t.cut) })
	case 9:
		w.authDown = true
		w.after(w.between(0, 3000*ms), func() { w.authDown = false })
	case 10, 11: // the replicas are split between an old target and a new one
		w.split(t)
	case 12: // a replica loses its memory, another cannot be reached, the target dies
		if w.mayCrash(n) {
			n.crash()
			w.after(w.between(0, 300*ms), n.start)
		}
		m := w.anyNode()
		m.isolated = true
		w.after(w.between(0, 8000*ms), func() { m.isolated = false })
		t.kill()
		w.another()
	case 13: // a host dies while the replicas are split: nobody repeats its writes
		w.split(t)
		c := w.clients[w.rng.IntN(len(w.clients))]
		w.after(w.between(0, 400*ms), c.reboot)
	case 14:
		if w.opt.PowerCuts {
			w.powerCut()
		}
	}
}

// split gives each replica to the old target t or to a new one, for a while.
func (w *world) split(t *target) {
	t.noAPI = w.chance(0.5)
	w.another()
	next := w.targets[len(w.targets)-1]
	for _, n := range w.replicas {
		if w.chance(0.5) {
			t.cut[n.id] = true
		} else {
			next.cut[n.id] = true
		}
	}
	w.after(w.between(500*ms, 8000*ms), func() { clear(t.cut) })
	w.after(w.between(500*ms, 8000*ms), func() { clear(next.cut) })
}

// mayCrash keeps to the contract: fewer than a write quorum of voters may have
// lost their memory at once.
func (w *world) mayCrash(n *node) bool {
	sys, err := quorum.New(w.opt.Level, w.record.Voters)
	if err != nil {
		w.fail("%v", err)
	}
	lost := func(id quorum.ReplicaID) bool {
		for _, m := range w.replicas {
			if m.id == id {
				return m.lost || m == n
			}
		}
		return false
	}
	return w.opt.PowerCuts || !sys.Write(lost)
}

func (w *world) powerCut() {
	w.trace("POWER CUT")
	for _, n := range w.replicas {
		n.crash()
		w.after(w.between(0, 1000*ms), n.start)
	}
	w.cuts = append(w.cuts, w.now)
}

// heal ends all faults and makes sure there is a target and every replica.
func (w *world) heal() {
	w.trace("HEAL")
	w.healing, w.authDown = true, false
	for _, n := range w.replicas {
		n.isolated, n.slow = false, false
		n.start()
	}
	for _, t := range w.targets {
		t.kill()
	}
	w.newTarget()
	for _, c := range w.clients {
		c.move()
	}
}
