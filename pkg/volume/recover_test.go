package volume

import (
	"testing"

	"github.com/cask-storage/cask/pkg/quorum"
	"github.com/cask-storage/cask/pkg/replication"
)

// TestLastResort: a volume is reopened from the best copy when nobody else is
// left to ask, but not while a voter that still holds its data is away.
func TestLastResort(t *testing.T) {
	sys, err := quorum.Config{Level: quorum.Quorum, Voters: []quorum.ReplicaID{"r0", "r1", "r2"}}.System()
	if err != nil {
		t.Fatal(err)
	}
	suspect := replication.Message{Kind: uint8(replication.Member), Flags: replication.FlagSuspect}
	rebuilding := replication.Message{Kind: uint8(replication.Rebuilding)}
	for name, x := range map[string]struct {
		third *peer
		want  bool
	}{
		"not heard":     {&peer{id: "r2"}, false},
		"its disk gone": {&peer{id: "r2", state: failed, reason: replication.ErrMissing}, true},
		"its disk full": {&peer{id: "r2", state: failed, reason: replication.ErrNoSpace}, false},
		"in use":        {&peer{id: "r2", state: failed, reason: replication.ErrBusy}, false},
		"another one":   {&peer{id: "r2", state: heard, st: suspect}, true},
		"rebuilding":    {&peer{id: "r2", state: heard, st: rebuilding}, true},
	} {
		c := New(Config{})
		c.sys = sys
		c.all = []*peer{{id: "r0", state: heard, st: suspect}, {id: "r1", state: heard, st: rebuilding}, x.third}
		c.voters = c.all
		if got := c.lastResort(); got != x.want {
			t.Errorf("the third voter: %s: %v, want %v", name, got, x.want)
		}
	}
}
