//go:build cgo && linux

package dmu_test

import (
	"bytes"
	"sync"
	"testing"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/history"
	"github.com/cask-storage/cask/pkg/store"
)

// An answer that would be too long is made coarser, and stays a superset.
func TestChangedIsBounded(t *testing.T) {
	o := extent(t, 64*mib)
	o.BlockSize = 4096
	s := create(t, o)
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	var ops []store.Op
	for i := range uint64(1000) {
		ops = append(ops, writeOp(history.Seq(i+1), i*i%16000*4096, random(4096)))
	}
	if err := s.Apply(ops); err != nil {
		t.Fatal(err)
	}
	for _, limit := range []int{1, 2, 10, 500, 2000} {
		ext, err := s.ChangedAtMost(0, limit)
		if err != nil {
			t.Fatal(err)
		}
		if len(ext) > limit {
			t.Fatalf("%d extents, at most %d asked for", len(ext), limit)
		}
		for _, o := range ops {
			if !covered(ext, o.Extent) {
				t.Fatalf("%d extents, none covers %v", len(ext), o.Extent)
			}
		}
	}
}

func covered(ext []block.Extent, e block.Extent) bool {
	for _, x := range ext {
		if x.Off <= e.Off && e.End() <= x.End() {
			return true
		}
	}
	return false
}

// Written, unmapped whole, written again in part: the holes beside the new
// block are reported although ZFS forgot their birth.
func TestChangedAfterWholeUnmap(t *testing.T) {
	o := extent(t, 64*mib)
	s := create(t, o)
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	step := func(op store.Op) {
		t.Helper()
		if err := s.Apply([]store.Op{op}); err != nil {
			t.Fatal(err)
		}
		if err := s.SetMeta(nil); err != nil { // the next one is in another TXG
			t.Fatal(err)
		}
	}
	step(writeOp(1, 0, random(4*mib)))
	step(writeOp(2, 32*mib, random(mib)))
	step(store.Op{Kind: store.Unmap, Seq: 3, Extent: block.Extent{Len: 64 * mib}})
	step(writeOp(4, mib, random(8192)))
	ext, err := s.Changed(2)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range []block.Extent{{Off: 0, Len: 4 * mib}, {Off: 32 * mib, Len: mib}} {
		if !covered(ext, e) {
			t.Errorf("changed %v does not cover the unmapped %v", ext, e)
		}
	}
}

// A sector is read as one write left it, never as a mixture.
func TestSectorsAreAtomic(t *testing.T) {
	s := create(t, extent(t, mib))
	var readers sync.WaitGroup
	stop := make(chan struct{})
	for range 4 {
		readers.Go(func() {
			p := make([]byte, 512)
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := s.ReadAt(p, 4096); err != nil {
					t.Error(err)
					return
				}
				if bytes.Count(p, p[:1]) != len(p) {
					t.Error("a sector was torn")
					return
				}
			}
		})
	}
	for i := range 2000 {
		if err := s.Apply([]store.Op{writeOp(history.Seq(i+1), 0, bytes.Repeat([]byte{byte(i)}, 8192))}); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	readers.Wait()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}
