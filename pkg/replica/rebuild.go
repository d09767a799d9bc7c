package replica

import (
	"fmt"

	"github.com/cask-storage/cask/pkg/internal/mutant"
	"github.com/cask-storage/cask/pkg/replication"
)

// rebuildState is what a replica that is no prefix says: its last common
// operation, and from where the rebuild can go on.
func (c *Core) rebuildState(m *replication.Message) {
	m.Seq, m.History = c.rec.Base, c.rec.History
	c.keptState(m)
	if c.rec.Copied == 0 {
		m.History = m.History.At(m.Seq)
		return
	}
	m.Extent.Len, m.Mark, m.Floor = c.rec.Copied, c.applied, c.rec.Floor
	if c.rec.Exact {
		m.Floor = c.applied
	}
}

// rebuild gives up being a prefix: first what is here is kept, then that is
// recorded, then the mark moves. In between the record's history holds up to the old mark: a target
// that has a replica go on where it was has made sure of that.
func (c *Core) rebuild(m *replication.Message, reply Reply) bool {
	most := c.applied
	if c.rec.Membership == replication.Rebuilding {
		most = c.rec.Base
	}
	kept, bad := m.SnapshotList()
	if m.Base > most || !c.resumes(m) || bad != nil {
		return c.bad(m, reply)
	}
	c.back = nil
	if err := c.keepPrefix(m.Base); err != nil {
		c.setFailed(fmt.Errorf("keep what is given up: %w", err))
		reply(c.state())
		return false
	}
	c.rec.Membership, c.rec.Base, c.rec.Suspect, c.rec.History = replication.Rebuilding, m.Base, false, m.History
	c.rec.Copied, c.rec.Floor, c.rec.Exact = m.Extent.Len, m.Floor, false
	var err error
	if !mutant.On(mutant.RebuildUnmarked) {
		err = c.persist()
	}
	if err == nil {
		err = c.rebase(m, kept)
	}
	if err != nil {
		c.setFailed(fmt.Errorf("start of the rebuild: %w", err))
		reply(c.state())
		return false
	}
	c.tail.clear()
	c.setApplied(m.Seq)
	c.forgetSnapshots()
	c.changed(&replication.Message{ID: m.ID, Base: m.Base}, reply)
	return true
}

// resumes checks where a rebuild is to go on.
func (c *Core) resumes(m *replication.Message) bool {
	known := c.state()
	return len(m.History) > 0 && m.History.Valid() && m.Extent.Off == 0 &&
		(m.Extent.Len == 0 || m.Extent.Len == known.Extent.Len && m.Floor <= known.Floor)
}

// copied remembers how far a rebuild has come.
func (c *Core) copied(m *replication.Message, reply Reply) bool {
	if c.rec.Membership != replication.Rebuilding || m.Extent.Off != 0 || m.Extent.Len < c.rec.Copied || m.Extent.Len > c.store.Info().Size {
		return c.bad(m, reply)
	}
	c.rec.Copied, c.rec.Floor, c.rec.Exact = m.Extent.Len, 0, true
	return c.recorded(m, reply)
}

// takeTurn answers whether a rebuild may begin. One that cannot ask begins.
func (c *Core) takeTurn(m *replication.Message, reply Reply) {
	r := replication.Message{Type: replication.Done, ID: m.ID}
	if c.turn == nil && c.cfg.Turns != nil {
		release, ok, err := c.cfg.Turns.Take()
		switch {
		case err != nil:
			c.cfg.Logf("%v", err)
		case ok:
			c.turn = release
		case m.Flags&replication.FlagUrgent == 0:
			r.Code = replication.ErrTurn
		}
	}
	reply(r)
}

func (c *Core) endTurn() {
	if c.turn != nil {
		c.turn()
		c.turn = nil
	}
}

// Ended tells that a connection is over: the turn of its rebuild goes to others.
func (c *Core) Ended(conn ConnID) {
	if c.Current(conn) {
		c.thaw()
	}
	if c.Current(conn) && !mutant.On(mutant.TurnKept) {
		c.endTurn()
	}
}
