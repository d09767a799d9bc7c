//go:build cgo && linux

package dmu_test

import (
	"fmt"
	"math/rand"
	"sync/atomic"
	"testing"

	"github.com/cask-storage/cask/pkg/history"
	"github.com/cask-storage/cask/pkg/store"
	"github.com/cask-storage/cask/pkg/store/dmu"
)

const benchSpan = 256 * mib

// filled is a store with benchSpan bytes written.
func filled(b *testing.B) *dmu.Store {
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
}

func BenchmarkApply4k(b *testing.B)           { benchApply(b, 4<<10, 1, false) }
func BenchmarkApply8k(b *testing.B)           { benchApply(b, 8<<10, 1, false) }
func BenchmarkApply4kBatch16(b *testing.B)    { benchApply(b, 4<<10, 16, false) }
func BenchmarkApply8kBatch16(b *testing.B)    { benchApply(b, 8<<10, 16, false) }
func BenchmarkApply128k(b *testing.B)         { benchApply(b, 128<<10, 1, false) }
func BenchmarkApply4kFlush(b *testing.B)      { benchApply(b, 4<<10, 1, true) }
func BenchmarkApply4kBatchFlush(b *testing.B) { benchApply(b, 4<<10, 16, true) }

func BenchmarkRead4k(b *testing.B) {
	s := filled(b)
	var failed atomic.Bool
	b.RunParallel(func(pb *testing.PB) {
		p, rng := make([]byte, 4096), rand.New(rand.NewSource(1))
		for pb.Next() {
			if err := s.ReadAt(p, uint64(rng.Intn(64*mib/4096))*4096); err != nil {
				failed.Store(true)
			}
		}
	})
	if failed.Load() {
		b.Fatal("a read failed")
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
