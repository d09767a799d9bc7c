package replica

import (
	"fmt"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/block/buffer"
	"github.com/cask-storage/cask/pkg/history"
	"github.com/cask-storage/cask/pkg/internal/mutant"
	"github.com/cask-storage/cask/pkg/replication"
	"github.com/cask-storage/cask/pkg/store"
)

// Reply sends a message back on the connection that a request came from. It
// does not block and may be called on any goroutine.
type Reply func(replication.Message)

// maxBatch bounds the operations of one store transaction batch.
const maxBatch = 256

// Handle obeys ms, which came in this order on conn. It returns false when
// the connection must be closed.
func (c *Core) Handle(conn ConnID, ms []replication.Message, reply Reply) bool {
	for len(ms) > 0 {
		n := changes(ms)
		if n == 0 {
			c.caughtUp()
			if !c.one(conn, &ms[0], reply) {
				return false
			}
			n = 1
		} else if !c.change(conn, ms[:n], reply) {
			return false
		}
		ms = ms[n:]
	}
	return true
}

// changes counts the leading messages that change content.
func changes(ms []replication.Message) int {
	n := 0
	for n < len(ms) && n < maxBatch && (ms[n].Type == replication.Apply || ms[n].Type == replication.Copy) {
		if n++; resizes(&ms[n-1]) {
			break // what follows is of another size
		}
	}
	return n
}

// refuse answers a request of a connection that is not obeyed.
func (c *Core) refuse(m *replication.Message, code replication.Code, text string) replication.Message {
	return replication.Message{Type: replication.Refused, ID: m.ID, Code: code, Text: text, Promised: c.rec.Promised}
}

// obeyed checks the epoch rule: only the connection that said Hello last, with
// the highest epoch promised.
func (c *Core) obeyed(conn ConnID, m *replication.Message, reply Reply) bool {
	ours := conn == c.current || mutant.On(mutant.AnyConnection)
	if ours && m.Epoch == c.rec.Promised || mutant.On(mutant.AnyEpoch) {
		return true
	}
	reply(c.refuse(m, replication.OK, fmt.Sprintf("epoch %d is superseded, %d is promised", m.Epoch, c.rec.Promised)))
	return false
}

//lint:dispatch
func (c *Core) one(conn ConnID, m *replication.Message, reply Reply) bool {
	if m.Type == replication.Hello {
		return c.hello(conn, m, reply)
	}
	if m.Type == replication.Fetch {
		return c.fetch(m, reply)
	}
	if !c.obeyed(conn, m, reply) {
		return false
	}
	if c.rec.Membership == replication.Failed {
		reply(c.state())
		return false
	}
	if m.Type != replication.Format && m.Type != replication.Ping && c.store == nil {
		reply(c.refuse(m, replication.ErrRequest, fmt.Sprintf("%v to a replica without an extent", m.Type)))
		return false
	}
	switch m.Type {
	case replication.Format:
		return c.format(m, reply)
	case replication.Adopt:
		return c.adopt(m, reply)
	case replication.Begin:
		return c.begin(m, reply)
	case replication.Rebuild:
		return c.rebuild(m, reply)
	case replication.Pull:
		return c.pull(conn, m, reply)
	case replication.Grow:
		c.grow(m, reply)
	case replication.Return:
		return c.goBack(m, reply)
	case replication.Turn:
		c.takeTurn(m, reply)
	case replication.Copied:
		return c.copied(m, reply)
	case replication.Changed:
		c.changed(m, reply)
	case replication.Settle:
		return c.settle(m, reply)
	case replication.Snapshots:
		c.snapshots(m.ID, reply)
	case replication.Freeze:
		return c.freeze(m, reply)
	case replication.Thaw:
		c.thaw()
		reply(replication.Message{Type: replication.Done, ID: m.ID})
	case replication.Digest:
		c.digest(m, reply)
	case replication.Flush:
		c.flush(m.ID, reply)
	case replication.Read:
		return c.read(conn, m, reply)
	case replication.Tail:
		c.tailOp(m, reply)
	case replication.Ping:
		reply(replication.Message{Type: replication.Pong, ID: m.ID, Seq: c.applied})
	default:
		reply(c.refuse(m, replication.ErrRequest, fmt.Sprintf("%v is not a request", m.Type)))
		return false
	}
	return true
}

// hello promises the epoch and makes conn the one that is obeyed.
func (c *Core) hello(conn ConnID, m *replication.Message, reply Reply) bool {
	if m.Volume != c.cfg.Volume || m.Replica != c.cfg.Replica {
		reply(c.refuse(m, replication.ErrForeign, fmt.Sprintf("this is replica %s of volume %s, not %s of %s",
			c.cfg.Replica, c.cfg.Volume, m.Replica, m.Volume)))
		return false
	}
	if m.Epoch < c.rec.Promised && !mutant.On(mutant.AnyEpoch) {
		reply(c.refuse(m, replication.OK, fmt.Sprintf("epoch %d is superseded, %d is promised", m.Epoch, c.rec.Promised)))
		return false
	}
	c.endTurn()
	c.thaw()
	c.mu.Lock()
	c.current, c.reply = conn, reply
	c.mu.Unlock()
	if c.rec.Membership == replication.Failed {
		reply(c.state()) // it counts for nothing, and its record must stay what it was
		return true
	}
	if m.Epoch > c.rec.Promised {
		c.rec.Promised = m.Epoch
		if mutant.On(mutant.PromiseInMemory) {
			reply(c.state())
			return true
		}
		if err := c.persist(); err != nil {
			c.setFailed(fmt.Errorf("promise of epoch %d: %w", m.Epoch, err))
		}
	}
	reply(c.state())
	return true
}

func (c *Core) format(m *replication.Message, reply Reply) bool {
	if c.rec.Membership == replication.Blank {
		s, err := c.cfg.Backing.Create(m.Size)
		if err == nil {
			c.store, c.rec.Membership = s, replication.Fresh
			err = c.persist()
		}
		if err != nil {
			c.setFailed(fmt.Errorf("make the extent: %w", err))
		}
	}
	reply(c.state())
	return c.rec.Membership != replication.Failed
}

// consistent reports whether h continues what the replica has.
func (c *Core) consistent(h history.History) bool {
	return len(h) > 0 && h.Valid() && len(h) <= replication.MaxHistory &&
		history.Common(c.rec.History, c.applied, h, c.applied) == c.applied
}

func (c *Core) adopt(m *replication.Message, reply Reply) bool {
	if (c.rec.Membership != replication.Member && c.rec.Membership != replication.Fresh) || !c.consistent(m.History) {
		return c.bad(m, reply)
	}
	if err := c.takeSize(m); err != nil {
		c.setFailed(fmt.Errorf("%v: %w", m.Type, err))
		reply(c.state())
		return false
	}
	c.rec.History = m.History
	return c.recorded(m, reply)
}

func (c *Core) begin(m *replication.Message, reply Reply) bool {
	rebuilt := c.rec.Membership == replication.Rebuilding && m.History.Valid()
	if m.Seq != c.applied || m.History.Last() != m.Epoch || (!rebuilt && !c.consistent(m.History)) {
		return c.bad(m, reply)
	}
	c.rec.History, c.rec.Membership, c.rec.Suspect = m.History, replication.Member, false
	c.rec.Begun = m.Epoch
	c.rec.Base, c.rec.Copied, c.rec.Floor, c.rec.Exact = 0, 0, 0, false
	c.rec.Kept, c.rec.KeptBase = false, 0
	c.endTurn()
	if !c.recorded(m, reply) {
		return false
	}
	if rebuilt {
		c.forgetKept()
	}
	if es := c.Damage(); len(es) > 0 {
		reply(replication.Message{Type: replication.Damage, Extents: es})
	}
	return true
}

// recorded persists the record and answers.
func (c *Core) recorded(m *replication.Message, reply Reply) bool {
	if err := c.persist(); err != nil {
		c.setFailed(fmt.Errorf("%v: %w", m.Type, err))
		reply(c.state())
		return false
	}
	reply(replication.Message{Type: replication.Done, ID: m.ID})
	return true
}

// bad answers a request that breaks the protocol; the connection ends.
func (c *Core) bad(m *replication.Message, reply Reply) bool {
	text := fmt.Sprintf("%v does not fit %v", m, c)
	c.cfg.Logf("refused: %s", text)
	reply(c.refuse(m, replication.ErrRequest, text))
	return false
}

// setApplied notes that the store is at s, with nothing ahead of it.
func (c *Core) setApplied(s history.Seq) {
	c.mu.Lock()
	c.applied, c.taken = s, s
	c.mu.Unlock()
}

// later runs work on the store that may block.
func (c *Core) later(f func(store.Store)) {
	s := c.store
	c.cfg.Run(func() { f(s) })
}

// failLater records a failure met outside Handle.
func (c *Core) failLater(err error) {
	c.mu.Lock()
	if c.broken == nil {
		c.broken = err
	}
	c.mu.Unlock()
}

// changed lists what changed after the request's Base, up to its snapshot Seq if
// it names one.
func (c *Core) changed(m *replication.Message, reply Reply) {
	id, span := m.ID, store.Span{Since: m.Base, Snapshot: m.Seq}
	c.later(func(s store.Store) {
		m := replication.Message{Type: replication.Extents, ID: id}
		var err error
		if span.Snapshot == 0 {
			m.Extents, err = s.Changed(span.Since)
		} else {
			m.Extents, err = s.ChangedIn(span)
		}
		if err != nil {
			m.Code, m.Text = snapshotCode(err), err.Error()
		}
		m.Extents = block.Set(m.Extents).Coarse(replication.MaxExtents)
		reply(m)
	})
}

func (c *Core) flush(id uint64, reply Reply) {
	c.noteFlush()
	c.later(func(s store.Store) {
		m := replication.Message{Type: replication.Done, ID: id}
		if mutant.On(mutant.FlushInMemory) {
			reply(m)
			return
		}
		if err := s.Flush(); err != nil {
			m.Code, m.Text = codeOf(err), err.Error()
			c.failLater(fmt.Errorf("flush: %w", err))
		}
		reply(m)
	})
}

func (c *Core) read(conn ConnID, m *replication.Message, reply Reply) bool {
	if c.rec.Membership != replication.Member || m.Extent.Len == 0 || m.Extent.Len > replication.MaxData || (m.Base == 0 && m.Extent.End() > c.store.Info().Size) {
		return c.bad(m, reply)
	}
	id, e, of, kept := m.ID, m.Extent, m.Base, m.Flags&replication.FlagFrozen != 0
	c.later(func(s store.Store) {
		own := buffer.Get(int(e.Len))
		buf, r := own.B, replication.Message{Type: replication.Data, ID: id, Extent: e}
		var damage block.Set
		var err error
		switch {
		case kept:
			err = c.readFrozen(buf, e)
		case of == 0:
			damage, err = c.readAt(s, buf, e)
		default:
			err = c.readSnapshot(s, of, buf, e)
		}
		if err != nil {
			r.Code = snapshotCode(err)
		} else {
			r.Bufs, r.Own = [][]byte{buf}, own
		}
		c.mu.Lock()
		r.Seq = c.taken
		stale := c.current != conn
		c.mu.Unlock()
		if stale {
			return
		}
		c.Damaged(damage)
		reply(r)
	})
	return true
}

func (c *Core) tailOp(m *replication.Message, reply Reply) {
	r := replication.Message{Type: replication.TailOp, ID: m.ID, Seq: m.Seq}
	op, ok := c.tail.get(m.Seq)
	if !ok {
		r.Code = replication.ErrGone
	} else {
		r.SetOp(op)
	}
	reply(r)
}
