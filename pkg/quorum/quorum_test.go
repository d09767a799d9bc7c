package quorum

import (
	"fmt"
	"strings"
	"testing"
)

var ids = []ReplicaID{"a", "b", "c", "d", "e", "f", "g"}

func in(set int) func(ReplicaID) bool {
	return func(id ReplicaID) bool { return set>>(id[0]-'a')&1 == 1 }
}

// systems makes every system of up to seven voters, and up to five in every
// arrangement over three zones.
func systems(t *testing.T, check func(name string, n int, s System)) {
	t.Helper()
	add := func(c Config) {
		s, err := c.System()
		if err != nil {
			t.Fatal(err)
		}
		check(fmt.Sprintf("%+v", c), len(c.Voters), s)
	}
	for n := 1; n <= len(ids); n++ {
		for _, l := range []Level{One, Quorum, All} {
			add(Config{Level: l, Voters: ids[:n]})
		}
	}
	for n := 1; n <= 5; n++ {
		for arrangement := range 243 {
			zones := map[ReplicaID]string{}
			for i, a := 0, arrangement; i < n; i, a = i+1, a/3 {
				zones[ids[i]] = string(rune('x' + a%3))
			}
			add(Config{Level: Each, Voters: ids[:n], Zones: zones})
			add(Config{Level: Local, Voters: ids[:n], Zones: zones, Zone: zones[ids[0]]})
		}
	}
}

// TestIntersection enumerates all pairs of sets: whatever may be recovered
// from includes a member of whatever may have acknowledged, and no voter that
// a recovery asks for is asked in vain.
func TestIntersection(t *testing.T) {
	systems(t, func(name string, n int, s System) {
		full := 1<<n - 1
		if !s.Write(in(full)) || !s.Recover(in(full)) || s.Write(in(0)) || s.Recover(in(0)) {
			t.Fatalf("%s: all voters must do, and none must not", name)
		}
		for r := range full + 1 {
			meets := true
			for w := range full + 1 {
				if s.Write(in(w)) && w&r == 0 {
					meets = false
				}
			}
			if s.Recover(in(r)) != meets {
				t.Fatalf("%s: recovery from %b is %v, it meets every write quorum: %v", name, r, !meets, meets)
			}
		}
	})
}

// TestMonotone: one more voter never makes a set insufficient.
func TestMonotone(t *testing.T) {
	systems(t, func(name string, n int, s System) {
		for set := range 1 << n {
			for v := range n {
				more := set | 1<<v
				if s.Write(in(set)) && !s.Write(in(more)) || s.Recover(in(set)) && !s.Recover(in(more)) {
					t.Fatalf("%s: %b is enough, %b is not", name, set, more)
				}
			}
		}
	})
}

// TestJoint: what both acknowledge is found by a recovery of either.
func TestJoint(t *testing.T) {
	var all []System
	for n := 1; n <= 4; n++ {
		for _, l := range []Level{One, Quorum, All} {
			s, err := New(l, ids[:n])
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, s)
		}
	}
	for _, a := range all {
		for _, b := range all {
			j := Joint(a, b)
			for w := range 16 {
				for r := range 16 {
					if j.Write(in(w)) && (a.Recover(in(r)) || b.Recover(in(r))) && w&r == 0 {
						t.Fatalf("%v and %v: write set %b and recovery set %b do not meet", a, b, w, r)
					}
				}
			}
		}
	}
}

func TestRefused(t *testing.T) {
	for name, c := range map[string]Config{
		"unknown level":         {Level: "two", Voters: ids[:1]},
		"no voters":             {Level: Quorum},
		"a voter without zone":  {Level: Each, Voters: ids[:2], Zones: map[ReplicaID]string{"a": "x"}},
		"nobody in that zone":   {Level: Local, Voters: ids[:1], Zones: map[ReplicaID]string{"a": "x"}, Zone: "y"},
		"local without a place": {Level: Local, Voters: ids[:1], Zones: map[ReplicaID]string{"a": "x"}},
	} {
		if _, err := c.System(); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

func TestLevelOf(t *testing.T) {
	for _, x := range []struct {
		consistency, zones string
		want               Level // "": refused
	}{
		{"one", "", One}, {"quorum", "", Quorum}, {"all", "", All}, {"quorum", "local", Local}, {"quorum", "each", Each},
		{"all", "each", ""}, {"one", "local", ""}, {"local", "", ""}, {"", "", ""}, {"quorum", "every", ""}, {"quorum", "all", ""},
	} {
		if l, err := LevelOf(x.consistency, x.zones); l != x.want || (err != nil) != (x.want == "") {
			t.Errorf("consistency %q, zones %q: %q, %v", x.consistency, x.zones, l, err)
		}
	}
}

func TestSpare(t *testing.T) {
	zones := map[ReplicaID]string{"a": "1", "b": "1", "c": "1", "d": "2", "e": "2"}
	for name, x := range map[string]struct {
		level  Level
		voters string
		has    string
		want   int
	}{
		"quorum":               {Quorum, "abc", "abc", 1},
		"quorum, one away":     {Quorum, "abc", "bc", 0},
		"quorum, two away":     {Quorum, "abc", "c", -1},
		"five":                 {Quorum, "abcde", "abcde", 2},
		"all":                  {All, "abc", "abc", 0},
		"one":                  {One, "abc", "ab", 1},
		"local to 1":           {Local, "abcde", "abc", 1},
		"local, others away":   {Local, "abcde", "ab", 0},
		"local, too few of it": {Local, "abcde", "ade", -1},
		"each":                 {Each, "abcde", "abcde", 0},
		"each, three zones up": {Each, "abcd", "abcd", 0},
	} {
		c := Config{Level: x.level, Zones: zones, Zone: "1"}
		for _, v := range x.voters {
			c.Voters = append(c.Voters, ReplicaID(v))
		}
		got, err := c.Spare(func(id ReplicaID) bool { return strings.Contains(x.has, string(id)) })
		if err != nil || got != x.want {
			t.Errorf("%s: %d, %v; want %d", name, got, err, x.want)
		}
	}
}
