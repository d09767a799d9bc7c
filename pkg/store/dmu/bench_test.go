//go:build cgo && linux

package dmu_test

import (
	"errors"
	"fmt"
	"math/rand"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cask-storage/cask/internal/procs"
	"github.com/cask-storage/cask/pkg/history"
	"github.com/cask-storage/cask/pkg/store"
	"github.com/cask-storage/cask/pkg/store/dmu"
)

const benchSpan = 256 * mib

// filled is a store with benchSpan bytes written.
func filled(b *testing.B) *dmu.Store {
	dmu.SetTrimInterval(time.Second)
	s := create(b, extent(b, benchSpan))
	data := random(mib)
	for off := uint64(0); off < benchSpan; off += mib {
		if err := s.Apply([]store.Op{writeOp(history.Seq(off/mib+1), off, data)}); err != nil {
			b.Fatal(err)
		}
	}
	b.Cleanup(func() {
		if err := s.Close(); err != nil {
			b.Error(err)
		}
	})
	b.ResetTimer()
	return s
}

func benchApply(b *testing.B, size, batch int, flush bool) {
	s := filled(b)
	data, rng := random(size), rand.New(rand.NewSource(1))
	seq := s.Info().Mark
	cpu := procs.CPU()
	for done := 0; done < b.N; done += batch {
		ops := make([]store.Op, batch)
		for i := range ops {
			seq++
			ops[i] = writeOp(seq, uint64(rng.Intn(benchSpan/size))*uint64(size), data)
		}
		if err := s.Apply(ops); err != nil {
			b.Fatal(err)
		}
		if flush {
			if err := s.Flush(); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(procs.CPU()-cpu)/float64(b.N), "cpu-ns/op")
}

func BenchmarkApply4k(b *testing.B)           { benchApply(b, 4<<10, 1, false) }
func BenchmarkApply8k(b *testing.B)           { benchApply(b, 8<<10, 1, false) }
func BenchmarkApply4kBatch16(b *testing.B)    { benchApply(b, 4<<10, 16, false) }
func BenchmarkApply8kBatch16(b *testing.B)    { benchApply(b, 8<<10, 16, false) }
func BenchmarkApply128k(b *testing.B)         { benchApply(b, 128<<10, 1, false) }
func BenchmarkApply4kFlush(b *testing.B)      { benchApply(b, 4<<10, 1, true) }
func BenchmarkApply4kBatchFlush(b *testing.B) { benchApply(b, 4<<10, 16, true) }

// BenchmarkFlush is what databases do: each of some writers writes 4k and has it
// made stable, beside as many that do it to a file on the same disk.
func BenchmarkFlush(b *testing.B) {
	for _, writers := range []int{1, 8, 32} {
		b.Run(fmt.Sprintf("store/%d", writers), func(b *testing.B) { benchFlush(b, writers) })
		b.Run(fmt.Sprintf("file/%d", writers), func(b *testing.B) { benchFile(b, writers) })
	}
}

func benchFlush(b *testing.B, writers int) {
	s := filled(b)
	var mu sync.Mutex
	seq, data := s.Info().Mark, random(4096)
	before := dmu.IOCounts()
	together(b, writers, func(off uint64) error {
		mu.Lock()
		seq++
		err := s.Apply([]store.Op{writeOp(seq, off, data)})
		mu.Unlock()
		return errors.Join(err, s.Flush())
	})
	after, n := dmu.IOCounts(), float64(b.N)
	b.ReportMetric(float64(after.Writes-before.Writes)/n, "writes/op")
	b.ReportMetric(float64(after.Flushes-before.Flushes)/n, "flushes/op")
	b.ReportMetric(float64(after.Bytes-before.Bytes)/n, "written/op")
}

func benchFile(b *testing.B, writers int) {
	f, err := os.OpenFile(extent(b, benchSpan).Path, os.O_RDWR|syscall.O_DIRECT, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	page, err := syscall.Mmap(-1, 0, mib, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		b.Fatal(err)
	}
	for off := int64(0); off < benchSpan; off += mib {
		if _, err := f.WriteAt(page, off); err != nil {
			b.Fatal(err)
		}
	}
	b.ResetTimer()
	together(b, writers, func(off uint64) error {
		_, err := f.WriteAt(page[:4096], int64(off))
		return errors.Join(err, syscall.Fdatasync(int(f.Fd())))
	})
}

// together calls write b.N times from some goroutines, at random places.
func together(b *testing.B, writers int, write func(off uint64) error) {
	var left atomic.Int64
	var wg sync.WaitGroup
	left.Store(int64(b.N))
	for i := range writers {
		wg.Go(func() {
			rng := rand.New(rand.NewSource(int64(i)))
			for left.Add(-1) >= 0 {
				if err := write(uint64(rng.Intn(benchSpan/4096)) * 4096); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// BenchmarkRead4k has some goroutines read 4k each at random places, most of which
// are not in the cache.
func BenchmarkRead4k(b *testing.B) {
	for _, readers := range []int{1, 2, 4, 11} {
		b.Run(fmt.Sprint(readers), func(b *testing.B) {
			s := filled(b)
			var pages sync.Pool
			pages.New = func() any { return new([4096]byte) }
			cpu, before := procs.CPU(), dmu.IOCounts()
			together(b, readers, func(off uint64) error {
				p := pages.Get().(*[4096]byte)
				defer pages.Put(p)
				return s.ReadAt(p[:], off)
			})
			n := float64(b.N)
			b.ReportMetric(float64(procs.CPU()-cpu)/n, "cpu-ns/op")
			b.ReportMetric(float64(dmu.IOCounts().Reads-before.Reads)/n, "reads/op")
		})
	}
}

func BenchmarkChanged(b *testing.B) {
	s := filled(b)
	for range b.N {
		if _, err := s.Changed(s.Info().Mark / 2); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCreate(b *testing.B) {
	for range b.N {
		if err := create(b, extent(b, benchSpan)).Close(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOpen(b *testing.B) {
	o := extent(b, benchSpan)
	if err := create(b, o).Close(); err != nil {
		b.Fatal(err)
	}
	b.ResetTimer()
	for range b.N {
		s := open(b, o)
		b.StopTimer()
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

// BenchmarkSnapshot is how long operations wait for a snapshot: 4 MiB of writes
// are in the transaction group that it closes.
func BenchmarkSnapshot(b *testing.B) {
	s := create(b, extent(b, 64<<20))
	var seq history.Seq
	for b.Loop() {
		b.StopTimer()
		for range 256 {
			seq++
			mustApply(b, s, writeOp(seq, uint64(seq%1000)*(64<<10), random(16<<10)))
		}
		seq++
		b.StartTimer()
		mustApply(b, s, snapshotOp(seq, fmt.Sprint("s", seq)), dropOp(seq+1, seq))
		seq++
	}
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
}
