package replica

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cask-storage/cask/pkg/internal/mutant"
	"github.com/cask-storage/cask/pkg/replication"
	"github.com/cask-storage/cask/pkg/store"
)

// snapshotCode is codeOf where ErrNotFound is that of a snapshot.
func snapshotCode(err error) replication.Code {
	if errors.Is(err, store.ErrNotFound) {
		return replication.ErrNoSnapshot
	}
	return codeOf(err)
}

// snapshots lists the snapshots.
func (c *Core) snapshots(id uint64, reply Reply) {
	r := replication.Message{Type: replication.SnapshotList, ID: id, Seq: c.applied}
	if b := replication.EncodeSnapshots(c.store.Snapshots()); len(b) > 0 {
		r.Bufs = [][]byte{b}
	}
	reply(r)
}

// others drops the snapshots up to the base that the source no longer has. Those
// after it go with the rebase.
func (c *Core) others(kept []store.SnapshotInfo) (ops []store.Op) {
	for _, x := range c.store.Snapshots() {
		if x.Seq <= c.rec.Base && !slices.Contains(kept, x) && !mutant.On(mutant.SnapshotsKept) {
			ops = append(ops, store.Op{Kind: store.DropSnapshot, Base: x.Seq})
		}
	}
	return ops
}

// settle takes a snapshot whose content the replica has been given: it is a
// prefix for that moment, and a rebuild that is broken off later begins there.
func (c *Core) settle(m *replication.Message, reply Reply) bool {
	m.Kind = uint8(store.Snapshot)
	op := m.Op()
	if c.rec.Membership != replication.Rebuilding || m.Seq != c.applied+1 || !c.fits(op) || len(m.History) == 0 || !m.History.Valid() {
		return c.bad(m, reply)
	}
	if _, err := c.applyAll([]store.Op{op}); err != nil {
		c.setFailed(fmt.Errorf("snapshot %s of the rebuild: %w", op.Name, err))
		reply(c.state())
		return false
	}
	c.setApplied(m.Seq)
	c.rec.Base, c.rec.History = m.Seq, m.History
	c.rec.Copied, c.rec.Floor, c.rec.Exact = 0, 0, false
	return c.recorded(m, reply)
}
