package storetest

import (
	"bytes"
	"errors"
	"math/rand"
	"testing"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/history"
	"github.com/cask-storage/cask/pkg/store"
)

// rotting is a store with a block of four that rots.
type rotting struct {
	t    *testing.T
	s    store.Store
	bs   uint64
	want []byte // of the four
	bad  block.Extent
}

func newRotting(t *testing.T, f Factory) *rotting {
	t.Helper()
	if f.Rot == nil {
		t.Skip("this store has no way to rot")
	}
	s := f.Create(t)
	bs := uint64(s.Info().BlockSize)
	r := &rotting{t: t, bs: bs, want: make([]byte, 4*bs), bad: block.Extent{Off: bs, Len: bs}}
	rand.New(rand.NewSource(7)).Read(r.want)
	apply(t, s, store.Op{Kind: store.Write, Seq: 1, Extent: block.Extent{Len: 4 * bs}, Data: r.want})
	flush(t, s)
	r.s = f.Rot(t, s, bs)
	t.Cleanup(func() { closeStore(t, r.s) })
	return r
}

func (r *rotting) wantRotten(rotten bool) {
	r.t.Helper()
	for n := range uint64(4) {
		got := make([]byte, r.bs)
		err := r.s.ReadAt(got, n*r.bs)
		if bad := rotten && n == 1; errors.Is(err, store.ErrCorrupt) != bad || !bad && err != nil {
			r.t.Fatalf("read of block %d: %v", n, err)
		}
		if err == nil && !bytes.Equal(got, r.want[n*r.bs:][:r.bs]) {
			r.t.Fatalf("block %d reads wrong", n)
		}
	}
}

// testRotIsSeen: exactly the rotten block cannot be read, until it is written
// whole.
func testRotIsSeen(t *testing.T, f Factory) {
	r := newRotting(t, f)
	r.wantRotten(true)
	r.wantRotten(true) // seeing it does not make it good
	apply(t, r.s, store.Op{Kind: store.Write, Extent: r.bad, Data: r.want[r.bs:][:r.bs]})
	r.wantRotten(false)
	r.s = f.Reopen(t, r.s)
	r.wantRotten(false)
	wantMark(t, r.s, 1)
}

// testRotPartial: a change of a part of the rotten block does not happen, and
// leaves the store usable.
func testRotPartial(t *testing.T, f Factory) {
	r := newRotting(t, f)
	if r.bs < 4096 {
		t.Skip("its blocks are too small to have parts")
	}
	for _, part := range []store.Op{write(0, r.bs+1024, 512, 9), unmap(0, r.bs+1024, 512), write(0, r.bs-512, 1024, 9)} {
		seq := r.s.Info().Mark + 1
		part.Seq = seq + 1
		err := r.s.Apply([]store.Op{write(seq, 0, 512, byte(seq)), part, write(seq+2, 512, 512, 0)})
		var rotten *store.CorruptError
		if !errors.As(err, &rotten) || !errors.Is(err, store.ErrCorrupt) || len(rotten.Blocks) != 1 || rotten.Blocks[0] != r.bad {
			t.Fatalf("kind %d of %v: %v, want a CorruptError about %v", part.Kind, part.Extent, err, r.bad)
		}
		if mark := r.s.Info().Mark; rotten.Done > 1 || mark != seq+history.Seq(rotten.Done)-1 {
			t.Fatalf("after %d operations the mark is %d", rotten.Done, mark)
		}
		if rotten.Done == 1 {
			copy(r.want, bytes.Repeat([]byte{byte(seq)}, 512))
		}
		r.wantRotten(true)
	}
	clear(r.want[r.bs:][:r.bs])
	whole := store.Op{Kind: store.Write, Extent: r.bad, Data: make([]byte, r.bs)}
	apply(t, r.s, whole, write(r.s.Info().Mark+1, r.bs, 512, 3))
	copy(r.want[r.bs:], bytes.Repeat([]byte{3}, 512))
	r.wantRotten(false)
}
