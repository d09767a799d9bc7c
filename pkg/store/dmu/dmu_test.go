//go:build cgo && linux

package dmu_test

import (
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/cask-storage/cask/pkg/history"
	"github.com/cask-storage/cask/pkg/store"
	"github.com/cask-storage/cask/pkg/store/dmu"
	"github.com/cask-storage/cask/pkg/store/storetest"
)

var pools atomic.Int64

// extent is the Options of a volume on a new, sparse extent.
func extent(t testing.TB, size uint64) dmu.Options {
	t.Helper()
	path := filepath.Join(t.TempDir(), "extent.img")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(int64(size + size/20 + 256<<20)); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return dmu.Options{Path: path, Size: size, Pool: fmt.Sprintf("cask%d", pools.Add(1)), Memory: dmu.DefaultMemory}
}

func create(t testing.TB, o dmu.Options) *dmu.Store {
	t.Helper()
	s, err := dmu.Create(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func open(t testing.TB, o dmu.Options) *dmu.Store {
	t.Helper()
	s, err := dmu.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestConformance(t *testing.T) {
	for _, bs := range []uint32{4 << 10, 8 << 10, 32 << 10} {
		t.Run(fmt.Sprint(bs), func(t *testing.T) {
			var o dmu.Options
			storetest.Run(t, storetest.Factory{
				Exact: true,
				Create: func(t *testing.T) store.Store {
					o = extent(t, storetest.Size)
					o.BlockSize = bs
					return create(t, o)
				},
				Reopen: func(t *testing.T, s store.Store) store.Store {
					if err := s.Close(); err != nil {
						t.Fatal(err)
					}
					return open(t, o)
				},
				Rot: func(t *testing.T, s store.Store, off uint64) store.Store {
					return rotted(t, s, o, off)
				},
			})
		})
	}
}

// A flush of one small write is one write to the extent and one flush of it.
func TestFlushCost(t *testing.T) {
	alone(t)
	s := create(t, extent(t, 64*mib))
	best := dmu.IOCounts()
	for seq := range history.Seq(50) {
		if err := s.Apply([]store.Op{writeOp(seq+1, 0, random(4096))}); err != nil {
			t.Fatal(err)
		}
		before := dmu.IOCounts()
		if err := s.Flush(); err != nil {
			t.Fatal(err)
		}
		// others are those of a transaction group that is synced meanwhile
		after := dmu.IOCounts()
		best.Writes = min(best.Writes, after.Writes-before.Writes)
		best.Flushes = min(best.Flushes, after.Flushes-before.Flushes)
		best.Bytes = min(best.Bytes, after.Bytes-before.Bytes)
	}
	if best.Writes != 1 || best.Flushes != 1 || best.Bytes > 8192 {
		t.Errorf("a flush of 4096 bytes: %d writes, %d bytes, %d flushes", best.Writes, best.Bytes, best.Flushes)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}
