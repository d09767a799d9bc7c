package buffer_test

import (
	"testing"

	"github.com/cask-storage/cask/pkg/block/buffer"
)

// TestOwners: memory is not used again while anybody has it.
func TestOwners(t *testing.T) {
	b := buffer.Get(1000)
	if !b.Has(b.B) || !b.Has(b.B[999:]) || b.Has(make([]byte, 1)) || b.Has(append(b.B[999:], 0)) {
		t.Error("Has does not tell what is b's")
	}
	b.Hold()
	b.Free()
	for range 100 {
		if buffer.Get(1000) == b {
			t.Fatal("got what another one has")
		}
	}
	b.Free()
}

func TestSizes(t *testing.T) {
	for _, n := range []int{1, 511, 512, 513, 4096, 1 << 20, 1<<20 + 1} {
		b := buffer.Get(n)
		if len(b.B) != n || cap(b.B) >= 2*n && n >= 512 {
			t.Errorf("Get(%d): %d bytes of %d", n, len(b.B), cap(b.B))
		}
		b.Free()
		if again := buffer.Get(n); len(again.B) != n {
			t.Errorf("Get(%d) after Free: %d bytes", n, len(again.B))
		}
	}
	(*buffer.Buffer)(nil).Free()
}
