//go:build cgo && linux

package dmu_test

import (
	"testing"
	"time"

	"github.com/cask-storage/cask/pkg/block/buffer"
	"github.com/cask-storage/cask/pkg/history"
	"github.com/cask-storage/cask/pkg/store"
	"github.com/cask-storage/cask/pkg/store/dmu"
)

// The data of a large write stays where it is until the log does not need it any
// more: its transaction group is synced, or the write never happened.
func TestDataStays(t *testing.T) {
	s := create(t, extent(t, 64*mib))
	seq := history.Seq(0)
	write := func(n int) error {
		seq++
		own := buffer.Get(n)
		defer own.Free()
		o := writeOp(seq, 0, own.B)
		o.Own = own
		return s.Apply([]store.Op{o})
	}
	stays := func(want int, why string) {
		t.Helper()
		for deadline := time.Now().Add(20 * time.Second); dmu.Staying() != want; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s: the data of %d writes stays, want %d", why, dmu.Staying(), want)
			}
		}
	}
	for _, n := range []int{512, 16 << 10, 512 << 10} {
		if err := write(n); err != nil {
			t.Fatal(err)
		}
	}
	if n := dmu.Staying(); n != 2 {
		t.Errorf("the data of %d writes stays, want that of the large ones", n)
	}
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	stays(0, "flushed")
	if err := write(16 << 10); err != nil {
		t.Fatal(err)
	}
	if err := s.SetMeta(nil); err != nil {
		t.Fatal(err)
	}
	stays(0, "synced")
	seq -= 2
	if err := write(16 << 10); err == nil {
		t.Error("a mark that goes back was accepted")
	}
	stays(0, "refused")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}
