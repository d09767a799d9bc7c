//go:build !race

package host_test

import (
	"runtime"
	"testing"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/block/blocktest"
	"github.com/cask-storage/cask/pkg/nvme/target"
)

// TestNoAllocations: in the steady state neither side allocates for an I/O.
func TestNoAllocations(t *testing.T) {
	mem := blocktest.NewMemory(blocktest.Options{})
	defer mem.Close()
	d := attach(t, newRig(quiet{t}, mem, target.Config{}).config())
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
