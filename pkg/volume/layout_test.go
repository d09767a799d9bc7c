package volume

import (
	"slices"
	"testing"

	"github.com/cask-storage/cask/pkg/quorum"
)

type ids = []quorum.ReplicaID

// served is a core that serves: the voters named in sync are, the others were
// last seen a second ago.
func served(t *testing.T, rec Record, l Layout, inSync ids) *Core {
	t.Helper()
	sys, err := rec.config().System()
	if err != nil {
		t.Fatal(err)
	}
	c := New(Config{Instance: "t", Layout: &l, Timing: DefaultTiming()})
	rec.Initialized = true
	c.rec, c.sys, c.phase, c.now = rec, sys, Serving, 1000*DefaultTiming().Retry
	c.follow()
	for _, p := range c.peers {
		p.syncedAt = c.now - DefaultTiming().Retry
		if slices.Contains(inSync, p.id) {
			p.conn, p.state = 1, synced
		}
	}
	return c
}

func TestSteps(t *testing.T) {
	three := ids{"r0", "r1", "r2"}
	zones := map[quorum.ReplicaID]string{"r0": "a", "r1": "a", "r2": "b", "r3": "b"}
	late := DefaultTiming().Evict
	for name, x := range map[string]struct {
		rec    Record
		layout Layout
		inSync ids
		wait   Time
		want   ids // nil: no step
	}{
		"all: a failed voter is removed":   {Record{Level: "all", Voters: three}, Layout{Level: "all", Replicas: three}, ids{"r0", "r1"}, late, ids{"r0", "r1"}},
		"all: not at once":                 {Record{Level: "all", Voters: three}, Layout{Level: "all", Replicas: three}, ids{"r0", "r1"}, 0, nil},
		"all: down to the floor":           {Record{Level: "all", Voters: three}, Layout{Level: "all", Replicas: three, MinVoters: 3}, ids{"r0", "r1"}, late, nil},
		"all: two that failed together":    {Record{Level: "all", Voters: three}, Layout{Level: "all", Replicas: three, MinVoters: 1}, ids{"r0"}, late, ids{"r0"}},
		"all: two, and the floor":          {Record{Level: "all", Voters: three}, Layout{Level: "all", Replicas: three}, ids{"r0"}, late, nil},
		"quorum: goes on without a change": {Record{Level: "quorum", Voters: three}, Layout{Level: "quorum", Replicas: three}, ids{"r0", "r1"}, late, nil},
		"one: recovery must not need it":   {Record{Level: "one", Voters: three}, Layout{Level: "one", Replicas: three}, ids{"r0", "r1"}, late, ids{"r0", "r1"}},
		"back in sync: it votes again":     {Record{Level: "all", Voters: ids{"r0", "r1"}}, Layout{Level: "all", Replicas: three}, three, 0, three},
		"not in sync: it does not":         {Record{Level: "all", Voters: ids{"r0", "r1"}}, Layout{Level: "all", Replicas: three}, ids{"r0", "r1"}, late, nil},
		"replaced: first the new one": {Record{Level: "quorum", Voters: three}, Layout{Level: "quorum", Replicas: ids{"r0", "r1", "r3"}},
			ids{"r0", "r1", "r3"}, 0, ids{"r0", "r1", "r2", "r3"}},
		"replaced: then without the old": {Record{Level: "quorum", Voters: ids{"r0", "r1", "r2", "r3"}}, Layout{Level: "quorum", Replicas: ids{"r0", "r1", "r3"}},
			ids{"r0", "r1", "r3"}, 0, ids{"r0", "r1", "r3"}},
		"all wanted, one away": {Record{Level: "quorum", Voters: three}, Layout{Level: "all", Replicas: three}, ids{"r0", "r1"}, 0, nil},
		"each: a zone away":    {Record{Level: "quorum", Voters: three}, Layout{Level: "each", Replicas: three, Zones: zones}, ids{"r0", "r1"}, 0, nil},
	} {
		t.Run(name, func(t *testing.T) {
			c := served(t, x.rec, x.layout, x.inSync)
			c.now += x.wait
			for _, p := range c.peers {
				if p.state == synced {
					p.syncedAt = c.now
				}
			}
			c.propose()
			switch {
			case x.want == nil && c.change != nil:
				t.Fatalf("unexpected step: %s", c.change.why)
			case x.want != nil && c.change == nil:
				t.Fatal("no step")
			case x.want != nil && !slices.Equal(c.change.next.Voters, x.want):
				t.Fatalf("%s: voters %v, want %v", c.change.why, c.change.next.Voters, x.want)
			}
		})
	}
}

// TestLocalFollowsTheTarget: the zone that counts is the target's, if it can
// be.
func TestLocalFollowsTheTarget(t *testing.T) {
	zones := map[quorum.ReplicaID]string{"r0": "a", "r1": "b", "r2": "b"}
	rec := Record{Level: "local", Voters: ids{"r0", "r1", "r2"}, Zones: zones, Zone: "a"}
	for zone, want := range map[string]string{"b": "b", "a": "a", "c": "a", "": "a"} {
		l := Layout{Level: "local", Replicas: rec.Voters, Zones: zones, Zone: zone}
		if got := l.withLevel(rec).Zone; got != want {
			t.Errorf("target in zone %q: zone %q counts, want %q", zone, got, want)
		}
	}
}

// TestOldRecord: a record that names no level is recovered so that what quorum
// or all acknowledged is found.
func TestOldRecord(t *testing.T) {
	l := Layout{Level: "one", Replicas: ids{"r0"}}
	if got := l.complete(Record{Initialized: true, Voters: ids{"r0"}}).Level; got != quorum.Quorum {
		t.Errorf("a volume with data is read as %q", got)
	}
	if got := l.complete(Record{Voters: ids{"r0"}}).Level; got != quorum.One {
		t.Errorf("a new volume begins as %q", got)
	}
	if got := l.complete(Record{Initialized: true, Level: quorum.All, Voters: ids{"r0"}}).Level; got != quorum.All {
		t.Errorf("the record's own level becomes %q", got)
	}
}
