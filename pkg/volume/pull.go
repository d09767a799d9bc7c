package volume

import (
	"github.com/cask-storage/cask/pkg/replication"
)

// A chunk travels from the source straight to the replica (Pull) when the two
// reach each other, else, and from snapshots, through the target (Read, Copy). A Pull that outlives
// its rebuild may still be applied until the replica hears of the next one,
// with content newer than the replica's mark. So only chunks beyond what an
// earlier rebuild had copied are pulled: those the next one copies again in any
// case, since they changed at the replica after the base.

// move has a chunk copied.
func (c *Core) move(rb *rebuild, k *chunk) {
	k.id = c.id()
	if rb.pulls && rb.leg.to.Seq == 0 && k.extent.Off >= rb.resume.copied {
		k.state, k.at = pulling, c.now
		c.send(rb.to, c.pullOf(rb, k))
		return
	}
	k.state = reading
	c.send(rb.from, replication.Message{Type: replication.Read, ID: k.id, Extent: k.extent, Base: rb.leg.to.Seq})
}

// pullOf asks the replica to fetch a chunk. The driver adds the source's address.
func (c *Core) pullOf(rb *rebuild, k *chunk) replication.Message {
	return replication.Message{Type: replication.Pull, ID: k.id, Extent: k.extent, Seq: rb.from.acked, Volume: c.cfg.Volume, Replica: string(rb.from.id)}
}

// probe finds out, with nothing kept back meanwhile, whether the replica
// reaches the source.
func (c *Core) probe(rb *rebuild) {
	if !rb.to.noPull {
		k := &chunk{id: c.id()}
		rb.probeID = k.id
		c.send(rb.to, c.pullOf(rb, k))
	}
}

// tickPulls cuts a replica off that keeps writes waiting for a Pull: only its
// next Hello makes sure that nothing of it comes later.
func (c *Core) tickPulls() {
	rb := c.rebuild
	if rb == nil {
		return
	}
	for _, k := range rb.chunks {
		if k.state == pulling && c.now-k.at > c.cfg.Timing.Pull {
			rb.to.noPull = true
			c.reset(rb.to, "it did not fetch a chunk in time")
			return
		}
	}
}
