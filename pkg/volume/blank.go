package volume

import (
	"fmt"

	"github.com/cask-storage/cask/pkg/replication"
)

func (p *peer) blank() bool { return p.state == heard && p.membership() == replication.Blank }

// askAboutBlanks asks the authority whether this epoch is still the newest when
// replicas that lost everything wait to be formatted. What such a replica had
// promised to a newer target it has forgotten; rebuilt by this one it would
// count, for writes that the newer target never hears of. (Found by the model:
// its rule KEEP.) A volume that was never initialized needs no asking: its
// barrier swaps the record.
func (c *Core) askAboutBlanks() {
	if !c.fenced() || c.calling || c.now < c.confirmAt {
		return
	}
	for _, p := range c.peers {
		if p.blank() {
			p.asked, c.confirming = true, true
		}
	}
	if c.confirming {
		c.act(Action{Kind: ActLoad})
	}
}

// confirmed is the authority's answer.
func (c *Core) confirmed(rec Record, err error) {
	c.confirming = false
	switch {
	case err != nil:
		c.confirmAt = c.now + c.cfg.Timing.Retry
	case rec.Epoch != c.rec.Epoch || rec.Holder != c.cfg.Instance:
		c.halt(fmt.Errorf("target %s of volume %s has taken over with epoch %d: %w", rec.Holder, c.cfg.Volume, rec.Epoch, ErrSuperseded))
	default:
		for _, p := range c.peers {
			if p.asked && p.blank() {
				c.format(p)
			}
		}
	}
}
