package volume

import (
	"maps"
	"slices"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/history"
	"github.com/cask-storage/cask/pkg/internal/mutant"
	"github.com/cask-storage/cask/pkg/quorum"
	"github.com/cask-storage/cask/pkg/replication"
)

// reads are the read requests: waiting to be sent, sent, and answered but
// waiting for what the answer may contain to be acknowledged.
type reads struct {
	waiting []*Request
	sent    map[uint64]*Request // by each message that asks for it
	parked  []*Request

	order  []uint64       // of sent, not hedged: the oldest first
	late   map[uint64]ask // asked for what another has answered by now
	credit int            // for hedges, in reads
	paidAt Time           // when a Tick last added to it
}

func newReads() reads {
	return reads{sent: map[uint64]*Request{}, late: map[uint64]ask{}}
}

// lost puts the reads back that a lost replica alone was asked for.
func (r *reads) lost(id quorum.ReplicaID) {
	for _, k := range slices.Sorted(maps.Keys(r.sent)) {
		q := r.sent[k]
		i := slices.IndexFunc(q.asked, func(a ask) bool { return a.id == k && a.of == id })
		if i < 0 {
			continue
		}
		delete(r.sent, k)
		if q.asked = slices.Delete(q.asked, i, i+1); len(q.asked) == 0 {
			r.waiting = append(r.waiting, q)
		}
	}
	maps.DeleteFunc(r.late, func(_ uint64, a ask) bool { return a.of == id })
}

// requeue puts all reads back.
func (r *reads) requeue() {
	for _, k := range slices.Sorted(maps.Keys(r.sent)) {
		if q := r.sent[k]; len(q.asked) > 0 { // else it was put back already
			q.asked = nil
			r.waiting = append(r.waiting, q)
		}
	}
	clear(r.sent)
	clear(r.late)
	r.order = nil
	r.waiting = append(r.waiting, r.parked...)
	r.parked = nil
}

// pumpReads sends the reads that may be sent: within the lease, to a replica
// that has every acknowledged operation, and not while an operation on the
// same bytes is unsettled: its outcome must not be seen and then be gone.
func (c *Core) pumpReads() {
	c.unpark()
	if len(c.reads.waiting) == 0 || !c.leased() {
		return
	}
	kept := c.reads.waiting[:0]
	for _, r := range c.reads.waiting {
		if !c.within(r) {
			c.complete(r, block.ErrRange)
			continue
		}
		p := c.reader(r)
		if p == nil || r.Base == 0 && c.unsettledFor(r, c.last) {
			kept = append(kept, r)
			continue
		}
		c.askRead(p, r)
		c.reads.order = append(c.reads.order, r.asked[0].id)
		c.reads.earn(1)
	}
	clear(c.reads.waiting[len(kept):])
	c.reads.waiting = kept
}

// unsettledFor reports whether what r reads could be gone again.
func (c *Core) unsettledFor(r *Request, seq history.Seq) bool {
	return c.unsettled(r.Extent, seq) != 0 && !mutant.On(mutant.ReadUnsettled)
}

func (c *Core) onData(p *peer, m replication.Message) {
	r := c.answered(p, m.ID)
	if r == nil {
		switch {
		case c.repairRead(p, m) || c.verifies(p, m) || c.rebuild == nil:
		case m.Type == replication.SnapshotList:
			c.chooseLeg(p, m)
		default:
			c.chunkRead(p, m)
		}
		return
	}
	if !r.take(m) {
		c.readFailed(r, p, m.Code)
		return
	}
	c.dropAsked(r)
	r.answered = m.Seq
	if mutant.On(mutant.HedgeUnsettled) && r.hedged {
		r.answered = 0
	}
	c.reads.parked = append(c.reads.parked, r)
}

// readFailed tries another replica; when every one that is in sync has
// failed, so does the read.
func (c *Core) readFailed(r *Request, p *peer, code replication.Code) {
	if r.bad == nil {
		r.bad = map[quorum.ReplicaID]bool{}
	}
	r.bad[p.id] = true
	if len(r.asked) > 0 {
		return // the other's answer counts
	}
	for _, q := range c.peers {
		if !r.bad[q.id] {
			c.reads.waiting = append(c.reads.waiting, r)
			return
		}
	}
	if code == replication.ErrNoSnapshot {
		c.complete(r, ErrNoSnapshot)
		return
	}
	c.complete(r, block.ErrMedium)
}

// unpark completes the answered reads that contain nothing unsettled.
func (c *Core) unpark() {
	kept := c.reads.parked[:0]
	for _, r := range c.reads.parked {
		if r.Base == 0 && c.unsettledFor(r, r.answered) || r.Op == OpListSnapshots && r.answered > c.commit {
			kept = append(kept, r)
			continue
		}
		c.complete(r, nil)
	}
	clear(c.reads.parked[len(kept):])
	c.reads.parked = kept
}

// flushes are the requests that wait for stable storage, gathered into rounds.
type flushes struct {
	waiting []*Request
	rounds  []*round
}

// round is one Flush to every replica that counts.
type round struct {
	reqs []*Request
	ids  map[quorum.ReplicaID]uint64 // sent and not answered
	done map[quorum.ReplicaID]bool
}

func (f *flushes) lost(id quorum.ReplicaID) {
	for _, r := range f.rounds {
		delete(r.ids, id)
	}
}

func (f *flushes) requeue() {
	for _, r := range f.rounds {
		f.waiting = append(f.waiting, r.reqs...)
	}
	f.rounds = nil
}

// done notes the answer to a Flush and reports whether m was one.
func (f *flushes) done(p *peer, m replication.Message) bool {
	for _, r := range f.rounds {
		if id, ok := r.ids[p.id]; ok && id == m.ID {
			delete(r.ids, p.id)
			if m.Code == replication.OK {
				r.done[p.id] = true
			}
			return true
		}
	}
	return false
}

// pumpFlushes starts rounds, asks replicas that came to count since, and
// completes the rounds that a write quorum has answered.
func (c *Core) pumpFlushes() {
	f := &c.flushes
	if len(f.waiting) > 0 && len(f.rounds) < flushDepth {
		f.rounds = append(f.rounds, &round{reqs: f.waiting, ids: map[quorum.ReplicaID]uint64{}, done: map[quorum.ReplicaID]bool{}})
		f.waiting = nil
	}
	kept := f.rounds[:0]
	for _, r := range f.rounds {
		c.askRound(r)
		if !c.sys.Write(func(id quorum.ReplicaID) bool { return r.done[id] }) && !(mutant.On(mutant.FlushByOne) && len(r.done) > 0) {
			kept = append(kept, r)
			continue
		}
		for _, q := range r.reqs {
			c.complete(q, nil)
		}
	}
	clear(f.rounds[len(kept):])
	f.rounds = kept
}

func (c *Core) askRound(r *round) {
	for _, p := range c.peers {
		if _, asked := r.ids[p.id]; p.state == synced && !asked && !r.done[p.id] {
			r.ids[p.id] = c.id()
			c.send(p, replication.Message{Type: replication.Flush, ID: r.ids[p.id]})
		}
	}
}
