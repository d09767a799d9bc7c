package storetest

import (
	"bytes"
	"errors"
	"testing"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/store"
)

// freeze keeps the content of s until the test's end.
func freeze(t *testing.T, s store.Store) store.Frozen {
	t.Helper()
	f, err := s.(store.Comparer).Freeze()
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func digests(t *testing.T, f store.Frozen) []store.Digest {
	t.Helper()
	ds, err := f.Digests(block.Extent{Len: Size}, store.DigestUnit)
	if err != nil {
		t.Fatal(err)
	}
	if len(ds) != Size/store.DigestUnit {
		t.Fatalf("%d digests of %d pieces", len(ds), Size/store.DigestUnit)
	}
	return ds
}

// differing lists the pieces whose digests are not the same.
func differing(a, b []store.Digest) (out []int) {
	for i := range a {
		if a[i].Sum != b[i].Sum {
			out = append(out, i)
		}
	}
	return out
}

// testFrozen: stores that came to the same content by other ways have the same
// digests, and one byte makes those of its piece differ; what is frozen does not
// change, is not a snapshot, and does not survive the store's end.
func testFrozen(t *testing.T, f Factory) {
	a, b := f.Create(t), f.Create(t)
	if _, ok := a.(store.Comparer); !ok {
		t.Skip("cannot be compared")
	}
	apply(t, a, write(1, 0, 256<<10, 7), write(2, mib+512, 1536, 5), write(3, 3*mib, 64<<10, 3), write(4, 5*mib, 64<<10, 1), unmap(5, 5*mib, 64<<10))
	apply(t, b, write(1, 3*mib, 64<<10, 3), write(2, mib+512, 1536, 9))
	if err := b.Flush(); err != nil {
		t.Fatal(err)
	}
	apply(t, b, write(3, 0, 128<<10, 7), write(4, mib+512, 1536, 5), write(5, 128<<10, 128<<10, 7))
	fa, fb := freeze(t, a), freeze(t, b)
	da := digests(t, fa)
	if d := differing(da, digests(t, fb)); d != nil {
		t.Errorf("the same content, and the digests of pieces %v differ", d)
	}
	if da[0].Sum == [2]uint64{} || da[8].Sum != [2]uint64{} || da[8].Held != 0 {
		t.Errorf("digests of content, %+v, and of nothing, %+v", da[0], da[8])
	}
	apply(t, b, write(6, 3*mib+40<<10, 512, 4))
	changed := freeze(t, b)
	if d := differing(da, digests(t, changed)); len(d) != 1 || d[0] != 12 {
		t.Errorf("after a change in piece 12 the digests of %v differ", d)
	}
	if d := differing(da, digests(t, fb)); d != nil {
		t.Errorf("what is frozen changed: pieces %v", d)
	}
	p := make([]byte, 512)
	for _, x := range []struct {
		f    store.Frozen
		want byte
	}{{fb, 3}, {changed, 4}} {
		if err := x.f.ReadAt(p, 3*mib+40<<10); err != nil || !bytes.Equal(p, bytes.Repeat([]byte{x.want}, 512)) {
			t.Errorf("frozen content reads %d, %v, want %d", p[0], err, x.want)
		}
	}
	testFrozenBounds(t, fa)
	if got := b.Snapshots(); len(got) != 0 {
		t.Errorf("frozen content is listed: %v", got)
	}
	if err := changed.Close(); err != nil {
		t.Error(err)
	}
	if _, err := changed.Digests(block.Extent{Len: Size}, mib); !errors.Is(err, store.ErrClosed) {
		t.Errorf("digests after Close: %v, want store.ErrClosed", err)
	}
	closeStore(t, a)
	if err := fa.ReadAt(p, 0); !errors.Is(err, store.ErrClosed) {
		t.Errorf("read of what a closed store had frozen: %v, want store.ErrClosed", err)
	}
	b = f.Reopen(t, b) // with fb open
	if got := b.Snapshots(); len(got) != 0 {
		t.Errorf("frozen content is left behind: %v", got)
	}
	closeStore(t, b)
}

func testFrozenBounds(t *testing.T, f store.Frozen) {
	for _, e := range []block.Extent{{}, {Off: 1, Len: mib}, {Off: Size - mib, Len: mib + 1}, {Off: Size + mib, Len: mib}} {
		if _, err := f.Digests(e, mib); !errors.Is(err, block.ErrRange) {
			t.Errorf("digests of %v: %v, want block.ErrRange", e, err)
		}
	}
	for _, piece := range []uint64{0, 1} {
		if _, err := f.Digests(block.Extent{Len: Size}, piece); !errors.Is(err, block.ErrRange) {
			t.Errorf("digests of pieces of %d bytes: %v, want block.ErrRange", piece, err)
		}
	}
	if err := f.ReadAt(make([]byte, 512), Size); !errors.Is(err, block.ErrRange) {
		t.Errorf("read beyond the end: %v, want block.ErrRange", err)
	}
}
