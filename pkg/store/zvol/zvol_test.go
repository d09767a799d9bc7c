package zvol

import (
	"errors"
	"math/rand"
	"testing"

	"github.com/cask-storage/cask/pkg/store"
	"github.com/cask-storage/cask/pkg/store/storetest"
)

// smallRing wraps often: it holds three of the largest records of the suite.
const smallRing = 4 << 20

func fakeShape(bs uint32) shape {
	return shape{size: storetest.Size, blockSize: bs, ring: smallRing}
}

func nodeOf(s store.Store) *fake { return s.(*Store).m.node.(*fake) }

func mustOpen(t *testing.T, f *fake) *Store {
	t.Helper()
	s, err := f.open()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func factory(sh shape) storetest.Factory {
	return storetest.Factory{
		Exact:  true,
		Create: func(t *testing.T) store.Store { return mustOpen(t, newFake(sh, rand.New(rand.NewSource(1)))) },
		Reopen: func(t *testing.T, s store.Store) store.Store {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			return mustOpen(t, nodeOf(s))
		},
		Crash: func(t *testing.T, s store.Store, rng *rand.Rand) store.Store {
			if rng.Intn(4) == 0 {
				return mustOpen(t, nodeOf(s).killed())
			}
			return mustOpen(t, nodeOf(s).crash(rng))
		},
		Rot: func(_ *testing.T, s store.Store, off uint64) store.Store {
			f := nodeOf(s)
			f.mu.Lock()
			defer f.mu.Unlock()
			f.now[volDisk].rotten[off/f.bs] = true
			return s
		},
	}
}

func TestConformance(t *testing.T) {
	for name, bs := range map[string]uint32{"4k": 4 << 10, "16k": 16 << 10, "128k": 128 << 10} {
		t.Run(name, func(t *testing.T) { storetest.Run(t, factory(fakeShape(bs))) })
	}
}

func TestInUse(t *testing.T) {
	f := newFake(fakeShape(16<<10), rand.New(rand.NewSource(1)))
	s := mustOpen(t, f)
	if _, err := f.open(); !errors.Is(err, store.ErrInUse) {
		t.Fatalf("a second open: %v, want store.ErrInUse", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := mustOpen(t, f).Close(); err != nil {
		t.Fatal(err)
	}
}
