package volume

import (
	"errors"
	"slices"
	"testing"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/history"
	"github.com/cask-storage/cask/pkg/quorum"
	"github.com/cask-storage/cask/pkg/replication"
)

// take removes what the core wants done and returns the kinds, and the types of
// the messages, in words.
func take(c *Core) (all []Action) {
	all, c.out = c.out, nil
	return all
}

func sends(all []Action, to quorum.ReplicaID, m replication.Type) bool {
	return slices.ContainsFunc(all, func(a Action) bool { return a.Kind == ActSend && a.To == to && a.Msg.Type == m })
}

func has(all []Action, k ActionKind) bool {
	return slices.ContainsFunc(all, func(a Action) bool { return a.Kind == k })
}

// TestBlankIsAskedAbout: a replica that lost everything is formatted only after
// the authority said, since it came, that no newer target is there.
func TestBlankIsAskedAbout(t *testing.T) {
	three := ids{"r0", "r1", "r2"}
	blank := replication.Message{Type: replication.State, Kind: uint8(replication.Blank)}
	begin := func(t *testing.T) (*Core, Record) {
		rec := Record{Epoch: 3, Holder: "t", Level: "quorum", Voters: three, Initialized: true}
		c := served(t, rec, Layout{Level: "quorum", Replicas: three}, ids{"r0", "r1"})
		c.Connected(c.now, "r2", 7)
		c.Receive(c.now, "r2", 7, blank)
		if all := take(c); !has(all, ActLoad) || sends(all, "r2", replication.Format) {
			t.Fatalf("before the authority has answered: %+v", all)
		}
		return c, c.rec
	}
	t.Run("the epoch stands", func(t *testing.T) {
		c, rec := begin(t)
		c.Loaded(c.now, rec, nil)
		if all := take(c); !sends(all, "r2", replication.Format) {
			t.Errorf("%+v", all)
		}
	})
	t.Run("a newer target", func(t *testing.T) {
		c, rec := begin(t)
		rec.Epoch, rec.Holder = 4, "u"
		c.Loaded(c.now, rec, nil)
		if all := take(c); !has(all, ActStop) || sends(all, "r2", replication.Format) || !errors.Is(c.stop, ErrSuperseded) {
			t.Errorf("%+v, %v", all, c.stop)
		}
	})
	t.Run("no answer", func(t *testing.T) {
		c, rec := begin(t)
		c.Loaded(c.now, Record{}, errors.New("away"))
		if all := take(c); sends(all, "r2", replication.Format) || has(all, ActLoad) {
			t.Errorf("at once: %+v", all)
		}
		c.confirmAt = c.now
		c.advance()
		if all := take(c); !has(all, ActLoad) {
			t.Errorf("later: %+v", all)
		}
		c.Loaded(c.now, rec, nil)
		if all := take(c); !sends(all, "r2", replication.Format) {
			t.Errorf("%+v", all)
		}
	})
	t.Run("it came again meanwhile", func(t *testing.T) {
		c, rec := begin(t)
		c.Disconnected(c.now, "r2", 7)
		c.Connected(c.now, "r2", 8)
		c.Receive(c.now, "r2", 8, blank)
		take(c)
		c.Loaded(c.now, rec, nil)
		if all := take(c); sends(all, "r2", replication.Format) || !has(all, ActLoad) {
			t.Errorf("the answer is older than it: %+v", all)
		}
	})
}

// TestLostWriteIsDoneAgain: a write that waits to be stable when every replica
// loses its memory is not acknowledged by a later flush.
func TestLostWriteIsDoneAgain(t *testing.T) {
	three := ids{"r0", "r1", "r2"}
	lost := &Request{Op: block.OpWrite, FUA: true, seq: 9}
	kept := &Request{Op: block.OpWrite, FUA: true, seq: 8}
	flush := &Request{Op: block.OpFlush}
	rec := Record{Epoch: 3, Holder: "t", Level: "quorum", Voters: three, Initialized: true}
	c := served(t, rec, Layout{Level: "quorum", Replicas: three}, nil)
	c.flushes.waiting = []*Request{kept, lost, flush}
	best := c.peer("r0")
	best.state, best.st = heard, replication.Message{Kind: uint8(replication.Member), Seq: 8, History: history.History{{Epoch: 2, First: 1}}}
	c.chosen(best, "")
	if !slices.Equal(c.waiting, []*Request{lost}) || !slices.Equal(c.flushes.waiting, []*Request{kept, flush}) {
		t.Errorf("to be done again %v, to be flushed %v", c.waiting, c.flushes.waiting)
	}
}
