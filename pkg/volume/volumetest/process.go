package volumetest

import (
	"errors"
	"fmt"
	"math/rand"
	"strings"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/history"
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
	failing  bool          // its disk fails the next change,
	full     bool          // or all of them
	lost     bool          // lost memory, or its disk, and has not begun since
	taken    bool          // down by the operator, for good: what starts again is another
	wiped    bool          // lost its disk and has not begun since
	promised history.Epoch // when last looked at
	pardoned bool          // what had rotten was made good, and it may not know
	unkept   bool          // had no space to keep what it had before its rebuild
	trap     trap
	atBegin  func() // called when its rebuild ends; may be nil
	disowned bool   // it did alone what is not to be; see disown
	shadow   shadow
	crashes  int
	said     history.Seq // acknowledged by this process, as a member
	leaving  bool        // it stops when it has acknowledged something
	room     uint64      // of its extent, for a volume of that many bytes
	late     []func()    // answers of other replicas that come at the worst moment
	turns    int         // to be rebuilt, held by this process
	rebuilds int
	returns  int // steps back to what it had kept
	pulled   int // chunks fetched from another
	resumed  int // of them, that went on where an earlier one was
}

// trap is sprung when a replica has handled a message.
type trap struct {
	at replication.Type
	do func()
}

func newNode(w *world, id quorum.ReplicaID) *node {
	n := &node{w: w, id: id}
	n.start()
	return n
}

// Open and Create make node a replica.Backing.
func (n *node) Open() (store.Store, error) {
	if n.store == nil {
		return nil, store.ErrNotFound
	}
	return filling{n.store, n}, nil
}

func (n *node) Create(size uint64) (store.Store, error) {
	n.store, n.room = memstore.New(memstore.Options{Size: size, BlockSize: recordSize}), max(n.room, size)
	return filling{n.store, n}, nil
}

// filling is a store that may be full.
type filling struct {
	*memstore.Store
	n *node
}

func (f filling) Apply(ops []store.Op) error {
	f.fill(memstore.Apply)
	f.n.checkRoom(ops)
	return f.Store.Apply(ops)
}

func (f filling) SetMeta(b []byte) error {
	f.fill(memstore.SetMeta)
	return f.Store.SetMeta(b)
}

// fill has the next change fail while the disk is full.
func (f filling) fill(c memstore.Call) {
	if f.n.full {
		f.Store.Inject(c, 1, store.ErrNoSpace)
	}
}

func (n *node) start() {
	if n.up || n.taken {
		return
	}
	n.up, n.failing = true, n.full
	n.life++
	n.turns, n.late, n.said, n.leaving = 0, nil, 0, false
	n.core = replica.Open(replica.Config{Identity: replica.Identity{Volume: "vol", Replica: string(n.id)},
		Backing: n, Grow: n.grow, Run: n.run(n.life), Soon: n.soon(n.life), TailOps: tailOps, Turns: turns{n}, Peers: n})
	n.w.trace("%s starts: %v", n.id, n.core)
}

// fetch is the way of a question to another replica, and of its answer.
type fetch struct {
	of          block.Extent
	there, back volume.Time
	late        bool // it comes with the next Begin
}

// Fetch makes node a replica.Peers. What is asked and answered may come late.
func (n *node) Fetch(addr string, m replication.Message, done func(replication.Message, error)) {
	w, life := n.w, n.life
	over := false
	finish := func(r replication.Message, err error) {
		if !over && n.up && n.life == life {
			over = true
			done(r, err)
			n.ended()
			if err == nil && r.Code == replication.OK && r.Extent.Len > 0 {
				n.pulled++
			}
		}
	}
	src := w.node(addr)
	way := func() volume.Time {
		if w.chance(0.05) {
			return w.between(0, 1500*ms)
		}
		return w.between(ms/20, 3*ms)
	}
	w.conns++
	k := replica.ConnID(w.conns)
	f := fetch{of: m.Extent, there: way(), back: way()}
	w.ambushFetch(n, src, &f)
	w.after(f.there, func() {
		if !src.up || src.isolated || n.isolated {
			return
		}
		src.core.Handle(k, []replication.Message{w.recode(m)}, func(r replication.Message) {
			r = w.recode(r)
			if f.late {
				n.late = append(n.late, func() { finish(r, nil) })
				return
			}
			w.after(f.back, func() { finish(r, nil) })
		})
	})
	if !f.late {
		w.after(w.between(1000*ms, 4000*ms), func() { finish(replication.Message{}, errors.New("no answer")) })
	}
}

// turns are given at random while there are faults: other volumes take them too.
type turns struct{ n *node }

func (x turns) Take() (release func(), ok bool, err error) {
	w, life := x.n.w, x.n.life
	if x.n.turns > 0 {
		w.fail(Protocol, "%s takes a second turn", x.n.id)
	}
	if !w.healing && w.chance(0.2) {
		return nil, false, nil
	}
	x.n.turns++
	return func() {
		if x.n.life == life {
			x.n.turns--
		}
	}, true, nil
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

// soon has the store catch up a little later, or at once.
func (n *node) soon(life int) func(now bool) {
	return func(bool) {
		n.w.after(n.w.between(0, 3*ms), func() {
			if n.up && n.life == life {
				n.core.CatchUp()
				n.ended()
			}
		})
	}
}

// crash kills the process: what was not stable is lost, all or in part.
func (n *node) crash() {
	if !n.up {
		return
	}
	n.up, n.lost, n.failing = false, true, false
	n.turns, n.late = 0, nil
	n.crashes++
	if n.store != nil {
		n.store = n.store.Crash(rand.New(rand.NewSource(n.w.rng.Int64())))
	}
	n.w.trace("%s crashes", n.id)
	n.w.noteCut()
	n.w.hangUpAll(n)
}

// wipe replaces the disk by an empty one.
func (n *node) wipe() {
	n.crash()
	n.store, n.room, n.shadow, n.promised, n.lost, n.wiped = nil, 0, shadow{}, 0, true, true
	n.w.trace("%s has an empty disk", n.id)
}

// rebuilding reports whether the replica has given up its prefix.
func (n *node) rebuilding() bool {
	return replication.Membership(n.core.Describe().Kind) == replication.Rebuilding
}

// gaveUp reports whether it has dropped what it had kept.
func (n *node) gaveUp() bool {
	if n.store == nil {
		return false
	}
	_, has := n.store.Kept()
	return !has && strings.Contains(string(n.store.Meta()), `"kept":true`)
}

// stop ends the process in good order.
func (n *node) stop() {
	if n.failing {
		n.crash()
	}
	if !n.up {
		return
	}
	n.up = false
	if err := n.core.Close(); err != nil {
		n.w.fail(Protocol, "close of %s: %v", n.id, err)
	}
	if n.store != nil {
		if mark := n.store.Info().Mark; mark < n.said {
			n.w.fail(Durable, "%s has acknowledged %d and stops in good order at %d", n.id, n.said, mark)
		}
		n.store = n.store.Clone()
	}
	n.w.trace("%s stops", n.id)
	n.w.hangUpAll(n)
}

func (w *world) hangUpAll(n *node) {
	for _, t := range w.targets {
		if k := t.conns[n.id]; k != nil {
			w.nodeHangsUp(k)
		}
	}
}

func (n *node) handle(k *conn, m replication.Message) {
	w := n.w
	switch m.Type {
	case replication.Rebuild:
		n.said = 0
		n.rebuilds++
		if m.Extent.Len > 0 {
			n.resumed++
		}
		w.ambushRebuild(n, k)
	case replication.Turn:
		w.ambushTurn(k.t)
	case replication.Changed:
		w.ambushChanged(n)
	case replication.Copied:
		w.ambushCopied(n, k)
	case replication.Return:
		n.returns++
		w.ambushReturn(n, k)
	case replication.Begin:
		for _, f := range n.late {
			f()
		}
		n.late = nil
	}
	ok := n.core.Handle(k.replyConn(), []replication.Message{m}, func(r replication.Message) {
		n.acknowledges(&r)
		w.send(k, &k.toTgt, r)
	})
	if m.Type == replication.Begin && ok {
		n.lost, n.wiped, n.unkept = false, false, false
	}
	if x := n.trap; x.do != nil && x.at == m.Type {
		n.trap = trap{}
		x.do()
	}
	if !ok {
		w.nodeHangsUp(k)
	}
	if k.over { // a server says so after the last message
		k.endAtNode()
	}
	n.ended()
}

// acknowledges notes what the replica says to have.
func (n *node) acknowledges(m *replication.Message) {
	if m.Type != replication.Applied {
		return
	}
	if !n.rebuilding() {
		n.said = m.Seq
	}
	if n.leaving {
		n.w.after(0, n.leave)
	}
}

// leave stops a replica that was told to, for a while.
func (n *node) leave() {
	if n.leaving {
		n.leaving = false
		n.stop()
		n.w.after(n.w.between(0, 2000*ms), n.start)
	}
}

// ended looks whether the replica has failed.
func (n *node) ended() {
	w := n.w
	switch err := n.core.Err(); {
	case err == nil:
	case n.failing:
		w.trace("%s failed: %v", n.id, err)
		n.unkept = n.unkept || n.gaveUp()
		n.crash()
		w.after(w.between(0, 3000*ms), n.start)
	default:
		w.fail(Protocol, "%s failed: %v", n.id, err)
	}
}

// target is a target's process.
type target struct {
	w        *world
	name     string
	alive    bool
	frozen   bool     // it does nothing,
	missed   []func() // and will find all this when it goes on
	core     *volume.Core
	conns    map[quorum.ReplicaID]*conn
	cut      map[quorum.ReplicaID]way
	noAPI    bool
	zone     string
	change   string      // under way
	skew     volume.Time // of its clock,
	rate     float64     // and how fast that runs
	verified volume.Time // when its last verification ended
	// ambush is called at each change of phase; may be nil.
	ambush func(volume.Phase)
	// doubtful swaps are carried out, and said to have failed.
	doubtful bool
	// late holds the answers of swaps back; see ambushAnswer.
	late func(answer func())
}

// maxDrift is how far a clock's rate may be off. Two of them must not differ
// by more than Timing.LeaseWait allows for.
const maxDrift = 0.04

func (w *world) newTarget() *target {
	t := &target{w: w, name: fmt.Sprintf("t%d", len(w.targets)+1), alive: true,
		conns: map[quorum.ReplicaID]*conn{}, cut: map[quorum.ReplicaID]way{},
		skew: w.between(0, 3600_000*ms), rate: 1 + maxDrift*(2*w.rng.Float64()-1)}
	if w.opt.Zones > 0 {
		t.zone = w.zone(w.rng.IntN(w.opt.Zones))
	}
	t.core = volume.New(volume.Config{Instance: t.name, Level: w.opt.Level, Replicas: w.ids(), Layout: t.layout(),
		Size: w.size.want, Volume: "vol", Timing: volume.DefaultTiming(), Bounds: bounds})
	w.targets = append(w.targets, t)
	w.trace("%s starts", t.name)
	t.step(func() { t.core.Start(t.now()) })
	for _, n := range w.replicas {
		w.dial(t, n)
	}
	t.tick()
	return t
}

func (w *world) ids() (ids []quorum.ReplicaID) {
	for _, n := range w.replicas {
		ids = append(ids, n.id)
	}
	return ids
}

// now is what the target's clock shows.
func (t *target) now() volume.Time { return t.skew + volume.Time(float64(t.w.now)*t.rate) }

func (t *target) tick() {
	if !t.alive {
		return
	}
	if !t.frozen {
		t.step(func() { t.core.Tick(t.now()) })
	}
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
			t.w.shut(k)
		}
	}
}

// retire ends the target in good order and gives its epoch back.
func (t *target) retire(deadline volume.Time) {
	w := t.w
	if !t.alive {
		return
	}
	if !t.core.Idle() && w.now < deadline {
		w.after(w.between(ms, 20*ms), func() { t.retire(deadline) })
		return
	}
	rec := t.core.Record()
	t.step(func() { t.core.Close(block.ErrFenced) })
	t.kill()
	if rec.Holder == t.name {
		next := rec
		next.Holder = ""
		w.swap(t, volume.Action{Old: rec, Next: next})
	}
}

// step feeds the core one event and carries out what it wants.
func (t *target) step(event func()) {
	if !t.alive {
		return
	}
	if t.frozen {
		t.missed = append(t.missed, event)
		return
	}
	before := t.core.Phase()
	event()
	t.noteSize() // before anybody is told
	for _, a := range t.core.Take() {
		t.do(a)
	}
	if t.w.opt.Trace != nil {
		if ch := t.core.Status().Change; ch != t.change {
			t.change = ch
			t.w.trace("%s CHANGE %q", t.name, ch)
		}
	}
	if p := t.core.Phase(); p != before {
		if t.ambush != nil {
			t.ambush(p)
		}
		t.w.trace("%s %v epoch %d %s", t.name, p, t.core.Epoch(), t.core.Status().Unclean)
		t.w.ambushPhase(t, p)
	}
}

func (t *target) do(a volume.Action) {
	w := t.w
	switch a.Kind {
	case volume.ActSend:
		if k := t.conns[a.To]; k != nil && k.id == a.Conn && k.open {
			w.note(&a.Msg)
			if a.Msg.Type == replication.Pull {
				a.Msg.Text = a.Msg.Replica // the address
			}
			w.send(k, &k.toNode, a.Msg)
			if a.Msg.Type == replication.Begin {
				w.ambushBegin(k)
			}
		}
	case volume.ActReset:
		if k := t.conns[a.To]; k != nil && k.id == a.Conn {
			w.hangUp(k)
		}
	case volume.ActLoad:
		w.load(t)
	case volume.ActSwap:
		if a.Old.Epoch == a.Next.Epoch {
			w.ambushChange(t, a)
		}
		w.swap(t, a)
	case volume.ActComplete:
		a.Req.Owner.(func(*volume.Request, error))(a.Req, a.Err)
	case volume.ActStop:
		w.trace("%s stops: %v", t.name, a.Err)
		if _, refuse := w.auth.record.Refuse(t.name, a.Err); refuse {
			w.fail(Live, "the record of %s would be refused, and no target go by it: %v", t.name, a.Err)
		}
		w.after(0, t.kill)
	}
}
