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

// rebuild brings one replica up to date by blocks: those that changed, on
// either side, after the last operation the two have in common. The replica
// receives every new operation meanwhile; a chunk is read from the source and
// sent at one place in that stream, and writes to it wait for that moment.
type rebuild struct {
	to, from  *peer  // from is nil while there is no source
	stableID  uint64 // of the Flush that comes before to gives up its prefix
	base      history.Seq
	start     history.Seq // the stream begins after it
	listID    uint64      // of the request for the replica's own list
	sourceID  uint64      // of the request for the source's
	mine      []block.Extent
	theirs    []block.Extent
	haveMine  bool
	haveTheir bool
	todo      []block.Extent // nil until both lists are there
	planned   bool
	chunk     uint64 // bytes
	chunks    []*chunk
	total     uint64
	copied    uint64
}

type chunkState uint8

const (
	draining chunkState = iota // waits for earlier writes to it to reach the source
	reading                    // locked: being read from the source
	copying                    // sent; the stream keeps the order from here
)

type chunk struct {
	extent block.Extent
	state  chunkState
	id     uint64 // of the Read, then of the Copy
}

// copying reports whether a write to e must wait for a chunk.
func (c *Core) copying(e block.Extent) bool {
	return c.rebuild != nil && !mutant.On(mutant.NoChunkLock) && slices.ContainsFunc(c.rebuild.chunks, func(k *chunk) bool {
		return k.state != copying && k.extent.Overlaps(e)
	})
}

// lostSource takes back what the source was asked.
func (rb *rebuild) lostSource() {
	rb.from, rb.sourceID = nil, 0
	for _, k := range rb.chunks {
		if k.state == reading {
			k.state = draining
		}
	}
}

// advanceRebuild starts a rebuild when one is due and moves the one under way.
func (c *Core) advanceRebuild() {
	if c.rebuild == nil {
		c.startRebuild()
	}
	rb := c.rebuild
	if rb == nil || rb.to.begin != 0 || rb.stableID != 0 {
		return
	}
	if rb.from == nil {
		rb.from = c.source()
	}
	if rb.from == nil {
		return
	}
	if !rb.haveTheir && rb.sourceID == 0 && rb.from.acked >= rb.start {
		rb.sourceID = c.id()
		c.send(rb.from, replication.Message{Type: replication.Changed, ID: rb.sourceID, Base: rb.base})
	}
	if rb.haveMine && rb.haveTheir {
		rb.plan(c.cfg.Size, c.cfg.Bounds.CopyChunk)
		c.copyChunks(rb)
	}
}

// startRebuild picks the replica that holds least, once those that can catch
// up otherwise have.
func (c *Core) startRebuild() {
	var to *peer
	for _, p := range c.peers {
		if p.state == joining {
			return
		}
		if p.state == heard && p.membership() != replication.Blank && (to == nil || c.rank(p, to) < 0) {
			to = p
		}
	}
	from := c.source()
	if to == nil || from == nil {
		return
	}
	c.rebuild = &rebuild{to: to, from: from, stableID: c.id()}
	c.send(from, replication.Message{Type: replication.Flush, ID: c.rebuild.stableID})
}

// giveUp has the replica stop being a member: what it may be the other copy of
// is stable on the source by now.
func (c *Core) giveUp(rb *rebuild) {
	rb.stableID = 0
	rb.base, rb.start, rb.listID = c.common(rb.to), c.last, c.id()
	rb.to.state, rb.to.sent, rb.to.acked = rebuilding, c.last, c.last
	c.send(rb.to, replication.Message{Type: replication.Rebuild, ID: rb.listID, Base: rb.base, Seq: rb.start})
}

// rank orders replicas for being rebuilt: voters first, then by what their
// loss would cost: those that are no members, then the shortest history.
func (c *Core) rank(a, b *peer) int {
	voter := func(p *peer) int {
		if slices.Contains(c.voters, p) {
			return 0
		}
		return 1
	}
	member := func(p *peer) int {
		if p.membership() == replication.Member {
			return 1
		}
		return 0
	}
	pa, pb := position(a), position(b)
	return cmp.Or(cmp.Compare(voter(a), voter(b)), cmp.Compare(member(a), member(b)), cmp.Compare(pa.Epoch, pb.Epoch), cmp.Compare(pa.Seq, pb.Seq))
}

// source is a replica to copy from.
func (c *Core) source() *peer {
	for _, p := range c.peers {
		if p.state == synced {
			return p
		}
	}
	return nil
}

func (c *Core) onExtents(p *peer, m replication.Message) {
	rb := c.rebuild
	switch {
	case rb == nil:
	case p == rb.to && m.ID == rb.listID && m.Code == replication.OK:
		rb.mine, rb.haveMine = m.Extents, true
	case p == rb.from && m.ID == rb.sourceID && m.Code == replication.OK:
		rb.theirs, rb.haveTheir = m.Extents, true
	case p == rb.to && m.ID == rb.listID, p == rb.from && m.ID == rb.sourceID:
		text := fmt.Sprintf("replica %s cannot list what changed: %s", p.id, m.Text)
		c.fail(rb.to, m.Code, text)
	}
}

// plan unites the two lists.
func (rb *rebuild) plan(size, chunk uint64) {
	if rb.planned {
		return
	}
	rb.planned, rb.chunk = true, chunk
	if mutant.On(mutant.OwnTailForgotten) {
		rb.mine = nil
	}
	all := append(rb.mine, rb.theirs...)
	rb.mine, rb.theirs = nil, nil
	slices.SortFunc(all, func(a, b block.Extent) int { return cmp.Compare(a.Off, b.Off) })
	for _, e := range all {
		if e.Off >= size {
			continue
		}
		e.Len = min(e.Len, size-e.Off)
		if n := len(rb.todo); n > 0 && e.Off <= rb.todo[n-1].End() {
			rb.todo[n-1].Len = max(rb.todo[n-1].End(), e.End()) - rb.todo[n-1].Off
		} else {
			rb.todo = append(rb.todo, e)
		}
	}
	for _, e := range rb.todo {
		rb.total += e.Len
	}
}

// next cuts the next chunk off the plan.
func (rb *rebuild) next() *chunk {
	e := &rb.todo[0]
	k := &chunk{extent: block.Extent{Off: e.Off, Len: min(e.Len, rb.chunk)}}
	e.Off, e.Len = k.extent.End(), e.Len-k.extent.Len
	if e.Len == 0 {
		rb.todo = rb.todo[1:]
	}
	return k
}

func (c *Core) copyChunks(rb *rebuild) {
	for len(rb.chunks) < copyDepth && len(rb.todo) > 0 {
		rb.chunks = append(rb.chunks, rb.next())
	}
	for _, k := range rb.chunks {
		if k.state == draining && c.settledAt(rb.from, k.extent) {
			k.state, k.id = reading, c.id()
			c.send(rb.from, replication.Message{Type: replication.Read, ID: k.id, Extent: k.extent})
		}
	}
	if (len(rb.chunks) == 0 || mutant.On(mutant.BeginEarly)) && len(rb.todo) == 0 {
		c.beginPeer(rb.to)
	}
}

// settledAt reports whether p has every operation issued on e.
func (c *Core) settledAt(p *peer, e block.Extent) bool {
	for s := c.last; s > p.acked; s-- {
		if c.log.at(s).extent.Overlaps(e) {
			return false
		}
	}
	return true
}

// chunkRead passes what was read from the source on to the replica.
func (c *Core) chunkRead(p *peer, m replication.Message) {
	rb := c.rebuild
	for _, k := range rb.chunks {
		if k.state != reading || k.id != m.ID || p != rb.from {
			continue
		}
		if m.Code != replication.OK || uint64(m.DataLen()) != k.extent.Len {
			c.fail(rb.to, m.Code, fmt.Sprintf("it could not be rebuilt: replica %s failed to read %v: %v", p.id, k.extent, m.Code))
			return
		}
		bufs := m.Bufs
		if zero(bufs) {
			bufs = nil
		}
		k.state, k.id = copying, c.id()
		c.send(rb.to, replication.Message{Type: replication.Copy, ID: k.id, Extent: k.extent, Bufs: bufs})
		return
	}
}

// copied notes that a chunk has arrived.
func (c *Core) copied(m replication.Message) {
	rb := c.rebuild
	for i, k := range rb.chunks {
		if k.state == copying && k.id == m.ID {
			rb.copied += k.extent.Len
			rb.chunks = slices.Delete(rb.chunks, i, i+1)
			return
		}
	}
}

func zero(bufs [][]byte) bool {
	for _, b := range bufs {
		for _, x := range b {
			if x != 0 {
				return false
			}
		}
	}
	return true
}
