package replica

import (
	"errors"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/internal/mutant"
	"github.com/cask-storage/cask/pkg/replication"
	"github.com/cask-storage/cask/pkg/store"
)

// frozen is the content of one place of the history, kept to be compared with
// what other replicas have of it.
type frozen struct {
	store.Frozen
	lost block.Set // it is not that there
}

var errNotFrozen = errors.New("nothing is frozen")

// freeze keeps the content as it is at this place of the stream.
func (c *Core) freeze(m *replication.Message, reply Reply) bool {
	if c.rec.Membership != replication.Member || c.rec.History.Last() != m.Epoch || m.Seq != c.applied {
		return c.bad(m, reply)
	}
	c.thaw()
	if id := m.ID; mutant.On(mutant.FrozenAnywhere) {
		c.cfg.Run(func() { c.keep(id, reply) })
	} else {
		c.keep(id, reply)
	}
	return true
}

// keep freezes the content and answers.
func (c *Core) keep(id uint64, reply Reply) {
	r := replication.Message{Type: replication.Done, ID: id}
	x, ok := c.store.(store.Comparer)
	if !ok {
		r.Code, r.Text = replication.ErrRequest, "its store cannot be compared"
		reply(r)
		return
	}
	f, err := x.Freeze()
	if err != nil {
		r.Code, r.Text = codeOf(err), err.Error()
	} else {
		c.mu.Lock()
		c.frozen = &frozen{Frozen: f, lost: c.lost}
		c.mu.Unlock()
	}
	reply(r)
}

// thaw gives up what is frozen; what reads it goes on to its end.
func (c *Core) thaw() {
	c.mu.Lock()
	f := c.frozen
	c.frozen = nil
	c.mu.Unlock()
	if f == nil {
		return
	}
	c.cfg.Run(func() {
		if err := f.Close(); err != nil {
			c.cfg.Logf("give up what was frozen: %v", err)
		}
	})
}

// content is what is frozen, if anything is.
func (c *Core) content() (*frozen, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.frozen == nil {
		return nil, errNotFrozen
	}
	return c.frozen, nil
}

// digest says what a part of what is frozen is.
func (c *Core) digest(m *replication.Message, reply Reply) {
	r := replication.Message{Type: replication.Digests, ID: m.ID}
	e, piece := m.Extent, m.Size
	c.cfg.Run(func() {
		f, err := c.content()
		var ds []store.Digest
		if err == nil {
			ds, err = f.Digests(e, piece)
		}
		if err != nil {
			r.Code, r.Text = codeOf(err), err.Error()
		} else {
			r.Bufs = [][]byte{replication.EncodeDigests(ds)}
		}
		reply(r)
	})
}

// readFrozen is a read of what is frozen.
func (c *Core) readFrozen(buf []byte, e block.Extent) error {
	f, err := c.content()
	if err != nil {
		return err
	}
	if f.lost.Overlaps(e) && !mutant.On(mutant.FrozenLost) {
		return store.ErrCorrupt
	}
	return f.ReadAt(buf, e.Off)
}
