package volumetest

import (
	"fmt"
	"slices"
	"time"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/block/historytest"
	"github.com/cask-storage/cask/pkg/history"
	"github.com/cask-storage/cask/pkg/store"
	"github.com/cask-storage/cask/pkg/volume"
)

// Clients take snapshots, list them and drop some of those that they find.
// Each member's are compared with what the history says, as its content is; and
// each snapshot is a read of all blocks at once between the call and the return
// of the one who took it.

const snapshotShare = 0.02 // of the requests

// snapOp is a snapshot that a client asked for.
type snapOp struct {
	name      string
	call, ret volume.Time // ret: 0 while it is under way
	doomed    bool        // somebody has asked for its drop
	again     bool        // before it was acknowledged: it may be taken once more
	dropped   volume.Time // that was acknowledged
}

// startSnapping asks for a new snapshot or for a list.
func (c *client) startSnapping() {
	if c.w.chance(0.5) {
		c.ask(&volume.Request{Op: volume.OpListSnapshots})
		return
	}
	c.takeSnapshot()
}

func (c *client) takeSnapshot() {
	name := fmt.Sprintf("s%d", len(c.w.snaps))
	c.w.snaps = append(c.w.snaps, snapOp{name: name, call: c.w.now})
	c.ask(&volume.Request{Op: volume.OpSnapshot, Name: name})
}

func (c *client) dropSnapshot(x store.SnapshotInfo) {
	s := c.w.snap(x.Name)
	s.doomed, s.again = true, s.again || s.ret == 0
	c.ask(&volume.Request{Op: volume.OpDropSnapshot, Name: x.Name, Base: x.Seq})
}

func (w *world) snap(name string) *snapOp {
	i := slices.IndexFunc(w.snaps, func(s snapOp) bool { return s.name == name })
	if i < 0 {
		w.fail(Snapshots, "snapshot %q, which nobody took", name)
		return &snapOp{}
	}
	return &w.snaps[i]
}

// snapped takes the answer to a request that was last asked for at call.
func (c *client) snapped(q *volume.Request, call volume.Time) {
	w := c.w
	w.trace("client %d at %s did %x %s %d %v", c.id, c.target.name, uint8(q.Op), q.Name, q.Base, q.Snapshots)
	switch q.Op {
	case volume.OpSnapshot:
		w.snap(q.Name).ret = w.now
	case volume.OpDropSnapshot:
		w.snap(q.Name).dropped = w.now
	case volume.OpListSnapshots:
		c.listed(q.Snapshots, call)
	}
}

// listed checks a list, and has one of those on it dropped now and then.
func (c *client) listed(list []store.SnapshotInfo, call volume.Time) {
	w := c.w
	for _, x := range list {
		if s := w.snap(x.Name); s.dropped != 0 && s.dropped < call && !s.again {
			w.fail(Snapshots, "client %d still finds %v, which was dropped", c.id, x)
		}
	}
	for i := range w.snaps {
		s := &w.snaps[i]
		if s.ret != 0 && s.ret < call && !s.doomed && !named(list, s.name) {
			w.fail(Snapshots, "client %d misses %s, which was acknowledged", c.id, s.name)
		}
	}
	if len(list) > 0 && !w.healing && w.chance(0.6) {
		c.dropSnapshot(list[w.rng.IntN(len(list))])
	}
}

func named(list []store.SnapshotInfo, name string) bool {
	return slices.ContainsFunc(list, func(x store.SnapshotInfo) bool { return x.Name == name })
}

// shadowSnap is a snapshot that a replica should hold.
type shadowSnap struct {
	store.SnapshotInfo
	content content
}

// infos names them; base is the size of those from before the first Resize.
func infos(snaps []shadowSnap, base uint64) (out []store.SnapshotInfo) {
	for _, x := range snaps {
		if x.Size == 0 {
			x.Size = base
		}
		out = append(out, x.SnapshotInfo)
	}
	return out
}

// applySnapshot is what operation o does to the snapshots.
func (s *shadow) applySnapshot(o numbered) {
	switch o.kind {
	case store.Snapshot:
		if store.Takes(infos(s.snaps, 0), o.name) {
			s.snaps = append(s.snaps, shadowSnap{store.SnapshotInfo{Name: o.name, Seq: s.seq, Size: s.size}, s.content})
		}
	case store.DropSnapshot:
		s.snaps = slices.DeleteFunc(s.snaps, func(x shadowSnap) bool { return x.Seq == o.base })
	}
}

// checkSnapshots compares a member's snapshots with those of its history.
func (w *world) checkSnapshots(n *node) {
	if got, want := n.store.Snapshots(), infos(n.shadow.snaps, w.size.base); !slices.Equal(got, want) {
		w.fail(Prefix, "%s at operation %d has snapshots %v, its history %v", n.id, n.shadow.seq, got, want)
		return
	}
	for _, x := range n.shadow.snaps {
		got := w.snapshotContent(n, x.Seq)
		for b := range got {
			if n.lostIn(x.Seq, b) {
				got[b] = x.content[b]
			}
		}
		if got != x.content {
			w.fail(Prefix, "%s has snapshot %v with content %v, not %v", n.id, x, got, x.content)
		}
	}
}

func (w *world) snapshotContent(n *node, seq history.Seq) content {
	buf := make([]byte, blocks*blockSize)
	x := n.store.Snapshots()[slices.IndexFunc(n.store.Snapshots(), func(x store.SnapshotInfo) bool { return x.Seq == seq })]
	if err := n.store.ReadSnapshot(seq, buf[:x.Size], 0); err != nil {
		w.fail(Protocol, "read of snapshot %d of %s: %v", seq, n.id, err)
	}
	return decode(buf)
}

// checkTaken: what was acknowledged and never dropped is there at the end, and
// is a state that the volume was in meanwhile.
func (w *world) checkTaken() {
	n := w.inUse()[0]
	list := n.store.Snapshots()
	for _, s := range w.snaps {
		if s.ret == 0 || s.doomed {
			continue
		}
		i := slices.IndexFunc(list, func(x store.SnapshotInfo) bool { return x.Name == s.name })
		if i < 0 {
			w.fail(Snapshots, "%s lacks %s, which was acknowledged at %.3f ms", n.id, s.name, float64(s.ret)/1e6)
			return
		}
		w.readAll(s, n, list[i].Seq)
	}
}

// lostIn reports whether n cannot read block b in snapshot seq.
func (n *node) lostIn(seq history.Seq, b int) bool {
	return n.core.LostIn(seq).Overlaps(block.Extent{Off: uint64(b) * blockSize, Len: blockSize}) //nolint:gosec // not negative
}

// readAll makes a snapshot a read of each block.
func (w *world) readAll(s snapOp, n *node, seq history.Seq) {
	for b, v := range w.snapshotContent(n, seq) {
		if n.lostIn(seq, b) {
			continue
		}
		w.ops = append(w.ops, op{Access: historytest.Access{Block: b, Value: v, Calls: []time.Duration{time.Duration(s.call)}, Ret: time.Duration(s.ret)}})
	}
}
