package volume

import (
	"fmt"
	"slices"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/history"
	"github.com/cask-storage/cask/pkg/internal/mutant"
	"github.com/cask-storage/cask/pkg/replication"
)

// resumption is where a rebuild that was broken off goes on. Chunks are copied
// in ascending order: below copied the replica differs from the history in
// what changed after floor, and in what it did itself after common.
type resumption struct {
	copied   uint64 // bytes; 0: nothing to go on from
	floor    history.Seq
	common   history.Seq
	diverged bool // it did operations after common that are not of this history
}

// resumption compares what a replica says of an earlier rebuild with the
// history.
func (c *Core) resumption(p *peer) resumption {
	if p.membership() != replication.Rebuilding || p.st.Extent.Len == 0 || p.st.Extent.Len > c.size.last {
		return resumption{}
	}
	r := resumption{copied: p.st.Extent.Len, common: history.Common(p.st.History, p.st.Mark, c.hist, c.last)}
	r.floor = min(p.st.Floor, r.common)
	r.diverged = r.common < p.st.Mark && !mutant.On(mutant.ResumeOwn)
	return r
}

// listKind names a list of what changed that a rebuild needs.
type listKind uint8

const (
	mine      listKind = iota // at the replica after base
	theirs                    // in the history after base
	theirsLow                 // in the history after floor, for what was copied before
	own                       // at the replica after common, likewise: before it gives up what it knows of that
	listKinds
)

// list is one of them: what all that answered have in common.
type list struct {
	asked   map[*peer]uint64 // by the ID of the question; 0: answered
	have    bool
	since   Time // the first was asked then,
	until   Time // and the others are waited for until then
	extents block.Set
}

// ask requests a list of p, unless p was asked, or the list is not needed.
func (c *Core) ask(p *peer, k listKind, since history.Seq) {
	rb := c.rebuild
	l := &rb.lists[k]
	if k == theirsLow && (rb.resume.copied == 0 || mutant.On(mutant.ResumeStale)) || k == own && !rb.resume.diverged {
		l.have = true
		return
	}
	if _, asked := l.asked[p]; asked {
		return
	}
	m := replication.Message{Type: replication.Changed, ID: l.ask(c, p), Base: since}
	if p != rb.to {
		m.Seq = rb.leg.to.Seq
	}
	c.send(p, m)
}

// ask notes that p is asked, and returns the question's ID.
func (l *list) ask(c *Core, p *peer) uint64 {
	if l.asked == nil {
		l.asked, l.since = map[*peer]uint64{}, c.now
	}
	l.asked[p] = c.id()
	return l.asked[p]
}

// askTheirs asks all that hold exactly the history, up to where the stream
// begins: the list of each has all that the history changed, and whatever else
// was written there, by a rebuild of its own for one. Only the former is in
// all of them.
func (c *Core) askTheirs(rb *rebuild) {
	for _, p := range c.peers {
		holds := p.state == synced && p.acked >= max(rb.start, rb.leg.to.Seq)
		if holds || p.state == heard && p.membership() == replication.Member && mutant.On(mutant.ListOfAny) {
			c.ask(p, theirs, rb.base)
			c.ask(p, theirsLow, rb.resume.floor)
		}
	}
}

// askAgain has a new source asked for lists that nobody could give.
func (rb *rebuild) askAgain() {
	for k := range rb.lists {
		if l := &rb.lists[k]; !l.have {
			delete(l.asked, rb.from)
		}
	}
}

// listed reports whether all lists have come. Once one replica has answered the
// others are waited for as long again and Retry, unless I/O waits.
func (c *Core) listed(rb *rebuild) bool {
	return !slices.ContainsFunc(rb.lists[:], func(l list) bool {
		return !l.have || c.now < l.until && !c.urgent() && l.waits()
	})
}

func (c *Core) onExtents(p *peer, m replication.Message) {
	rb := c.rebuild
	if rb == nil || rb.planned {
		return
	}
	k := slices.IndexFunc(rb.lists[:], func(l list) bool { return l.asked[p] == m.ID && m.ID != 0 })
	if k < 0 {
		return
	}
	l := &rb.lists[k]
	l.asked[p] = 0
	switch {
	case m.Code == replication.OK, mutant.On(mutant.ListFailed):
		l.add(c, m.Extents)
	case p != rb.to && p != rb.from: // the others' lists are enough
	case m.Code == replication.ErrNoSnapshot:
		c.reset(rb.to, goneSnapshot)
	default:
		c.fail(rb.to, m.Code, fmt.Sprintf("replica %s cannot list what changed: %s", p.id, m.Text))
	}
}

// waits reports whether someone has not answered.
func (l *list) waits() bool {
	for _, id := range l.asked {
		if id != 0 {
			return true
		}
	}
	return false
}

// add is one more answer.
func (l *list) add(c *Core, es []block.Extent) {
	s := block.SetOf(es...)
	if l.have {
		l.extents = l.extents.Common(s)
		return
	}
	l.have, l.extents = true, s
	l.until = c.now + (c.now - l.since) + c.cfg.Timing.Retry
}

// plan unites the lists: up to where an earlier rebuild came what changed
// since, beyond it what changed after base.
func (rb *rebuild) plan(chunk uint64) {
	if rb.planned {
		return
	}
	rb.planned, rb.chunk = true, chunk
	if mutant.On(mutant.OwnTailForgotten) {
		rb.lists[mine].extents = nil
	}
	low, high := block.Extent{Len: rb.resume.copied}, block.Extent{Off: rb.resume.copied, Len: rb.size - rb.resume.copied}
	var all block.Set
	for k, within := range [listKinds]block.Extent{mine: high, theirs: high, theirsLow: low, own: low} {
		all = append(all, rb.lists[k].extents.Within(within)...)
		rb.lists[k].extents = nil
	}
	rb.todo = block.SetOf(all...)
	rb.total += rb.todo.Bytes()
}

// note has the replica remember, from time to time, how far it was brought:
// the rebuild goes on from there should it be broken off. It waits for the
// chunks under way, and reports whether it does.
func (c *Core) note(rb *rebuild) bool {
	if rb.noteID != 0 {
		return true
	}
	if len(rb.todo) == 0 || rb.copied-rb.noted < c.cfg.Bounds.CopyNote {
		return false
	}
	upTo := rb.todo[0].Off
	if upTo < rb.resume.copied {
		if !mutant.On(mutant.ResumeExact) {
			return false
		}
		upTo = rb.resume.copied
	}
	if len(rb.chunks) > 0 && !mutant.On(mutant.ResumeInFlight) {
		return true
	}
	rb.noted, rb.noteID = rb.copied, c.id()
	c.send(rb.to, replication.Message{Type: replication.Copied, ID: rb.noteID, Extent: block.Extent{Len: upTo}})
	return true
}
