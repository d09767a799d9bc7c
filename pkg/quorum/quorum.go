// Package quorum decides when enough replicas have an operation. A System
// says which sets of voters may acknowledge a write and which must be heard
// to recover; every recovery set meets every write set. Pure; the replication
// core knows no level by name.
package quorum

import (
	"fmt"
	"maps"
	"math/bits"
	"slices"
)

// ReplicaID names a replica within its volume.
type ReplicaID string

// System is a quorum system over a fixed list of voters.
type System interface {
	// Write reports whether the voters for which has is true may
	// acknowledge a write.
	Write(has func(ReplicaID) bool) bool
	// Recover reports whether the voters for which heard is true include a
	// member of every write quorum.
	Recover(heard func(ReplicaID) bool) bool
}

// Level is a consistency level by its user-visible name.
type Level string

// The levels.
const (
	One    Level = "one"    // any one voter
	Quorum Level = "quorum" // more than half
	All    Level = "all"    // every voter
	Local  Level = "local"  // more than half of those in one zone
	Each   Level = "each"   // more than half in each zone
)

// LevelOf is the level of a user's two words: how many, and of which zones
// ("" counts all replicas alike).
func LevelOf(consistency, zones string) (Level, error) {
	l := Level(consistency)
	switch {
	case l != One && l != Quorum && l != All:
		return "", fmt.Errorf("consistency %q: use one, quorum or all", consistency)
	case zones == "":
		return l, nil
	case l != Quorum:
		return "", fmt.Errorf("zones %q go with consistency quorum: %s counts replicas wherever they are", zones, l)
	case Level(zones) != Local && Level(zones) != Each:
		return "", fmt.Errorf("zones %q: use local or each, or leave it out", zones)
	}
	return Level(zones), nil
}

// Config is what a quorum system is made from.
type Config struct {
	Level  Level
	Voters []ReplicaID
	Zones  map[ReplicaID]string // Local, Each: where the voters are
	Zone   string               // Local: the zone whose voters count
}

// New is the quorum system of a level that knows no zones.
func New(l Level, voters []ReplicaID) (System, error) {
	return Config{Level: l, Voters: voters}.System()
}

// System makes the quorum system.
func (c Config) System() (System, error) {
	n := len(c.Voters)
	if n == 0 {
		return nil, fmt.Errorf("quorum system without voters")
	}
	switch c.Level {
	case One:
		return threshold{c.Voters, 1}, nil
	case Quorum:
		return majority(c.Voters), nil
	case All:
		return threshold{c.Voters, n}, nil
	case Local:
		return c.local()
	case Each:
		return c.each()
	}
	return nil, fmt.Errorf("unknown consistency level %q: use one, quorum, all, local or each", c.Level)
}

func (c Config) byZone() (map[string][]ReplicaID, error) {
	zones := map[string][]ReplicaID{}
	for _, v := range c.Voters {
		z := c.Zones[v]
		if z == "" {
			return nil, fmt.Errorf("level %s needs the zone of every voter: that of %s is not known", c.Level, v)
		}
		zones[z] = append(zones[z], v)
	}
	return zones, nil
}

func (c Config) local() (System, error) {
	zones, err := c.byZone()
	if err == nil && len(zones[c.Zone]) == 0 {
		err = fmt.Errorf("level local in zone %q: no voter is there", c.Zone)
	}
	if err != nil {
		return nil, err
	}
	return majority(zones[c.Zone]), nil
}

func (c Config) each() (System, error) {
	zones, err := c.byZone()
	if err != nil {
		return nil, err
	}
	var out product
	for _, z := range slices.Sorted(maps.Keys(zones)) {
		out = append(out, majority(zones[z]))
	}
	return out, nil
}

// Spare is how many of the voters for which has is true can be lost, whichever
// they are, with the others still a write quorum; -1 when they are none now.
func (c Config) Spare(has func(ReplicaID) bool) (int, error) {
	sys, err := c.System()
	if err != nil {
		return 0, err
	}
	spare := count(c.Voters, has)
	for lost := range uint64(1) << len(c.Voters) {
		left := func(id ReplicaID) bool { return has(id) && lost&(1<<slices.Index(c.Voters, id)) == 0 }
		if !sys.Write(left) {
			spare = min(spare, bits.OnesCount64(lost)-1)
		}
	}
	return spare, nil
}

// threshold needs w of its voters to write, so len(voters)-w+1 to recover.
type threshold struct {
	voters []ReplicaID
	w      int
}

func majority(voters []ReplicaID) threshold { return threshold{voters, len(voters)/2 + 1} }

func (t threshold) Write(has func(ReplicaID) bool) bool {
	return count(t.voters, has) >= t.w
}

func (t threshold) Recover(heard func(ReplicaID) bool) bool {
	return count(t.voters, heard) >= len(t.voters)-t.w+1
}

// product needs a write quorum of each; so one of them is enough to meet all
// that was written.
type product []threshold

func (p product) Write(has func(ReplicaID) bool) bool {
	return !slices.ContainsFunc(p, func(t threshold) bool { return !t.Write(has) })
}

func (p product) Recover(heard func(ReplicaID) bool) bool {
	return slices.ContainsFunc(p, func(t threshold) bool { return t.Recover(heard) })
}

// Joint needs a write quorum of both a and b, and hears what recovers both:
// the system to use while it is not known which of the two a recovery will
// find.
func Joint(a, b System) System { return joint{a, b} }

type joint struct{ a, b System }

func (j joint) Write(has func(ReplicaID) bool) bool { return j.a.Write(has) && j.b.Write(has) }

func (j joint) Recover(heard func(ReplicaID) bool) bool {
	return j.a.Recover(heard) && j.b.Recover(heard)
}

func count(voters []ReplicaID, f func(ReplicaID) bool) int {
	n := 0
	for _, v := range voters {
		if f(v) {
			n++
		}
	}
	return n
}
