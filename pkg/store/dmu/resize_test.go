//go:build cgo && linux

package dmu_test

import (
	"bytes"
	"errors"
	"os"
	"testing"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/history"
	"github.com/cask-storage/cask/pkg/store"
	"github.com/cask-storage/cask/pkg/store/dmu"
)

// A store takes up, while it is in use, the room of an extent that became
// larger.
func TestGrow(t *testing.T) {
	const old, size, most = 32 * mib, 160 * mib, 512 * mib
	o := extent(t, old)
	if err := os.Truncate(o.Path, 3*old); err != nil { // less than the size later
		t.Fatal(err)
	}
	s := create(t, o)
	if err := os.Truncate(o.Path, most); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second one changes nothing
		if err := s.Grow(); err != nil {
			t.Fatal(err)
		}
	}
	data := random(mib)
	mustApply(t, s, store.Op{Kind: store.Resize, Seq: 1, Extent: block.Extent{Off: old, Len: size - old}})
	for i := range history.Seq(size / mib) {
		mustApply(t, s, writeOp(i+2, uint64(i)*mib, data))
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, o)
	got := make([]byte, mib)
	for i := range uint64(size / mib) {
		if err := s.ReadAt(got, i*mib); err != nil || !bytes.Equal(got, data) {
			t.Fatalf("read of %d: %v", i*mib, err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if out := zdb(t, o, "-bcc", o.Pool); !bytes.Contains(out, []byte("No leaks")) {
		t.Errorf("zdb -bcc: %s", out)
	}
	if err := os.Truncate(o.Path, 3*old); err != nil {
		t.Fatal(err)
	}
	if _, err := dmu.Open(o); !errors.Is(err, store.ErrTruncated) {
		t.Errorf("open of an extent cut to its size before: %v, want store.ErrTruncated", err)
	}
}

// A pool that is suspended fails to grow, it does not hang.
func TestGrowSuspended(t *testing.T) {
	alone(t)
	o := extent(t, 64*mib)
	s := create(t, o)
	mustApply(t, s, writeOp(1, 0, random(4096)))
	if err := os.Truncate(o.Path, 1024*mib); err != nil {
		t.Fatal(err)
	}
	dmu.SetFaults(dmu.FaultWrites)
	if err := s.Grow(); !errors.Is(err, store.ErrSuspended) {
		t.Fatalf("grow of a failing extent: %v, want store.ErrSuspended", err)
	}
}
