package replica

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/history"
	"github.com/cask-storage/cask/pkg/internal/mutant"
	"github.com/cask-storage/cask/pkg/replication"
	"github.com/cask-storage/cask/pkg/store"
)

// A block that rots cannot be read, and so not be changed in part either. The
// operation that does so must not fail, or the replica would be stuck before it:
// the block is first recorded as lost, then overwritten with zeroes, then
// changed. What was lost is answered with a medium error until it is written
// anew, by the host or by a repair; in a snapshot that is taken before, for ever.

const (
	maxLost   = 32   // extents that the record names: it must fit store.MaxMeta
	maxDamage = 4096 // extents remembered, and told at once; they get coarser beyond
)

// applyAll applies ops. It returns which of the copies among them, by index, did
// not help because more than content is rotten.
func (c *Core) applyAll(ops []store.Op) (unhealed map[int]bool, err error) {
	for at := 0; at < len(ops); {
		if err := c.willTake(ops[at:]); err != nil {
			return nil, err
		}
		err := c.store.Apply(ops[at:])
		var rotten *store.CorruptError
		if err == nil {
			break
		}
		if !errors.As(err, &rotten) {
			return nil, err
		}
		at += rotten.Done
		// A repair in part is not worth a place among what is lost that a host's
		// write may need.
		repair := ops[at].Seq == 0 && c.rec.Membership == replication.Member
		unnamed := len(rotten.Blocks) == 0
		switch {
		case repair && (unnamed || len(c.rec.Lost.With(rotten.Blocks...)) > maxLost/2):
			if unhealed == nil {
				unhealed = map[int]bool{}
			}
			unhealed[at] = true
			at++
		case !unnamed:
			if err := c.lose(rotten.Blocks); err != nil {
				return nil, err
			}
		default:
			return nil, err
		}
	}
	return unhealed, nil
}

// lose makes rotten blocks writable: from here on they are known not to be
// readable, whatever the store says.
func (c *Core) lose(blocks block.Set) error {
	c.rec.Lost = c.rec.Lost.With(blocks...)
	if err := c.fewLost(); err != nil {
		return err
	}
	c.mu.Lock()
	c.lost, c.damage, c.untold = c.rec.Lost, c.damage.With(blocks...), c.untold.With(blocks...)
	c.losses++
	c.mu.Unlock()
	if err := c.persist(); err != nil {
		return err
	}
	zero := make([]store.Op, 0, len(blocks))
	for _, e := range blocks {
		zero = append(zero, store.Op{Kind: store.Write, Extent: e, Data: make([]byte, e.Len)})
	}
	if err := c.store.Apply(zero); err != nil {
		return fmt.Errorf("overwrite rotten blocks %v: %w", blocks, err)
	}
	c.cfg.Logf("replica %s of volume %s: blocks %v are rotten and were to be changed in part: they are lost until they are repaired",
		c.cfg.Replica, c.cfg.Volume, blocks)
	return nil
}

// overwritten takes what ms have changed off the damage, and adds what they say is
// lost. The record follows with its next change, before a Begin is answered.
func (c *Core) overwritten(ms []replication.Message, unhealed map[int]bool) error {
	isLost := func(m replication.Message) bool {
		return m.Type == replication.Copy && m.Flags&replication.FlagLost != 0
	}
	if len(c.Damage()) == 0 && !slices.ContainsFunc(ms, isLost) {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, m := range ms {
		switch {
		case isLost(m):
			c.rec.Lost, c.damage = c.rec.Lost.With(m.Extent), c.damage.With(m.Extent)
		case !unhealed[i]:
			c.rec.Lost, c.damage = c.rec.Lost.Without(m.Extent), c.damage.Without(m.Extent)
		}
	}
	c.lost = c.rec.Lost
	var news block.Set
	for _, e := range c.untold {
		news = news.With(c.damage.Within(e)...)
	}
	c.untold = nil
	c.tellLocked(news)
	return c.fewLost()
}

// fewLost is an error when the record cannot name all that is lost.
func (c *Core) fewLost() error {
	if len(c.rec.Lost) <= maxLost {
		return nil
	}
	return fmt.Errorf("more than %d ranges are lost, replace the replica: %w", maxLost, store.ErrCorrupt)
}

// readAt reads e. When e is damaged it says which whole blocks are.
func (c *Core) readAt(s store.Store, buf []byte, e block.Extent) (block.Set, error) {
	for {
		_, before := c.lostNow()
		err := s.ReadAt(buf, e.Off)
		lost, after := c.lostNow()
		switch lost = lost.Within(e); {
		case before != after: // zeroes may have been read that are gone by now
		case errors.Is(err, store.ErrCorrupt):
			return lost.With(rottenIn(s, e)...), err
		case len(lost) > 0 && err == nil && !mutant.On(mutant.LostServed):
			return lost, fmt.Errorf("read of %v: %v is lost: %w", e, lost, store.ErrCorrupt)
		default:
			return nil, err
		}
	}
}

// lostIn is what a snapshot has zeroes of that are no content.
type lostIn struct {
	Seq  history.Seq
	Lost block.Set
}

// willTake notes what is lost in the snapshots that ops take, before they are
// there to be read.
func (c *Core) willTake(ops []store.Op) error {
	if len(c.rec.Lost) == 0 || !slices.ContainsFunc(ops, takes) {
		return nil
	}
	in := c.kept(func(x lostIn) bool { return x.Seq > c.applied })
	lost := c.rec.Lost
	for _, o := range ops {
		switch {
		case takes(o):
			in = slices.DeleteFunc(in, func(x lostIn) bool { return x.Seq == o.Seq })
			in = append(in, lostIn{o.Seq, lost})
		case o.Seq != 0: // the host writes there before the snapshot
			lost = lost.Without(o.Extent)
		}
	}
	if len(in) > maxLost {
		return fmt.Errorf("blocks are lost in more than %d snapshots, replace the replica: %w", maxLost, store.ErrCorrupt)
	}
	for i := range in {
		in[i].Lost = in[i].Lost.Coarse(maxLost / len(in))
	}
	c.setLostIn(in)
	return c.persist()
}

func takes(o store.Op) bool { return o.Kind == store.Snapshot }

// kept is LostIn of the snapshots that exist and of those that f wants.
func (c *Core) kept(f func(lostIn) bool) []lostIn {
	have := c.store.Snapshots()
	return slices.DeleteFunc(slices.Clone(c.rec.LostIn), func(x lostIn) bool {
		return !f(x) && !slices.ContainsFunc(have, func(s store.SnapshotInfo) bool { return s.Seq == x.Seq })
	})
}

// forgetSnapshots takes those that are gone off the record.
func (c *Core) forgetSnapshots() {
	if len(c.rec.LostIn) > 0 {
		c.setLostIn(c.kept(func(lostIn) bool { return false }))
	}
}

func (c *Core) setLostIn(in []lostIn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rec.LostIn, c.lostIn = in, in
}

// LostIn is what cannot be read of snapshot seq although the store can.
func (c *Core) LostIn(seq history.Seq) block.Set {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, x := range c.lostIn {
		if x.Seq == seq {
			return x.Lost
		}
	}
	return nil
}

// readSnapshot reads e of snapshot seq. What is lost in it is known before it
// can be read.
func (c *Core) readSnapshot(s store.Store, seq history.Seq, buf []byte, e block.Extent) error {
	if lost := c.LostIn(seq).Within(e); len(lost) > 0 && !mutant.On(mutant.LostServed) {
		return fmt.Errorf("read of %v of snapshot %d: %v is lost: %w", e, seq, lost, store.ErrCorrupt)
	}
	return s.ReadSnapshot(seq, buf, e.Off)
}

// lostNow returns what is lost and how often that grew.
func (c *Core) lostNow() (block.Set, int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lost, c.losses
}

// rottenIn lists the blocks around e that cannot be read.
func rottenIn(s store.Store, e block.Extent) (out block.Set) {
	info := s.Info()
	bs := uint64(info.BlockSize)
	one := make([]byte, 1)
	for off := e.Off - e.Off%bs; off < e.End(); off += bs {
		if err := s.ReadAt(one, off); errors.Is(err, store.ErrCorrupt) {
			out = out.With(block.Extent{Off: off, Len: min(bs, info.Size-off)})
		}
	}
	return out
}

// Damaged notes extents that cannot be read and tells the target, now and when
// another one has this replica begin. It may be called on any goroutine.
func (c *Core) Damaged(es block.Set) {
	if len(es) == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.damage = c.damage.With(es...).Coarse(maxDamage)
	c.tellLocked(es)
}

func (c *Core) tellLocked(es block.Set) {
	if c.reply != nil && len(es) > 0 {
		c.reply(replication.Message{Type: replication.Damage, Extents: es.Coarse(maxDamage)})
	}
}

// Damage is what is known not to be readable.
func (c *Core) Damage() block.Set {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.damage
}

// Lost is what cannot be read although the store can.
func (c *Core) Lost() block.Set {
	lost, _ := c.lostNow()
	return lost
}
