package replica

import (
	"fmt"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/internal/mutant"
	"github.com/cask-storage/cask/pkg/replication"
	"github.com/cask-storage/cask/pkg/store"
)

// maxPulls bounds what a target can have a replica fetch at once.
const maxPulls = 8

// Peers reaches other replicas of the volume.
type Peers interface {
	// Fetch sends m to the replica at addr and calls done once with the
	// answer or why there is none: later, within seconds, and while nobody
	// calls the Core.
	Fetch(addr string, m replication.Message, done func(replication.Message, error))
}

// pull fetches content from the source that the target names. The target keeps
// writes to that extent back until this is answered.
func (c *Core) pull(conn ConnID, m *replication.Message, reply Reply) bool {
	e := m.Extent
	if c.rec.Membership != replication.Rebuilding || !c.holds(e) {
		return c.bad(m, reply)
	}
	if c.cfg.Peers == nil || c.pulls >= maxPulls {
		reply(replication.Message{Type: replication.Done, ID: m.ID, Code: replication.ErrPeer, Text: "it fetches no more at once"})
		return true
	}
	id, epoch := m.ID, m.Epoch
	ask := replication.Message{Type: replication.Fetch, Epoch: epoch, ID: id, Seq: m.Seq, Extent: e, Volume: m.Volume, Replica: m.Replica}
	c.pulls++
	c.cfg.Peers.Fetch(m.Text, ask, func(r replication.Message, err error) {
		c.pulls--
		if c.store == nil || c.rec.Membership != replication.Rebuilding {
			return
		}
		if (!c.Current(conn) || c.rec.Promised != epoch) && !mutant.On(mutant.PullOutlives) {
			return // the writes that were kept back have been done
		}
		c.pulled(replication.Message{Type: replication.Done, ID: id}, e, answer{r, err}, reply)
	})
	return true
}

// holds checks what another process names as a part of the volume; an empty
// extent is one.
func (c *Core) holds(e block.Extent) bool {
	return e.Len <= replication.MaxData && e.End() <= c.store.Info().Size && e.Off%512 == 0 && e.Len%512 == 0
}

// answer is what came of a Fetch.
type answer struct {
	m   replication.Message
	err error
}

// pulled applies what was fetched and answers the target.
func (c *Core) pulled(done replication.Message, e block.Extent, a answer, reply Reply) {
	op := store.Op{Kind: store.Unmap, Extent: e}
	if len(a.m.Bufs) == 1 {
		op.Kind, op.Data = store.Write, a.m.Bufs[0]
	}
	switch {
	case a.err != nil:
		done.Code, done.Text = replication.ErrPeer, a.err.Error()
	case a.m.Type != replication.Data || a.m.Extent != e || op.Kind == store.Write && uint64(len(op.Data)) != e.Len:
		done.Code, done.Text = replication.ErrPeer, fmt.Sprintf("it was answered by %v: %s", a.m.Type, a.m.Text)
	case a.m.Code != replication.OK:
		done.Code, done.Text = a.m.Code, a.m.Text
	case e.Len > 0:
		unhealed, err := c.applyAll([]store.Op{op})
		if err == nil {
			err = c.overwritten([]replication.Message{{Type: replication.Copy, Extent: e}}, unhealed)
		}
		if err != nil {
			c.setFailed(fmt.Errorf("copy %v: %w", e, err))
			reply(c.state())
			return
		}
	}
	reply(done)
}

// fetch answers another replica's Fetch. It fences nobody, and gives content
// only that surely is what the target of that epoch believes is here.
func (c *Core) fetch(m *replication.Message, reply Reply) bool {
	r := replication.Message{Type: replication.Data, ID: m.ID, Extent: m.Extent}
	switch {
	case m.Volume != c.cfg.Volume || m.Replica != c.cfg.Replica:
		reply(c.refuse(m, replication.ErrForeign, fmt.Sprintf("this is replica %s of volume %s", c.cfg.Replica, c.cfg.Volume)))
		return false
	case c.store == nil || !c.holds(m.Extent):
		return c.bad(m, reply)
	case !c.sourceFor(m) && !mutant.On(mutant.FetchAny):
		r.Code = replication.ErrRequest
		reply(r)
	default:
		e := m.Extent
		c.later(func(s store.Store) {
			buf := make([]byte, e.Len)
			damage, err := c.readAt(s, buf, e)
			c.Damaged(damage)
			if err != nil {
				r.Code = codeOf(err)
			} else if !replication.Zero(buf) {
				r.Bufs = [][]byte{buf}
			}
			reply(r)
		})
	}
	return true
}

// sourceFor reports whether what is here is what the target of m's epoch
// counts on: since its Begin nothing was lost, and no newer one has come.
func (c *Core) sourceFor(m *replication.Message) bool {
	return c.rec.Membership == replication.Member && !c.rec.Suspect && c.rec.Promised == m.Epoch &&
		c.rec.History.Last() == m.Epoch && c.applied >= m.Seq
}
