package volume

import (
	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/history"
	"github.com/cask-storage/cask/pkg/internal/mutant"
)

// A host that was told that a write is done counts on its next flush to cover
// it. When a recovery may have lost such writes, no session from before may get
// an answer any more: its flush would succeed, and what is gone be taken for
// stable. So the record says, before the recovery goes on, that those sessions
// are over; each request names the session that it belongs to.

// Session names the sessions that begin now, and reports whether that is known:
// not before recovery has chosen.
func (c *Core) Session() (history.Epoch, bool) { return c.rec.Lost, c.sole && c.phase != Stopped }

// endSessions records that all sessions are over, in this epoch. A target that
// dies between this and the end of its recovery is followed by one that does it
// again, in its own.
func (c *Core) endSessions() {
	if mutant.On(mutant.SessionInMemory) {
		next := c.rec
		next.Lost = c.rec.Epoch
		c.adopt(next)
		return
	}
	if c.calling {
		return // advance comes back here
	}
	next := c.rec
	next.Lost = c.rec.Epoch
	c.phase = Breaking
	c.act(Action{Kind: ActSwap, Old: c.rec, Next: next})
}

// sessionsEnded goes on with the recovery. What was heard meanwhile counts.
func (c *Core) sessionsEnded() {
	next := c.rec
	next.Lost = c.rec.Epoch
	c.adopt(next)
	c.phase = Fencing
}

// adopt takes a record over. Requests of sessions that are over by it end; none
// is under way elsewhere than among those that wait.
func (c *Core) adopt(rec Record) {
	over := rec.Lost != c.rec.Lost
	c.rec = rec
	if over && !mutant.On(mutant.WaitingKept) {
		c.endWaiting(block.ErrSessionOver)
	}
}

// endWaiting completes what waits.
func (c *Core) endWaiting(err error) {
	for _, rs := range [][]*Request{c.waiting, c.reads.waiting, c.flushes.waiting} {
		for _, r := range rs {
			c.complete(r, err)
		}
	}
	c.waiting, c.reads.waiting, c.flushes.waiting = nil, nil, nil
}
