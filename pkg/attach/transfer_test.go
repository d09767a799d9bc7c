//go:build linux

package attach

import (
	"bytes"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/cask-storage/cask/pkg/block"
)

func testFile(t *testing.T, size uint64) (*file, *memory) {
	t.Helper()
	m := newMemory(size)
	f, err := newFile(m)
	if err != nil {
		t.Fatal(err)
	}
	return f, m
}

// Any offset and length, against a plain byte slice as the model.
func TestFileIsBytes(t *testing.T) {
	const size = 1 << 20
	f, _ := testFile(t, size)
	model := make([]byte, size)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range 2000 {
		off := rng.Uint64N(size)
		n := rng.Uint64N(min(300<<10, size-off)) + 1
		if i%2 == 0 {
			off, n = off&^4095, n&^4095
		}
		switch rng.IntN(4) {
		case 0:
			p := make([]byte, n)
			if err := f.read(off, p); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(p, model[off:off+n]) {
				t.Fatalf("round %d: read %d+%d differs from the model", i, off, n)
			}
		case 1:
			op := []block.Op{block.OpUnmap, block.OpWriteZeroes}[rng.IntN(2)]
			if err := f.zero(op, block.Extent{Off: off, Len: n}); err != nil {
				t.Fatal(err)
			}
			clear(model[off : off+n])
		default:
			p := make([]byte, n)
			for j := range p {
				p[j] = byte(rng.Uint32())
			}
			cut := rng.Uint64N(n + 1)
			if err := f.write(off, [][]byte{p[:cut], p[cut:]}); err != nil {
				t.Fatal(err)
			}
			copy(model[off:], p)
		}
	}
	all := make([]byte, size)
	if err := f.read(0, all); err != nil || !bytes.Equal(all, model) {
		t.Fatalf("end state differs from the model (err %v)", err)
	}
}

// Unaligned writers of neighbouring bytes in one block must not undo each other.
func TestUnalignedWritersKeepEachOthersBytes(t *testing.T) {
	f, m := testFile(t, 64<<10)
	var wg sync.WaitGroup
	const writers, each = 16, 100
	for w := range writers {
		wg.Go(func() {
			for range each {
				if err := f.write(uint64(8192+w*10), [][]byte{bytes.Repeat([]byte{byte(w + 1)}, 10)}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for w := range writers {
		if got := m.data[8192+w*10 : 8192+w*10+10]; !bytes.Equal(got, bytes.Repeat([]byte{byte(w + 1)}, 10)) {
			t.Errorf("writer %d: %v", w, got)
		}
	}
}

func TestSlice(t *testing.T) {
	bufs := [][]byte{[]byte("ab"), []byte("cde"), []byte("f")}
	for off := range uint64(6) {
		for n := uint64(1); off+n <= 6; n++ {
			if got := string(bytes.Join(slice(bufs, off, n), nil)); got != "abcdef"[off:off+n] {
				t.Errorf("slice(%d, %d) = %q", off, n, got)
			}
		}
	}
}

func TestGeometryIsChecked(t *testing.T) {
	for _, g := range []block.Geometry{
		{Size: 4096, BlockSize: 8192, MaxTransfer: 1 << 20},
		{Size: 4097, BlockSize: 512, MaxTransfer: 1 << 20},
		{Size: 0, BlockSize: 512, MaxTransfer: 1 << 20},
		{Size: 4096, BlockSize: 4096, MaxTransfer: 512},
	} {
		if _, err := newFile(&memory{geo: g}); err == nil {
			t.Errorf("%+v was taken", g)
		}
	}
}
