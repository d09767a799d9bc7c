package procs

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestNext(t *testing.T) {
	for _, c := range []struct {
		n, most int
		load    float64
		want    int
	}{
		{1, 8, 0, 1},
		{1, 8, 0.69, 1},
		{1, 8, 0.71, 2},
		{1, 8, 1, 2}, // all that one can show
		{2, 8, 2, 3},
		{4, 8, 4, 6},
		{7, 8, 7, 8}, // not beyond what there is
		{1, 1, 1, 1},
		{2, 8, 0.55, 2}, // does not flap around the bound of one
		{2, 8, 0.49, 1},
		{8, 8, 0, 7}, // one at a time
		{8, 8, 4, 8},
	} {
		got := count{n: c.n, most: c.most, pause: firstTrial}
		if changed := got.next(c.load); got.n != c.want || changed != (c.want != c.n) {
			t.Errorf("%d of %d with a load of %v: %d, want %d (changed: %v)", c.n, c.most, c.load, got.n, c.want, changed)
		}
	}
}

// looks is how often c has each number of processors in n looks.
func looks(c *count, n int, load func(procs int) float64) (times [3]int) {
	for range n {
		c.next(load(c.n))
		times[c.n]++
	}
	return times
}

// TestTrial: one processor is found to do where two show more load than it could
// carry; and where it does not, it is tried ever more seldom.
func TestTrial(t *testing.T) {
	c := &count{n: 2, most: 2, pause: firstTrial}
	inflated := func(procs int) float64 { return []float64{0, 0.6, 0.85}[procs] }
	if got := looks(c, 100, inflated); got[2] >= 2*firstTrial || c.n != 1 {
		t.Errorf("a load that one carries: %v looks with 0, 1, 2 processors", got)
	}
	c = &count{n: 2, most: 2, pause: firstTrial}
	needed := func(procs int) float64 { return []float64{0, 0.95, 0.9}[procs] }
	if got := looks(c, 1000, needed); got[1] < 3 || got[1] > 15 {
		t.Errorf("a load that takes two: %v looks with 0, 1, 2 processors", got)
	}
	c.pause = lastTrial
	looks(c, 2*lastTrial, inflated)
	looks(c, 1, needed)
	if c.n != 2 || c.pause != firstTrial {
		t.Errorf("after one did for long, and no more: %+v", c)
	}
}

// TestFit: one processor at rest, all there are under load, one again after it,
// and the number of before at the end.
func TestFit(t *testing.T) {
	const most = 4
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(most))
	ctx, cancel := context.WithCancel(t.Context())
	var used atomic.Int64
	var load atomic.Int64 // processors
	var wg sync.WaitGroup
	wg.Go(func() { // ends with ctx
		last := time.Now()
		Fit(ctx, func() time.Duration {
			now := time.Now()
			used.Add(load.Load() * int64(now.Sub(last)))
			last = now
			return time.Duration(used.Load())
		}, func() time.Duration { return 0 })
	})
	wait := func(want int) {
		t.Helper()
		for deadline := time.Now().Add(30 * time.Second); runtime.GOMAXPROCS(0) != want; time.Sleep(20 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%d processors, want %d", runtime.GOMAXPROCS(0), want)
			}
		}
	}
	wait(1)
	load.Store(3)
	wait(most)
	load.Store(0)
	wait(1)
	cancel()
	wg.Wait()
	if got := runtime.GOMAXPROCS(0); got != most {
		t.Errorf("%d processors after the end, want %d", got, most)
	}
}

func TestStated(t *testing.T) {
	t.Setenv("GOMAXPROCS", "3")
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(3))
	Fit(t.Context(), CPU)
	if got := runtime.GOMAXPROCS(0); got != 3 {
		t.Errorf("%d processors, want the 3 of the environment", got)
	}
}

func TestHold(t *testing.T) {
	before, first := CPU(), Held()
	Hold(func() { time.Sleep(10 * hold) })
	Hold(func() {
		for CPU() == before {
		}
	})
	if got := Held() - first; got <= hold || got > 2*hold {
		t.Errorf("held %v, want one whole %v and a part of another", got, hold)
	}
}
