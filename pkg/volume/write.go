package volume

import (
	"fmt"
	"slices"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/history"
	"github.com/cask-storage/cask/pkg/internal/mutant"
	"github.com/cask-storage/cask/pkg/quorum"
	"github.com/cask-storage/cask/pkg/replication"
	"github.com/cask-storage/cask/pkg/store"
)

// entry is one numbered operation.
type entry struct {
	seq    history.Seq
	kind   uint8       // store.Kind
	base   history.Seq // DropSnapshot: of which operation
	extent block.Extent
	bufs   [][]byte
	req    *Request // nil once acknowledged, or of an earlier epoch
}

func (e *entry) size() int {
	n := 0
	for _, b := range e.bufs {
		n += len(b)
	}
	return n
}

// backlog holds the operations from first on without gaps: those not yet
// acknowledged, and those that replicas which are behind still need.
type backlog struct {
	first   history.Seq
	entries []entry
	bytes   int
}

func (b *backlog) append(e entry) {
	b.entries = append(b.entries, e)
	b.bytes += e.size()
}

func (b *backlog) full(m Bounds) bool {
	return b.bytes > m.BacklogBytes || len(b.entries) > m.BacklogOps
}

func (b *backlog) at(seq history.Seq) *entry { return &b.entries[seq-b.first] }

func (b *backlog) drop() {
	b.bytes -= b.entries[0].size()
	b.entries[0] = entry{}
	b.entries = b.entries[1:]
	b.first++
}

// window counts what is issued and not acknowledged.
type window struct{ ops, bytes int }

// issue numbers waiting writes and streams them, as far as the window and the
// extents being copied allow. Requests that wait have no order among them.
func (c *Core) issue() {
	c.slack.pass(c.now)
	if len(c.waiting) == 0 {
		return
	}
	kept := c.waiting[:0]
	for i, r := range c.waiting {
		if c.uncom.ops >= c.cfg.Bounds.WindowOps || c.uncom.bytes >= c.cfg.Bounds.WindowBytes || c.held() {
			kept = append(kept, c.waiting[i:]...)
			break
		}
		if !c.within(r) && c.leased() { // a newer target may have grown it since
			c.complete(r, block.ErrRange)
			continue
		}
		if !c.within(r) || c.copying(r.Extent) || c.repairing(r.Extent) {
			kept = append(kept, r)
			continue
		}
		c.number(r)
	}
	clear(c.waiting[len(kept):])
	c.waiting = kept
	for _, p := range c.peers {
		c.pump(p)
	}
	c.trim()
}

func (c *Core) number(r *Request) {
	c.last++
	r.seq = c.last
	e := entry{seq: c.last, kind: uint8(store.Unmap), extent: r.Extent, req: r}
	switch r.Op {
	case block.OpWrite:
		e.kind, e.bufs = uint8(store.Write), r.Bufs
	case OpSnapshot:
		e.kind, e.bufs = uint8(store.Snapshot), [][]byte{[]byte(r.Name)}
	case OpDropSnapshot:
		e.kind, e.base = uint8(store.DropSnapshot), r.Base
	}
	c.uncom.ops++
	c.uncom.bytes += e.size()
	c.slack.wrote(e.size())
	c.log.append(e)
	c.noteSnapshot(&e)
	c.overwritten(r.Extent)
}

// pump sends a peer all it has not been sent.
func (c *Core) pump(p *peer) {
	if !p.state.streaming() {
		return
	}
	if p.sent == p.acked {
		p.movedAt = c.now
	}
	for p.sent < c.last {
		e := c.log.at(p.sent + 1)
		c.send(p, replication.Message{Type: replication.Apply, Seq: e.seq, Kind: e.kind, Base: e.base, Extent: e.extent, Bufs: e.bufs})
		p.sent++
	}
}

func (c *Core) onApplied(p *peer, seq history.Seq) {
	if !p.state.streaming() || seq > p.sent || seq < p.acked {
		c.reset(p, fmt.Sprintf("it acknowledged operation %d out of turn", seq))
		return
	}
	p.acked, p.movedAt = seq, c.now
	c.tryCommit()
	c.trim()
}

// tryCommit acknowledges what a write quorum has.
func (c *Core) tryCommit() {
	for c.commit < c.last && c.committed(c.commit+1) {
		c.commit++
		e := c.log.at(c.commit)
		if store.Kind(e.kind) == store.Resize && c.phase == Serving {
			c.size.served = e.extent.End()
		}
		if e.req == nil {
			continue
		}
		c.uncom.ops--
		c.uncom.bytes -= e.size()
		c.pace.wrote(c.now - e.req.at)
		if (e.req.FUA || c.cfg.AlwaysDurable) && !mutant.On(mutant.FlushForgotten) {
			c.flushes.waiting = append(c.flushes.waiting, e.req)
		} else {
			c.complete(e.req, nil)
		}
		e.req = nil
	}
}

// committed reports whether a write quorum has operation seq.
func (c *Core) committed(seq history.Seq) bool {
	if mutant.On(mutant.AckEarly) {
		return slices.ContainsFunc(c.peers, func(p *peer) bool {
			return c.sys.Write(func(id quorum.ReplicaID) bool { return id == p.id || c.has(seq)(id) })
		})
	}
	return c.sys.Write(c.has(seq))
}

// has reports which voters count and have operation seq.
func (c *Core) has(seq history.Seq) func(quorum.ReplicaID) bool {
	return c.of(func(p *peer) bool {
		counts := p.state == synced || mutant.On(mutant.CatchUpCounts) && p.state.streaming()
		return counts && p.acked >= seq
	})
}

// trim forgets what no replica needs any more and, past the bound, cuts off
// the replicas that hold the rest up, unless writes wait for them.
func (c *Core) trim() {
	need := c.commit + 1 // the first operation that must stay
	for _, p := range c.peers {
		if p.state.streaming() {
			need = min(need, p.acked+1)
		} else {
			need = min(need, c.log.first)
		}
	}
	for len(c.log.entries) > 0 && c.log.first < need {
		c.log.drop()
	}
	for c.log.full(c.cfg.Bounds) && c.log.first <= c.commit {
		if c.waitsForSlow() || len(c.log.entries) == 0 { // none: every replica was lost
			return
		}
		c.log.drop()
	}
}

// unsettled reports whether an operation on e is not yet acknowledged, among
// those up to seq.
func (c *Core) unsettled(e block.Extent, seq history.Seq) history.Seq {
	for s := min(seq, c.last); s > c.commit; s-- {
		if c.log.at(s).extent.Overlaps(e) {
			return s
		}
	}
	return 0
}
