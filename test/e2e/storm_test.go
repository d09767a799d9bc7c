//go:build e2e

package e2e

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"
)

var (
	stormRounds = flag.Int("storm", 3, "rounds of TestStorm")
	stormSeed   = flag.Uint64("seed", 0, "of TestStorm; 0 picks one")
)

// trouble is what can go wrong in a round of TestStorm.
type trouble struct {
	name    string
	forgets bool // a replica loses its memory
	do      func(s *storm, lasts time.Duration)
}

// After the last one the database moves.
var troubles = []trouble{
	{"kill the target", false, func(s *storm, _ time.Duration) { s.signal("KILL", s.target()) }},
	{"kill a replica", true, func(s *storm, _ time.Duration) { s.signal("KILL", s.replica) }},
	{"stop the target", false, func(s *storm, lasts time.Duration) { s.pause(s.target(), lasts) }},
	{"stop a replica", false, func(s *storm, lasts time.Duration) { s.pause(s.replica, lasts) }},
	{"delete the target's pod", false, func(s *storm, _ time.Duration) {
		s.kubectl("-n", "cask-system", "delete", "pod", "-l", "cask.storage/role=target,cask.storage/volume="+s.volume, "--wait=false")
	}},
	{"partition another node", false, func(s *storm, lasts time.Duration) { s.partition(s.other, lasts) }},
	{"power cut of another node", true, func(s *storm, lasts time.Duration) {
		s.lab("node-kill", s.other)
		time.Sleep(lasts)
		s.lab("node-up", s.other)
	}},
	{"partition the database's node briefly", false, func(s *storm, lasts time.Duration) { s.partition(s.mine, lasts) }},
	{"partition the database's node until it is given up", false, func(s *storm, lasts time.Duration) { s.partition(s.mine, 30*time.Second+lasts) }},
}

// storm is one round of trouble.
type storm struct {
	t           *testing.T
	volume      string
	replica     string // pattern of one replica's process
	mine, other string // numbers of the database's node and of another one
}

// target is a pattern of its process; like all here it does not match itself.
func (s *storm) target() string { return "[c]ask-target.*--volume=" + s.volume }

// kubectl and lab only tell of failures: in the middle of other trouble they
// may be met.
func (s *storm) kubectl(args ...string) {
	if out, err := try("", args...); err != nil {
		s.t.Logf("kubectl %v: %v %s", args, err, out)
	}
}

func (s *storm) lab(args ...string) {
	if out, err := exec.Command("../../hack/lab/lab", args...).CombinedOutput(); err != nil {
		s.t.Logf("lab %v: %v %s", args, err, out)
	}
}

// signal sends one to the matching processes of every node that runs.
func (s *storm) signal(name, pattern string) {
	for i := range nodes(s.t) {
		_ = exec.Command("../../hack/lab/lab", "exec", strconv.Itoa(i+1), "pkill", "-"+name, "-f", pattern).Run()
	}
}

func (s *storm) pause(pattern string, lasts time.Duration) {
	s.signal("STOP", pattern)
	time.Sleep(lasts)
	s.signal("CONT", pattern)
}

func (s *storm) partition(node string, lasts time.Duration) {
	s.lab("node-partition", node)
	time.Sleep(lasts)
	s.lab("node-heal", node)
}

// TestStorm: one or two troubles at a time, at random, under the database's
// load. Afterwards the volume is whole again by itself, and every commit that
// the database has ever acknowledged is there.
func TestStorm(t *testing.T) {
	seed := *stormSeed
	if seed == 0 {
		seed = rand.Uint64N(1e9) + 1
	}
	t.Logf("again: go test -tags e2e ./test/e2e -run TestStorm -storm %d -seed %d", *stormRounds, seed)
	load(t)
	t.Cleanup(func() { lab(t, "revive") })
	for round := range *stormRounds {
		s, what := newStorm(t, seed, round)
		start := time.Now()
		var wg sync.WaitGroup
		for _, x := range what {
			wg.Go(func() { x.do(s, x.lasts) })
		}
		wg.Wait()
		whole(t, s.volume, 280*time.Second) // kubelet backs off from who was killed before
		progress(t, 200*time.Second, 10)
		t.Logf("round %d, %v: healthy and committing after %v", round, what, time.Since(start).Round(time.Second))
		nothingLost(t)
	}
}

// planned is a trouble and how long it lasts, where that means something.
type planned struct {
	trouble
	lasts time.Duration
}

func (p planned) String() string { return fmt.Sprintf("%s (%v)", p.name, p.lasts) }

func newStorm(t *testing.T, seed uint64, round int) (*storm, []planned) {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, uint64(round)))
	s := &storm{t: t, volume: databaseVolume(t), mine: number(databaseNode(t))}
	s.replica = fmt.Sprintf("[c]ask-replica.*--volume=%s.*--replica=r%d", s.volume, rng.IntN(3))
	client := number(kubectl(t, "-n", example, "get", "pod", "client", "-o", "jsonpath={.spec.nodeName}"))
	for s.other == "" || s.other == s.mine || s.other == client { // what it knows of commits must not be lost
		s.other = strconv.Itoa(rng.IntN(len(nodes(t))) + 1)
	}
	var what []planned
	for range 1 + rng.IntN(2) {
		p := planned{troubles[rng.IntN(len(troubles))], time.Duration(1+rng.IntN(8)) * time.Second}
		if p.forgets && slices.ContainsFunc(what, func(q planned) bool { return q.forgets }) {
			continue // two memories at once, with the target's, may be all that had a write
		}
		what = append(what, p)
	}
	return s, what
}
