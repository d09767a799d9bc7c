package volume

import (
	"slices"
	"time"

	"github.com/cask-storage/cask/pkg/internal/mutant"
	"github.com/cask-storage/cask/pkg/quorum"
	"github.com/cask-storage/cask/pkg/replication"
)

// A read goes to the preferred replica unless another is clearly faster. When
// the answer takes longer than another replica would need, that one is asked
// too (the read is hedged), and the first answer counts.

const (
	hedgeLeast = Time(time.Millisecond)       // a read waits at least this long before it is hedged,
	hedgeMost  = Time(100 * time.Millisecond) // and at most this long
	hedgeShare = 20                           // reads that pay for one hedge
	hedgeEvery = Time(20 * time.Millisecond)  // which pays for one too
	hedgeBurst = 16                           // hedges that can be saved up
	lateMost   = 256                          // answers that are waited for only to measure them
	hedgeNoise = Time(500 * time.Microsecond) // of latency that does not matter
	forgetting = Time(time.Second)            // half of a latency that is not measured again is forgotten
)

// latency is what is known of how fast a replica answers reads.
type latency struct {
	mean, dev Time // moving averages of the latency and of its deviation
	at        Time // of the last measurement, 0: none
}

// add takes a measurement; good news count for more than bad.
func (l *latency) add(now, d Time) {
	switch diff := d - l.mean; {
	case l.at == 0:
		l.mean, l.dev = d, d/2
	case diff < 0:
		l.dev += (-diff - l.dev) / 4
		l.mean += diff / 2
	default:
		l.dev += (diff - l.dev) / 4
		l.mean += diff / 8
	}
	l.at = now
}

// exceeded notes that an answer takes longer than d.
func (l *latency) exceeded(now, d Time) {
	l.mean, l.at = max(l.mean, d), now
}

// now is the latency to expect; what was long ago matters less.
func (l *latency) now(now Time) Time {
	return l.mean >> min((now-l.at)/forgetting, 62)
}

// patience is how long r waits before p is asked too: about twice what almost
// all of p's answers take, or of those of the one that was asked if p never was.
func (c *Core) patience(r *Request, p *peer) Time {
	l := p.read
	if l.at == 0 {
		l = c.peer(r.asked[0].of).read
	}
	if l.at == 0 {
		return hedgeMost
	}
	return min(max(2*(l.mean+3*l.dev), hedgeLeast), hedgeMost)
}

// ask is one message that asks a replica for a read.
type ask struct {
	id uint64
	of quorum.ReplicaID
	at Time
}

// reader picks the replica that is to answer r: the preferred one, unless
// another one that can takes less than half the time; one that has said it
// cannot read there is the last.
func (c *Core) reader(r *Request) *peer {
	var best *peer
	for _, p := range c.peers {
		switch {
		case !c.canAnswer(p, r):
		case best == nil, c.better(p, best, r):
			best = p
		}
	}
	return best
}

// better reports whether p is to be asked for r rather than q, which comes
// before it.
func (c *Core) better(p, q *peer, r *Request) bool {
	a, b := c.unreadable(p, r), c.unreadable(q, r)
	return b && !a || a == b && c.faster(p, q)
}

// unreadable reports whether p has said that it cannot read all of r. What it
// says is of the head.
func (c *Core) unreadable(p *peer, r *Request) bool { return r.Base == 0 && c.damaged(p, r.Extent) }

// canAnswer reports whether p may be asked for r: it has every acknowledged
// operation, and neither failed nor was asked before.
func (c *Core) canAnswer(p *peer, r *Request) bool {
	return p.state == synced && p.acked >= c.commit && !r.bad[p.id] &&
		!slices.ContainsFunc(r.asked, func(a ask) bool { return a.of == p.id })
}

// faster reports whether p is to be asked rather than q, which comes before it.
// Who was slow is tried again by one read at a time.
func (c *Core) faster(p, q *peer) bool {
	a, b := p.read.now(c.now), q.read.now(c.now)
	if p.read.at == 0 || q.read.mean > 2*p.read.mean+hedgeNoise && q.reading > 0 {
		b = q.read.mean
	}
	if p.reading > 0 {
		a = p.read.mean
	}
	return p.read.at != 0 && b > 2*a+hedgeNoise
}

// askRead sends r to p.
func (c *Core) askRead(p *peer, r *Request) {
	id := c.id()
	r.asked = append(r.asked, ask{id, p.id, c.now})
	p.reading++
	c.reads.sent[id] = r
	c.send(p, r.question(id))
}

// earn pays for hedges.
func (r *reads) earn(n int) { r.credit = min(r.credit+n, hedgeShare*hedgeBurst) }

// second is the replica that r would be hedged to, nil if there is none.
func (c *Core) second(r *Request) *peer {
	var best *peer
	for _, p := range c.peers {
		can := c.canAnswer(p, r) || mutant.On(mutant.HedgeStale) && p.state == heard && p.membership() == replication.Member
		if can && !c.unreadable(p, r) && (best == nil || p.read.mean < best.read.mean) {
			best = p
		}
	}
	return best
}

// waits returns the reads that wait for their first replica, the oldest first,
// and forgets the others.
func (r *reads) waits() []uint64 {
	r.order = slices.DeleteFunc(r.order, func(id uint64) bool {
		q := r.sent[id]
		return q == nil || len(q.asked) != 1
	})
	return r.order
}

// hedge asks a second replica for the reads that have waited long enough.
func (c *Core) hedge() {
	if c.now >= c.reads.paidAt+hedgeEvery {
		c.reads.paidAt = c.now
		c.reads.earn(hedgeShare)
	}
	if c.phase != Serving || !c.leased() {
		return
	}
	for _, id := range c.reads.waits() {
		r := c.reads.sent[id]
		p := c.second(r)
		settled := r.Base != 0 || !c.unsettledFor(r, c.last) || mutant.On(mutant.HedgeUnsettled)
		if p == nil || c.now-r.asked[0].at < c.patience(r, p) || !settled {
			continue
		}
		if c.reads.credit < hedgeShare {
			return
		}
		c.reads.credit -= hedgeShare
		first := c.peer(r.asked[0].of)
		first.read.exceeded(c.now, c.now-r.asked[0].at)
		c.hedges++
		r.hedged = true
		c.askRead(p, r)
	}
}

// Wake is when Tick is to be called at the latest, 0 when any time will do.
func (c *Core) Wake() Time {
	q := &c.reads
	for len(q.order) > 0 {
		if r := q.sent[q.order[0]]; r != nil && len(r.asked) == 1 {
			if p := c.second(r); p != nil && q.credit >= hedgeShare {
				return r.asked[0].at + c.patience(r, p)
			}
			return 0
		}
		q.order = q.order[1:]
	}
	return 0
}

// answered ends the wait for an answer and returns the request it was for, nil
// if there is none.
func (c *Core) answered(p *peer, id uint64) *Request {
	if a, ok := c.reads.late[id]; ok && a.of == p.id {
		p.read.add(c.now, c.now-a.at)
		delete(c.reads.late, id)
		p.reading--
		return nil
	}
	r, ok := c.reads.sent[id]
	if !ok {
		return nil
	}
	i := slices.IndexFunc(r.asked, func(a ask) bool { return a.id == id && a.of == p.id })
	if i < 0 {
		return nil
	}
	p.read.add(c.now, c.now-r.asked[i].at)
	p.reading--
	delete(c.reads.sent, id)
	r.asked = slices.Delete(r.asked, i, i+1)
	return r
}

// dropAsked gives up the other answer to r.
func (c *Core) dropAsked(r *Request) {
	for _, a := range r.asked {
		delete(c.reads.sent, a.id)
		p := c.peer(a.of)
		p.read.exceeded(c.now, c.now-a.at)
		if len(c.reads.late) < lateMost {
			c.reads.late[a.id] = a
		} else {
			p.reading--
		}
	}
	r.asked = nil
}
