package volume

import (
	"fmt"
	"time"
)

// When the backlog is full, new writes wait for a replica that is behind and
// comes on, rather than that it is cut off and rebuilt: a pause of its disk, or a
// load that it is a little too slow for, would cost the redundancy that the
// volume is for. What that costs the host is the pace at which it may write now,
// against the best one known: below half of it for three seconds, and the replica is
// cut off all the same. So is one that says nothing.

const (
	slowEvery = Time(500 * time.Millisecond) // the pace is taken so often
	slowLeast = Time(20 * time.Millisecond)  // an interval in which nothing waited is of use from this on
	slowFade  = Time(4 * time.Second)        // in which the best pace would be forgotten
	slowMost  = Time(3 * time.Second)        // at a bad pace, then replicas are cut off
	slowIdle  = Time(500 * time.Millisecond) // without an acknowledgement a replica is not waited for
	slowOp    = 4 << 10                      // bytes that an operation counts for beside its own
)

// slack says how long writes may go on waiting for replicas that are behind.
type slack struct {
	begin Time // of the interval
	moved int  // bytes in it
	held  bool // writes waited in it
	best  int  // bytes per second, fading
	lost  Time // at less than half of that because writes waited, less the time when it was not so
}

func (s *slack) wrote(bytes int) { s.moved += bytes + slowOp }

// pass ends the interval when it is over.
func (s *slack) pass(now Time) {
	if now >= s.begin+slowEvery {
		s.end(now)
	}
}

// wait has the interval be one in which writes wait, and the time before it one
// by itself.
func (s *slack) wait(now Time) {
	if !s.held && now >= s.begin+slowLeast {
		s.end(now)
	}
	s.held = true
}

func (s *slack) end(now Time) {
	d := now - s.begin
	pace := int(int64(s.moved) * int64(time.Second) / int64(d))
	faded := int64(s.best) * int64(slowFade-min(d, slowFade)) / int64(slowFade)
	s.best = max(int(faded), pace)
	if s.held && pace < s.best/2 {
		s.lost += d
	} else {
		s.lost = max(s.lost-d, 0)
	}
	s.begin, s.moved, s.held = now, 0, false
}

func (s *slack) spent() bool { return s.lost >= slowMost }

// held reports whether the next write waits for the backlog to have room.
func (c *Core) held() bool {
	if !c.log.full(c.cfg.Bounds) {
		return false
	}
	c.trim()
	full := c.log.full(c.cfg.Bounds)
	if full {
		c.slack.wait(c.now)
	}
	return full
}

// waitsForSlow cuts off the replicas that still need the oldest operation,
// except those that are waited for; it reports whether there is one.
func (c *Core) waitsForSlow() (waits bool) {
	for _, p := range c.peers {
		switch {
		case !p.state.streaming() || p.acked >= c.log.first:
		case !c.slack.spent() && c.now < p.movedAt+slowIdle:
			waits = true
		default:
			c.reset(p, fmt.Sprintf("it was %d operations behind", c.last-p.acked))
		}
	}
	return waits
}
