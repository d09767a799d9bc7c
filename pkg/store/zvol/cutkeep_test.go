package zvol

import (
	"errors"
	"math/rand"
	"slices"
	"testing"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/history"
	"github.com/cask-storage/cask/pkg/store"
	"github.com/cask-storage/cask/pkg/store/storetest"
)

func put(seq history.Seq, off, n uint64, b byte) store.Op {
	return store.Op{Kind: store.Write, Seq: seq, Extent: block.Extent{Off: off, Len: n}, Data: slices.Repeat([]byte{b}, int(n))}
}

func dropOf(seq, base history.Seq) store.Op {
	return store.Op{Kind: store.DropSnapshot, Seq: seq, Base: base}
}

func snap(seq history.Seq, name string) store.Op {
	return store.Op{Kind: store.Snapshot, Seq: seq, Name: name}
}

// home is what is kept, away what the store goes on to: snapshots of the same name and
// Seq, one that is dropped, and another size.
var (
	home = []store.Op{put(1, 0, 64<<10, 1), snap(2, "a"), put(3, 512, 1024, 3), snap(4, "b"), put(5, 700<<10, 4096, 5)}
	away = []store.Op{
		{Kind: store.Unmap, Extent: block.Extent{Off: cutSize / 2, Len: cutSize / 2}},
		{Kind: store.Rebase, Seq: 3, Base: 3, Extent: block.Extent{Len: cutSize / 2}},
		put(0, 4096, 8192, 7), snap(4, "b"), dropOf(5, 2), snap(6, "a"), put(7, 100<<10, 100<<10, 8),
	}
)

// The places of a run that keeps.
const (
	before = iota
	isKept
	dropping
)

// stray keeps home, goes away, and comes back; at is where it is.
func stray(s *Store, at *int) error {
	steps := []func() error{
		func() error { return s.Apply(home) },
		func() error { return s.SetMeta([]byte("home")) },
		s.Keep,
		func() error { *at = isKept; return s.Apply(away) },
		func() error { return comeBack(s) },
		s.Return,
		func() error { *at = dropping; return s.DropKept() },
		s.Close,
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// comeBack writes what is kept over what is not so.
func comeBack(s *Store) error {
	k, _ := s.Kept()
	if size := s.Info().Size; size < k.Size {
		o := store.Op{Kind: store.Rebase, Seq: s.Info().Mark, Extent: block.Extent{Len: k.Size}}
		if err := s.Apply([]store.Op{o}); err != nil {
			return err
		}
	}
	ext, err := s.ChangedSinceKeep()
	if err != nil {
		return err
	}
	const step = 256 << 10
	for _, e := range block.Set(ext).Within(block.Extent{Len: k.Size}) {
		for off := e.Off; off < e.End(); off += step {
			o := put(0, off, min(step, e.End()-off), 0)
			if err := s.ReadKept(o.Data, off); err != nil {
				return err
			}
			if err := s.Apply([]store.Op{o}); err != nil {
				return err
			}
		}
	}
	return nil
}

// TestCutKeep: wherever the machine stops, what is kept is whole or is not kept, and
// can be returned to.
func TestCutKeep(t *testing.T) {
	const seeds = 4
	for cut := 1; ; cut++ {
		done := 0
		for seed := range int64(seeds) {
			rng := rand.New(rand.NewSource(seed<<32 + int64(cut)))
			c := &script{m: storetest.Model{Size: cutSize, Ops: home}, metas: [][]byte{nil, []byte("home")}}
			f := newFake(c.shape(), rng)
			s := mustOpen(t, f)
			f.steps, f.cut = 0, cut
			at := before
			err := stray(s, &at)
			if err == nil {
				done++
				continue
			}
			if !errors.Is(err, errStopped) {
				t.Fatalf("cut at %d, seed %d: %v", cut, seed, err)
			}
			s = reopen(t, f.crash(rng), rng)
			c.judge(t, s, at)
			if t.Failed() {
				t.Fatalf("cut at %d, seed %d", cut, seed)
			}
		}
		if done == seeds {
			t.Logf("%d places", cut-1)
			return
		}
	}
}

func (c *script) judge(t *testing.T, s *Store, at int) {
	t.Helper()
	k, ok := s.Kept()
	switch {
	case !ok && at == isKept:
		t.Fatal("it is kept no more")
	case !ok && at == dropping:
		c.stable = len(home)
		c.check(t, s)
		return
	case !ok:
		c.check(t, s)
		return
	}
	content, mark := c.m.At(len(home))
	got := make([]byte, k.Size)
	if err := s.ReadKept(got, 0); err != nil || k.Mark != mark || string(k.Meta) != "home" || storetest.FirstDiff(got, content) >= 0 {
		t.Fatalf("kept: %+v, %v, or its content", k, err)
	}
	if err := comeBack(s); err != nil {
		t.Fatal(err)
	}
	if err := s.Return(); err != nil {
		t.Fatal(err)
	}
	if err := s.DropKept(); err != nil {
		t.Fatal(err)
	}
	c.stable = len(home)
	c.check(t, s)
}

// TestNoSpace: without space what is kept can be given up, and what was logged is
// done once there is some.
func TestNoSpace(t *testing.T) {
	c := &script{m: storetest.Model{Size: cutSize, Ops: home}, metas: [][]byte{nil}}
	f := newFake(c.shape(), rand.New(rand.NewSource(1)))
	s := mustOpen(t, f)
	if err := errors.Join(s.Apply(home), s.Keep()); err != nil {
		t.Fatal(err)
	}
	f.full = true
	c.m.Ops = append(slices.Clone(home), put(8, 0, 4096, 8))
	if err := s.Apply(c.m.Ops[len(home):]); !errors.Is(err, store.ErrNoSpace) {
		t.Fatalf("apply: %v, want store.ErrNoSpace", err)
	}
	if err := s.Flush(); !errors.Is(err, store.ErrNoSpace) {
		t.Fatalf("flush after that: %v, want store.ErrNoSpace", err)
	}
	if err := s.DropKept(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := f.open(); !errors.Is(err, store.ErrNoSpace) {
		t.Fatalf("open: %v, want store.ErrNoSpace", err)
	}
	f.full = false
	s = mustOpen(t, f)
	if _, ok := s.Kept(); ok {
		t.Error("it is kept still")
	}
	c.stable = len(home)
	c.check(t, s)
}
