package host_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/cask-storage/cask/internal/procs"
	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/block/blocktest"
	"github.com/cask-storage/cask/pkg/nvme/target"
)

// BenchmarkIO measures host, loopback and target together, over a memory
// device; cpu-ns/op is the CPU time of all three.
func BenchmarkIO(b *testing.B) {
	for _, op := range []block.Op{block.OpRead, block.OpWrite} {
		for _, size := range []int{4 << 10, 64 << 10} {
			for _, depth := range []int{1, 32} {
				b.Run(fmt.Sprintf("%v/%dk/QD%d", op, size>>10, depth), func(b *testing.B) {
					benchmark(b, op, size, depth)
				})
			}
		}
	}
}

func benchmark(b *testing.B, op block.Op, size, depth int) {
	mem := blocktest.NewMemory(blocktest.Options{})
	defer mem.Close()
	r := newRig(quiet{b}, mem, target.Config{})
	d := attach(b, r.config())
	b.SetBytes(int64(size))
	b.ReportAllocs()
	reqs := make(chan *block.Request, depth)
	var wg sync.WaitGroup
	for i := range depth {
		q := &block.Request{Op: op, Extent: block.Extent{Off: uint64(i * size), Len: uint64(size)}, Bufs: [][]byte{make([]byte, size)}}
		q.Done = func(q *block.Request, err error) {
			if err != nil {
				b.Error(err)
			}
			reqs <- q
			wg.Done()
		}
		reqs <- q
	}
	cpu := procs.CPU()
	b.ResetTimer()
	for range b.N {
		q := <-reqs
		wg.Add(1)
		d.Submit(q)
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric(float64(procs.CPU()-cpu)/float64(b.N), "cpu-ns/op")
}

// quiet drops the log.
type quiet struct{ testing.TB }

func (quiet) Logf(string, ...any) {}
