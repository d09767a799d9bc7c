package volumetest

import (
	"fmt"
	"math/rand"

	"github.com/cask-storage/cask/pkg/quorum"
	"github.com/cask-storage/cask/pkg/replica"
	"github.com/cask-storage/cask/pkg/replication"
	"github.com/cask-storage/cask/pkg/store"
	"github.com/cask-storage/cask/pkg/store/memstore"
	"github.com/cask-storage/cask/pkg/volume"
)

// node is a replica: a process that can crash, over a store that stays.
type node struct {
	w        *world
	id       quorum.ReplicaID
	up       bool
	life     int // counts processes
	core     *replica.Core
	store    *memstore.Store // nil until formatted
	isolated bool
	slow     bool
	lost     bool // lost memory and has not begun since
	crashes  int
	rebuilds int
}

func newNode(w *world, i int) *node {
	n := &node{w: w, id: w.record.Voters[i]}
	n.start()
	return n
}

// Open and Create make node a replica.Backing.
func (n *node) Open() (store.Store, error) {
	if n.store == nil {
		return nil, store.ErrNotFound
	}
	return n.store, nil
}

func (n *node) Create(size uint64) (store.Store, error) {
	n.store = memstore.New(memstore.Options{Size: size, BlockSize: blockSize})
	return n.store, nil
}

func (n *node) start() {
	if n.up {
		return
	}
	n.up = true
	n.life++
	n.core = replica.Open(replica.Config{
		Identity: replica.Identity{Volume: "vol", Replica: string(n.id)}, Backing: n, Run: n.run(n.life)})
	n.w.trace("%s starts: %v", n.id, n.core)
}

// run carries out blocking work a little later, out of order.
func (n *node) run(life int) func(func()) {
	return func(f func()) {
		n.w.after(n.w.between(0, 3*ms), func() {
			if n.up && n.life == life {
				f()
			}
		})
	}
}

// crash kills the process: what was not stable is lost, all or in part.
func (n *node) crash() {
	if !n.up {
		return
	}
	n.up, n.lost = false, true
	n.crashes++
	if n.store != nil {
		n.store = n.store.Crash(rand.New(rand.NewSource(n.w.rng.Int64())))
	}
	n.w.trace("%s crashes", n.id)
	n.w.hangUpAll(n)
}

// stop ends the process in good order.
func (n *node) stop() {
	if !n.up {
		return
	}
	n.up = false
	if err := n.core.Close(); err != nil {
		n.w.fail("close of %s: %v", n.id, err)
	}
	if n.store != nil {
		n.store = n.store.Clone()
	}
	n.w.trace("%s stops", n.id)
	n.w.hangUpAll(n)
}

func (w *world) hangUpAll(n *node) {
	for _, t := range w.targets {
		if k := t.conns[n.id]; k != nil {
			w.hangUp(k)
		}
	}
}

func (n *node) handle(k *conn, m replication.Message) {
	w := n.w
	if m.Type == replication.Rebuild {
		n.rebuilds++
	}
	ok := n.core.Handle(k.replyConn(), []replication.Message{m}, func(r replication.Message) {
		w.send(k, &k.toTgt, r, w.fromNode(k))
	})
	if m.Type == replication.Begin && ok {
		n.lost = false
	}
	if !ok {
		w.after(w.between(0, 5*ms), func() { w.hangUp(k) })
	}
	if err := n.core.Err(); err != nil {
		w.fail("%s failed: %v", n.id, err)
	}
}

// target is a target's process.
type target struct {
	w     *world
	name  string
	alive bool
	core  *volume.Core
	conns map[quorum.ReplicaID]*conn
	cut   map[quorum.ReplicaID]bool
	noAPI bool
}

func (w *world) newTarget() *target {
	t := &target{w: w, name: fmt.Sprintf("t%d", len(w.targets)+1), alive: true,
		conns: map[quorum.ReplicaID]*conn{}, cut: map[quorum.ReplicaID]bool{}}
	t.core = volume.New(volume.Config{Instance: t.name, Level: w.opt.Level, Replicas: w.record.Voters,
		Size: blocks * blockSize, Volume: "vol", Timing: volume.DefaultTiming()})
	w.targets = append(w.targets, t)
	w.trace("%s starts", t.name)
	t.step(func() { t.core.Start(w.now) })
	for _, n := range w.replicas {
		w.dial(t, n)
	}
	t.tick()
	return t
}

func (t *target) tick() {
	if !t.alive {
		return
	}
	t.step(func() { t.core.Tick(t.w.now) })
	t.w.after(t.w.between(15*ms, 30*ms), t.tick)
}

func (t *target) kill() {
	if !t.alive {
		return
	}
	t.alive = false
	t.w.trace("%s is killed", t.name)
	for _, n := range t.w.replicas {
		if k := t.conns[n.id]; k != nil {
			k.open = false
		}
	}
}

// step feeds the core one event and carries out what it wants.
func (t *target) step(event func()) {
	if !t.alive {
		return
	}
	before := t.core.Phase()
	event()
	for _, a := range t.core.Take() {
		t.do(a)
	}
	if p := t.core.Phase(); p != before {
		t.w.trace("%s %v epoch %d %s", t.name, p, t.core.Epoch(), t.core.Status().Unclean)
	}
}

func (t *target) do(a volume.Action) {
	w := t.w
	switch a.Kind {
	case volume.ActSend:
		if k := t.conns[a.To]; k != nil && k.id == a.Conn && k.open {
			w.send(k, &k.toNode, a.Msg, w.fromTarget(k))
		}
	case volume.ActReset:
		if k := t.conns[a.To]; k != nil && k.id == a.Conn {
			w.hangUp(k)
		}
	case volume.ActLoad:
		w.after(w.between(ms, 20*ms), func() {
			rec, err := w.load(t)
			t.step(func() { t.core.Loaded(w.now, rec, err) })
		})
	case volume.ActSwap:
		w.after(w.between(ms, 20*ms), func() {
			err := w.swap(t, a.Old, a.Next)
			w.after(w.between(0, 20*ms), func() { t.step(func() { t.core.Swapped(w.now, err) }) })
		})
	case volume.ActComplete:
		a.Req.Owner.(func(*volume.Request, error))(a.Req, a.Err)
	case volume.ActStop:
		w.trace("%s stops: %v", t.name, a.Err)
		w.after(0, t.kill)
	}
}

var errAway = fmt.Errorf("the authority is away")

func (w *world) load(t *target) (volume.Record, error) {
	if w.authDown || t.noAPI {
		return volume.Record{}, errAway
	}
	return w.record, nil
}

// swap may succeed and say that it failed.
func (w *world) swap(t *target, old, next volume.Record) error {
	if w.authDown || t.noAPI {
		return errAway
	}
	if !w.record.Equal(old) {
		return volume.ErrConflict
	}
	w.record = next
	if !w.healing && w.chance(0.05) {
		return errAway
	}
	return nil
}
