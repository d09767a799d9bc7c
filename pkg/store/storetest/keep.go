package storetest

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/store"
)

// GiveBack makes the content of s that which is kept, but for what cannot be
// read of that.
func GiveBack(t *testing.T, s store.Store) (lost block.Set) {
	t.Helper()
	k, _ := s.Kept()
	if size := s.Info().Size; size > k.Size {
		apply(t, s, unmap(0, k.Size, size-k.Size))
	} else if size < k.Size {
		apply(t, s, rebaseTo(s.Info().Mark, 0, k.Size))
	}
	ext, err := s.ChangedSinceKeep()
	if err != nil {
		t.Fatal(err)
	}
	bs := uint64(s.Info().BlockSize)
	for _, e := range block.Set(ext).Within(block.Extent{Len: k.Size}) {
		for off := e.Off; off < e.End(); off += bs {
			o := store.Op{Kind: store.Write, Extent: block.Extent{Off: off, Len: min(bs, e.End()-off)}}
			o.Data = make([]byte, o.Extent.Len)
			switch err := s.ReadKept(o.Data, off); {
			case errors.Is(err, store.ErrCorrupt):
				lost = lost.With(o.Extent)
			case err != nil:
				t.Fatalf("read of what is kept at %d: %v", off, err)
			}
			apply(t, s, o)
		}
	}
	return lost
}

func keep(t *testing.T, s store.Store) {
	t.Helper()
	if err := s.Keep(); err != nil {
		t.Fatalf("keep: %v", err)
	}
}

func dropKept(t *testing.T, s store.Store) {
	t.Helper()
	if err := s.DropKept(); err != nil {
		t.Fatalf("drop what is kept: %v", err)
	}
}

// testKeep: what is kept stays as it was whatever the store goes on to, and the
// store can go back to it.
func testKeep(t *testing.T, f Factory) {
	r := newRun(t, f)
	r.gen.Snapshots, r.gen.Grows, r.gen.MaxSize = 12, 12, Size+2*mib
	for range 3 {
		for range 8 {
			r.batch()
		}
		r.stray()
		r.checkAll()
		r.checkSnapshots()
		if r.gen.Rng.Intn(2) == 0 {
			dropKept(t, r.s)
		}
	}
	closeStore(t, r.s)
}

// stray keeps the state, goes on to other operations on an earlier base, and
// returns.
func (r *run) stray() {
	t := r.t
	t.Helper()
	meta := make([]byte, 512)
	pattern(r.gen.Rng, meta)
	if err := r.s.SetMeta(meta); err != nil {
		t.Fatal(err)
	}
	keep(t, r.s)
	home, seq := slices.Clone(r.m.Ops), r.gen.Seq
	content, mark := r.m.At(len(home))
	then, base := r.m.At(r.gen.Rng.Intn(len(home) + 1))
	at, size := base+(mark-base)/2, uint64(len(content))
	r.gen.Size = uint64(len(then))
	away := []store.Op{rebaseTo(at, base, r.gen.Size)}
	if r.gen.Size < size {
		away = []store.Op{unmap(0, r.gen.Size, size-r.gen.Size), away[0]}
	}
	r.m.Ops = append(r.m.Ops, away...)
	apply(t, r.s, away...)
	r.gen.Seq, r.gen.Live = at, seqs(r.m.Snapshots(len(r.m.Ops)))
	for range 5 {
		r.batch()
		r.restart()
		now, _ := r.m.At(len(r.m.Ops))
		r.wantKept(content, store.Kept{Mark: mark, Size: size, Meta: meta})
		ext, err := r.s.ChangedSinceKeep()
		if err != nil {
			t.Fatal(err)
		}
		was := Resized(slices.Clone(content), &store.Op{Kind: store.Rebase, Extent: block.Extent{Len: uint64(len(now))}})
		if off, ok := Covers(ext, was, now); !ok {
			t.Fatalf("changed since the kept state lacks byte %d: %v", off, ext)
		}
	}
	now, _ := r.m.At(len(r.m.Ops))
	wantContent(t, r.s, now)
	if lost := GiveBack(t, r.s); len(lost) > 0 {
		t.Fatalf("%v of what is kept cannot be read", lost)
	}
	for range 2 {
		if err := r.s.Return(); err != nil {
			t.Fatalf("return: %v", err)
		}
		r.restart()
	}
	r.m.Ops, r.gen.Seq, r.gen.Size, r.gen.Live = home, seq, size, seqs(r.m.Snapshots(len(home)))
}

// restart opens the store again, now and then.
func (r *run) restart() {
	if r.gen.Rng.Intn(4) == 0 {
		r.s = r.f.Reopen(r.t, r.s)
	}
}

func (r *run) wantKept(content []byte, want store.Kept) {
	t := r.t
	t.Helper()
	got, ok := r.s.Kept()
	if !ok || got.Mark != want.Mark || got.Size != want.Size || !bytes.Equal(got.Meta, want.Meta) {
		t.Fatalf("kept %v: mark %d, size %d and %d bytes of record, want %d, %d and %d", ok,
			got.Mark, got.Size, len(got.Meta), want.Mark, want.Size, len(want.Meta))
	}
	p := make([]byte, len(content))
	if err := r.s.ReadKept(p, 0); err != nil {
		t.Fatal(err)
	}
	if at := FirstDiff(p, content); at >= 0 {
		t.Fatalf("what is kept differs from the model first at byte %d", at)
	}
	if err := r.s.ReadKept(p[:512], want.Size); !errors.Is(err, block.ErrRange) {
		t.Fatalf("read beyond what is kept: %v, want block.ErrRange", err)
	}
}

// testKeepNothing: without anything kept there is nothing to ask.
func testKeepNothing(t *testing.T, f Factory) {
	s := f.Create(t)
	defer func() { closeStore(t, s) }()
	check := func() {
		t.Helper()
		if k, ok := s.Kept(); ok {
			t.Errorf("kept: %+v", k)
		}
		_, err := s.ChangedSinceKeep()
		for what, err := range map[string]error{"changed": err, "read": s.ReadKept(make([]byte, 512), 0), "return": s.Return()} {
			if !errors.Is(err, store.ErrNotKept) {
				t.Errorf("%s: %v, want store.ErrNotKept", what, err)
			}
		}
		dropKept(t, s)
	}
	check()
	keep(t, s) // of an empty store
	s = f.Reopen(t, s)
	if k, ok := s.Kept(); !ok || k.Mark != 0 || k.Size != Size || len(k.Meta) != 0 {
		t.Errorf("kept %v: %+v", ok, k)
	}
	apply(t, s, write(1, 0, 4096, 1), snapshot(2, "a"))
	keep(t, s) // instead of that
	apply(t, s, drop(3, 2), snapshot(4, "a"), write(5, 0, 4096, 2))
	dropKept(t, s)
	check()
	s = f.Reopen(t, s)
	check()
	if got := seqs(s.Snapshots()); len(got) != 1 || got[0] != 4 {
		t.Errorf("snapshots %v, want that of operation 4", got)
	}
}
