package blocktest

import (
	"runtime"
	"testing"

	"github.com/cask-storage/cask/pkg/block"
)

// NoAllocations checks that in the steady state no part of this process allocates
// for an I/O of d. It does not hold with the race detector.
func NoAllocations(t *testing.T, d block.Device) {
	t.Helper()
	for _, op := range []block.Op{block.OpRead, block.OpWrite, block.OpFlush} {
		done := make(chan error, 1)
		q := &block.Request{Op: op, Extent: block.Extent{Len: 4096}, Bufs: [][]byte{make([]byte, 4096)}}
		q.Done = func(_ *block.Request, err error) { done <- err }
		run := func(n int) {
			for range n {
				d.Submit(q)
				if err := <-done; err != nil {
					t.Fatal(err)
				}
			}
		}
		run(100)
		const n = 2000
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		run(n)
		runtime.ReadMemStats(&after)
		// The clock's ticks and the runtime allocate now and then.
		if each := float64(after.Mallocs-before.Mallocs) / n; each > 0.2 {
			t.Errorf("%v: %.2f allocations for each", op, each)
		}
	}
}
