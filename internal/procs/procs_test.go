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
		{1, 8, 0.59, 1},
		{1, 8, 0.61, 2},
		{1, 8, 1, 2}, // all that one can show
		{2, 8, 2, 4},
		{4, 8, 4, 7},
		{7, 8, 7, 8}, // not beyond what there is
		{1, 1, 1, 1},
		{2, 8, 0.55, 2}, // does not flap around the bound of one
		{2, 8, 0.49, 1},
		{8, 8, 0, 7}, // one at a time
		{8, 8, 4, 8},
	} {
		if got := next(c.n, c.most, c.load); got != c.want {
			t.Errorf("next(%d, %d, %v) = %d, want %d", c.n, c.most, c.load, got, c.want)
		}
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

func TestCalls(t *testing.T) {
	var c Calls
	before := CPU()
	c.Do(func() { time.Sleep(10 * hold) })
	c.Do(func() {
		for CPU() == before {
		}
	})
	if got := c.Held(); got <= hold || got > 2*hold {
		t.Errorf("held %v, want one whole %v and a part of another", got, hold)
	}
}
