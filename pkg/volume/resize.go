package volume

import (
	"cmp"
	"fmt"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/history"
	"github.com/cask-storage/cask/pkg/internal/mutant"
	"github.com/cask-storage/cask/pkg/replication"
	"github.com/cask-storage/cask/pkg/store"
)

// sizes are what a core knows of the volume's size, in bytes. What the size is
// comes from the history: a volume grows by an operation, which is numbered once
// every replica has room for it.
type sizes struct {
	want   uint64 // what it is to be at least
	last   uint64 // with every operation numbered; 0: no replica was chosen yet
	served uint64 // with every operation acknowledged; 0: not known yet
	askAt  Time   // replicas are asked to make room then
	reason replication.Code
	text   string // why one cannot
}

// room is what a replica has said about the room it has.
type room struct {
	id    uint64 // of the Grow under way
	asked uint64 // in it, bytes
	bytes uint64
}

// Resize tells what size the volume is to have. It never shrinks.
func (c *Core) Resize(now Time, size uint64) {
	c.now = now
	if c.size.want != size {
		c.size.want, c.size.askAt, c.size.text = size, 0, ""
	}
	c.advance()
}

// Size is what hosts may use: what was acknowledged, before that is known what
// recovery has found. settled is false while it has not ended.
func (c *Core) Size() (size uint64, settled bool) {
	return cmp.Or(c.size.served, c.size.last), c.size.served != 0
}

// sizeAt is the size after operation seq, which the backlog reaches back to.
func (c *Core) sizeAt(seq history.Seq) uint64 {
	size := c.size.last
	for s := c.last; s > seq; s-- {
		if e := c.log.at(s); store.Kind(e.kind) == store.Resize {
			size = e.extent.Off
		}
	}
	return size
}

// fits reports whether a peer has the size that its place in the history says.
// An empty one is given it.
func (c *Core) fits(p *peer) bool { return p.st.Seq == 0 || p.st.Size == c.sizeAt(p.st.Seq) }

// within reports whether a request is to what hosts may use.
func (c *Core) within(r *Request) bool {
	return r.Base != 0 || r.Op >= OpSnapshot || r.Extent.End() <= c.size.served
}

// advanceResize has the replicas make room, and when all have, grows the volume.
func (c *Core) advanceResize() {
	if c.size.want <= c.size.last || c.now < c.size.askAt {
		return
	}
	ready := true
	for _, p := range c.peers {
		ready = c.roomy(p) && ready
	}
	if !ready && !mutant.On(mutant.ResizeRoomless) {
		return
	}
	c.last++
	e := entry{seq: c.last, kind: uint8(store.Resize), extent: block.Extent{Off: c.size.last, Len: c.size.want - c.size.last}}
	c.log.append(e)
	c.size.last, c.size.text = c.size.want, ""
	if mutant.On(mutant.SizeEarly) {
		c.size.served = c.size.last
	}
	for _, p := range c.peers {
		c.pump(p)
	}
	c.trim()
}

// roomy reports whether p has room for the size wanted; else it is asked to
// make it.
func (c *Core) roomy(p *peer) bool {
	if p.room.bytes >= c.size.want {
		return true
	}
	if p.room.id == 0 && p.state >= heard && p.state != failed && !p.blank() {
		p.room.id, p.room.asked = c.id(), c.size.want
		c.send(p, replication.Message{Type: replication.Grow, ID: p.room.id, Size: c.size.want})
	}
	return false
}

// grown takes the answer to a Grow, and reports whether m is one.
func (c *Core) grown(p *peer, m replication.Message) bool {
	if p.room.id == 0 || m.ID != p.room.id {
		return false
	}
	p.room.id = 0
	if m.Code != replication.OK {
		c.size.reason = m.Code
		c.size.text = fmt.Sprintf("replica %s cannot make room for %d bytes: %s", p.id, p.room.asked, m.Text)
		c.size.askAt = c.now + 5*c.cfg.Timing.Retry
		return true
	}
	p.room.bytes = p.room.asked
	return true
}

// resizing says what keeps the volume from having the size wanted; nothing when
// it has.
func (c *Core) resizing() (reason, text string) {
	switch {
	case c.size.want == c.size.served || c.size.served == 0:
		return "", ""
	case c.size.want < c.size.served:
		return "CannotShrink", fmt.Sprintf("it has %d bytes and cannot shrink to %d", c.size.served, c.size.want)
	case c.size.text != "":
		return c.size.reason.String(), c.size.text
	}
	for _, p := range c.peers {
		if p.room.bytes < c.size.want && c.size.last < c.size.want {
			if p.state < heard || p.state == failed {
				return "WaitsForReplica", fmt.Sprintf("replica %s is to make room for %d bytes, and is not there; bring it back, or have it replaced", p.id, c.size.want)
			}
			return "MakesRoom", fmt.Sprintf("replica %s makes room for %d bytes", p.id, c.size.want)
		}
	}
	return "Resizing", fmt.Sprintf("a write quorum is to have %d bytes", c.size.want)
}
