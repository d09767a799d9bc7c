package memstore_test

import (
	"bytes"
	"errors"
	"math/rand"
	"testing"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/history"
	"github.com/cask-storage/cask/pkg/store"
	"github.com/cask-storage/cask/pkg/store/memstore"
	"github.com/cask-storage/cask/pkg/store/storetest"
)

func factory(opt memstore.Options) storetest.Factory {
	opt.Size = storetest.Size
	return storetest.Factory{
		Exact:  opt.Coarse == 0,
		Create: func(*testing.T) store.Store { return memstore.New(opt) },
		Reopen: func(t *testing.T, s store.Store) store.Store {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			return s.(*memstore.Store).Clone()
		},
		Crash: func(_ *testing.T, s store.Store, rng *rand.Rand) store.Store {
			return s.(*memstore.Store).Crash(rng)
		},
		Rot: func(t *testing.T, s store.Store, off uint64) store.Store {
			if !s.(*memstore.Store).Rot(off) {
				t.Fatal("nothing is there")
			}
			return s
		},
	}
}

func TestConformance(t *testing.T) {
	for name, opt := range map[string]memstore.Options{
		"Default":  {},
		"512":      {BlockSize: 512},
		"64k":      {BlockSize: 64 << 10},
		"Coarse10": {Coarse: 10},
	} {
		t.Run(name, func(t *testing.T) { storetest.Run(t, factory(opt)) })
	}
}

func op(seq history.Seq, off uint64, b byte) store.Op {
	return store.Op{Kind: store.Write, Seq: seq, Extent: block.Extent{Off: off, Len: 512}, Data: bytes.Repeat([]byte{b}, 512)}
}

// Crashes take every prefix from the last flush on, and nothing else.
func TestCrashTakesEveryPrefix(t *testing.T) {
	s := memstore.New(memstore.Options{Size: 1 << 20})
	for i := range 8 {
		if i == 4 {
			if err := s.Flush(); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Apply([]store.Op{op(history.Seq(i+1), 0, byte(i+1))}); err != nil {
			t.Fatal(err)
		}
	}
	seen := map[history.Seq]bool{}
	rng := rand.New(rand.NewSource(1))
	for range 200 {
		c := s.Crash(rng)
		p := make([]byte, 512)
		if err := c.ReadAt(p, 0); err != nil {
			t.Fatal(err)
		}
		if history.Seq(p[0]) != c.Info().Mark {
			t.Fatalf("mark %d with content %d", c.Info().Mark, p[0])
		}
		seen[c.Info().Mark] = true
	}
	if len(seen) != 5 || seen[3] || !seen[4] || !seen[8] {
		t.Fatalf("marks after crashes: %v, want 4 to 8", seen)
	}
	if s.Info().Mark != 8 {
		t.Fatal("a crash clone changed its origin")
	}
}

func TestClonesAreIndependent(t *testing.T) {
	s := memstore.New(memstore.Options{Size: 1 << 20})
	if err := s.Apply([]store.Op{op(1, 0, 1)}); err != nil {
		t.Fatal(err)
	}
	c := s.Clone()
	if err := c.Apply([]store.Op{op(2, 0, 2)}); err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 512)
	if err := s.ReadAt(p, 0); err != nil || p[0] != 1 || s.Info().Mark != 1 {
		t.Fatalf("origin reads %d, mark %d, %v", p[0], s.Info().Mark, err)
	}
}

func TestInject(t *testing.T) {
	s := memstore.New(memstore.Options{Size: 1 << 20})
	s.Inject(memstore.Read, 2, store.ErrCorrupt)
	p := make([]byte, 512)
	for i, want := range []error{nil, store.ErrCorrupt, nil} {
		if err := s.ReadAt(p, 0); !errors.Is(err, want) {
			t.Fatalf("read %d: %v, want %v", i+1, err, want)
		}
	}
	s.Inject(memstore.Apply, 1, store.ErrNoSpace)
	if err := s.Apply([]store.Op{op(1, 0, 1), op(2, 0, 2)}); !errors.Is(err, store.ErrNoSpace) {
		t.Fatalf("apply: %v", err)
	}
	if s.Info().Mark != 1 {
		t.Fatalf("mark after a failed apply is %d, want the prefix before it, 1", s.Info().Mark)
	}
	if err := s.Flush(); !errors.Is(err, store.ErrNoSpace) {
		t.Fatalf("flush after a failed apply: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}
