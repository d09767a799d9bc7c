package target

import (
	"sync"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/nvme"
)

// maxFused is the most blocks of a compare-and-write: ACWU, one block, which is
// also what a Device promises not to tear.
const maxFused = 1

// pair is a Compare and the Write that is executed only if it matches: fused
// commands. It passes the gate of their namespace alone, so nothing is written
// between the two.
type pair struct {
	compare nvme.Command // the Compare, whose slot is another's once it is answered

	mu            sync.Mutex
	first, second *command
	here          [2]bool     // complete with their data, not answered
	broken        nvme.Status // what a command that still comes is answered with
}

// fuse takes the fused operation apart of which cmd, classified as s, may be a
// part. Only the reader calls it.
func (c *conn) fuse(cmd *command, s nvme.Status) nvme.Status {
	p := c.fusing
	c.fusing = nil
	kind := cmd.sqe.Flags() & nvme.FlagFuseMask
	if p != nil && kind != nvme.FuseSecond {
		p.abandon()
	}
	switch {
	case kind == 0:
		return s
	case kind == nvme.FuseSecond && p == nil:
		return nvme.AbortedMissingFused | nvme.DNR
	case kind == nvme.FuseSecond:
		cmd.pair = p
		p.join(cmd)
		if s.OK() && !p.fits(&cmd.sqe) {
			return nvme.InvalidField | nvme.DNR
		}
		return s
	case kind != nvme.FuseFirst || c.qid == 0:
		return nvme.InvalidField | nvme.DNR
	}
	cmd.pair = &pair{first: cmd, compare: cmd.sqe}
	c.fusing = cmd.pair
	if s.OK() && cmd.sqe.Opcode() != nvme.OpCompare {
		return nvme.InvalidField | nvme.DNR
	}
	if s.OK() && cmd.sqe.Blocks() > maxFused {
		return nvme.AtomicUnitExceeded | nvme.DNR
	}
	return s
}

// fits says that b is the Write to the Compare.
func (p *pair) fits(b *nvme.Command) bool {
	a := &p.compare
	return b.Opcode() == nvme.OpWrite && a.NSID() == b.NSID() && a.SLBA() == b.SLBA() && a.Blocks() == b.Blocks()
}

func (p *pair) join(second *command) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.second = second
}

// arrive takes a command of the pair that is ready to be executed, or, when s is
// an error, answered with it.
func (p *pair) arrive(cmd *command, s nvme.Status) {
	p.mu.Lock()
	i, mate := 0, p.second
	if cmd == p.second {
		i, mate = 1, p.first
	}
	switch {
	case p.broken != 0:
		if s.OK() {
			s = p.broken
		}
	case s.OK():
		p.here[i] = true
		both := p.here[0] && p.here[1]
		p.mu.Unlock()
		if both {
			p.first.begin()
			p.first.alone()
		}
		return
	default:
		p.broken = nvme.AbortedFailedFused | nvme.DNR
	}
	answer := p.here[1-i]
	p.here[1-i] = false
	p.mu.Unlock()
	cmd.conn.complete(cmd.fail(s))
	if answer {
		mate.conn.complete(mate.fail(nvme.AbortedFailedFused | nvme.DNR))
	}
}

// abandon ends a pair of which only the first will come.
func (p *pair) abandon() {
	p.mu.Lock()
	answer := p.here[0]
	p.here[0] = false
	if p.broken == 0 {
		p.broken = nvme.AbortedMissingFused | nvme.DNR
	}
	p.mu.Unlock()
	if answer {
		p.first.conn.complete(p.first.fail(nvme.AbortedMissingFused | nvme.DNR))
	}
}

// write executes the Write if the Compare, whose read is done, matches.
func (p *pair) write() {
	if s := p.first.compare(); !s.OK() {
		p.first.end(s)
		return
	}
	e, s := p.second.extent()
	if !s.OK() { // it was shrunk
		p.first.end(s)
		return
	}
	p.first.step = only
	p.first.sqe.SetDW(12, p.second.sqe.DW(12)) // FUA is the Write's
	p.first.submitWith(block.OpWrite, e, p.second.data())
}

// end answers both. The Compare's outcome is s unless it got to the Write.
func (p *pair) end(s nvme.Status) {
	wrote := p.first.step == only
	p.first.leaveGate()
	c := p.first.conn
	if wrote {
		c.complete(p.first.fail(nvme.Success))
		c.complete(p.second.fail(s))
		return
	}
	c.complete(p.first.fail(s))
	c.complete(p.second.fail(nvme.AbortedFailedFused | nvme.DNR))
}
