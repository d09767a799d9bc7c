package volume

import (
	"time"
)

// A rebuild yields to the host: it moves so many bytes per second, more while
// writes are as quick as without it and less when they are not (additive
// increase, multiplicative decrease), within Bounds.CopyLeast and CopyMost.

const (
	paceEvery  = Time(100 * time.Millisecond) // between decisions
	paceSlack  = Time(500 * time.Microsecond) // of latency that does not matter
	paceRamp   = 16                           // a step up is this part of the rate
	paceTimes  = 2                            // the latency allowed, in times of the one without a rebuild
	paceWeight = 8                            // of what is known of that, against one more interval
)

// interval is what the host's writes saw between two decisions.
type interval struct {
	writes int
	sum    Time // of their latencies, submission to acknowledgement
}

func (i interval) mean() Time { return i.sum / Time(max(i.writes, 1)) }

// paceOf decides the rate, in bytes per second, of the next interval from that
// of the last, what its writes saw, and their latency without a rebuild (0: not
// known).
func paceOf(rate uint64, i interval, idle Time, b Bounds) uint64 {
	switch {
	case i.writes == 0:
		rate *= 2
	case idle != 0 && i.mean() > paceTimes*idle+paceSlack:
		rate /= 2
	default:
		rate += rate/paceRamp + 1
	}
	return min(max(rate, b.CopyLeast), b.CopyMost)
}

// idleOf learns the latency without a rebuild: a moving average of intervals
// without one; during one, only what is lower than was known.
func idleOf(idle Time, i interval, rebuilding bool) Time {
	switch m := i.mean(); {
	case i.writes == 0:
		return idle
	case idle == 0, rebuilding && m < idle:
		return m
	case rebuilding:
		return idle
	default:
		return (idle*(paceWeight-1) + m) / paceWeight
	}
}

// pace is what a rebuild may move now.
type pace struct {
	rate   uint64 // bytes per second
	credit int64  // bytes that may be moved now; below 0 after a chunk larger than that
	at     Time   // of the last refill
	next   Time   // of the next decision
	seen   interval
	idle   Time
}

// wrote notes the latency of an acknowledged write.
func (p *pace) wrote(took Time) {
	p.seen.writes++
	p.seen.sum += took
}

// tick refills the credit and, when it is time, decides anew.
func (p *pace) tick(now Time, rebuilding bool, b Bounds) {
	p.rate = min(max(p.rate, b.CopyLeast), b.CopyMost)
	if now >= p.next {
		if rebuilding {
			p.rate = paceOf(p.rate, p.seen, p.idle, b)
		}
		p.idle = idleOf(p.idle, p.seen, rebuilding)
		p.seen, p.next = interval{}, now+paceEvery
	}
	passed := min(now-p.at, paceEvery)
	p.at = now
	most := int64(p.rate) * int64(paceEvery) / int64(time.Second)  //nolint:gosec // at most CopyMost
	p.credit += int64(p.rate) * int64(passed) / int64(time.Second) //nolint:gosec // likewise
	p.credit = min(p.credit, most)
}

// mayCopy reports whether the rebuild may move its next chunk. One that I/O
// waits for waits for nothing.
func (c *Core) mayCopy() bool {
	return c.pace.credit > 0 || c.urgent()
}

// urgent reports whether I/O waits for a rebuild: no write quorum is in sync.
func (c *Core) urgent() bool {
	return c.phase != Serving || !c.sys.Write(c.synced)
}
