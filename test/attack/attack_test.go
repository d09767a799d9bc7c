package attack

import (
	"context"
	"flag"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/cask-storage/cask/pkg/block/historytest"
	"github.com/cask-storage/cask/pkg/quorum"
)

var (
	rounds    = flag.Int("rounds", 0, "rounds of attack; none by default")
	first     = flag.Int("first", 1, "number of the first round")
	seed      = flag.Uint64("seed", 0, "of the plans; 0 picks one")
	cuts      = flag.Int("cuts", 5, "every so many rounds there is a power cut: all replicas are killed at once")
	minVoters = flag.Int("min-voters", 0, "the fewest voters that failed replicas may leave; 0: more than half")
	level     = flag.String("level", "quorum", "consistency level")
	bin       = flag.String("bin", "../../bin", "directory of the programs attacked")
	logs      = flag.String("logs", "", "directory for the processes' logs when the attack fails")
)

const (
	healWithin  = 3 * time.Minute // to all in sync, all requests answered; a replica that cannot open its store says so for one
	verifyEvery = 5
)

// TestAttack: whatever is done to the volume, what its hosts see is one disk.
func TestAttack(t *testing.T) {
	if *rounds == 0 {
		t.Skip("no rounds asked for; run make attack ROUNDS=n [SEED=s]")
	}
	if *seed == 0 {
		*seed = rand.Uint64N(1e9) + 1
	}
	t.Logf("replay: make attack ROUNDS=%d SEED=%d LEVEL=%s MIN_VOTERS=%d", *rounds, *seed, *level, *minVoters)
	c := newCluster(t, shape{size: 64 << 20, level: quorum.Level(*level), small: true})
	l, err := newLoad(c)
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	var sum totals
	for i := *first; i < *first+*rounds; i++ {
		p := newPlan(*seed, i)
		began := time.Now()
		h := c.round(l, p)
		got := judge(t, p, h)
		sum.add(got)
		t.Logf("%v\n  %v; in sync and judged after %d ms", p, got, time.Since(began).Milliseconds())
		if t.Failed() {
			t.Fatalf("replay this round: make attack ROUNDS=1 FIRST=%d SEED=%d LEVEL=%s MIN_VOTERS=%d", i, *seed, *level, *minVoters)
		}
		if i%verifyEvery == 0 || i == *first+*rounds-1 {
			c.checkIdentical(l)
		}
	}
	t.Logf("%d rounds, seed %d: %v, %d sessions ended, 0 lost", *rounds, *seed, &sum, l.rec.sessions.Load())
}

// round carries out p under load, lets everything heal, and returns the history.
func (c *cluster) round(l *load, p plan) historytest.History {
	t := c.t
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan struct{})
	go func() { // ends with ctx, when what is under way has completed
		defer close(done)
		l.run(ctx, p.seed*1000003+uint64(p.round))
	}()
	f := &faulty{c: c, l: l}
	f.run(p)
	c.heal(l)
	cancel()
	select {
	case <-done:
	case <-time.After(healWithin):
		t.Fatalf("%v\nrequests are not answered %v after everything healed", p, healWithin)
	}
	for !l.hosts[0].flush() { // of all hosts' last session: they share its name
	}
	for _, h := range l.hosts {
		h.readAll()
	}
	for _, p := range c.processes() {
		for _, s := range p.roundOver() {
			t.Errorf("process %s", s)
		}
	}
	select {
	case err := <-l.rec.errs:
		t.Errorf("%v\n%v", p, err)
	default:
	}
	return l.take()
}

// heal waits until nothing is left of the faults.
func (c *cluster) heal(l *load) {
	c.t.Helper()
	c.lan.heal()
	now := c.current()
	for _, h := range l.hosts {
		if int(h.to.Load()) != now {
			h.follow(now)
		}
	}
	eventually(c.t, healWithin, "a superseded target has not ended", func() bool { return !c.targets[1-now].runs() })
	c.allInSync(healWithin)
}

// sessions counts those that were told of anything.
func sessions(h historytest.History) int {
	names := map[string]bool{}
	for _, a := range h.Accesses {
		names[a.Session] = true
	}
	return len(names)
}

// judge checks a round's history.
func judge(t *testing.T, p plan, h historytest.History) totals {
	t.Helper()
	sum := count(h)
	if err := h.CheckDurable(); err != nil {
		t.Errorf("%v\nlost what was flushed: %v", p, err)
	}
	if p.cuts() || sessions(h) > 1 { // what was not flushed may be gone
		return sum
	}
	undecided, err := h.CheckLinearizable(5_000_000)
	if err != nil {
		t.Errorf("%v\nlost or resurrected what was acknowledged: %v", p, err)
	}
	sum.undecided = undecided
	return sum
}
