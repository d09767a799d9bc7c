package replica

import (
	"fmt"
	"sync"

	"github.com/cask-storage/cask/pkg/history"
	"github.com/cask-storage/cask/pkg/internal/mutant"
	"github.com/cask-storage/cask/pkg/replication"
	"github.com/cask-storage/cask/pkg/store"
)

// A member acknowledges a write when it has it in memory, in its place of the
// order; the store gets it right after that, together with those that came
// meanwhile. To a flush, and to a crash, it makes no difference whether a write
// that no flush covers is in the memory of this file or in the store's.
//
// So between taken and applied there is what is ahead of the store. Whatever is
// no plain change (a read, a flush, a promise, the end of the process) finds
// nothing ahead: CatchUp comes before it. After a flush the next write is likely
// to have one, too, and is applied while its acknowledgement is on the way. A
// store that fails what was acknowledged is a replica that has lost its memory:
// it fails, and is suspect when it comes back.

// The bounds of what is ahead, beside the batch that is being applied: beyond
// them operations wait to be acknowledged. More would not make a batch cheaper,
// and what comes when the store is slow waits for all of it.
const (
	maxAhead      = 64
	maxAheadBytes = 256 << 10
)

// ahead is what was acknowledged and not applied.
type ahead struct {
	turn sync.Mutex // of who applies

	// Guarded by Core.mu.
	ms    []replication.Message
	ops   []store.Op // of ms
	bytes int
	err   error // of the store: what is ahead can never be applied

	flushed bool // nothing was put ahead since the last flush
}

// accepts reports whether ms may be acknowledged before they are applied: what
// changes content and nothing else, on a member.
func (c *Core) accepts(ms []replication.Message) bool {
	if c.cfg.Soon == nil || c.rec.Membership != replication.Member {
		return false
	}
	for i := range ms {
		k := store.Kind(ms[i].Kind)
		if ms[i].Type != replication.Apply || k != store.Write && k != store.Unmap {
			return false
		}
	}
	return true
}

// accept acknowledges ms, which were checked and of which ops are the operations, as
// far as the bounds allow at once. It returns false when the store has failed what
// was ahead.
func (c *Core) accept(ms []replication.Message, ops []store.Op, reply Reply) bool {
	for len(ms) > 0 {
		n := c.putAhead(ms, ops)
		if n > 0 {
			reply(replication.Message{Type: replication.Applied, Seq: ms[n-1].Seq})
			ms, ops = ms[n:], ops[n:]
			continue
		}
		c.CatchUp()
		if c.noteAhead(); c.rec.Membership == replication.Failed {
			reply(c.state())
			return false
		}
	}
	return true
}

// putAhead puts the first of ms that there is room for ahead of the store, and
// returns how many; nothing ahead is room for any one.
func (c *Core) putAhead(ms []replication.Message, ops []store.Op) (n int) {
	c.mu.Lock()
	a := &c.ahead
	idle, again := len(a.ms) == 0, a.flushed
	a.flushed = false
	for n < len(ms) && (len(a.ms) == 0 || len(a.ms) < maxAhead && a.bytes+len(ops[n].Data) <= maxAheadBytes) {
		a.ms, a.ops = append(a.ms, ms[n]), append(a.ops, ops[n])
		a.bytes += len(ops[n].Data)
		c.taken = ops[n].Seq
		n++
	}
	c.mu.Unlock()
	if idle {
		c.cfg.Soon(again)
	}
	return n
}

// noteFlush remembers that a flush came, for what is put ahead next.
func (c *Core) noteFlush() {
	c.mu.Lock()
	c.ahead.flushed = true
	c.mu.Unlock()
}

// CatchUp applies what is ahead of the store. Any goroutine may call it.
func (c *Core) CatchUp() {
	c.ahead.turn.Lock()
	defer c.ahead.turn.Unlock()
	c.mu.Lock()
	ms, ops, err := c.ahead.ms, c.ahead.ops, c.ahead.err
	c.ahead.ms, c.ahead.ops, c.ahead.bytes = nil, nil, 0
	c.mu.Unlock()
	if len(ms) == 0 || err != nil {
		return
	}
	if _, err := c.perform(ms, ops); err != nil {
		err = fmt.Errorf("apply operations %d to %d, which were acknowledged: %w", ms[0].Seq, ms[len(ms)-1].Seq, err)
		c.mu.Lock()
		c.ahead.err = err
		c.mu.Unlock()
		c.failLater(err)
	}
}

// caughtUp has the store be what was acknowledged, or the replica fail. Only
// Handle and Close call it.
func (c *Core) caughtUp() {
	if !mutant.On(mutant.AheadUnseen) {
		c.CatchUp()
	}
	c.noteAhead()
}

// noteAhead has the replica fail when the store has failed what was ahead.
func (c *Core) noteAhead() {
	c.mu.Lock()
	err := c.ahead.err
	c.mu.Unlock()
	if err != nil && c.rec.Membership != replication.Failed {
		c.setFailed(err)
	}
}

// lastTaken is the last operation that was acknowledged, or is being applied.
func (c *Core) lastTaken() history.Seq {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.taken
}
