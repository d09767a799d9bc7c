package volume

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/cask-storage/cask/pkg/quorum"
)

// TestCheck: a record that no target can have written is refused with a reason.
func TestCheck(t *testing.T) {
	good := Record{Epoch: 3, Holder: "t", Initialized: true, Voters: ids{"r0", "r1"}, Level: quorum.Each,
		Zones: map[quorum.ReplicaID]string{"r0": "a", "r1": "b"}}
	for name, x := range map[string]struct {
		edit func(*Record)
		want string // empty: it is good
	}{
		"as written":              {func(*Record) {}, ""},
		"before levels":           {func(r *Record) { r.Level, r.Zones = "", nil }, ""},
		"new":                     {func(r *Record) { *r = Record{Voters: ids{"r0"}} }, ""},
		"zones that are unused":   {func(r *Record) { r.Level = quorum.All }, ""},
		"marked":                  {func(r *Record) { r.Refused = "of an old backup" }, "old backup"},
		"no voters":               {func(r *Record) { r.Voters, r.Zones = nil, nil }, "without voters"},
		"twice":                   {func(r *Record) { r.Voters = ids{"r0", "r0"} }, "not distinct"},
		"out of order":            {func(r *Record) { r.Voters = ids{"r1", "r0"} }, "in order"},
		"a zone of nobody":        {func(r *Record) { r.Zones["r7"] = "c" }, `"r7"`},
		"a voter without a zone":  {func(r *Record) { delete(r.Zones, "r1") }, "that of r1"},
		"a level that is none":    {func(r *Record) { r.Level = "most" }, `"most"`},
		"a zone of another level": {func(r *Record) { r.Zone = "a" }, `"a"`},
		"local without its zone":  {func(r *Record) { r.Level = quorum.Local }, "local"},
		"no epoch":                {func(r *Record) { r.Epoch = 0 }, "epoch"},
	} {
		t.Run(name, func(t *testing.T) {
			r := good
			r.Zones = map[quorum.ReplicaID]string{"r0": "a", "r1": "b"}
			x.edit(&r)
			err := r.Check()
			if x.want == "" && err != nil || x.want != "" && (!errors.Is(err, ErrRecord) || !strings.Contains(err.Error(), x.want)) {
				t.Errorf("%v, want %q", err, x.want)
			}
			c := New(Config{Instance: "t2", Layout: &Layout{Level: quorum.Quorum, Replicas: ids{"r0"}}, Timing: DefaultTiming()})
			c.Start(1)
			c.Take()
			c.Loaded(2, r, nil)
			if halted := c.Phase() == Stopped; halted != (err != nil) {
				t.Errorf("a target is then %v", c.Phase())
			}
		})
	}
}

// TestDenied: a vote that the authority denies is given up, not asked for again
// and again, and what could be done instead is done.
func TestDenied(t *testing.T) {
	two := Record{Level: quorum.Quorum, Voters: ids{"r0", "r1"}}
	c := served(t, two, Layout{Level: quorum.Quorum, Replicas: ids{"r0", "r1", "r2"}}, ids{"r0", "r1", "r2"})
	before := fmt.Sprintf("%v", c.sys)
	c.advanceChange()
	if c.change == nil {
		t.Fatal("no step")
	}
	c.change.swapping = true
	c.Take()
	c.changeSwapped(ErrDenied)
	if c.change != nil || fmt.Sprintf("%v", c.sys) != before {
		t.Errorf("still %+v", c.change)
	}
	if c.advanceChange(); c.change != nil {
		t.Error("asked for again at once")
	}
	c.now += 2 * DefaultTiming().Retry
	if c.advanceChange(); c.change == nil {
		t.Error("never asked for again")
	}
}
