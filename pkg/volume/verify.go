package volume

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/history"
	"github.com/cask-storage/cask/pkg/internal/mutant"
	"github.com/cask-storage/cask/pkg/quorum"
	"github.com/cask-storage/cask/pkg/replication"
	"github.com/cask-storage/cask/pkg/store"
)

// A verification compares the replicas in sync: each freezes its content at the
// same place of the stream, and says what its block pointers are, region by
// region. Regions that differ are asked for in pieces, and pieces that differ
// are read and compared. Nothing is repaired: DESIGN.md says why.

const (
	verifyPage   = 8                            // regions asked for at once
	verifyAnswer = Time(30 * time.Second)       // a replica that takes longer is left out
	verifyMost   = Time(6 * time.Hour)          // a verification that takes longer is given up: what is frozen takes space
	verifyNamed  = 32                           // extents named of each replica
	verifyAgain  = 16                           // one that came to nothing is done again after this part of the interval
	verifyPart   = Time(100 * time.Millisecond) // at least between pages
)

// Verification is a comparison of the replicas in sync.
type Verification struct {
	Request string // the last that was answered
	Seq     history.Seq
	Began   Time
	Ended   Time   // 0: it is under way
	Failed  string // why it came to no end
	Of      []quorum.ReplicaID
	Size    uint64 // bytes compared, of Held and Read on all replicas
	Held    uint64 // that the content takes
	Read    uint64 // of block pointers
	Looked  uint64 // bytes of content that was compared, since the pointers differ
	Skipped uint64 // of it, that a replica could not read
	// Differ are the replicas whose content is not that of most, or all if
	// no content is.
	Differ []Difference
}

// Difference is where a replica's content is not that of the others; coarse when
// it is much.
type Difference struct {
	ID      quorum.ReplicaID
	Extents block.Set
}

// verify is one that is under way.
type verify struct {
	Verification
	of      []*compared
	todo    []step // the next at the end
	now     step
	done    uint64 // bytes whose regions were asked for
	askedAt Time
	next    Time // nothing is asked before
}

// step is a question to each replica: digests of the extent, or its content.
type step struct {
	extent block.Extent
	piece  uint64 // 0: its content
}

// compared is a replica that takes part.
type compared struct {
	p       *peer
	id      uint64 // of the question under way; 0: it has answered
	digests []store.Digest
	data    []byte // nil: it cannot be read
}

// Verify asks for a verification; request names it in Status. One that is under
// way goes on, and answers it.
func (c *Core) Verify(now Time, request string) {
	c.now = now
	if request == "" || request == c.verified.Request {
		return
	}
	c.verifyAsked = request
	if c.verify != nil {
		c.verify.Request = request
	}
	c.advance()
}

// verifyDue reports whether one is to begin.
func (c *Core) verifyDue() bool {
	if c.verifyAt == 0 && c.cfg.VerifyEvery != 0 {
		c.verifyAt = c.now + c.cfg.VerifyFirst
	}
	inSync := 0
	for _, p := range c.peers {
		if p.state == synced {
			inSync++
		}
	}
	return c.phase == Serving && (c.verifyAsked != "" || c.verifyAt != 0 && c.now >= c.verifyAt && inSync > 1)
}

// advanceVerify begins a verification when it is time, and moves the one under
// way.
func (c *Core) advanceVerify() {
	v := c.verify
	switch {
	case v == nil && c.verifyDue():
		c.beginVerify()
		return
	case v == nil, c.phase != Serving:
		return
	}
	for _, x := range slices.Clone(v.of) {
		if x.id != 0 && c.now-v.askedAt > verifyAnswer {
			c.leaveOut(x, "did not answer in time")
		}
	}
	switch {
	case slices.ContainsFunc(v.of, func(x *compared) bool { return x.id != 0 }):
	case len(v.of) < 2:
		c.endVerify("fewer than two replicas were in sync until its end" + v.Failed)
	case c.now-v.Began > verifyMost:
		c.endVerify("it took too long")
	default:
		c.evaluate(v)
		c.askNext(v)
	}
}

// beginVerify has the replicas in sync freeze what they have.
func (c *Core) beginVerify() {
	v := &verify{Verification: Verification{Request: cmp.Or(c.verifyAsked, c.verified.Request), Seq: c.last, Began: c.now, Size: c.size.last}, askedAt: c.now}
	for _, p := range c.peers {
		if p.state != synced {
			continue
		}
		c.pump(p)
		x := &compared{p: p, id: c.id()}
		c.send(p, replication.Message{Type: replication.Freeze, ID: x.id, Seq: c.last})
		v.of, v.Of = append(v.of, x), append(v.Of, p.id)
	}
	c.verify = v
}

// endVerify ends it; failed says why it came to no end.
func (c *Core) endVerify(failed string) {
	v := c.verify
	v.Of = v.Of[:0]
	for _, x := range v.of {
		c.send(x.p, replication.Message{Type: replication.Thaw, ID: c.id()})
		v.Of = append(v.Of, x.p.id)
	}
	v.Ended, v.Failed = c.now, failed
	c.verified, c.verify, c.verifyAsked = v.Verification, nil, ""
	c.verifyAt = 0
	switch every := c.cfg.VerifyEvery; {
	case every != 0 && failed != "":
		c.verifyAt = c.now + every/verifyAgain
	case every != 0:
		c.verifyAt = c.now + every
	}
}

// leaveOut goes on without a replica.
func (c *Core) leaveOut(x *compared, why string) {
	v := c.verify
	v.of = slices.DeleteFunc(v.of, func(o *compared) bool { return o == x })
	v.Failed += fmt.Sprintf("; replica %s %s", x.p.id, why)
}

// lostVerify goes on without a replica whose connection ended.
func (c *Core) lostVerify(p *peer) {
	if x := c.compared(p); x != nil {
		c.leaveOut(x, "was lost")
	}
}

func (c *Core) compared(p *peer) *compared {
	if c.verify == nil {
		return nil
	}
	if i := slices.IndexFunc(c.verify.of, func(x *compared) bool { return x.p == p }); i >= 0 {
		return c.verify.of[i]
	}
	return nil
}

// verifies takes the answer to a verification's question, and reports whether it
// is one.
func (c *Core) verifies(p *peer, m replication.Message) bool {
	x := c.compared(p)
	if x == nil || m.ID == 0 || x.id != m.ID {
		return false
	}
	x.id, x.digests, x.data = 0, nil, nil
	v := c.verify
	var err error
	switch {
	case m.Type == replication.Data && m.Code == replication.ErrMedium:
		return true
	case m.Code != replication.OK:
		err = fmt.Errorf("failed: %v %s", m.Code, m.Text) //nolint:err113 // told to people
	case m.Type == replication.Digests:
		x.digests, err = m.DigestList(v.now.pieces())
	case m.Type == replication.Data:
		x.data = bytes.Join(m.Bufs, nil)
	}
	if err != nil {
		c.leaveOut(x, err.Error())
	}
	return true
}

func (s step) pieces() int {
	if s.piece == 0 {
		return 0
	}
	return int((s.extent.Len + s.piece - 1) / s.piece) //nolint:gosec // at most store.MaxDigests
}

// part is piece i.
func (s step) part(i int) block.Extent {
	off := s.extent.Off + uint64(i)*s.piece //nolint:gosec // not negative
	return block.Extent{Off: off, Len: min(s.piece, s.extent.End()-off)}
}

// askNext asks each replica the next question, or ends the verification.
func (c *Core) askNext(v *verify) {
	if c.now < v.next {
		return
	}
	b := c.cfg.Bounds
	if n := len(v.todo); n > 0 {
		v.now, v.todo = v.todo[n-1], v.todo[:n-1]
	} else if v.done < v.Size {
		v.now = step{block.Extent{Off: v.done, Len: min(verifyPage*b.VerifyRegion, v.Size-v.done)}, b.VerifyRegion}
		v.done = v.now.extent.End()
	} else {
		c.endVerify("")
		return
	}
	v.askedAt = c.now
	for _, x := range v.of {
		x.id = c.id()
		m := replication.Message{Type: replication.Digest, ID: x.id, Extent: v.now.extent, Size: v.now.piece}
		if v.now.piece == 0 {
			m = replication.Message{Type: replication.Read, ID: x.id, Extent: v.now.extent, Flags: replication.FlagFrozen}
		}
		c.send(x.p, m)
	}
}

// evaluate compares what the replicas have answered.
func (c *Core) evaluate(v *verify) {
	s := v.now
	v.now = step{}
	switch {
	case s.extent.Len == 0:
		return
	case s.piece == 0:
		v.Looked += s.extent.Len
		v.compareContent(s.extent)
	default:
		c.compareDigests(v, s)
	}
	// As long again as it took: the disks are the host's.
	v.next = c.now + max(c.now-v.askedAt, verifyPart)
}

// compareDigests has what differs looked into.
func (c *Core) compareDigests(v *verify, s step) {
	b := c.cfg.Bounds
	for i := range s.pieces() {
		differs := false
		for _, x := range v.of {
			d := x.digests[i]
			v.Read += d.Read
			if s.piece == b.VerifyRegion {
				v.Held += d.Held
			}
			differs = differs || d.Sum != v.of[0].digests[i].Sum
		}
		if !differs || mutant.On(mutant.VerifyBlind) {
			continue
		}
		part := s.part(i)
		if s.piece > b.VerifyPiece {
			v.todo = append(v.todo, step{part, b.VerifyPiece})
			continue
		}
		for off := part.Off; off < part.End(); off += b.CopyChunk {
			v.todo = append(v.todo, step{extent: block.Extent{Off: off, Len: min(b.CopyChunk, part.End()-off)}})
		}
	}
}

// compareContent notes which replicas have not what most have of e.
func (v *verify) compareContent(e block.Extent) {
	readable := slices.DeleteFunc(slices.Clone(v.of), func(x *compared) bool { return uint64(len(x.data)) != e.Len })
	if len(readable) < len(v.of) {
		v.Skipped += e.Len
	}
	most := readable
	for _, x := range readable {
		same := slices.DeleteFunc(slices.Clone(readable), func(o *compared) bool { return !bytes.Equal(o.data, x.data) })
		if 2*len(same) > len(readable) {
			most = same
		}
	}
	for _, x := range readable {
		all := len(most) == len(readable) // or nobody is most
		for _, o := range readable {
			if at, differ := differs(x.data, o.data); differ && (all || !slices.Contains(most, x) && slices.Contains(most, o)) {
				v.differ(x.p.id, block.Extent{Off: e.Off + at.Off, Len: at.Len})
			}
		}
	}
}

// differs is from where to where a and b, of one length, do, in sectors.
func differs(a, b []byte) (e block.Extent, differ bool) {
	const sector = store.Alignment
	for off := 0; off < len(a); off += sector {
		if end := min(off+sector, len(a)); !bytes.Equal(a[off:end], b[off:end]) {
			if !differ {
				e.Off, differ = uint64(off), true //nolint:gosec // not negative
			}
			e.Len = uint64(end) - e.Off //nolint:gosec // likewise
		}
	}
	return e, differ
}

// differ notes that a replica's content differs in e.
func (v *verify) differ(id quorum.ReplicaID, e block.Extent) {
	i := slices.IndexFunc(v.Differ, func(d Difference) bool { return d.ID == id })
	if i < 0 {
		i, v.Differ = len(v.Differ), append(v.Differ, Difference{ID: id})
	}
	v.Differ[i].Extents = v.Differ[i].Extents.With(e).Coarse(verifyNamed)
}
