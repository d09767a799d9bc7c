package volume

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/history"
	"github.com/cask-storage/cask/pkg/internal/mutant"
	"github.com/cask-storage/cask/pkg/quorum"
	"github.com/cask-storage/cask/pkg/replication"
)

// ErrSuperseded ends a target whose epoch is no longer the highest.
var ErrSuperseded = errors.New("epoch is superseded")

func (p *peer) membership() replication.Membership {
	if p.state != heard {
		return replication.Failed
	}
	return replication.Membership(p.st.Kind)
}

// member reports whether what the peer holds is a prefix of the history.
func (c *Core) member(p *peer) bool {
	m := p.membership()
	return m == replication.Member || (m == replication.Fresh && (!c.rec.Initialized || mutant.On(mutant.EmptyCounts)))
}

// kept reports whether the peer, which is being rebuilt, has kept the prefix
// that it gave up for that. It has acknowledged nothing since.
func (p *peer) kept() bool {
	return p.membership() == replication.Rebuilding && p.st.Flags&replication.FlagKept != 0
}

// holds reports whether a prefix of the history is there, as what the peer
// holds or as what it has kept.
func (c *Core) holds(p *peer) bool { return c.member(p) || p.kept() }

// counts reports whether the peer surely still holds all it acknowledged.
func (c *Core) counts(p *peer) bool {
	return c.holds(p) && (p.st.Flags&replication.FlagSuspect == 0 || mutant.On(mutant.SuspectCounts))
}

// of turns a predicate of peers into one of voters.
func (c *Core) of(f func(*peer) bool) func(quorum.ReplicaID) bool {
	return func(id quorum.ReplicaID) bool { return f(c.peer(id)) }
}

// unheard reports whether a voter's state is not known yet.
func unheard(p *peer) bool { return p.state < heard }

// every asks all voters.
func (c *Core) every(f func(*peer) bool) bool {
	return !slices.ContainsFunc(c.voters, func(p *peer) bool { return !f(p) })
}

// choose picks the longest history once enough voters have promised.
func (c *Core) choose() {
	eligible, grace, unclean := c.counts, c.cfg.Timing.Grace, ""
	if !c.recoverable() {
		clean := func(p *peer) bool { return c.counts(p) || unheard(p) }
		if c.sys.Recover(c.of(clean)) || !c.lastResort() {
			c.chooseAt = 0
			return
		}
		eligible, grace = c.holds, c.cfg.Timing.UncleanGrace
		unclean = "too many replicas lost their memory or their data at once; the volume was reopened from the best copy: " +
			"writes that were acknowledged and not flushed may be missing. What had the volume open gets I/O errors; " +
			"restart the pods that use it, and have the applications check their data"
	}
	best := c.best(eligible)
	if best.kept() {
		grace = c.cfg.Timing.UncleanGrace // a return costs what was rebuilt
	}
	if c.every(func(p *peer) bool { return !unheard(p) }) {
		grace = 0
	}
	if c.chooseAt == 0 || c.chooseAt > c.now+grace {
		c.chooseAt = c.now + grace
	}
	switch {
	case c.now < c.chooseAt:
	case unclean != "" && c.rec.Lost != c.rec.Epoch && !mutant.On(mutant.SessionKept):
		c.endSessions()
	case best.kept() && !mutant.On(mutant.KeepUnreturned):
		c.chooseAt = 0
		c.sendBack(best)
	default:
		c.chosen(best, unclean)
	}
}

// sendBack has a replica be what it kept when its rebuild began. It is heard
// anew then; recovery goes on with others meanwhile, should they turn up.
func (c *Core) sendBack(p *peer) {
	p.state, p.back = returning, c.id()
	c.send(p, replication.Message{Type: replication.Return, ID: p.back})
}

// recoverable reports whether the voters heard that surely hold all they
// acknowledged include one of every write quorum, those with a voter that missed
// the newest epoch that one of them began left out. Who began that has all that was
// acknowledged before it, and who missed it has acknowledged nothing since.
func (c *Core) recoverable() bool {
	if mutant.On(mutant.RecoverFromOne) {
		return slices.ContainsFunc(c.voters, c.counts)
	}
	var newest history.Epoch
	for _, p := range c.voters {
		if c.counts(p) || mutant.On(mutant.MissedAlone) && slices.ContainsFunc(c.voters, c.counts) {
			newest = max(newest, c.begun(p))
		}
	}
	return c.sys.Recover(c.of(func(p *peer) bool {
		missed := c.begun(p) > 0 && c.begun(p) < newest
		return c.counts(p) || missed
	}))
}

// begun is the last epoch in which the peer, heard as a member, began to count;
// 0 when that is not known.
func (c *Core) begun(p *peer) history.Epoch {
	if p.membership() != replication.Member {
		return 0
	}
	return p.st.Epoch
}

// lastResort reports whether the prefixes heard of are enough to reopen from
// although memory was lost: they include all that was flushed, or nobody else
// is left to ask.
func (c *Core) lastResort() bool {
	if c.sys.Recover(c.of(c.holds)) {
		return true
	}
	return c.every(func(p *peer) bool { return !unheard(p) && !p.comesBack() }) && slices.ContainsFunc(c.voters, c.holds)
}

// comesBack reports whether a replica has failed for a while only: what it holds
// is still there.
func (p *peer) comesBack() bool {
	return p.state == failed && (p.reason == replication.ErrNoSpace || p.reason == replication.ErrBusy)
}

func (c *Core) best(eligible func(*peer) bool) *peer {
	var best *peer
	for _, p := range c.voters {
		if eligible(p) && (best == nil || position(best).Less(position(p)) || best.kept() && !position(p).Less(position(best))) {
			best = p
		}
	}
	return best
}

func position(p *peer) history.Position {
	if p.kept() {
		return history.Position{Epoch: p.st.Epoch, Seq: p.st.Base}
	}
	if mutant.On(mutant.LongestSeq) {
		return history.Position{Seq: p.st.Seq}
	}
	return history.Position{Epoch: p.st.History.Last(), Seq: p.st.Seq}
}

// chosen makes the best replica's history this epoch's.
func (c *Core) chosen(best *peer, unclean string) {
	c.unclean, c.fencedAt, c.sole = unclean, c.now, true
	c.last, c.commit, c.snapped = best.st.Seq, best.st.Seq, 0
	c.size.last = best.st.Size
	c.hist = extend(best.st.History, history.Entry{Epoch: c.rec.Epoch, First: c.last + 1})
	low := c.last
	for _, p := range c.voters {
		if c.member(p) && c.common(p) == p.st.Seq && p.st.Seq+1 >= best.st.Tail {
			low = min(low, p.st.Seq)
		}
	}
	c.log = backlog{first: low + 1}
	c.tail = tailing{from: best, next: low + 1}
	c.phase = Tailing
	c.waiting = append(c.flushes.lostWrites(c.last), c.waiting...)
	if mutant.On(mutant.TailForgotten) {
		c.last, c.commit = low, low
		c.hist = extend(best.st.History.At(low), history.Entry{Epoch: c.rec.Epoch, First: low + 1})
	}
}

// lostWrites are the writes that wait to be stable and that recovery has lost: they
// are to be done again, or a later flush would acknowledge them.
func (f *flushes) lostWrites(last history.Seq) (lost []*Request) {
	f.waiting = slices.DeleteFunc(f.waiting, func(r *Request) bool {
		if r.Op == block.OpFlush || r.seq <= last {
			return false
		}
		lost = append(lost, r)
		return true
	})
	return lost
}

// extend appends e, dropping the entries that never got an operation and, past
// the bound, the oldest: a replica that is compared with those is rebuilt in
// full.
func extend(h history.History, e history.Entry) history.History {
	h = slices.Clone(h)
	for len(h) > 0 && h[len(h)-1].First == e.First {
		h = h[:len(h)-1]
	}
	if n := len(h) - replication.MaxHistory + 1; n > 0 {
		h = h[n:]
	}
	return append(h, e)
}

// common is the last operation that a peer has in common with the history.
func (c *Core) common(p *peer) history.Seq {
	return history.Common(p.st.History, p.st.Seq, c.hist, c.last)
}

// tailing is the transfer of the best replica's last operations into the
// backlog.
type tailing struct {
	from *peer
	next history.Seq // to ask for
	got  history.Seq // all before it have come
}

func (c *Core) fetchTail() {
	t := &c.tail
	if t.got == 0 {
		t.got = t.next
	}
	for t.next <= c.last && t.next < t.got+tailDepth {
		c.send(t.from, replication.Message{Type: replication.Tail, ID: uint64(t.next), Seq: t.next})
		t.next++
	}
	if t.got > c.last {
		c.phase, c.tail = Joining, tailing{}
	}
}

func (c *Core) onTailOp(p *peer, m replication.Message) {
	if c.phase != Tailing || p != c.tail.from || m.Seq != c.tail.got {
		return
	}
	if m.Code != replication.OK {
		c.reacquire(fmt.Sprintf("replica %s no longer has operation %d: %v", p.id, m.Seq, m.Code))
		return
	}
	c.log.append(entry{seq: m.Seq, kind: m.Kind, base: m.Base, extent: m.Extent, bufs: m.Bufs})
	c.tail.got++
}

// joinAll lets every replica that was heard catch up if the backlog reaches
// back far enough; the others wait for a rebuild.
func (c *Core) joinAll() {
	for _, p := range c.peers {
		switch {
		case p.state != heard || !c.catchable(p):
		case !c.fits(p):
			c.fail(p, replication.ErrForeign, fmt.Sprintf("its volume has %d bytes, at operation %d it had %d", p.st.Size, p.st.Seq, c.sizeAt(p.st.Seq)))
		default:
			c.join(p)
		}
	}
}

// catchable reports whether the backlog holds all that the peer misses.
func (c *Core) catchable(p *peer) bool {
	m := p.membership()
	prefix := c.common(p) == p.st.Seq || mutant.On(mutant.DivergedCatchUp) && p.st.Seq <= c.last
	return (m == replication.Member || m == replication.Fresh) && prefix && p.st.Seq+1 >= c.log.first
}

// join sends what the peer misses, then has it begin to count.
func (c *Core) join(p *peer) {
	p.state, p.sent, p.acked = joining, p.st.Seq, p.st.Seq
	c.send(p, replication.Message{Type: replication.Adopt, ID: c.id(), History: c.hist, Size: c.sizeAt(p.st.Seq)})
	c.pump(p)
	c.beginPeer(p)
}

// beginPeer ends a peer's catching up, at this place of the stream.
func (c *Core) beginPeer(p *peer) {
	p.begin = c.id()
	c.send(p, replication.Message{Type: replication.Begin, ID: p.begin, Seq: p.sent, History: c.hist})
}
