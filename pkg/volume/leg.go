package volume

import (
	"slices"

	"github.com/cask-storage/cask/pkg/internal/mutant"
	"github.com/cask-storage/cask/pkg/replication"
	"github.com/cask-storage/cask/pkg/store"
)

// leg is a part of a rebuild. There is one for each snapshot of the source after
// the base, in order: the replica is given that content, no operations, and
// takes the snapshot, which is its base from then on. The last leg is to what
// the volume is now.
type leg struct {
	chosen   bool               // else the source is to be asked for its snapshots
	listID   uint64             // of that question
	to       store.SnapshotInfo // without a Seq: the last leg
	settleID uint64             // of the Settle under way
}

// held are the snapshots that the replica has when the rebuild begins.
type held struct {
	id   uint64 // of the question
	list []store.SnapshotInfo
	have bool
	seen bool // the base is not after one that it lacks
}

const goneSnapshot = "the snapshot that it was brought to was dropped"

// noteSnapshot ends the last leg of a rebuild when another snapshot is numbered:
// there is one more leg before it. Operation e was just numbered, and nobody has
// it yet.
func (c *Core) noteSnapshot(e *entry) {
	kind := store.Kind(e.kind)
	if kind != store.Snapshot && kind != store.DropSnapshot {
		return
	}
	c.snapped = e.seq
	rb := c.rebuild
	if kind == store.Snapshot && rb != nil && rb.to.state == rebuilding && rb.to.begin == 0 && !mutant.On(mutant.SnapshotRebuilding) {
		c.reset(rb.to, "a snapshot was taken, to which it is brought first")
	}
}

// askSnapshots asks the replica for its snapshots, and the source for its own once
// it has the last one.
func (c *Core) askSnapshots(rb *rebuild) {
	if rb.held.id == 0 {
		rb.held.id = c.id()
		c.send(rb.to, replication.Message{Type: replication.Snapshots, ID: rb.held.id})
	}
	if rb.held.have && rb.leg.listID == 0 && (rb.from.acked >= c.snapped || mutant.On(mutant.SnapshotUnlisted)) {
		rb.leg.listID = c.id()
		c.send(rb.from, replication.Message{Type: replication.Snapshots, ID: rb.leg.listID})
	}
}

// chooseLeg begins the next leg, unless the list is no longer that of the last
// operation: then it is asked for again.
func (c *Core) chooseLeg(p *peer, m replication.Message) {
	rb := c.rebuild
	list, err := m.SnapshotList()
	if err != nil || m.Code != replication.OK {
		c.reset(p, "it cannot list its snapshots")
		return
	}
	if p == rb.to && m.ID == rb.held.id {
		rb.held.list, rb.held.have = list, true
	}
	if p != rb.from || m.ID != rb.leg.listID {
		return
	}
	rb.leg.listID = 0
	if m.Seq < c.snapped && !mutant.On(mutant.SnapshotUnlisted) {
		return
	}
	rb.leg.chosen = true
	rb.lower(list)
	if i := slices.IndexFunc(list, func(x store.SnapshotInfo) bool { return x.Seq > rb.base }); i >= 0 && !mutant.On(mutant.SnapshotsForgotten) {
		rb.leg.to = list[i]
	}
	if rb.leg.to.Seq != 0 && rb.leg.to.Seq <= rb.to.st.Mark {
		rb.resume = resumption{} // what was copied is newer than that
	}
	c.giveUp(rb, list)
}

// lower moves the base to before the first snapshot of the source that the
// replica lacks: operations that are not of this history have dropped it there.
func (rb *rebuild) lower(list []store.SnapshotInfo) {
	if rb.held.seen || mutant.On(mutant.SnapshotLost) {
		return
	}
	rb.held.seen = true
	for _, x := range list {
		if x.Seq <= rb.base && !slices.Contains(rb.held.list, x) {
			rb.base = x.Seq - 1
		}
	}
	rb.held.list = nil
}

// settle ends a leg to a snapshot: all of its chunks have arrived.
func (c *Core) settle(rb *rebuild) {
	if rb.leg.settleID != 0 || rb.noteID != 0 || len(rb.chunks) > 0 && !mutant.On(mutant.SettleEarly) {
		return
	}
	rb.leg.settleID = c.id()
	c.send(rb.to, replication.Message{Type: replication.Settle, ID: rb.leg.settleID, Seq: rb.leg.to.Seq, History: c.hist,
		Bufs: [][]byte{[]byte(rb.leg.to.Name)}})
}

// settled goes on from the snapshot just taken.
func (rb *rebuild) settled() {
	rb.base, rb.resume = rb.leg.to.Seq, resumption{}
	rb.leg, rb.lists, rb.todo, rb.planned, rb.noted = leg{}, [listKinds]list{own: {have: true}}, nil, false, rb.copied
}
