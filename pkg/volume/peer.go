package volume

import (
	"cmp"
	"fmt"

	"github.com/cask-storage/cask/pkg/history"
	"github.com/cask-storage/cask/pkg/internal/mutant"
	"github.com/cask-storage/cask/pkg/quorum"
	"github.com/cask-storage/cask/pkg/replication"
)

// peerState is a replica as the target sees it.
type peerState uint8

const (
	down        peerState = iota // not connected
	connected                    // connected, not yet spoken to in this epoch
	greeting                     // Hello sent
	returning                    // goes back to what it had kept
	heard                        // has promised; st is what it said
	joining                      // receives what it missed, up to Begin
	synced                       // has all, counts
	rebuilding                   // receives blocks; does not count
	backfilling                  // receives blocks of a snapshot, and no operations
	failed                       // said why it cannot
)

var peerStateNames = [...]string{"down", "connected", "greeting", "returning", "heard", "joining", "synced", "rebuilding", "backfilling", "failed"}

func (s peerState) String() string { return peerStateNames[s] }

// streaming says that every operation is sent to the peer as it is issued.
func (s peerState) streaming() bool { return s == joining || s == synced || s == rebuilding }

// peer is one replica.
type peer struct {
	id    quorum.ReplicaID
	conn  uint64 // 0: none
	state peerState
	st    replication.Message // its last State
	sent  history.Seq
	acked history.Seq

	movedAt Time   // when it last acknowledged an operation, or was sent one while it had none
	begin   uint64 // ID of the Begin in flight
	back    uint64 // ID of the Return in flight

	heardAt Time // last message of any kind
	pingID  uint64
	pingAt  Time // when pingID was sent
	lease   Time // when the last answered ping was sent

	damage   damage
	syncedAt Time // when it was last seen in sync
	asked    bool // blank, and the authority was asked since it said so

	read    latency // of its answers to reads
	reading int     // reads that it has not answered

	noPull bool // its fetches took too long: rebuilds go through the target
	turnAt Time // its host is busy with other rebuilds: ask again then

	room room

	reason  replication.Code
	text    string
	retryAt Time // of a failed peer
}

// Connected tells that the driver has a new connection to a replica. conn is
// never 0 and never used twice.
func (c *Core) Connected(now Time, id quorum.ReplicaID, conn uint64) {
	c.now = now
	p := c.peer(id)
	c.lose(p, "")
	if p.state == failed && now < p.retryAt {
		p.conn, p.heardAt = conn, now // Tick greets it
		return
	}
	p.conn, p.state, p.heardAt, p.lease, p.pingID = conn, connected, now, 0, 0
	p.pingAt, p.room = 0, room{}
	if c.fenced() && c.follows(p) {
		c.greet(p)
	}
	c.advance()
}

// Disconnected tells that a connection ended.
func (c *Core) Disconnected(now Time, id quorum.ReplicaID, conn uint64) {
	c.now = now
	if p := c.peer(id); p.conn == conn {
		c.lose(p, "the connection ended")
		c.advance()
	}
}

// greet asks for the promise of this epoch.
func (c *Core) greet(p *peer) {
	if p.conn == 0 {
		return
	}
	p.state, p.asked = greeting, false
	c.send(p, replication.Message{Type: replication.Hello, Volume: c.cfg.Volume, Replica: string(p.id)})
}

func (c *Core) send(p *peer, m replication.Message) {
	m.Epoch = c.rec.Epoch
	c.act(Action{Kind: ActSend, To: p.id, Conn: p.conn, Msg: m})
}

// reset closes a peer's connection; the driver makes a new one.
func (c *Core) reset(p *peer, why string) {
	if p.conn == 0 {
		return
	}
	c.act(Action{Kind: ActReset, To: p.id, Conn: p.conn})
	c.lose(p, why)
}

// lose forgets a peer's connection and all that waits for it.
func (c *Core) lose(p *peer, why string) {
	if p.conn == 0 {
		return
	}
	was := p.state
	p.conn, p.begin = 0, 0
	if p.state != failed {
		p.state, p.text, p.reason = down, why, replication.OK
	}
	c.reads.lost(p.id)
	p.reading = 0
	c.flushes.lost(p.id)
	c.lostRepairs(p)
	c.lostVerify(p)
	if c.change != nil {
		delete(c.change.ids, p.id)
	}
	if rb := c.rebuild; rb != nil {
		if rb.to == p {
			c.rebuild = nil
		} else if rb.from == p && rb.to.state != rebuilding && rb.to.state != backfilling {
			c.rebuild = nil
		} else if rb.from == p {
			rb.lostSource()
		}
		for k := range rb.lists {
			delete(rb.lists[k].asked, p)
		}
	}
	if c.phase == Tailing && c.tail.from == p {
		c.reacquire(fmt.Sprintf("replica %s was lost while its history was read", p.id))
	} else if c.phase >= Joining && c.phase < Stopped && was.streaming() && !c.anyStreaming() {
		c.reacquire("every replica was lost")
	}
}

func (c *Core) anyStreaming() bool {
	for _, p := range c.voters {
		if p.state == joining || p.state == synced {
			return true
		}
	}
	return false
}

// tickPeer keeps the lease alive and notices silence.
func (c *Core) tickPeer(p *peer) {
	t := c.cfg.Timing
	if p.state == failed && c.now >= p.retryAt {
		p.state, p.heardAt = down, c.now
		c.greet(p)
	}
	if p.conn == 0 || p.state == failed {
		return
	}
	if c.now-p.heardAt > t.Dead {
		c.reset(p, fmt.Sprintf("it was silent for %d ms", (c.now-p.heardAt)/1e6))
		return
	}
	if p.state >= returning && p.state != failed && (p.pingAt == 0 || c.now-p.pingAt >= t.Ping) && p.pingID == 0 {
		p.pingID, p.pingAt = c.id(), c.now
		c.send(p, replication.Message{Type: replication.Ping, ID: p.pingID})
	}
}

// leased reports whether a write quorum confirmed this epoch recently enough.
func (c *Core) leased() bool {
	if mutant.On(mutant.NoLease) {
		return true
	}
	return c.sys.Write(func(id quorum.ReplicaID) bool {
		p := c.peer(id)
		return p.state == synced && p.lease != 0 && c.now-p.lease < c.cfg.Timing.Lease
	})
}

// Receive takes a replica's message.
//
//lint:dispatch
func (c *Core) Receive(now Time, id quorum.ReplicaID, conn uint64, m replication.Message) {
	c.now = now
	p := c.peer(id)
	if p.conn != conn || c.phase == Stopped {
		return
	}
	p.heardAt = now
	switch m.Type {
	case replication.Digests:
		c.verifies(p, m)
	case replication.State:
		c.onState(p, m)
	case replication.Refused:
		c.onRefused(p, m)
	case replication.Applied:
		c.onApplied(p, m.Seq)
	case replication.Done:
		c.onDone(p, m)
	case replication.Data, replication.SnapshotList:
		c.onData(p, m)
	case replication.Pong:
		if m.ID == p.pingID {
			p.lease, p.pingID = p.pingAt, 0
			if mutant.On(mutant.LeaseFromPong) {
				p.lease = now
			}
		}
	case replication.TailOp:
		c.onTailOp(p, m)
	case replication.Extents:
		c.onExtents(p, m)
	case replication.Damage:
		c.onDamage(p, m)
	default:
		c.reset(p, fmt.Sprintf("it sent %v", m.Type))
	}
	c.advance()
}

func (c *Core) onState(p *peer, m replication.Message) {
	if m.Promised > c.rec.Epoch {
		c.superseded(p, m.Promised)
		return
	}
	p.st = m
	if c.phase == Fencing && m.History.Last() >= c.rec.Epoch && !mutant.On(mutant.EpochUnswapped) && !mutant.On(mutant.StaleAnswer) {
		// Nobody has begun this epoch: there was another target of this number.
		c.superseded(p, m.History.Last())
		return
	}
	switch {
	case replication.Membership(m.Kind) == replication.Failed:
		c.fail(p, m.Code, m.Text)
	case p.state == greeting || p.state == returning:
		p.state = heard
		if p.blank() && !c.rec.Initialized {
			c.format(p)
		}
	default:
		c.reset(p, fmt.Sprintf("it sent a State while %v", p.state))
	}
}

// format has a blank replica make its extent. Empty, it counts only in a volume
// that was never initialized.
func (c *Core) format(p *peer) {
	p.state = greeting
	c.send(p, replication.Message{Type: replication.Format, Size: cmp.Or(c.size.last, c.size.want)})
}

// fail sets a peer aside for a while.
func (c *Core) fail(p *peer, code replication.Code, text string) {
	c.reset(p, text)
	p.state, p.reason, p.text = failed, code, text
	p.retryAt = c.now + 5*c.cfg.Timing.Retry
}

func (c *Core) onRefused(p *peer, m replication.Message) {
	switch {
	case m.Promised > c.rec.Epoch:
		c.superseded(p, m.Promised)
	case m.Code == replication.ErrForeign:
		c.fail(p, m.Code, m.Text)
	default:
		c.reset(p, m.Text)
	}
}

// superseded ends this target: a replica has promised a higher epoch.
func (c *Core) superseded(p *peer, promised history.Epoch) {
	c.halt(fmt.Errorf("replica %s of volume %s has promised epoch %d, this target holds %d: another target has taken over, "+
		"or the Volume's status was restored from an old backup: %w", p.id, c.cfg.Volume, promised, c.rec.Epoch, ErrSuperseded))
}

func (c *Core) onDone(p *peer, m replication.Message) {
	switch {
	case p.begin != 0 && m.ID == p.begin:
		p.begin = 0
		p.state, p.text, p.reason = synced, "", replication.OK
		if c.rebuild != nil && c.rebuild.to == p {
			c.rebuild = nil
		}
		c.tryCommit()
		c.trim()
	case p.state == returning && m.ID == p.back:
		if m.Code != replication.OK {
			c.fail(p, m.Code, "it cannot go back to what it had kept: "+m.Text)
			return
		}
		c.sendBack(p)
	case c.flushes.done(p, m):
		if m.Code != replication.OK {
			c.fail(p, m.Code, "it could not flush: "+m.Text)
		}
	case c.grown(p, m):
	case c.flushedChange(p, m):
	case c.repaired(p, m):
	case c.verifies(p, m):
	case c.rebuild != nil && c.rebuild.to == p && m.ID == c.rebuild.turnID:
		c.onTurn(m)
	case c.rebuild != nil && c.rebuild.to == p:
		c.copied(m)
	case c.rebuild != nil && c.rebuild.from == p && m.ID == c.rebuild.stableID && m.ID != 0:
		if m.Code != replication.OK {
			c.fail(p, m.Code, "it could not flush: "+m.Text)
			return
		}
		c.rebuild.stableID = 0
	}
}
