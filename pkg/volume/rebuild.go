package volume

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/history"
	"github.com/cask-storage/cask/pkg/internal/mutant"
	"github.com/cask-storage/cask/pkg/replication"
	"github.com/cask-storage/cask/pkg/store"
)

// rebuild brings one replica up to date by blocks: those that changed, on
// either side, after the last operation the two have in common. The replica
// receives every new operation meanwhile; a chunk is read from the source and
// sent at one place in that stream, and writes to it wait for that moment.
type rebuild struct {
	to, from *peer  // from is nil while there is no source
	turnID   uint64 // of the Turn that comes first
	stableID uint64 // of the Flush that comes before to gives up its prefix
	base     history.Seq
	resume   resumption
	start    history.Seq // the stream begins after it
	size     uint64      // of the volume there, bytes
	held     held
	leg      leg
	lists    [listKinds]list
	todo     block.Set // nil until all lists are there
	planned  bool
	chunk    uint64 // bytes
	chunks   []*chunk
	total    uint64
	copied   uint64
	noted    uint64 // of copied, when the replica last noted it
	noteID   uint64 // of the Copied under way
	probeID  uint64 // of the first Pull, of nothing
	pulls    bool   // it was answered: to fetches from from
}

type chunkState uint8

const (
	draining chunkState = iota // waits for earlier writes to it to reach the source
	reading                    // locked: being read from the source
	copying                    // sent; the stream keeps the order from here
	pulling                    // locked: the replica fetches it from the source
)

type chunk struct {
	extent block.Extent
	state  chunkState
	id     uint64 // of the Read, then of the Copy; or of the Pull
	at     Time   // when pulled
}

// copying reports whether a write to e must wait for a chunk.
func (c *Core) copying(e block.Extent) bool {
	return c.rebuild != nil && c.rebuild.leg.to.Seq == 0 && !mutant.On(mutant.NoChunkLock) && slices.ContainsFunc(c.rebuild.chunks, func(k *chunk) bool {
		waits := k.state == draining && c.rebuild.from != nil && c.healable(c.rebuild.from, k.extent)
		return k.state != copying && !(k.state == pulling && mutant.On(mutant.PullUnlocked)) && k.extent.Overlaps(e) && !waits
	})
}

// lostSource takes back what the source was asked.
func (rb *rebuild) lostSource() {
	rb.from, rb.pulls, rb.probeID = nil, false, 0
	rb.leg.listID = 0
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
	if rb == nil || rb.to.begin != 0 || rb.turnID != 0 || rb.stableID != 0 || !rb.lists[own].have {
		return
	}
	if rb.from == nil {
		if rb.from = c.source(); rb.from == nil {
			return
		}
		rb.askAgain()
		c.probe(rb)
	}
	if !rb.leg.chosen {
		c.askSnapshots(rb)
		return
	}
	if !rb.planned {
		c.askTheirs(rb)
	}
	if rb.planned || c.listed(rb) {
		rb.plan(c.cfg.Bounds.CopyChunk)
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
		if p.state == heard && p.membership() != replication.Blank && (p.turnAt <= c.now || c.urgent()) && (to == nil || c.rank(p, to) < 0) {
			to = p
		}
	}
	from := c.source()
	if to == nil || from == nil {
		return
	}
	m := replication.Message{Type: replication.Turn, ID: c.id()}
	if c.urgent() {
		m.Flags |= replication.FlagUrgent
	}
	c.rebuild = &rebuild{to: to, from: from, turnID: m.ID, base: c.common(to), resume: c.resumption(to)}
	c.send(to, m)
}

// onTurn goes on when the replica's host has room for a rebuild, and asks again
// later when it has not.
func (c *Core) onTurn(m replication.Message) {
	rb := c.rebuild
	rb.turnID = 0
	if m.Code != replication.OK {
		rb.to.turnAt, c.rebuild = c.now+c.cfg.Timing.Retry, nil
		return
	}
	rb.to.turnAt, rb.stableID = 0, c.id()
	c.send(rb.from, replication.Message{Type: replication.Flush, ID: rb.stableID})
	c.ask(rb.to, own, rb.resume.common)
}

// giveUp has the replica stop being a member: what it may be the other copy of
// is stable on the source by now, and what it did alone is known. Of the
// snapshots that it has it keeps those of the list.
func (c *Core) giveUp(rb *rebuild, list []store.SnapshotInfo) {
	rb.start, rb.to.state = c.last, rebuilding
	if rb.leg.to.Seq != 0 {
		rb.start, rb.to.state = rb.leg.to.Seq-1, backfilling
	}
	if rb.size = c.size.last; rb.leg.to.Seq != 0 {
		rb.size = rb.leg.to.Size
	}
	rb.to.sent, rb.to.acked = rb.start, rb.start
	m := replication.Message{Type: replication.Rebuild, ID: rb.lists[mine].ask(c, rb.to), Base: rb.base, Seq: rb.start, History: c.hist, Size: rb.size}
	if b := replication.EncodeSnapshots(list); len(b) > 0 {
		m.Bufs = [][]byte{b}
	}
	if !rb.resume.diverged || mutant.On(mutant.ResumeInTwo) {
		m.Extent.Len, m.Floor = rb.resume.copied, rb.resume.floor
	}
	c.send(rb.to, m)
	if rb.from != nil {
		c.probe(rb)
	}
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

// source is a replica to copy from; one that cannot be repaired is the last.
func (c *Core) source() *peer {
	var last *peer
	for _, p := range c.peers {
		switch {
		case p.state != synced:
		case len(p.damage.stuck) == 0:
			return p
		case last == nil:
			last = p
		}
	}
	return last
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

// copyChunks moves what may be moved now, and ends the rebuild.
func (c *Core) copyChunks(rb *rebuild) {
	for !c.note(rb) && len(rb.chunks) < copyDepth && len(rb.todo) > 0 && c.mayCopy() {
		k := rb.next()
		c.pace.credit -= int64(k.extent.Len) //nolint:gosec // at most CopyChunk
		rb.chunks = append(rb.chunks, k)
	}
	for _, k := range rb.chunks {
		if rb.leg.to.Seq == 0 && c.healable(rb.from, k.extent) {
			continue // it is being repaired there
		}
		if k.state == draining && (rb.leg.to.Seq != 0 || c.settledAt(rb.from, k.extent)) {
			c.move(rb, k)
		}
	}
	switch {
	case len(rb.todo) > 0:
	case rb.leg.to.Seq != 0:
		c.settle(rb)
	case len(rb.chunks) == 0 || mutant.On(mutant.BeginEarly):
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
		if m.Code == replication.ErrNoSnapshot {
			c.reset(rb.to, goneSnapshot)
			return
		}
		if m.Code == replication.ErrMedium && c.unread(rb, k) {
			return
		}
		if m.Code != replication.OK || uint64(m.DataLen()) != k.extent.Len {
			c.fail(rb.to, m.Code, fmt.Sprintf("it could not be rebuilt: replica %s failed to read %v: %v", p.id, k.extent, m.Code))
			return
		}
		bufs := m.Bufs
		if zero(bufs) {
			bufs = nil
			c.pace.credit += int64(k.extent.Len) //nolint:gosec // at most CopyChunk
		}
		k.state, k.id = copying, c.id()
		c.send(rb.to, replication.Message{Type: replication.Copy, ID: k.id, Extent: k.extent, Bufs: bufs})
		return
	}
}

// copied notes that a chunk has arrived, or what came of a Pull.
func (c *Core) copied(m replication.Message) {
	rb := c.rebuild
	switch m.ID {
	case rb.noteID:
		rb.noteID = 0
		return
	case rb.leg.settleID:
		rb.settled()
		return
	case rb.probeID:
		rb.pulls, rb.probeID = m.Code == replication.OK, 0
		return
	}
	for i, k := range rb.chunks {
		switch {
		case k.id != m.ID || k.state != copying && k.state != pulling:
		case m.Code != replication.OK && k.state == copying:
			c.fail(rb.to, m.Code, fmt.Sprintf("it could not be rebuilt: %v cannot be written: %s", k.extent, m.Text))
			return
		case m.Code != replication.OK:
			rb.pulls, k.state = false, draining // through the target, then
			return
		default:
			rb.copied += k.extent.Len
			rb.chunks = slices.Delete(rb.chunks, i, i+1)
			return
		}
	}
}

func zero(bufs [][]byte) bool {
	return !slices.ContainsFunc(bufs, func(b []byte) bool { return !replication.Zero(b) })
}
