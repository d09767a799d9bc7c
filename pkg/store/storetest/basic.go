package storetest

import (
	"errors"
	"strings"
	"testing"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/store"
)

func testEmpty(t *testing.T, f Factory) {
	s := f.Create(t)
	defer closeStore(t, s)
	i := s.Info()
	if i.Size != Size || i.Mark != 0 || i.BlockSize == 0 || i.BlockSize%sector != 0 {
		t.Fatalf("info of an empty store: %+v", i)
	}
	wantContent(t, s, make([]byte, Size))
	if ext := changed(t, s, 0); len(ext) != 0 {
		t.Fatalf("changed of an empty store: %v", ext)
	}
	if m := s.Meta(); m != nil {
		t.Fatalf("meta of an empty store: %d bytes, want nil", len(m))
	}
}

func testWriteRead(t *testing.T, f Factory) {
	s := f.Create(t)
	m := &Model{Size: Size, Ops: []store.Op{
		write(1, 0, 4096, 1),
		write(2, 64<<10, 256<<10, 2),
		write(3, Size-4096, 4096, 3),
		write(4, 2048, 4096, 4),
	}}
	for _, o := range m.Ops {
		apply(t, s, o)
	}
	want, mark := m.At(len(m.Ops))
	wantContent(t, s, want)
	s = f.Reopen(t, s)
	defer closeStore(t, s)
	wantContent(t, s, want)
	wantMark(t, s, mark)
	if err := s.ReadAt(make([]byte, 512), Size); err == nil {
		t.Fatal("a read beyond the end succeeds")
	}
}

func testUnaligned(t *testing.T, f Factory) {
	s := f.Create(t)
	defer closeStore(t, s)
	m := &Model{Size: Size}
	for i := range uint64(40) {
		o := write(0, i*1536, 512*(1+i%7), byte(i+1))
		if i%5 == 4 {
			o = unmap(0, i*1024, 512*(1+i%11))
		}
		m.Ops = append(m.Ops, o)
		apply(t, s, o)
	}
	want, _ := m.At(len(m.Ops))
	wantContent(t, s, want)
	for _, e := range []block.Extent{{Off: 1, Len: 1}, {Off: 511, Len: 2}, {Off: 4095, Len: 8194}} {
		p := make([]byte, e.Len)
		if err := s.ReadAt(p, e.Off); err != nil {
			t.Fatalf("read of %v: %v", e, err)
		}
		if at := FirstDiff(p, want[e.Off:e.End()]); at >= 0 {
			t.Fatalf("read of %v differs at %d", e, at)
		}
	}
}

func testUnmap(t *testing.T, f Factory) {
	s := f.Create(t)
	m := &Model{Size: Size, Ops: []store.Op{
		write(1, 0, 1<<20, 7),
		unmap(2, 512, 512),
		unmap(3, 4096, 8192),
		unmap(4, 100<<10+512, 300<<10),
		unmap(5, 900<<10, 4<<20),
		write(6, 1<<20, 512, 9),
		unmap(7, Size-512, 512),
	}}
	apply(t, s, m.Ops...)
	want, mark := m.At(len(m.Ops))
	wantContent(t, s, want)
	s = f.Reopen(t, s)
	wantContent(t, s, want)
	wantMark(t, s, mark)
	apply(t, s, unmap(8, 0, Size))
	wantContent(t, s, make([]byte, Size))
	s = f.Reopen(t, s)
	defer closeStore(t, s)
	wantContent(t, s, make([]byte, Size))
	wantMark(t, s, 8)
}

func testOrder(t *testing.T, f Factory) {
	s := f.Create(t)
	m := &Model{Size: Size, Ops: []store.Op{
		write(1, 0, 64<<10, 1),
		unmap(2, 8192, 16<<10),
		write(3, 12<<10, 4096, 3),
		write(4, 12<<10+512, 512, 4),
		unmap(5, 12<<10+1024, 512),
		write(6, 0, 512, 6),
		write(7, 0, 512, 7),
	}}
	apply(t, s, m.Ops...)
	want, mark := m.At(len(m.Ops))
	wantContent(t, s, want)
	wantMark(t, s, mark)
	s = f.Reopen(t, s)
	defer closeStore(t, s)
	wantContent(t, s, want)
}

func testMark(t *testing.T, f Factory) {
	s := f.Create(t)
	apply(t, s, write(5, 0, 512, 1))
	wantMark(t, s, 5)
	apply(t, s, write(0, 512, 512, 2), unmap(0, 0, 512))
	wantMark(t, s, 5)
	apply(t, s, write(0, 1024, 512, 2), write(9, 0, 512, 1), write(0, 2048, 512, 2))
	wantMark(t, s, 9)
	apply(t, s, unmap(10, 0, 0))
	wantMark(t, s, 10)
	s = f.Reopen(t, s)
	wantMark(t, s, 10)
	apply(t, s, write(1<<40, 0, 512, 1))
	s = f.Reopen(t, s)
	defer closeStore(t, s)
	wantMark(t, s, 1<<40)
}

func testBadOperations(t *testing.T, f Factory) {
	s := f.Create(t)
	defer closeStore(t, s)
	apply(t, s, write(5, 0, 512, 1))
	short := write(6, 0, 1024, 1)
	short.Data = short.Data[:512]
	for name, o := range map[string]store.Op{
		"old seq":       write(4, 0, 512, 2),
		"same seq":      write(5, 0, 512, 2),
		"misaligned":    write(6, 100, 512, 2),
		"short extent":  write(6, 0, 100, 2),
		"beyond":        write(6, Size, 512, 2),
		"across end":    unmap(6, Size-512, 1024),
		"overflow":      unmap(6, ^uint64(0)-511, 1024),
		"too large":     write(6, 0, store.MaxOp+512, 2),
		"short data":    short,
		"unknown kind":  {Kind: 77, Seq: 6},
		"base too high": rebase(6, 6),
		"no name":       snapshot(6, ""),
		"name":          snapshot(6, "a/b"),
		"long name":     snapshot(6, strings.Repeat("x", store.MaxName+1)),
		"engine's name": snapshot(6, "cask-changed-1"),
		"no seq":        snapshot(0, "s"),
		"old snapshot":  snapshot(5, "s"),
	} {
		if err := s.Apply([]store.Op{o}); !errors.Is(err, block.ErrRange) {
			t.Errorf("%s: %v, want block.ErrRange", name, err)
		}
	}
	wantMark(t, s, 5)
	apply(t, s, write(6, 0, 512, 3))
}

func testMeta(t *testing.T, f Factory) {
	s := f.Create(t)
	for _, n := range []int{1, store.MaxMeta, 100, 0} {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(i * n)
		}
		if err := s.SetMeta(b); err != nil {
			t.Fatalf("set meta of %d bytes: %v", n, err)
		}
		for range 2 {
			if got := s.Meta(); got == nil || FirstDiff(got, b) >= 0 {
				t.Fatalf("meta of %d bytes reads back as %d bytes", n, len(got))
			}
			s = f.Reopen(t, s)
		}
	}
	defer closeStore(t, s)
	if err := s.SetMeta(make([]byte, store.MaxMeta+1)); !errors.Is(err, block.ErrRange) {
		t.Fatalf("too long a meta record: %v, want block.ErrRange", err)
	}
	mine := []byte("abc")
	if err := s.SetMeta(mine); err != nil {
		t.Fatal(err)
	}
	mine[0] = 'x'
	s.Meta()[1] = 'x'
	if got := string(s.Meta()); got != "abc" {
		t.Fatalf("meta %q shares memory with its caller", got)
	}
}

func testClosed(t *testing.T, f Factory) {
	s := f.Create(t)
	apply(t, s, write(1, 0, 512, 1))
	closeStore(t, s)
	_, changedErr := s.Changed(0)
	for name, err := range map[string]error{
		"apply":    s.Apply([]store.Op{write(2, 0, 512, 1)}),
		"read":     s.ReadAt(make([]byte, 512), 0),
		"flush":    s.Flush(),
		"changed":  changedErr,
		"set meta": s.SetMeta([]byte("x")),
		"snapshot": s.ReadSnapshot(1, make([]byte, 512), 0),
		"close":    s.Close(),
	} {
		if !errors.Is(err, store.ErrClosed) {
			t.Errorf("%s of a closed store: %v, want store.ErrClosed", name, err)
		}
	}
}
