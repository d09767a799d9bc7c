package volume

import (
	"fmt"
	"slices"
	"time"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/internal/mutant"
	"github.com/cask-storage/cask/pkg/replication"
	"github.com/cask-storage/cask/pkg/store"
)

const (
	repairDepth = 2    // repairs in flight
	maxDamage   = 1024 // extents remembered of a replica; they get coarser beyond
	maxPieces   = 1024 // looked at for one that can be repaired

	repairTold = Time(10 * time.Second) // between repairs that people are told of
	repairSoon = Time(5 * time.Second)  // what takes longer they are told
)

// damage is what a replica has said that it cannot read.
type damage struct {
	known  block.Set // to be repaired
	stuck  block.Set // that writing it anew did not help
	found  uint64    // bytes, since the target started
	healed uint64    // bytes, likewise
	last   string    // a late repair, for people
	toldAt Time      // when last was set
	since  Time      // when known was last empty
	again  Time      // no repair is begun before
	tried  uint64    // up to where what nobody seems to have was asked for last
	turn   int       // counts those who were asked
}

// all is what cannot be read now, but for the repairs in flight.
func (d *damage) all() block.Set { return d.known.With(d.stuck...) }

// repair rewrites a damaged extent of one replica with what another one has.
// Writes to it wait until it is in the stream, as for a chunk of a rebuild.
type repair struct {
	to, from *peer
	chunk
	since Time // the source was chosen
}

// repairing reports whether a write to e must wait for a repair.
func (c *Core) repairing(e block.Extent) bool {
	return !mutant.On(mutant.RepairUnlocked) && slices.ContainsFunc(c.repairs, func(r *repair) bool {
		return r.state != copying && r.extent.Overlaps(e)
	})
}

// onDamage takes a replica's word that it cannot read some extents.
func (c *Core) onDamage(p *peer, m replication.Message) {
	d := &p.damage
	for _, e := range m.Extents {
		if e.Off%512 != 0 || e.Len%512 != 0 {
			c.reset(p, fmt.Sprintf("it reported damage at %v", e))
			return
		}
		if e.Off >= c.size.last {
			continue
		}
		e.Len = min(e.Len, c.size.last-e.Off)
		news := block.SetOf(e)
		for _, r := range c.repairs {
			if r.to == p {
				news = news.Without(r.extent)
			}
		}
		for _, x := range d.all() {
			news = news.Without(x)
		}
		d.found += news.Bytes()
		d.known = d.known.With(news...).Coarse(maxDamage)
	}
}

// advanceRepairs begins repairs as far as the bound allows, and moves those
// under way.
func (c *Core) advanceRepairs() {
	for _, p := range c.peers {
		if len(p.damage.known) == 0 {
			p.damage.since = c.now
		}
		for p.state == synced && len(p.damage.known) > 0 && len(c.repairs) < repairDepth && c.now >= p.damage.again {
			if !c.startRepair(p) {
				p.damage.again = c.now + c.cfg.Timing.Retry
			}
		}
	}
	for _, r := range c.repairs {
		if r.state == draining && c.settledAt(r.from, r.extent) {
			r.state, r.id = reading, c.id()
			c.send(r.from, replication.Message{Type: replication.Read, ID: r.id, Extent: r.extent})
		}
	}
}

// startRepair begins the first repair of p that has a source, which need not have
// all of a piece. When all are said to be damaged there, one is asked all the same,
// now and then: a host may have written there since.
func (c *Core) startRepair(p *peer) bool {
	d := &p.damage
	pieces := c.pieces(d.known, d.tried)
	for _, e := range pieces {
		if from := c.healthy(p, e); from != nil {
			c.beginRepair(p, from, e)
			return true
		}
	}
	var others []*peer
	for _, q := range c.peers {
		if q != p && q.state == synced {
			others = append(others, q)
		}
	}
	if len(others) == 0 {
		return false
	}
	for _, e := range pieces {
		for _, q := range others {
			if part := c.undamaged(q, e); len(part) > 0 {
				c.beginRepair(p, q, part[0])
				return true
			}
		}
	}
	e := pieces[0]
	if e.Off < d.tried || d.tried == 0 { // once around
		d.turn++
	}
	d.tried = e.End()
	c.beginRepair(p, others[d.turn%len(others)], e)
	return true
}

// pieces is s, cut: from byte first on and then what is before it, at most
// maxPieces.
func (c *Core) pieces(s block.Set, first uint64) (out []block.Extent) {
	before := block.Extent{Len: first}
	for _, e := range append(s.Without(before), s.Within(before)...) {
		for e.Len > 0 && len(out) < maxPieces {
			x := c.cut(e)
			out = append(out, x)
			e.Off, e.Len = x.End(), e.Len-x.Len
		}
	}
	return out
}

// cut is the part of e up to where chunks of a rebuild end: no record of a
// replica crosses that.
func (c *Core) cut(e block.Extent) block.Extent {
	n := c.cfg.Bounds.CopyChunk
	e.Len = min(e.End(), (e.Off/n+1)*n) - e.Off
	return e
}

func (c *Core) beginRepair(p, from *peer, e block.Extent) {
	p.damage.known = p.damage.known.Without(e)
	c.repairs = append(c.repairs, &repair{to: p, from: from, chunk: chunk{extent: e}, since: c.now})
}

// healthy is a replica to repair p from, not known to be damaged at e itself.
func (c *Core) healthy(p *peer, e block.Extent) *peer {
	return c.ahead(func(q *peer) bool { return q != p && !c.damaged(q, e) })
}

// ahead is the replica in sync that is furthest ahead among those that f wants.
func (c *Core) ahead(f func(*peer) bool) *peer {
	var best *peer
	for _, q := range c.peers {
		if q.state == synced && f(q) && (best == nil || q.acked > best.acked) {
			best = q
		}
	}
	return best
}

// damaged reports whether p has said that it cannot read all of e, and has not
// been repaired since.
func (c *Core) damaged(p *peer, e block.Extent) bool { return c.undamaged(p, e).Bytes() < e.Len }

// undamaged is the part of e at which p is not known to be damaged.
func (c *Core) undamaged(p *peer, e block.Extent) block.Set {
	s := block.SetOf(e)
	for _, x := range p.damage.all().Within(e) {
		s = s.Without(x)
	}
	for _, r := range c.repairs {
		if r.to == p {
			s = s.Without(r.extent)
		}
	}
	return s
}

// healable reports whether the damage of p at e is going to be repaired.
func (c *Core) healable(p *peer, e block.Extent) bool {
	return c.damaged(p, e) && !p.damage.stuck.Overlaps(e) && c.healthy(p, e) != nil
}

// repairRead passes what was read from the source on, and reports whether it
// was a repair's.
func (c *Core) repairRead(p *peer, m replication.Message) bool {
	i := slices.IndexFunc(c.repairs, func(r *repair) bool { return r.state == reading && r.id == m.ID && r.from == p })
	if i < 0 {
		return false
	}
	r := c.repairs[i]
	if m.Code != replication.OK || uint64(m.DataLen()) != r.extent.Len {
		c.giveUpRepair(r)
		return true
	}
	p.damage.known = p.damage.known.Without(r.extent) // it can read it
	r.state, r.id = copying, c.id()
	copied := replication.Message{Type: replication.Copy, ID: r.id, Extent: r.extent, Bufs: m.Bufs}
	if zero(m.Bufs) {
		copied.Bufs = nil
	}
	c.send(r.to, copied)
	return true
}

// repaired notes that a repair has arrived, and reports whether m says so.
func (c *Core) repaired(p *peer, m replication.Message) bool {
	i := slices.IndexFunc(c.repairs, func(r *repair) bool { return r.state == copying && r.id == m.ID && r.to == p })
	if i < 0 {
		return false
	}
	r, d := c.repairs[i], &p.damage
	c.repairs = slices.Delete(c.repairs, i, i+1)
	if m.Code == replication.OK {
		d.healed += r.extent.Len
		if d.last == "" || c.now > d.toldAt+repairTold {
			d.toldAt, d.last = c.now, fmt.Sprintf("it returned bad data at %v, repaired from %s", r.extent, r.from.id)
		}
		return true
	}
	d.stuck = d.stuck.With(r.extent).Coarse(maxDamage)
	return true
}

// trouble says what damage stays, in words: what was reported just now is
// probably repaired at once.
func (d *damage) trouble(now Time) string {
	switch {
	case len(d.stuck) > 0:
		return fmt.Sprintf("%d bytes at %v cannot be read, nor repaired in place: replace the replica", d.stuck.Bytes(), d.stuck[0])
	case len(d.known) > 0 && now > d.since+repairSoon:
		return fmt.Sprintf("%d bytes at %v cannot be read, and no other replica in sync has them", d.known.Bytes(), d.known[0])
	}
	return ""
}

// giveUpRepair lets the writes go on that wait for r; it is tried again.
func (c *Core) giveUpRepair(r *repair) {
	c.repairs = slices.DeleteFunc(c.repairs, func(x *repair) bool { return x == r })
	d := &r.to.damage
	d.known, d.again = d.known.With(r.extent), c.now+c.cfg.Timing.Retry
}

// lostRepairs gives up the repairs that a lost replica had part in. What could
// not be repaired may be by the process that comes back.
func (c *Core) lostRepairs(p *peer) {
	for _, r := range slices.Clone(c.repairs) {
		if r.to == p || r.from == p {
			c.giveUpRepair(r)
		}
	}
	p.damage.known, p.damage.stuck = p.damage.all(), nil
}

// tickRepairs gives up repairs whose source takes too long: writes wait for it.
func (c *Core) tickRepairs() {
	for _, r := range slices.Clone(c.repairs) {
		if r.state != copying && c.now-r.since > c.cfg.Timing.Retry {
			c.giveUpRepair(r)
		}
	}
}

// unread does what can be done about a chunk that the source cannot read, and
// reports whether that is something.
func (c *Core) unread(rb *rebuild, k *chunk) bool {
	switch {
	case rb.leg.to.Seq != 0:
		c.halve(rb, k)
		return true
	case c.healthy(rb.from, k.extent) == nil:
		return c.copyLost(rb, k)
	case !c.healable(rb.from, k.extent):
		rb.lostSource() // another can read it
	}
	k.state = draining // until it is repaired there
	return true
}

// halve finds out what of a snapshot's chunk the source cannot read: that is not
// to be readable on the rebuilt replica either. What of it the volume still has
// is repaired there later.
func (c *Core) halve(rb *rebuild, k *chunk) {
	if k.extent.Len <= store.Alignment {
		k.state, k.id = copying, c.id()
		c.send(rb.to, replication.Message{Type: replication.Copy, ID: k.id, Flags: replication.FlagLost, Extent: k.extent})
		return
	}
	half := k.extent.Len / 2
	half -= half % store.Alignment
	rest := &chunk{extent: block.Extent{Off: k.extent.Off + half, Len: k.extent.Len - half}}
	k.extent.Len, k.state = half, draining
	rb.chunks = append(rb.chunks, rest)
}

// copyLost has a chunk that no replica in sync can read copied as far as it can
// be, and the rest not be readable on the rebuilt replica either: one that is
// missing helps less. It reports whether the source has said what is damaged.
func (c *Core) copyLost(rb *rebuild, k *chunk) bool {
	lost := rb.from.damage.all().Within(k.extent)
	if len(lost) == 0 {
		return false
	}
	rest := block.SetOf(k.extent)
	i := slices.Index(rb.chunks, k)
	rb.chunks = slices.Delete(rb.chunks, i, i+1)
	for _, e := range lost {
		rest = rest.Without(e)
		x := &chunk{extent: e, state: copying, id: c.id()}
		rb.chunks = append(rb.chunks, x)
		c.send(rb.to, replication.Message{Type: replication.Copy, ID: x.id, Flags: replication.FlagLost, Extent: e})
	}
	rb.todo = append(slices.Clone([]block.Extent(rest)), rb.todo...)
	return true
}

// overwritten takes what an operation changes off the damage. A replica that
// can read less of it than that says so.
func (c *Core) overwritten(e block.Extent) {
	for _, p := range c.peers {
		if len(p.damage.known) > 0 {
			p.damage.known = p.damage.known.Without(e)
		}
	}
}
