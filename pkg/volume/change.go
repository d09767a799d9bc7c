package volume

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cask-storage/cask/pkg/internal/mutant"
	"github.com/cask-storage/cask/pkg/quorum"
	"github.com/cask-storage/cask/pkg/replication"
)

// change is one step of the record: a voter more or less, another level, or
// another zone. From its beginning until its outcome is known every operation,
// flush and lease needs a write quorum of both systems, since a recovery may
// find either. Before it is swapped in, a write quorum of the new system has
// everything that was acknowledged, in stable storage.
type change struct {
	next     Record
	sys, old quorum.System
	why      string
	ids      map[quorum.ReplicaID]uint64 // Flushes sent and not answered
	done     map[quorum.ReplicaID]bool
	swapping bool // the swap was asked for: it may have happened
	retryAt  Time // ask what has become of it; 0: an answer is due
}

// advanceChange begins a change when one is due and moves the one under way.
func (c *Core) advanceChange() {
	if c.cfg.Layout == nil || !c.rec.Initialized || c.phase != Joining && c.phase != Serving {
		return
	}
	if c.change == nil {
		c.propose()
	}
	ch := c.change
	switch {
	case ch == nil:
	case ch.swapping:
		if ch.retryAt != 0 && c.now >= ch.retryAt && !c.calling {
			ch.retryAt = 0
			c.act(Action{Kind: ActLoad})
		}
	case !ch.sys.Write(c.synced):
		c.change, c.sys = nil, ch.old
	default:
		c.prepare(ch)
	}
}

// prepare makes what was acknowledged stable on the new voters, then swaps.
func (c *Core) prepare(ch *change) {
	for _, p := range c.peers {
		if _, asked := ch.ids[p.id]; p.state == synced && !asked && !ch.done[p.id] {
			ch.ids[p.id] = c.id()
			c.send(p, replication.Message{Type: replication.Flush, ID: ch.ids[p.id]})
		}
	}
	stable := ch.sys.Write(func(id quorum.ReplicaID) bool { return ch.done[id] })
	if !stable && !mutant.On(mutant.NoChangeFlush) && !mutant.On(mutant.NewVotersBehind) || c.calling {
		return
	}
	if mutant.On(mutant.LevelUnsaid) && slices.Equal(ch.next.Voters, c.rec.Voters) {
		c.sys, ch.swapping = ch.sys, true
		return
	}
	ch.swapping = true
	c.act(Action{Kind: ActSwap, Old: c.rec, Next: ch.next})
	if mutant.On(mutant.TwoChanges) {
		c.change, c.sys = nil, ch.old
	}
}

// flushedChange notes the answer to a Flush and reports whether it was one of
// the change's.
func (c *Core) flushedChange(p *peer, m replication.Message) bool {
	ch := c.change
	if ch == nil || ch.ids[p.id] == 0 || ch.ids[p.id] != m.ID {
		return false
	}
	delete(ch.ids, p.id)
	ch.done[p.id] = m.Code == replication.OK
	return true
}

// changeSwapped is the answer to the swap.
func (c *Core) changeSwapped(err error) {
	ch := c.change
	switch {
	case err == nil:
		c.changed(ch)
	case mutant.On(mutant.DoubtForgotten):
		c.change, c.sys = nil, ch.old
	case errors.Is(err, ErrDenied) && mutant.On(mutant.DenialTaken):
		c.changed(ch)
	case errors.Is(err, ErrDenied):
		// The layout was changed under this target, and will be told to it.
		c.change, c.sys, c.noAdd = nil, ch.old, c.now+c.cfg.Timing.Retry
	case errors.Is(err, ErrConflict):
		ch.retryAt = c.now
	default:
		ch.retryAt = c.now + c.cfg.Timing.Retry
	}
}

// changeLoaded looks for the outcome of a swap in the record.
func (c *Core) changeLoaded(rec Record, err error) {
	ch := c.change
	switch {
	case err != nil:
		ch.retryAt = c.now + c.cfg.Timing.Retry
	case rec.Equal(ch.next):
		c.changed(ch)
	case rec.Equal(c.rec):
		c.act(Action{Kind: ActSwap, Old: c.rec, Next: ch.next})
	case rec.Holder != c.cfg.Instance:
		c.halt(fmt.Errorf("target %s of volume %s has taken over with epoch %d: %w", rec.Holder, c.cfg.Volume, rec.Epoch, ErrSuperseded))
	default:
		c.halt(fmt.Errorf("the record of volume %s was changed by hand: it is %+v, this target wrote %+v; the next target goes by what it says: %w",
			c.cfg.Volume, rec, c.rec, ErrSuperseded))
	}
}

// changed puts a change into effect.
func (c *Core) changed(ch *change) {
	c.rec, c.sys, c.change = ch.next, ch.sys, nil
	c.follow()
	c.tryCommit()
}

// propose begins the first step towards the layout that the replicas in sync
// allow now.
func (c *Core) propose() {
	for _, s := range c.steps() {
		sys, err := s.next.config().System()
		if err != nil || !sys.Write(c.synced) && !mutant.On(mutant.NewVotersBehind) {
			continue
		}
		s.sys, s.old = sys, c.sys
		s.ids, s.done = map[quorum.ReplicaID]uint64{}, map[quorum.ReplicaID]bool{}
		switch {
		case mutant.On(mutant.ChangeEarly):
			c.sys = sys
		case !mutant.On(mutant.NotJoint):
			c.sys = quorum.Joint(c.sys, sys)
		}
		c.change = &s
		return
	}
}

// steps lists what could be done next: what keeps I/O going first.
func (c *Core) steps() (out []change) {
	l := c.cfg.Layout
	spare := len(c.rec.Voters) > l.Floor()
	if spare && !(c.sys.Write(c.synced) && c.sys.Recover(c.synced)) {
		out = c.evictions(l.Floor())
	}
	if c.phase != Serving {
		return out
	}
	for _, id := range l.Replicas {
		if p := c.peer(id); p.state == synced && !slices.Contains(c.rec.Voters, id) && c.now >= c.noAdd {
			out = append(out, change{next: l.with(c.rec, id), why: fmt.Sprintf("replica %s begins to vote", id)})
		}
	}
	if next := l.withLevel(c.rec); !next.Equal(c.rec) {
		out = append(out, change{next: next, why: fmt.Sprintf("the level becomes %s %s", next.Level, next.Zone)})
	}
	for _, id := range c.rec.Voters {
		if !slices.Contains(l.Replicas, id) && spare {
			out = append(out, change{next: c.rec.without(id), why: fmt.Sprintf("replica %s leaves the volume", id)})
		}
	}
	return out
}

// evictions lists the voters that could be removed because they failed: one,
// or if that does not help all of them.
func (c *Core) evictions(floor int) (out []change) {
	all, n := c.rec, 0
	for _, p := range c.voters {
		if c.gone(p) {
			out = append(out, change{next: c.rec.without(p.id), why: fmt.Sprintf("replica %s stops voting: %s", p.id, p.state)})
			all, n = all.without(p.id), n+1
		}
	}
	if n > 1 && len(all.Voters) >= floor {
		out = append(out, change{next: all, why: fmt.Sprintf("%d replicas stop voting", n)})
	}
	return out
}

// gone reports whether a voter has been out of sync for long. One that catches
// up from the backlog will be back sooner than a change would take.
func (c *Core) gone(p *peer) bool {
	return p.state != synced && p.state != joining && c.now-max(p.syncedAt, c.fencedAt) > c.cfg.Timing.Evict
}

// noteSynced remembers when each replica was last in sync.
func (c *Core) noteSynced() {
	for _, p := range c.peers {
		if p.state == synced {
			p.syncedAt = c.now
		}
	}
}
