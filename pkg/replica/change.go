package replica

import (
	"fmt"

	"github.com/cask-storage/cask/pkg/history"
	"github.com/cask-storage/cask/pkg/internal/mutant"
	"github.com/cask-storage/cask/pkg/replication"
	"github.com/cask-storage/cask/pkg/store"
)

// change does a run of Apply and Copy messages, as one batch.
func (c *Core) change(conn ConnID, ms []replication.Message, reply Reply) bool {
	soon := c.accepts(ms)
	if soon {
		c.noteAhead()
	} else {
		c.caughtUp()
	}
	ops := make([]store.Op, 0, len(ms))
	next := c.lastTaken() + 1
	for i := range ms {
		m := &ms[i]
		if !c.obeyed(conn, m, reply) {
			return false
		}
		if c.rec.Membership == replication.Failed {
			reply(c.state())
			return false
		}
		op, ok := c.operation(m)
		if !ok || (m.Type == replication.Apply && m.Seq != next) {
			return c.bad(m, reply)
		}
		if m.Type == replication.Apply {
			next++
		}
		ops = append(ops, op)
	}
	if soon {
		return c.accept(ms, ops, reply)
	}
	unhealed, err := c.perform(ms, ops)
	if err != nil {
		c.setFailed(fmt.Errorf("apply operations %d to %d: %w", c.applied+1, next-1, err))
		reply(c.state())
		return false
	}
	c.acknowledge(ms, unhealed, reply)
	return true
}

// perform applies ms, of which ops are the operations. It returns which of the
// copies among them, by index, did not help.
func (c *Core) perform(ms []replication.Message, ops []store.Op) (unhealed map[int]bool, err error) {
	steps, last := ops, lastSeq(ops)
	if mutant.On(mutant.MarkApart) {
		steps = markFirst(ops)
	}
	c.mu.Lock()
	c.taken = max(c.taken, last)
	c.mu.Unlock()
	if err = c.roomFor(steps); err == nil {
		unhealed, err = c.applyAll(steps)
	}
	if err == nil {
		err = c.overwritten(ms, unhealed)
	}
	if err != nil {
		return nil, err
	}
	for i, op := range ops {
		if op.Seq != 0 {
			c.tail.push(op)
		} else {
			ms[i].Own.Free()
		}
	}
	c.mu.Lock()
	c.applied = max(c.applied, last)
	c.mu.Unlock()
	return unhealed, nil
}

// lastSeq is the mark that ops lead to, 0 when they leave it.
func lastSeq(ops []store.Op) (last history.Seq) {
	for i := range ops {
		last = max(last, ops[i].Seq)
	}
	return last
}

// markFirst splits each operation in two: its mark, then its data.
func markFirst(ops []store.Op) []store.Op {
	var out []store.Op
	for _, op := range ops {
		if op.Seq != 0 {
			out = append(out, store.Op{Kind: op.Kind, Seq: op.Seq})
		}
		op.Seq = 0
		out = append(out, op)
	}
	return out
}

// acknowledge answers an applied batch: one Applied for all operations, one
// Done for each Copy.
func (c *Core) acknowledge(ms []replication.Message, unhealed map[int]bool, reply Reply) {
	var last history.Seq
	for i := range ms {
		if ms[i].Type == replication.Apply {
			last = ms[i].Seq
			continue
		}
		m := replication.Message{Type: replication.Done, ID: ms[i].ID}
		if unhealed[i] {
			m.Code, m.Text = replication.ErrMedium, "more than content is rotten there"
		}
		reply(m)
	}
	if last != 0 {
		reply(replication.Message{Type: replication.Applied, Seq: last})
	}
}

// operation checks one message against the replica's state and the store's
// contract.
func (c *Core) operation(m *replication.Message) (store.Op, bool) {
	op := m.Op()
	if m.Type == replication.Copy {
		op.Kind = store.Write
		if len(op.Data) == 0 {
			op.Kind = store.Unmap
		}
	}
	if c.store == nil || !c.fits(op) {
		return op, false
	}
	if m.Type == replication.Copy {
		op.Seq = 0
		copied := c.rec.Membership == replication.Rebuilding || c.rec.Membership == replication.Member
		return op, copied && (m.Flags&replication.FlagLost == 0 || op.Kind == store.Unmap)
	}
	// What is rebuilt has the content of no place in the history.
	if op.Kind == store.Snapshot && c.rec.Membership == replication.Rebuilding && !mutant.On(mutant.SnapshotRebuilding) {
		return op, false
	}
	// A member applies only what it has recorded the epoch of.
	return op, c.rec.Membership == replication.Rebuilding || c.rec.History.Last() == m.Epoch
}

// fits checks an operation against the store's contract.
func (c *Core) fits(op store.Op) bool {
	e := op.Extent
	switch op.Kind {
	case store.Write, store.Unmap:
		if op.Kind == store.Write && uint64(len(op.Data)) != e.Len || op.Kind == store.Unmap && len(op.Data) != 0 {
			return false
		}
		return e.Len > 0 && e.End() > e.Off && e.End() <= c.store.Info().Size && e.Off%512 == 0 && e.Len%512 == 0
	case store.Snapshot:
		return e.Len == 0 && store.CheckName(op.Name) == nil
	case store.Resize:
		size := c.store.Info()
		return e.Off == size.Size && e.End() >= e.Off && e.Len%uint64(size.BlockSize) == 0 && len(op.Data) == 0
	case store.DropSnapshot:
		return e.Len == 0 && len(op.Data) == 0
	}
	return false
}
