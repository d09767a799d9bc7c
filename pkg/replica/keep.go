package replica

import (
	"errors"
	"fmt"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/history"
	"github.com/cask-storage/cask/pkg/internal/mutant"
	"github.com/cask-storage/cask/pkg/replication"
	"github.com/cask-storage/cask/pkg/store"
)

// A member that is to be rebuilt keeps the prefix that it gives up until it
// counts again. It acknowledges nothing meanwhile: so what it keeps counts as it
// would, had no rebuild begun, and if the others lose more than they may it goes
// back to it. Its promises stay.

const (
	returnChunk = 256 << 10 // bytes brought back at once,
	returnStep  = 8 << 20   // and before the target is answered
)

// keptPrefix is what the store keeps.
type keptPrefix struct {
	mark history.Seq
	size uint64
	rec  record
}

// back is a return under way.
type back struct {
	listed bool // Core.mu guards it until it is set
	todo   []block.Extent
	lost   block.Set // of what was kept
}

// openKept takes over what the store keeps, or drops what means nothing: a
// rebuild was about to begin then, or had ended.
func (c *Core) openKept() error {
	k, ok := c.store.Kept()
	if !ok || !c.rec.Kept {
		c.rec.Kept = false
		return c.store.DropKept()
	}
	rec, err := unmarshalRecord(k.Meta, c.cfg.Identity)
	c.prefix = &keptPrefix{k.Mark, k.Size, rec}
	return err
}

// keepPrefix has the store keep what is here, before base is all that counts of it.
func (c *Core) keepPrefix(base history.Seq) error {
	if c.rec.Membership != replication.Member {
		c.rec.KeptBase = min(c.rec.KeptBase, base)
		return nil
	}
	c.rec.Kept, c.rec.KeptBase = false, base
	if err := c.persist(); err != nil { // what it says of losses may be old
		return err
	}
	_, has := c.store.Kept()
	if mutant.On(mutant.KeepForgotten) {
		return nil
	}
	if !has || !mutant.On(mutant.KeepForEver) {
		err := c.store.Keep()
		if errors.Is(err, store.ErrNoSpace) {
			c.cfg.Logf("replica %s of volume %s has no space to keep what it has while it is rebuilt: until that ends it counts for nothing: %v",
				c.cfg.Replica, c.cfg.Volume, err)
			return nil
		}
		if err != nil {
			return err
		}
	}
	c.rec.Kept = true
	return c.openKept()
}

// forgetKept is for a record that says Kept no more.
func (c *Core) forgetKept() {
	c.prefix, c.back = nil, nil
	if mutant.On(mutant.KeepForEver) {
		return
	}
	if err := c.store.DropKept(); err != nil {
		c.setFailed(fmt.Errorf("drop what was kept during the rebuild: %w", err))
	}
}

// giveWay gives up what is kept when a rebuild has no space: without it the
// rebuild can end, with it never.
func (c *Core) giveWay(err error) {
	if !errors.Is(err, store.ErrNoSpace) || errors.Is(err, errRoomless) || c.prefix == nil || c.back != nil {
		return
	}
	c.cfg.Logf("replica %s of volume %s has no space to be rebuilt and drops what it had kept: until the rebuild ends it counts for nothing",
		c.cfg.Replica, c.cfg.Volume)
	if err := c.store.DropKept(); err != nil {
		c.cfg.Logf("drop what was kept: %v", err)
	}
}

// keptState is what a replica that is rebuilt says of what it has kept.
func (c *Core) keptState(m *replication.Message) {
	if c.prefix == nil {
		return
	}
	m.Flags |= replication.FlagKept
	m.Epoch, m.Base = c.prefix.rec.History.At(c.prefix.mark).Last(), c.prefix.mark
	if c.prefix.rec.Suspect {
		m.Flags |= replication.FlagSuspect
	}
}

// goBack does a step of the way back to what was kept: first what has changed is
// listed, then it is brought back, then the replica is what it was. Nothing
// counts before: cut short anywhere, it goes back again, or is rebuilt from
// the lowest base.
func (c *Core) goBack(m *replication.Message, reply Reply) bool {
	if c.rec.Membership != replication.Rebuilding || c.prefix == nil {
		return c.bad(m, reply)
	}
	if !c.listedBack() {
		return c.listBack(m, reply)
	}
	b := c.back
	if mutant.On(mutant.ReturnHalf) {
		b.todo = b.todo[:len(b.todo)/2]
	}
	for done := uint64(0); done < returnStep && len(b.todo) > 0; {
		e := &b.todo[0]
		piece := block.Extent{Off: e.Off, Len: min(e.Len, returnChunk)}
		if err := c.bringBack(piece); err != nil {
			c.setFailed(fmt.Errorf("return of %v to what was kept: %w", piece, err))
			reply(c.state())
			return false
		}
		done += piece.Len
		if e.Off, e.Len = piece.End(), e.Len-piece.Len; e.Len == 0 {
			b.todo = b.todo[1:]
		}
	}
	if len(b.todo) > 0 {
		reply(replication.Message{Type: replication.Done, ID: m.ID})
		return true
	}
	if err := c.arrive(); err != nil {
		c.setFailed(fmt.Errorf("return to what was kept: %w", err))
	}
	reply(c.state())
	return c.rec.Membership != replication.Failed
}

func (c *Core) listedBack() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.back != nil && c.back.listed
}

// listBack begins a return. What the record says of a rebuild is true no more.
func (c *Core) listBack(m *replication.Message, reply Reply) bool {
	c.rec.Base, c.rec.Copied, c.rec.Floor, c.rec.Exact = c.rec.KeptBase, 0, 0, false
	err := c.persist()
	if err == nil {
		err = c.sizeBack()
	}
	if err != nil {
		c.setFailed(fmt.Errorf("return to what was kept: %w", err))
		reply(c.state())
		return false
	}
	b, id, all := &back{}, m.ID, block.Extent{Len: c.prefix.size}
	c.back = b
	c.later(func(s store.Store) {
		r := replication.Message{Type: replication.Done, ID: id}
		list, err := s.ChangedSinceKeep()
		if err != nil {
			r.Code, r.Text = codeOf(err), err.Error()
		} else {
			c.mu.Lock()
			b.todo, b.listed = block.Set(list).Within(all), true
			c.mu.Unlock()
		}
		reply(r)
	})
	return true
}

// sizeBack has all that was kept fit in, and nothing be beyond it. The size is
// that of what was kept with the mark, in the end.
func (c *Core) sizeBack() error {
	was := c.prefix.size
	if was <= c.store.Info().Size {
		return c.cutOff(was)
	}
	if err := c.makeRoom(c.store, was); err != nil {
		return err
	}
	defer c.forgetSnapshots()
	base := min(c.rec.Base, c.applied)
	return c.store.Apply([]store.Op{{Kind: store.Rebase, Seq: c.applied, Base: base, Extent: block.Extent{Len: was}}})
}

// bringBack makes the content of e what was kept. What of that cannot be read is
// lost.
func (c *Core) bringBack(e block.Extent) error {
	op := store.Op{Kind: store.Write, Extent: e, Data: make([]byte, e.Len)}
	err := c.store.ReadKept(op.Data, e.Off)
	if errors.Is(err, store.ErrCorrupt) {
		err = c.bringRecords(&op)
	}
	if err != nil {
		return err
	}
	if replication.Zero(op.Data) {
		op.Kind, op.Data = store.Unmap, nil
	}
	_, err = c.applyAll([]store.Op{op})
	return err
}

// bringRecords reads record by record.
func (c *Core) bringRecords(op *store.Op) error {
	bs := uint64(c.store.Info().BlockSize)
	for at := uint64(0); at < op.Extent.Len; at += bs {
		e := block.Extent{Off: op.Extent.Off + at, Len: min(bs, op.Extent.Len-at)}
		p := op.Data[at:][:e.Len]
		err := c.store.ReadKept(p, e.Off)
		if errors.Is(err, store.ErrCorrupt) {
			clear(p)
			c.back.lost = c.back.lost.With(e)
		} else if err != nil {
			return err
		}
	}
	return nil
}

// arrive makes the replica what it was, but for its promises and what it has lost.
func (c *Core) arrive() error {
	size := c.store.Info().Size
	if err := c.store.Return(); err != nil {
		return err
	}
	if mutant.On(mutant.ReturnSized) {
		_ = c.store.Apply([]store.Op{{Kind: store.Rebase, Seq: c.prefix.mark, Base: c.prefix.mark, Extent: block.Extent{Len: size}}})
	}
	rec := c.prefix.rec
	if !mutant.On(mutant.ReturnUnpromised) {
		rec.Promised = c.rec.Promised
	}
	if mutant.On(mutant.ReturnHistory) {
		rec.History = c.rec.History
	}
	rec.Lost, rec.KeptBase = rec.Lost.With(c.back.lost...), 0
	c.rec = rec
	if err := c.fewLost(); err != nil {
		return err
	}
	c.setApplied(c.prefix.mark)
	c.mu.Lock()
	c.lost, c.damage, c.lostIn = rec.Lost, c.damage.With(rec.Lost...), rec.LostIn
	c.losses++
	c.mu.Unlock()
	if err := c.persist(); err != nil {
		return err
	}
	c.tail.clear()
	c.forgetSnapshots()
	c.forgetKept()
	return nil
}
