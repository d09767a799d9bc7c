package volume

import (
	"testing"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/history"
	"github.com/cask-storage/cask/pkg/replication"
)

// slowRig is a core that is written to without a pause, with replicas a and b
// that acknowledge at once.
type slowRig struct {
	*Core
	writes int // acknowledged
}

func newSlowRig() *slowRig {
	c := serving()
	c.cfg.Bounds.WindowOps, c.cfg.Bounds.BacklogOps, c.log.first = 4, 400, 1
	return &slowRig{Core: c}
}

// run lasts for so many milliseconds; in each the host writes four times and c
// acknowledges so many of those that it has been sent.
func (r *slowRig) run(ms int, acks func(ms int) int) {
	c := r.peer("c")
	for i := range ms {
		r.lease()
		r.Tick(r.now + msec)
		for n := 0; n < 4 && len(r.waiting) < 4; n++ {
			r.Submit(r.now, &Request{Op: block.OpWrite, Extent: block.Extent{Len: 512}, Bufs: [][]byte{make([]byte, 512)}})
			for _, p := range r.peers[:2] {
				r.applied(p, p.sent)
			}
		}
		r.applied(c, min(c.acked+history.Seq(acks(i)), c.sent))
		for _, a := range r.Take() {
			if a.Kind == ActComplete && a.Err == nil {
				r.writes++
			}
		}
	}
}

func (r *slowRig) applied(p *peer, seq history.Seq) {
	if p.conn != 0 && seq > p.acked {
		r.Receive(r.now, p.id, p.conn, replication.Message{Type: replication.Applied, Seq: seq})
	}
}

// every has so many operations acknowledged in one of every n milliseconds.
func every(n, many int) func(int) int {
	return func(ms int) int {
		if ms%n == 0 {
			return many
		}
		return 0
	}
}

func TestSlowReplica(t *testing.T) {
	for name, x := range map[string]struct {
		acks func(int) int
		cut  bool
	}{
		"a little too slow":  {acks: every(1, 3)},
		"over half the pace": {acks: every(4, 9)},
		"it pauses": {acks: func(ms int) int {
			if ms%1000 < 200 {
				return 0
			}
			return 100
		}},
		"it says nothing":      {acks: every(20000, 0), cut: true},
		"a tenth of the pace":  {acks: every(10, 4), cut: true},
		"a fifth":              {acks: every(5, 4), cut: true},
		"one at a time, gray":  {acks: every(200, 1), cut: true},
		"it keeps up in lumps": {acks: every(4, 16)},
	} {
		t.Run(name, func(t *testing.T) {
			r := newSlowRig()
			for range 5 {
				r.run(2000, x.acks)
			}
			c := r.peer("c")
			if cut := c.state != synced; cut != x.cut {
				t.Errorf("cut off: %v (%s)", cut, c.text)
			}
			t.Logf("%d writes in 10 s", r.writes)
			if r.writes < 4*4000 {
				t.Errorf("%d writes in 10 s: less than half of what the others do", r.writes)
			}
			if len(r.log.entries) > 401 {
				t.Errorf("%d operations in the backlog", len(r.log.entries))
			}
		})
	}
}
