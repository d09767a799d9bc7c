package volumetest

import (
	"slices"

	"github.com/cask-storage/cask/pkg/quorum"
	"github.com/cask-storage/cask/pkg/store"
	"github.com/cask-storage/cask/pkg/store/memstore"
	"github.com/cask-storage/cask/pkg/volume"
)

// Faults that wait for the step of the protocol at which they could hurt.

// favours is true with a chance of p, and always when the run is to have more
// of it.
func (w *world) favours(name string, p float64) bool {
	return w.focused(name) || w.chance(p)
}

func (w *world) focused(name string) bool { return slices.Contains(w.opt.Focus, name) }

// ambushRebuild is called when replica n begins to be rebuilt.
func (w *world) ambushRebuild(n *node, k *conn) {
	if n.disowned && !w.healing {
		n.disowned, w.peace = false, w.now+3000*ms
		w.after(0, func() { w.hangUp(k) })
		return
	}
	if w.healing || !w.ambushes || w.focused("chunks") || w.now < w.peace || w.chance(0.3) {
		return
	}
	w.peace = w.now + 3000*ms
	n.slow = true
	w.after(w.between(500*ms, 3000*ms), func() { n.slow = false })
	switch {
	case w.favours("late", 0.3):
		// What is under way comes when the rebuild has begun anew.
		if w.chance(0.5) {
			w.calm = w.now + 500*ms
		}
		w.after(w.between(0, 1000*ms), func() { w.hangUpLate(k) })
	case w.favours("bereave", 0.2):
		w.bereave(n, k.t)
	case w.chance(0.5):
		w.starveRebuild(n, k.t)
	default:
		w.orphanRebuild(n)
	}
}

// hangUpLate ends k; what was sent comes after what a newer connection carries.
func (w *world) hangUpLate(k *conn) {
	w.hangUp(k)
	k.linger = w.between(100*ms, 1500*ms)
}

// starveRebuild leaves the source alone beside the replica that it rebuilds,
// which must not count. When the rebuild ends the source loses its memory.
func (w *world) starveRebuild(n *node, t *target) {
	ready := w.inSync(t)
	if len(ready) < 2 || n.lost {
		return
	}
	for _, m := range ready[1:] {
		t.cut[m.id] = bothWays
	}
	source := ready[0]
	strike := func() {
		clear(t.cut)
		if w.healing || n.atBegin == nil {
			return
		}
		n.atBegin = nil
		t.lose(ready[1:])
		t.kill()
		if w.mayLose(source) {
			source.crash()
			w.after(w.between(0, 500*ms), source.start)
		}
		w.another()
	}
	n.atBegin = strike
	w.after(1500*ms, strike)
}

// bereave: the source loses its disk some time after the rebuild of n began, which
// goes on without.
func (w *world) bereave(n *node, t *target) {
	ready := w.inSync(t)
	n.slow = w.chance(0.3)
	w.after(w.between(0, 200*ms), func() {
		if w.healing || len(ready) == 0 || !n.rebuilding() || slices.ContainsFunc(w.replicas, (*node).damaged) || !w.fewLost(ready[0]) {
			return
		}
		ready[0].wipe()
		w.after(w.between(0, 2000*ms), ready[0].start)
		if w.chance(0.5) {
			t.kill()
			w.another()
		}
	})
}

// ambushReturn is called when n goes back to what it had kept: it is killed, or
// the target is, and it may be rebuilt before it is back.
func (w *world) ambushReturn(n *node, k *conn) {
	if w.healing || w.chance(0.6) {
		return
	}
	w.after(w.between(0, 8*ms), func() {
		switch {
		case w.healing:
		case w.chance(0.4):
			w.hangUp(k)
		case w.chance(0.5):
			n.stop()
			w.after(w.between(0, 1000*ms), n.start)
		default:
			k.t.kill()
			w.another()
		}
	})
}

// orphanRebuild: the target dies with another replica while the third is away.
func (w *world) orphanRebuild(n *node) {
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

// inSync are the replicas that count for t, the one that it copies from first.
func (w *world) inSync(t *target) (ns []*node) {
	for _, s := range t.core.Status().Replicas {
		for _, n := range w.replicas {
			if n.id == s.ID && s.State == "InSync" {
				ns = append(ns, n)
			}
		}
	}
	return ns
}

// ambushBegin is called when a target has sent the Begin that ends a rebuild:
// it may come when the next rebuild of the same replica is half done.
func (w *world) ambushBegin(k *conn) {
	if k.n.atBegin != nil {
		k.linger = 500 * ms
		k.n.atBegin()
		return
	}
	if w.healing || !w.ambushes || w.focused("chunks") || w.now < w.peace || !k.n.up || !k.n.rebuilding() || w.chance(0.5) {
		return
	}
	w.peace = w.now + 3000*ms
	w.calm = w.now + 500*ms
	k.n.slow = true
	w.after(w.between(0, 3000*ms), func() { k.n.slow = false })
	w.after(0, func() { w.hangUpLate(k) })
}

// ambushChanged is called when replica n is asked what changed: it may fail to
// say.
func (w *world) ambushChanged(n *node) {
	if !w.healing && w.ambushes && n.store != nil && w.chance(0.1) {
		n.store.Inject(memstore.Changed, 1, store.ErrCorrupt)
	}
}

// ambushCopied is called when replica n is told how far it was brought: soon
// one of those that take part in the rebuild goes, or n cannot be reached, and
// writes go on.
func (w *world) ambushCopied(n *node, k *conn) {
	if w.healing || !w.ambushes || w.focused("chunks") || w.chance(0.4) {
		return
	}
	w.after(w.between(0, 25*ms), func() {
		if w.healing {
			return
		}
		switch at := w.rng.IntN(5); {
		case at == 3, w.focused("disown"):
			w.disown(n, k.t)
		case at == 0:
			w.hangUp(k)
			n.isolated = true
			w.after(w.between(0, 3000*ms), func() { n.isolated = false })
		case at == 1:
			w.newest().kill()
			w.another()
		case at == 2:
			if m := w.anyNode(); w.mayLose(m) {
				m.crash()
				w.after(w.between(0, 1000*ms), m.start)
			}
		case at == 4:
			if w.mayLose(n) {
				n.crash()
				w.after(w.between(0, 1000*ms), n.start)
			}
		}
	})
}

// disown has n alone, half rebuilt, do what t does last: it is not to be when the
// next target takes over, and hosts may not repeat it. The rebuild that makes it
// good may be broken off as it begins.
func (w *world) disown(n *node, t *target) {
	var others []*node
	for _, m := range w.replicas {
		if m != n {
			t.cut[m.id] = toNode
			others = append(others, m)
		}
	}
	forgotten := w.favours("disown", 0.3)
	if forgotten {
		for range inFlight[writing] {
			w.clients[0].start()
		}
	}
	w.after(w.between(5*ms, 100*ms), func() {
		if forgotten && !w.healing {
			t.lose(others)
			w.rebootAll()
			w.calm, n.disowned = w.now+3000*ms, w.chance(0.5)
		}
		t.kill()
		w.another()
	})
}

// ambushTurn is called when t is about to rebuild a replica: a snapshot is taken
// while it asks a slow source for those that there are.
func (w *world) ambushTurn(t *target) {
	if w.healing || !w.ambushes || !w.favours("snapshot", 0.1) {
		return
	}
	if ready := w.inSync(t); len(ready) > 0 {
		ready[0].slow = true
		w.after(w.between(300*ms, 600*ms), func() { ready[0].slow = false })
	}
	w.after(w.between(0, 400*ms), func() {
		if c := w.clients[0]; !w.healing && !c.over {
			c.takeSnapshot()
			w.calm = w.now + 1500*ms // another would have the rebuild begin anew
		}
	})
}

// ambushFetch is called when n fetches a chunk from another: the answer is late,
// comes when n has another connection and is about to count, or what is there is
// written meanwhile; or the source loses its memory first, best of all that of
// what it is asked for.
func (w *world) ambushFetch(n, src *node, f *fetch) {
	if w.healing || !w.ambushes {
		return
	}
	if f.of.Len == 0 { // the rebuild has begun: what is written now only memory holds
		for range 4 {
			if w.favours("forget", 0.1) {
				w.writeTo(w.rng.IntN(2 * contended))
			}
		}
		return
	}
	forgets := src.store != nil && src.store.Volatile(f.of) && w.favours("forget", 0.2)
	switch {
	case forgets && w.mayLose(src):
		w.trace("FORGET %s of %v for %s", src.id, f.of, n.id)
		w.calm = w.now + 2000*ms // what is to be seen stays
		w.loseFirst(src, f)
	case w.favours("overwrite", 0.05):
		f.back += w.between(20*ms, 150*ms)
		w.after(f.there+w.between(0, 20*ms), func() {
			w.writeTo(int(f.of.Off / blockSize)) //nolint:gosec // within the volume
			w.calm = w.now + 1500*ms
		})
	case w.favours("outlast", 0.1):
		f.late = true
		if k := w.newest().conns[n.id]; k != nil {
			w.after(f.there+w.between(0, 3*ms), func() { w.hangUp(k) })
		}
	case w.chance(0.1) && w.mayLose(src):
		w.loseFirst(src, f)
	}
}

// writeTo has a host write block b.
func (w *world) writeTo(b int) {
	if c := w.clients[0]; !w.healing && !c.over {
		c.access(b, writing)
	}
}

// loseFirst has src lose its memory before it is asked.
func (w *world) loseFirst(src *node, f *fetch) {
	f.there += w.between(5*ms, 200*ms)
	src.crash()
	w.after(w.between(0, 5*ms), src.start)
}

// ambushPhase is called when t has come further: having reopened the volume from
// the best copy it may die before hosts have heard of that.
func (w *world) ambushPhase(t *target, p volume.Phase) {
	if !w.healing && p == volume.Leasing && t.core.Status().Unclean != "" && w.favours("unclean", 0.2) {
		w.after(0, func() {
			t.kill()
			w.another()
		})
	}
}

// ambushChange is called when a target asks for a change of its record.
func (w *world) ambushChange(t *target, a volume.Action) {
	if w.healing || w.chance(0.5) {
		return
	}
	w.trace("AMBUSH of a change of %s", t.name)
	switch {
	case w.favours("late", 0.2):
		w.delayAnswer(t)
	case w.layout != nil && w.favours("doubt", 0.3):
		w.doubt(t, a.Old)
	case w.auth.leaving != nil && w.favours("deny", 0.2):
		w.deny(a)
	default:
		w.overtakeChange(t)
	}
}

// deny has the replica that a change gives a vote leave before.
func (w *world) deny(a volume.Action) {
	l := *w.layout
	l.Replicas = slices.DeleteFunc(slices.Clone(l.Replicas), func(id quorum.ReplicaID) bool {
		if !slices.Contains(a.Next.Voters, id) || slices.Contains(a.Old.Voters, id) {
			return false
		}
		w.auth.leaving[id] = true
		w.auth.version++ // of the object that the record is in
		return true
	})
	if len(l.Replicas) > 0 {
		w.setLayout(l)
	}
}

// overtakeChange has another target take over soon, before or after the change
// was stored and the old one heard of it, while some replicas are away.
func (w *world) overtakeChange(t *target) {
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

// doubt has a change stored that t is told has failed, and no longer wanted.
// Later another target, by the new record, finds other replicas than those that
// t went on with.
func (w *world) doubt(t *target, old volume.Record) {
	t.doubtful = true
	w.after(w.between(0, 200*ms), func() {
		if w.healing {
			return
		}
		l := *w.layout
		l.Level, l.Replicas = old.Level, old.Voters
		w.setLayout(l)
	})
	w.after(w.between(100*ms, 1000*ms), func() {
		if w.healing || !t.alive {
			return
		}
		var gone []*node
		for _, n := range w.replicas {
			if w.chance(0.5) {
				t.cut[n.id] = bothWays
				gone = append(gone, n)
			}
		}
		w.after(w.between(100*ms, 1500*ms), func() {
			w.another()
			next := w.newest()
			for _, n := range w.replicas {
				next.cut[n.id] = bothWays
			}
			for _, n := range gone {
				delete(next.cut, n.id)
			}
			w.after(w.between(1000*ms, 5000*ms), func() {
				clear(t.cut)
				clear(next.cut)
			})
		})
	})
}

// delayAnswer has t lose every replica while it waits for the answer to a swap,
// which comes late: best when t has given its epoch up and waits for that to
// the next one's, which another target gets.
func (w *world) delayAnswer(t *target) {
	t.late = func(answer func()) {
		told := false
		tell := func() {
			if !told {
				told = true
				answer()
			}
		}
		t.ambush = func(p volume.Phase) {
			if p != volume.Acquiring {
				return
			}
			t.ambush, t.noAPI = nil, true
			w.after(0, tell)
			w.rival(t)
		}
		w.after(w.between(0, 3000*ms), tell)
	}
	w.after(w.between(0, 50*ms), func() {
		for _, n := range w.replicas {
			if k := t.conns[n.id]; k != nil && !w.healing {
				w.hangUp(k)
			}
		}
	})
}

// rival starts a target that gets the epoch t asks for: first all replicas are
// t's, then its.
func (w *world) rival(t *target) {
	w.another()
	next := w.newest()
	for _, n := range w.replicas {
		next.cut[n.id] = bothWays
	}
	for _, c := range w.clients {
		c.pinned = w.now + 4000*ms
	}
	w.after(w.between(2500*ms, 4000*ms), func() {
		clear(next.cut)
		for _, n := range w.replicas {
			t.cut[n.id] = bothWays
		}
	})
	w.after(6000*ms, func() {
		t.noAPI = false
		clear(t.cut)
	})
}

// ambushRecord is called when a change of the record has been stored: all
// replicas lose their memory, and the one that could be done without its disk.
func (w *world) ambushRecord() {
	if !w.opt.PowerCuts || w.healing || w.alone == nil && w.chance(0.8) {
		return
	}
	w.after(w.between(0, 5*ms), func() {
		n := w.alone
		w.powerCut()
		if n != nil && w.fewLost(n) {
			n.wipe()
			w.after(w.between(0, 2000*ms), n.start)
		}
	})
}
