package gate_test

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cask-storage/cask/pkg/block/gate"
)

type waiter chan struct{}

func (w waiter) Enter() { close(w) }

// TestOrder: an exclusive waits for those before it, and those after it wait
// for it.
func TestOrder(t *testing.T) {
	var g gate.Gate
	a, b, x, c, y := make(waiter), make(waiter), make(waiter), make(waiter), make(waiter)
	if !g.Shared(a) || !g.Shared(b) {
		t.Fatal("two writes do not pass together")
	}
	if g.Exclusive(x) || g.Shared(c) || g.Exclusive(y) {
		t.Fatal("passed beside others")
	}
	entered := func(w waiter) bool {
		select {
		case <-w:
			return true
		default:
			return false
		}
	}
	g.Leave()
	if entered(x) {
		t.Error("exclusive beside a write")
	}
	g.Leave()
	if !entered(x) || entered(c) {
		t.Error("exclusive first, alone")
	}
	g.Leave()
	if !entered(c) || entered(y) {
		t.Error("then the write, alone")
	}
	g.Leave()
	if !entered(y) {
		t.Error("then the second exclusive")
	}
	g.Leave()
	if n := testing.AllocsPerRun(100, func() { g.Shared(a); g.Leave() }); n != 0 {
		t.Errorf("%v allocations to pass an open gate", n)
	}
	defer func() {
		if recover() == nil {
			t.Error("Leave without having passed: no panic")
		}
	}()
	g.Leave()
}

func TestExclusion(t *testing.T) {
	var g gate.Gate
	var writes, alone atomic.Int32
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(i), 1))
			for range 2000 {
				w := make(waiter)
				if rng.IntN(5) > 0 {
					if !g.Shared(w) {
						<-w
					}
					writes.Add(1)
					if alone.Load() != 0 {
						t.Error("a write beside an exclusive")
					}
					writes.Add(-1)
				} else {
					if !g.Exclusive(w) {
						<-w
					}
					if alone.Add(1) != 1 || writes.Load() != 0 {
						t.Error("an exclusive beside others")
					}
					alone.Add(-1)
				}
				g.Leave()
			}
		})
	}
	wg.Wait()
}
