//go:build cgo && linux

package dmu_test

import (
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

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
