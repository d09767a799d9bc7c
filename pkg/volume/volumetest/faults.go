package volumetest

import (
	"slices"

	"github.com/cask-storage/cask/pkg/quorum"
	"github.com/cask-storage/cask/pkg/store"
	"github.com/cask-storage/cask/pkg/store/memstore"
	"github.com/cask-storage/cask/pkg/volume"
)

// faults schedules what goes wrong. Each run has some kinds of faults only, at
// a pace of its own: where everything breaks all the time little happens.
func (w *world) faults() {
	pace := []volume.Time{1500 * ms, 3000 * ms, 5000 * ms}[w.rng.IntN(3)]
	share := []float64{0.15, 0.4, 1}[w.rng.IntN(3)]
	var kinds []func()
	for _, k := range w.faultKinds() {
		if some := w.chance(share); w.focused(k.name) || some && w.opt.Focus == nil {
			kinds = append(kinds, k.do)
		}
	}
	w.ambushes = w.chance(0.5) || w.focused("rebuild") || w.focused("chunks")
	var next func()
	next = func() {
		if w.healing || len(kinds) == 0 {
			return
		}
		kinds[w.rng.IntN(len(kinds))]()
		w.after(w.between(50*ms, pace), next)
	}
	w.after(w.between(0, pace), next)
	if w.layout != nil {
		w.after(w.between(0, 2000*ms), w.changeLayouts)
	}
}

// fault is something that goes wrong, by name.
type fault struct {
	name string
	do   func()
}

// faultKinds lists the faults, the frequent ones more than once.
func (w *world) faultKinds() []fault {
	kinds := []fault{
		{"crash", w.crashReplica}, {"crash", w.crashReplica}, {"restart", w.restartReplica}, {"break", w.breakConnection},
		{"isolate", w.isolateReplica}, {"slow", w.slowReplica}, {"oneway", w.oneWay},
		{"kill", w.killTarget}, {"kill", w.killTarget}, {"move", w.moveTarget}, {"overtake", w.overtake},
		{"authority", w.loseAuthority}, {"authority", w.slowAuthority},
		{"split", w.split}, {"split", w.split}, {"reboot", w.splitAndReboot}, {"takeover", w.isolateCrashAndKill},
		{"minority", w.minority}, {"minority", w.minority}, {"zombie", w.zombie}, {"zombie", w.zombie}, {"lag", w.lag}, {"interrupt", w.interruptTakeover},
		{"freeze", w.freezeTarget}, {"redial", w.redial}, {"full", w.fillDisk}, {"flap", w.flap}, {"outgrow", w.outgrow}, {"outlive", w.outlive}, {"levels", w.strengthen},
		{"power", w.powerCutWhenever}, {"disk", w.failDisk}, {"disk", w.replaceDisk}, {"rot", w.rotBlocks},
	}
	if w.opt.PowerCuts {
		kinds = append(kinds, fault{"miss", w.missEpoch})
	}
	return kinds
}

// another target starts, unless the faults are over.
func (w *world) another() {
	if !w.healing {
		w.newTarget()
	}
}

func (w *world) node(id string) *node {
	i := slices.IndexFunc(w.replicas, func(n *node) bool { return string(n.id) == id })
	return w.replicas[i]
}

func (w *world) anyNode() *node { return w.replicas[w.rng.IntN(len(w.replicas))] }

// crashReplica has a replica lose its memory.
func (w *world) crashReplica() {
	if n := w.anyNode(); w.mayLose(n) {
		n.crash()
		w.after(w.between(0, 4000*ms), n.start)
	}
}

// restartReplica stops a replica in good order, best of all with operations that
// it has acknowledged and its store does not have.
func (w *world) restartReplica() {
	n := w.anyNode()
	n.leaving = n.up
	w.after(w.between(0, 500*ms), n.leave)
}

func (w *world) breakConnection() {
	if k := w.newest().conns[w.anyNode().id]; k != nil {
		w.hangUp(k)
	}
}

// redial makes a second connection before the first is known to have ended.
func (w *world) redial() {
	t, n := w.newest(), w.anyNode()
	k := t.conns[n.id]
	if k == nil || !k.open {
		return
	}
	w.shut(k)
	delete(t.conns, n.id)
	w.dial(t, n)
	w.after(w.between(0, 500*ms), func() { t.step(func() { t.core.Disconnected(t.now(), n.id, k.id) }) })
}

// freezeTarget stops a target's process for a while; another may take over.
func (w *world) freezeTarget() {
	t := w.newest()
	if t.frozen {
		return
	}
	t.frozen = true
	w.trace("%s is frozen", t.name)
	if w.chance(0.7) {
		w.after(w.between(0, 2000*ms), w.another)
	}
	w.after(w.between(100*ms, 6000*ms), t.thaw)
}

func (t *target) thaw() {
	t.w.trace("%s goes on", t.name)
	missed := t.missed
	t.frozen, t.missed = false, nil
	for _, event := range missed {
		t.step(event)
	}
}

// isolateReplica keeps a replica from being reached.
func (w *world) isolateReplica() {
	n := w.anyNode()
	n.isolated = true
	w.after(w.between(0, 8000*ms), func() { n.isolated = false })
}

func (w *world) slowReplica() {
	n := w.anyNode()
	n.slow = true
	w.after(w.between(0, 8000*ms), func() { n.slow = false })
}

// oneWay cuts one direction between the target and a replica.
func (w *world) oneWay() {
	t, n := w.newest(), w.anyNode()
	t.cut[n.id] = way(1 + w.rng.IntN(2))
	w.after(w.between(0, 6000*ms), func() { delete(t.cut, n.id) })
	if w.chance(0.5) {
		w.after(w.between(0, 2000*ms), w.another)
	}
}

func (w *world) killTarget() {
	w.newest().kill()
	w.after(w.between(0, 2000*ms), w.another)
}

// moveTarget ends a target in good order; its successor may be early.
func (w *world) moveTarget() {
	w.newest().retire(w.now + 3000*ms)
	w.after(w.between(0, 4000*ms), w.another)
}

// overtake starts a target while the old one lives, cut off in part or not at
// all.
func (w *world) overtake() {
	t := w.newest()
	for _, n := range w.replicas {
		if w.chance(0.4) {
			t.cut[n.id] = bothWays
		}
	}
	t.noAPI = w.chance(0.5)
	w.after(w.between(0, 500*ms), w.another)
	w.after(w.between(0, 6000*ms), func() { clear(t.cut) })
}

func (w *world) loseAuthority() {
	w.auth.down = true
	w.after(w.between(0, 3000*ms), func() { w.auth.down = false })
}

func (w *world) slowAuthority() {
	w.auth.slow = true
	w.after(w.between(0, 6000*ms), func() { w.auth.slow = false })
	w.isolateReplica()
	if w.chance(0.5) {
		w.killTarget()
	}
}

// split gives each replica to the old target or to a new one, for a while.
func (w *world) split() {
	t := w.newest()
	t.noAPI = w.chance(0.5)
	w.another()
	next := w.newest()
	for _, n := range w.replicas {
		if w.chance(0.5) {
			t.cut[n.id] = bothWays
		} else {
			next.cut[n.id] = bothWays
		}
	}
	w.after(w.between(500*ms, 8000*ms), func() { clear(t.cut) })
	w.after(w.between(500*ms, 8000*ms), func() { clear(next.cut) })
}

// splitAndReboot has a host die while the replicas are split: nobody repeats
// its writes.
func (w *world) splitAndReboot() {
	w.split()
	c := w.clients[w.rng.IntN(len(w.clients))]
	w.after(w.between(0, 400*ms), c.reboot)
}

// isolateCrashAndKill: a replica loses its memory, another cannot be reached,
// the target dies.
func (w *world) isolateCrashAndKill() {
	w.crashReplica()
	w.isolateReplica()
	w.newest().kill()
	w.another()
}

// mayLose keeps to the contract: fewer than a write quorum of voters may have
// lost their memory or their disk at once.
func (w *world) mayLose(n *node) bool { return w.opt.PowerCuts || w.fewLost(n) }

// fewLost asks the record, and what it may be about to become.
func (w *world) fewLost(n *node) bool {
	for _, r := range append(w.auth.coming, w.auth.record) {
		if !w.fewLostOf(n, r) {
			return false
		}
	}
	return true
}

func (w *world) fewLostOf(n *node, r volume.Record) bool {
	sys, err := w.systemOf(r)
	if err != nil {
		w.fail(Protocol, "%v", err)
		return false
	}
	return !sys.Write(func(id quorum.ReplicaID) bool {
		for _, m := range w.replicas {
			if m.id == id {
				return m == n || m.wiped || m.failing || m.full || m.unkept || (m.lost && !w.opt.PowerCuts)
			}
		}
		return false
	})
}

// powerCutWhenever cuts the power while hosts write, just as one flushes what it
// has written, or while nothing of theirs is under way: then nothing but the next request's
// refusal can tell them.
func (w *world) powerCutWhenever() {
	if !w.opt.PowerCuts {
		return
	}
	switch c := w.clients[w.rng.IntN(2)]; w.rng.IntN(3) {
	case 0:
		w.powerCut()
	case 1:
		for range inFlight[writing] {
			c.start()
		}
		w.after(w.between(2*ms, 40*ms), func() {
			if c.writes > 0 && !w.healing {
				c.startFlush()
				c.quiet = w.now + w.between(0, 12_000*ms)
				if w.favours("silence", 0.2) {
					w.calm = w.now + 3000*ms // what is lost stays so
				}
			}
			w.powerCut()
		})
	default:
		c.quiet = w.now + w.between(2000*ms, 12_000*ms)
		if w.favours("silence", 0.2) {
			w.calm = c.quiet
		}
		w.after(w.between(0, 300*ms), w.powerCut)
	}
}

// afterFlush may cut the power just after something was promised to be stable.
func (w *world) afterFlush() {
	if w.opt.PowerCuts && !w.healing && w.chance(0.2) {
		w.after(w.between(0, ms/2), w.powerCut)
	}
}

// powerCut takes every replica's memory; one may stay away for longer than a
// target waits for it.
func (w *world) powerCut() {
	if n := len(w.cuts); w.healing || n > 0 && w.now < w.cuts[n-1]+2000*ms {
		return
	}
	w.trace("POWER CUT")
	away := w.anyNode()
	if w.chance(0.4) {
		away = nil
	}
	for _, n := range w.replicas {
		n.crash()
		d := w.between(0, 1000*ms)
		if n == away {
			d += w.between(6000*ms, 14_000*ms)
		}
		w.after(d, n.start)
	}
	w.cuts = append(w.cuts, w.now)
}

// noteCut notes that a write quorum has lost its memory, one after the other or
// at once.
func (w *world) noteCut() {
	sys, err := w.systemOf(w.auth.record)
	if err != nil {
		return // the record is not made yet
	}
	lost := func(id quorum.ReplicaID) bool {
		return slices.ContainsFunc(w.replicas, func(m *node) bool { return m.id == id && (m.lost || m.wiped) })
	}
	if w.opt.PowerCuts && sys.Write(lost) {
		w.cuts = append(w.cuts, w.now)
	}
}

// failDisk has a disk fail the next change, as one that is full does: the
// replica ends and comes back.
func (w *world) failDisk() {
	n := w.anyNode()
	if n.up && !n.failing && n.store != nil && w.fewLost(n) {
		n.failing, n.lost = true, true
		n.store.Inject([]memstore.Call{memstore.Apply, memstore.SetMeta}[w.rng.IntN(2)], 1+w.rng.IntN(3), store.ErrNoSpace)
		w.trace("%s has a failing disk", n.id)
	}
}

// fillDisk has a disk refuse every change for a while: the replica ends each
// time it comes back.
func (w *world) fillDisk() {
	n := w.anyNode()
	if !n.up || n.failing || n.store == nil || !w.fewLost(n) {
		return
	}
	n.failing, n.full, n.lost = true, true, true
	w.trace("%s has a full disk", n.id)
	w.after(w.between(500*ms, 6000*ms), n.makeRoom)
}

// makeRoom ends that; a process that has failed by then still ends.
func (n *node) makeRoom() {
	if n.full && n.core.Err() == nil {
		n.failing = false
	}
	n.full = false
}

// mend takes back a fault that has not struck.
func (n *node) mend() {
	if n.failing && n.up && n.store != nil && n.core.Err() == nil {
		n.failing = false
		n.store.Inject(memstore.Apply, 0, store.ErrNoSpace)
		n.store.Inject(memstore.SetMeta, 0, store.ErrNoSpace)
	}
}

// replaceDisk takes all that a replica holds, best of all while it is rebuilt.
func (w *world) replaceDisk() {
	n := w.anyNode()
	for _, m := range w.replicas {
		if m.wiped {
			n = m
		}
		if m.damaged() {
			return // n may be the only copy of what m cannot read
		}
	}
	if w.fewLost(n) {
		n.wipe()
		w.after(w.between(0, 2000*ms), n.start)
	}
}

// heal ends all faults and makes sure there is a target and every replica.
func (w *world) heal() {
	w.trace("HEAL")
	w.pardon()
	w.healing, w.auth.down, w.auth.slow = true, false, false
	for _, n := range w.replicas {
		n.isolated, n.slow = false, false
		n.makeRoom()
		n.mend()
		n.start()
	}
	for _, t := range w.targets {
		t.kill()
	}
	w.newTarget()
	for _, c := range w.clients {
		c.move()
	}
	w.scrub()
}
