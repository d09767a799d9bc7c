package volume

import (
	"cmp"
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
	if p.membership() != replication.Rebuilding || p.st.Extent.Len == 0 || p.st.Extent.Len > c.cfg.Size {
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
	theirs                    // at the source after base
	theirsLow                 // at the source after floor, for what was copied before
	own                       // at the replica after common, likewise: before it gives up what it knows of that
	listKinds
)

// list is one of them.
type list struct {
	id      uint64 // of the request under way
	have    bool
	extents []block.Extent
}

// ask requests a list, unless it is there, on its way, or not needed.
func (c *Core) ask(p *peer, k listKind, since history.Seq) {
	rb := c.rebuild
	l := &rb.lists[k]
	if k == theirsLow && (rb.resume.copied == 0 || mutant.On(mutant.ResumeStale)) || k == own && !rb.resume.diverged {
		l.have = true
	}
	if l.have || l.id != 0 {
		return
	}
	l.id = c.id()
	m := replication.Message{Type: replication.Changed, ID: l.id, Base: since}
	if p == rb.from {
		m.Seq = rb.leg.to.Seq
	}
	c.send(p, m)
}

// listed reports whether all lists have come.
func (rb *rebuild) listed() bool {
	return !slices.ContainsFunc(rb.lists[:], func(l list) bool { return !l.have })
}

func (c *Core) onExtents(p *peer, m replication.Message) {
	rb := c.rebuild
	if rb == nil || p != rb.to && p != rb.from {
		return
	}
	k := slices.IndexFunc(rb.lists[:], func(l list) bool { return l.id == m.ID && !l.have })
	if k < 0 || m.ID == 0 {
		return
	}
	if m.Code == replication.ErrNoSnapshot {
		c.reset(rb.to, goneSnapshot)
		return
	}
	if m.Code != replication.OK {
		c.fail(rb.to, m.Code, fmt.Sprintf("replica %s cannot list what changed: %s", p.id, m.Text))
		return
	}
	rb.lists[k].have, rb.lists[k].extents = true, m.Extents
}

// plan unites the lists: up to where an earlier rebuild came what changed
// since, beyond it what changed after base.
func (rb *rebuild) plan(size, chunk uint64) {
	if rb.planned {
		return
	}
	rb.planned, rb.chunk = true, chunk
	if mutant.On(mutant.OwnTailForgotten) {
		rb.lists[mine].extents = nil
	}
	low, high := block.Extent{Len: rb.resume.copied}, block.Extent{Off: rb.resume.copied, Len: size - rb.resume.copied}
	var all []block.Extent
	for k, within := range [listKinds]block.Extent{mine: high, theirs: high, theirsLow: low, own: low} {
		all = appendWithin(all, rb.lists[k].extents, within)
		rb.lists[k].extents = nil
	}
	rb.todo = united(all)
	for _, e := range rb.todo {
		rb.total += e.Len
	}
}

// appendWithin appends the parts of es that lie within w.
func appendWithin(all, es []block.Extent, w block.Extent) []block.Extent {
	for _, e := range es {
		off, end := max(e.Off, w.Off), min(e.End(), w.End())
		if off < end {
			all = append(all, block.Extent{Off: off, Len: end - off})
		}
	}
	return all
}

// united sorts and merges extents.
func united(all []block.Extent) (out []block.Extent) {
	slices.SortFunc(all, func(a, b block.Extent) int { return cmp.Compare(a.Off, b.Off) })
	for _, e := range all {
		if n := len(out); n > 0 && e.Off <= out[n-1].End() {
			out[n-1].Len = max(out[n-1].End(), e.End()) - out[n-1].Off
		} else {
			out = append(out, e)
		}
	}
	return out
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
