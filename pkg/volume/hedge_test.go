package volume

import (
	"testing"
	"time"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/quorum"
	"github.com/cask-storage/cask/pkg/replication"
)

// serving is a core with three replicas in sync.
func serving() *Core {
	c := New(Config{Replicas: []quorum.ReplicaID{"a", "b", "c"}, Size: 1 << 20, Timing: DefaultTiming()})
	c.rec.Voters = []quorum.ReplicaID{"a", "b", "c"}
	c.sys, _ = quorum.Config{Level: quorum.Quorum, Voters: c.rec.Voters}.System()
	c.follow()
	for i, p := range c.peers {
		p.state, p.conn = synced, uint64(i+1)
	}
	c.phase, c.sole, c.now = Serving, true, 1000*msec
	c.size.last, c.size.served = c.cfg.Size, c.cfg.Size
	c.lease()
	return c
}

// lease is confirmed by all.
func (c *Core) lease() {
	for _, p := range c.peers {
		p.lease, p.heardAt, p.pingAt = c.now, c.now, c.now
	}
}

// asks are the reads that the core sends now.
func asks(c *Core) (out []Action) {
	for _, a := range c.Take() {
		if a.Kind == ActSend && a.Msg.Type == replication.Read {
			out = append(out, a)
		}
	}
	return out
}

// readAt submits a read and returns where it is sent.
func readAt(t *testing.T, c *Core, at Time) Action {
	t.Helper()
	c.now = at
	c.lease()
	c.Submit(at, &Request{Op: block.OpRead, Extent: block.Extent{Len: 512}})
	as := asks(c)
	if len(as) != 1 {
		t.Fatalf("a read is sent as %v", as)
	}
	return as[0]
}

// answer has a read answered; it returns how many requests that completes.
func answer(c *Core, at Time, a Action, code replication.Code) (n int) {
	m := replication.Message{Type: replication.Data, ID: a.Msg.ID, Code: code}
	if code == replication.OK {
		m.Bufs = [][]byte{make([]byte, 512)}
	}
	c.Receive(at, a.To, a.Conn, m)
	for _, x := range c.Take() {
		if x.Kind == ActComplete {
			n++
		}
	}
	return n
}

// warm has a and b answer within 1 ms.
func warm(t *testing.T, c *Core) Time {
	at := c.now
	for range 40 {
		at += msec
		answer(c, at+msec/2, readAt(t, c, at), replication.OK)
	}
	c.peer("b").read = c.peer("a").read
	return at + msec
}

func TestHedge(t *testing.T) {
	for name, answers := range map[string]struct {
		first, second replication.Code
		order         [2]int
	}{
		"the second is first":             {replication.OK, replication.OK, [2]int{1, 0}},
		"the first is first":              {replication.OK, replication.OK, [2]int{0, 1}},
		"medium error of the first":       {replication.ErrMedium, replication.OK, [2]int{0, 1}},
		"medium error of the second":      {replication.OK, replication.ErrMedium, [2]int{1, 0}},
		"medium error of the second late": {replication.OK, replication.ErrMedium, [2]int{0, 1}},
	} {
		c := serving()
		at := warm(t, c)
		first := readAt(t, c, at)
		if first.To != "a" {
			t.Fatalf("%s: the read goes to %s", name, first.To)
		}
		wake := c.Wake()
		if wake < at+hedgeLeast || wake > at+5*msec {
			t.Fatalf("%s: hedged after %v", name, time.Duration(wake-at))
		}
		c.Tick(wake - 1)
		if as := asks(c); len(as) != 0 {
			t.Fatalf("%s: hedged too early: %v", name, as)
		}
		c.Tick(wake)
		as := asks(c)
		if len(as) != 1 || as[0].To == "a" || c.hedges != 1 {
			t.Fatalf("%s: hedged as %v", name, as)
		}
		both, codes, done := []Action{first, as[0]}, []replication.Code{answers.first, answers.second}, 0
		for _, i := range answers.order {
			done += answer(c, wake+msec, both[i], codes[i])
		}
		if done != 1 || len(c.reads.sent)+len(c.reads.late) != 0 || c.peer("a").reading+c.peer(as[0].To).reading != 0 {
			t.Errorf("%s: %d completions, left %+v", name, done, c.reads)
		}
	}
}

// TestHedgeOfLost: a read is asked for anew only when both replicas are lost.
func TestHedgeOfLost(t *testing.T) {
	c := serving()
	at := warm(t, c)
	first := readAt(t, c, at)
	c.Tick(c.Wake())
	second := asks(c)[0]
	c.Disconnected(c.now, first.To, first.Conn)
	if as := asks(c); len(as) != 0 {
		t.Fatalf("the other is still asked, and yet %v", as)
	}
	if len(c.reads.waiting) != 0 {
		t.Fatal("the read was put back")
	}
	if n := answer(c, c.now+msec, second, replication.OK); n != 1 {
		t.Fatalf("%d completions", n)
	}
}

// TestHedgeBudget: when every replica is slow, few reads are asked for twice.
func TestHedgeBudget(t *testing.T) {
	c := serving()
	at := warm(t, c)
	const reads = 4000
	sent := 0
	c.reads.credit = 0
	for i := range reads {
		readAt(t, c, at+Time(i)*msec/10)
		c.Tick(at + Time(i)*msec/10)
		sent += len(asks(c))
	}
	if most := reads/hedgeShare + int(reads*msec/10/hedgeEvery) + hedgeBurst; sent > most || sent < most/2 {
		t.Errorf("%d of %d reads hedged, at most %d", sent, reads, most)
	}
}

// TestSlowIsAvoided: reads leave a replica that has become slow, try it again
// one at a time, and return when it is quick.
func TestSlowIsAvoided(t *testing.T) {
	c := serving()
	at := warm(t, c)
	slow := readAt(t, c, at)
	c.Tick(c.Wake())
	answer(c, c.now+msec/2, asks(c)[0], replication.OK)
	for i := range Time(10) {
		if a := readAt(t, c, c.now+msec); a.To == "a" {
			t.Fatalf("read %d goes to the slow replica", i)
		} else {
			answer(c, c.now+msec/2, a, replication.OK)
		}
	}
	answer(c, at+500*msec, slow, replication.OK)
	probes := 0
	for range 30_000 {
		now := c.now + msec
		if a := readAt(t, c, now); a.To == "a" {
			if probes++; c.peer("a").reading > 1 && probes < 4 {
				t.Fatal("the slow replica is tried by two reads at once")
			}
			answer(c, now+msec/2, a, replication.OK)
		} else {
			answer(c, now+msec/2, a, replication.OK)
		}
	}
	if a := readAt(t, c, c.now+msec); a.To != "a" || probes < 1000 {
		t.Errorf("after it is quick again: %s, %d of 30000 reads", a.To, probes)
	}
}
