package buffer_test

import (
	"testing"

	"github.com/cask-storage/cask/pkg/block/buffer"
)

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
