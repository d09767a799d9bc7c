package storetest

import (
	"errors"
	"math/rand"
	"slices"
	"testing"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/store"
)

func wantSize(t *testing.T, s store.Store, want uint64) {
	t.Helper()
	if got := s.Info().Size; got != want {
		t.Fatalf("size is %d, want %d", got, want)
	}
}

// testResize: a store grows at a place in the order, a snapshot keeps its own
// size, and a crash takes nothing back.
func testResize(t *testing.T, f Factory) {
	r := newRun(t, f)
	do := func(ops ...store.Op) {
		t.Helper()
		r.m.Ops = append(r.m.Ops, ops...)
		apply(t, r.s, ops...)
	}
	do(write(1, Size-4096, 4096, 1), snapshot(2, "small"), resize(3, Size, mib), write(4, Size, 4096, 4),
		write(5, Size-512, 1024, 5), unmap(6, Size+mib-4096, 4096), snapshot(7, "large"), resize(8, Size+mib, 0))
	if f.Crash != nil {
		r.s = f.Crash(t, r.s, rand.New(rand.NewSource(1)))
	}
	for range 2 {
		wantSize(t, r.s, Size+mib)
		wantMark(t, r.s, 8)
		r.checkAll()
		r.checkSnapshots()
		r.s = f.Reopen(t, r.s)
	}
	for name, o := range map[string]store.Op{
		"of another size": resize(9, Size, mib),
		"without a seq":   resize(0, Size+mib, mib),
		"old seq":         resize(8, Size+mib, mib),
		"overflow":        resize(9, Size+mib, ^uint64(0)-mib+1),
		"half a block":    resize(9, Size+mib, 512),
	} {
		if uint64(r.s.Info().BlockSize) == o.Extent.Len {
			continue
		}
		if err := r.s.Apply([]store.Op{o}); !errors.Is(err, block.ErrRange) {
			t.Errorf("resize %s: %v, want block.ErrRange", name, err)
		}
	}
	if err := r.s.ReadAt(make([]byte, 512), Size+mib); err == nil {
		t.Error("a read beyond the end succeeds")
	}
	do(resize(9, Size+mib, mib), write(10, Size+2*mib-512, 512, 6))
	r.checkAll()
	closeStore(t, r.s)
}

// testResizeRebase: a replica that gives up what it has takes the size of the
// place that it goes to, and what it unmapped does not come back.
func testResizeRebase(t *testing.T, f Factory) {
	s := f.Create(t)
	apply(t, s, write(1, 0, 4096, 1), resize(2, Size, 2*mib), write(3, Size+mib, 4096, 3))
	apply(t, s, unmap(0, Size, 2*mib), rebaseTo(20, 1, Size))
	for range 2 {
		wantSize(t, s, Size)
		wantMark(t, s, 20)
		changed(t, s, 0) // checks that it is within the size
		s = f.Reopen(t, s)
	}
	apply(t, s, rebaseTo(20, 1, Size+4*mib))
	s = f.Reopen(t, s)
	defer closeStore(t, s)
	wantSize(t, s, Size+4*mib)
	want := make([]byte, Size+4*mib)
	copy(want, slices.Repeat([]byte{1}, 4096))
	wantContent(t, s, want)
}

func testResizeRandom(t *testing.T, f Factory) {
	r := newRun(t, f)
	r.gen.Snapshots, r.gen.Grows, r.gen.MaxSize = 50, 40, Size+2*mib
	for len(r.m.Ops) < f.Rounds {
		switch r.gen.Rng.Intn(40) {
		case 0:
			r.s = f.Reopen(t, r.s)
			r.checkAll()
			r.checkSnapshots()
		case 1, 2:
			r.checkAll()
		case 3:
			flush(t, r.s)
		default:
			r.batch()
		}
	}
	r.checkAll()
	r.checkSnapshots()
	closeStore(t, r.s)
}
