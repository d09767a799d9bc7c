package volume

import (
	"testing"

	"github.com/cask-storage/cask/pkg/history"
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

// TestRecoverable: voters that surely hold all they acknowledged, of every write
// quorum; one that has missed the newest epoch is not asked for when somebody is
// there who surely holds what that began with.
func TestRecoverable(t *testing.T) {
	voter := func(begun history.Epoch, flags uint8) *peer {
		return &peer{state: heard, st: replication.Message{Kind: uint8(replication.Member), Epoch: begun, Flags: flags}}
	}
	const lost = replication.FlagSuspect
	silent := func() *peer { return &peer{} }
	for name, x := range map[string]struct {
		voters []*peer
		want   bool
	}{
		"two of three":                                      {[]*peer{voter(5, 0), voter(5, 0), silent()}, true},
		"one of three":                                      {[]*peer{voter(5, 0), silent(), silent()}, false},
		"two lost their memory":                             {[]*peer{voter(5, 0), voter(5, lost), voter(5, lost)}, false},
		"two did, one of them before the epoch":             {[]*peer{voter(6, 0), voter(5, lost), voter(6, lost)}, true},
		"... and the other is silent":                       {[]*peer{voter(6, 0), voter(5, lost), silent()}, true},
		"two did, and who did not has missed the epoch too": {[]*peer{voter(5, 0), voter(5, lost), voter(6, lost)}, false},
		"... and a later one, that got nowhere":             {[]*peer{voter(6, 0), voter(5, lost), voter(7, lost)}, true},
		"all did":                                           {[]*peer{voter(6, lost), voter(5, lost), voter(5, lost)}, false},
		"two did, one of them of a Cask that does not say":  {[]*peer{voter(6, 0), voter(0, lost), voter(6, lost)}, false},
		"none says":                                         {[]*peer{voter(0, 0), voter(0, lost), voter(0, 0)}, true},
		"one is rebuilt": {[]*peer{voter(6, 0), voter(6, lost),
			{state: heard, st: replication.Message{Kind: uint8(replication.Rebuilding), Epoch: 5}}}, false},
	} {
		var ids []quorum.ReplicaID
		c := New(Config{})
		for i, p := range x.voters {
			p.id = quorum.ReplicaID(rune('a' + i))
			ids, c.voters = append(ids, p.id), append(c.voters, p)
		}
		sys, err := quorum.New(quorum.Quorum, ids)
		if err != nil {
			t.Fatal(err)
		}
		c.sys, c.all = sys, c.voters
		if got := c.recoverable(); got != x.want {
			t.Errorf("%s: %v, want %v", name, got, x.want)
		}
	}
}
