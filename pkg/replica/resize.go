package replica

import (
	"errors"
	"fmt"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/internal/mutant"
	"github.com/cask-storage/cask/pkg/replication"
	"github.com/cask-storage/cask/pkg/store"
)

// errRoomless is of a failure that no space within the extent would have
// prevented.
var errRoomless = errors.New("make room for a volume")

// makeRoom has the extent grow for a volume of size bytes.
func (c *Core) makeRoom(s store.Store, size uint64) error {
	c.mu.Lock()
	enough := size <= c.room
	c.mu.Unlock()
	if enough || c.cfg.Grow == nil || size <= s.Info().Size {
		return nil
	}
	if err := c.cfg.Grow(s, size); err != nil {
		return fmt.Errorf("%w of %d bytes: %w", errRoomless, size, err)
	}
	c.mu.Lock()
	c.room = max(c.room, size)
	c.mu.Unlock()
	return nil
}

// grow makes room, so that the volume can grow later. Without it the replica
// stays what it is.
func (c *Core) grow(m *replication.Message, reply Reply) {
	id, size := m.ID, m.Size
	if mutant.On(mutant.SizeUnordered) && size > c.store.Info().Size {
		_ = c.store.Apply([]store.Op{{Kind: store.Rebase, Seq: c.applied, Base: c.applied, Extent: block.Extent{Len: size}}})
	}
	c.later(func(s store.Store) {
		r := replication.Message{Type: replication.Done, ID: id}
		if err := c.makeRoom(s, size); err != nil {
			r.Code, r.Text = codeOf(err), err.Error()
		}
		reply(r)
	})
}

// resizes reports whether m is an operation that changes the size.
func resizes(m *replication.Message) bool {
	return m.Type == replication.Apply && store.Kind(m.Kind) == store.Resize
}

// roomFor makes room for what ops, of which the last one may resize, need: one
// that was not there when the target asked has none yet.
func (c *Core) roomFor(ops []store.Op) error {
	if mutant.On(mutant.ResizeRoomless) {
		return nil
	}
	return c.makeRoom(c.store, ops[len(ops)-1].Resized(0))
}

// rebase gives up what is not of the history up to m.Base, and takes the size
// that the volume has at m.Seq.
func (c *Core) rebase(m *replication.Message, kept []store.SnapshotInfo) error {
	to := m.Size
	if mutant.On(mutant.SizeKept) {
		to = 0
	}
	if to != 0 {
		if err := c.cutOff(to); err != nil {
			return err
		}
	}
	if err := c.makeRoom(c.store, to); err != nil {
		return err
	}
	ops := []store.Op{{Kind: store.Rebase, Seq: m.Seq, Base: m.Base, Extent: block.Extent{Len: to}}}
	return c.store.Apply(append(ops, c.others(kept)...))
}

// cutOff gives up what is beyond size, so that it can become that.
func (c *Core) cutOff(size uint64) error {
	is := c.store.Info().Size
	if size >= is {
		return nil
	}
	beyond := block.Extent{Off: size, Len: is - size}
	if err := c.overwritten([]replication.Message{{Extent: beyond}}, nil); err != nil {
		return err
	}
	return c.store.Apply([]store.Op{{Kind: store.Unmap, Extent: beyond}})
}

// takeSize gives an empty replica the size that the volume begins with.
func (c *Core) takeSize(m *replication.Message) error {
	if c.applied != 0 || m.Size == 0 || m.Size == c.store.Info().Size {
		return nil
	}
	if err := c.makeRoom(c.store, m.Size); err != nil {
		return err
	}
	return c.store.Apply([]store.Op{{Kind: store.Rebase, Extent: block.Extent{Len: m.Size}}})
}
