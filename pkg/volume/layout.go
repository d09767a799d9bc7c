package volume

import (
	"maps"
	"slices"

	"github.com/cask-storage/cask/pkg/history"
	"github.com/cask-storage/cask/pkg/quorum"
)

// Layout is what a volume is to be like. A target brings its record there step
// by step; see DESIGN.md, changes.
type Layout struct {
	Level    quorum.Level
	Replicas []quorum.ReplicaID          // those to vote, the one to read from first
	Zones    map[quorum.ReplicaID]string // of Replicas; for the levels local and each
	Zone     string                      // of this target; for local
	// MinVoters is the least number of voters that failed replicas, or a
	// smaller layout, may leave; more than half of Replicas when 0.
	MinVoters int
}

// Equal reports whether two layouts are the same.
func (l Layout) Equal(o Layout) bool {
	return l.Level == o.Level && slices.Equal(l.Replicas, o.Replicas) && maps.Equal(l.Zones, o.Zones) && l.Zone == o.Zone && l.MinVoters == o.MinVoters
}

// Floor is the least number of voters that may be left.
func (l Layout) Floor() int {
	if l.MinVoters > 0 {
		return l.MinVoters
	}
	return len(l.Replicas)/2 + 1
}

// config is the record's quorum system. A record that names no level, written
// before levels could change, was made with quorum or all: recovery at quorum
// finds what either acknowledged.
func (r Record) config() quorum.Config {
	return quorum.Config{Level: r.Level, Voters: r.Voters, Zones: r.Zones, Zone: r.Zone}
}

// complete fills in what a record that was never under a Layout leaves open.
func (l Layout) complete(r Record) Record {
	if r.Level != "" {
		return r
	}
	if r.Level = quorum.Quorum; !r.Initialized {
		return l.withLevel(r)
	}
	return r
}

// withLevel gives r the layout's level, and the zones that go with it.
func (l Layout) withLevel(r Record) Record {
	zone := r.Zone
	r.Level, r.Zones, r.Zone = l.Level, nil, ""
	for _, v := range r.Voters {
		if z := l.Zones[v]; z != "" {
			if r.Zones == nil {
				r.Zones = map[quorum.ReplicaID]string{}
			}
			r.Zones[v] = z
		}
	}
	if l.Level == quorum.Local {
		r.Zone = l.localZone(r, zone)
	}
	return r
}

// localZone is where the target is, if a voter that stays is there too; else
// the zone is as it was, or that of a voter that stays.
func (l Layout) localZone(r Record, was string) string {
	best := r.Zones[r.Voters[0]]
	for _, v := range slices.Backward(r.Voters) {
		if slices.Contains(l.Replicas, v) {
			best = r.Zones[v]
		}
	}
	for _, zone := range []string{was, l.Zone} {
		for _, v := range r.Voters {
			if zone != "" && r.Zones[v] == zone && slices.Contains(l.Replicas, v) {
				best = zone
			}
		}
	}
	return best
}

// with adds a voter.
func (l Layout) with(r Record, id quorum.ReplicaID) Record {
	r.Voters = append(slices.Clone(r.Voters), id)
	slices.Sort(r.Voters)
	zones := map[quorum.ReplicaID]string{}
	for _, v := range r.Voters {
		if z := r.Zones[v]; z != "" {
			zones[v] = z
		} else if z := l.Zones[v]; z != "" && v == id {
			zones[v] = z
		}
	}
	r.Zones = zones
	if len(zones) == 0 {
		r.Zones = nil
	}
	return r
}

// without removes a voter.
func (r Record) without(id quorum.ReplicaID) Record {
	r.Voters = slices.DeleteFunc(slices.Clone(r.Voters), func(v quorum.ReplicaID) bool { return v == id })
	zones := map[quorum.ReplicaID]string{}
	for _, v := range r.Voters {
		if z := r.Zones[v]; z != "" {
			zones[v] = z
		}
	}
	r.Zones = zones
	if len(zones) == 0 {
		r.Zones = nil
	}
	return r
}

// settled reports whether a record is as the layout says.
func (l Layout) settled(r Record) bool {
	return r.Level != "" && slices.Equal(r.Voters, slices.Sorted(slices.Values(l.Replicas))) && l.withLevel(r).Equal(r)
}

// Configure replaces the layout of a core that was made with one.
func (c *Core) Configure(now Time, l Layout) {
	c.now = now
	if c.cfg.Layout == nil || c.phase == Stopped {
		return
	}
	c.cfg.Layout = &l
	c.follow()
	c.advance()
}

// follow makes the list of the replicas that are kept up to date: the voters,
// and those that are to become ones. The preferred ones come first.
func (c *Core) follow() {
	prefer := c.cfg.Replicas
	if c.cfg.Layout != nil {
		prefer = c.cfg.Layout.Replicas
	}
	var ids []quorum.ReplicaID
	for _, id := range prefer {
		if c.cfg.Layout != nil || slices.Contains(c.rec.Voters, id) {
			ids = append(ids, id)
		}
	}
	for _, id := range c.rec.Voters {
		if !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	old := c.peers
	c.peers, c.voters = nil, nil
	for _, id := range ids {
		p := c.peer(id)
		c.peers = append(c.peers, p)
		if slices.Contains(c.rec.Voters, id) {
			c.voters = append(c.voters, p)
		}
		if !slices.Contains(old, p) && p.state == connected && c.fenced() {
			c.greet(p)
		}
	}
	for _, p := range old {
		if !slices.Contains(c.peers, p) {
			c.reset(p, "it is no longer part of the volume")
		}
	}
}

func (c *Core) follows(p *peer) bool { return slices.Contains(c.peers, p) }

// fenced reports whether this target's epoch may be spoken of.
func (c *Core) fenced() bool { return c.phase >= Fencing && c.phase != Stopped }

// exposed counts the acknowledged operations that fewer than two voters have.
func (c *Core) exposed() uint64 {
	var acked []history.Seq
	for _, p := range c.voters {
		if p.state == synced {
			acked = append(acked, p.acked)
		}
	}
	slices.Sort(acked)
	if n := len(acked); n >= 2 && len(c.voters) >= 2 && acked[n-2] < c.commit {
		return uint64(c.commit - acked[n-2])
	}
	return 0
}
