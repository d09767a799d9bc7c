package storetest

import (
	"bytes"
	"fmt"
	"math/rand"
	"slices"
	"testing"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/block/buffer"
	"github.com/cask-storage/cask/pkg/history"
	"github.com/cask-storage/cask/pkg/store"
)

const sector = store.Alignment

// Model is the dumb twin of a store: every operation it was given, and the
// content and mark after any number of them.
type Model struct {
	Size uint64 // at first
	Ops  []store.Op
}

// At is the content and the mark after the first n operations.
func (m *Model) At(n int) ([]byte, history.Seq) {
	content := make([]byte, m.Size)
	var mark history.Seq
	for i := range m.Ops[:n] {
		o := &m.Ops[i]
		switch o.Kind {
		case store.Write:
			copy(content[o.Extent.Off:o.Extent.End()], o.Data)
		case store.Unmap:
			clear(content[o.Extent.Off:o.Extent.End()])
		default:
			content = Resized(content, o)
		}
		if o.Seq != 0 || o.Kind == store.Rebase {
			mark = o.Seq
		}
	}
	return content, mark
}

// Resized is content with the size that o leaves.
func Resized(content []byte, o *store.Op) []byte {
	size := int(o.Resized(uint64(len(content)))) //nolint:gosec // sizes of tests
	if size <= len(content) {
		return content[:size:size]
	}
	return append(content, make([]byte, size-len(content))...)
}

// Snapshots are those after the first n operations.
func (m *Model) Snapshots(n int) (out []store.SnapshotInfo) {
	size := m.Size
	for i := range m.Ops[:n] {
		o := &m.Ops[i]
		out = slices.DeleteFunc(out, func(s store.SnapshotInfo) bool {
			return o.Kind == store.DropSnapshot && s.Seq == o.Base || o.Kind == store.Rebase && s.Seq > o.Base
		})
		if o.Kind == store.Snapshot && store.Takes(out, o.Name) {
			out = append(out, store.SnapshotInfo{Name: o.Name, Seq: o.Seq, Size: size})
		}
		size = o.Resized(size)
	}
	return out
}

// Before is the content before operation seq.
func (m *Model) Before(seq history.Seq) []byte {
	n := slices.IndexFunc(m.Ops, func(o store.Op) bool { return o.Seq == seq })
	content, _ := m.At(n)
	return content
}

// Gen makes random operations, numbered from Seq on.
type Gen struct {
	Rng  *rand.Rand
	Size uint64
	Seq  history.Seq // of the last operation made
	// Snapshots is one in how many operations takes or drops one; 0: none.
	Snapshots int
	Live      []history.Seq // snapshots not dropped
	// Grows is how often, one in so many operations, the store grows; 0: never.
	// It grows by GrowStep, to at most MaxSize.
	Grows   int
	MaxSize uint64
}

// GrowStep is what a Resize adds at most: a multiple of every block size.
const GrowStep = 256 << 10

const maxLive = 3

// snapshot takes a snapshot, or drops one of those that are there.
func (g *Gen) snapshot() store.Op {
	if len(g.Live) == maxLive || len(g.Live) > 0 && g.Rng.Intn(3) == 0 {
		i := g.Rng.Intn(len(g.Live))
		o := store.Op{Kind: store.DropSnapshot, Seq: g.Seq, Base: g.Live[i]}
		g.Live = slices.Delete(g.Live, i, i+1)
		return o
	}
	g.Live = append(g.Live, g.Seq)
	return store.Op{Kind: store.Snapshot, Seq: g.Seq, Name: fmt.Sprintf("s-%d", g.Seq)}
}

// Op is the next operation: mostly small writes, some large, some unmaps, now
// and then one that carries nothing but its Seq. The caller owns its Own.
func (g *Gen) Op() store.Op {
	g.Seq += history.Seq(1 + g.Rng.Intn(3))
	if g.Snapshots > 0 && g.Rng.Intn(g.Snapshots) == 0 {
		return g.snapshot()
	}
	if g.Grows > 0 && g.Rng.Intn(g.Grows) == 0 {
		o := resize(g.Seq, g.Size, min(GrowStep, g.MaxSize-g.Size))
		g.Size = o.Extent.End()
		return o
	}
	o := store.Op{Kind: store.Write, Seq: g.Seq}
	limit := uint64(32 << 10)
	switch g.Rng.Intn(20) {
	case 0, 1, 2:
		o.Kind = store.Unmap
	case 3:
		o.Kind, limit = store.Unmap, g.Size
	case 4:
		limit = 512 << 10
	case 5:
		o.Kind, limit = store.Unmap, 0
	}
	if limit > 0 {
		limit = sector + uint64(g.Rng.Int63n(int64(limit)))
	}
	o.Extent.Len = min(limit, g.Size) / sector * sector
	o.Extent.Off = uint64(g.Rng.Int63n(int64(g.Size-o.Extent.Len)+1)) / sector * sector
	if o.Kind == store.Write {
		o.Data = make([]byte, o.Extent.Len)
		if g.Seq%2 == 0 && o.Extent.Len > 0 {
			o.Own = buffer.Get(int(o.Extent.Len))
			o.Data = o.Own.B
		}
		pattern(g.Rng, o.Data)
	}
	return o
}

// pattern fills p with what compresses about two to one and is rarely repeated.
func pattern(rng *rand.Rand, p []byte) {
	for i := 0; i < len(p); i += sector {
		rng.Read(p[i : i+sector/2])
		clear(p[i+sector/2 : i+sector])
	}
}

// write is a Write of one repeated byte.
func write(seq history.Seq, off, n uint64, b byte) store.Op {
	return store.Op{Kind: store.Write, Seq: seq, Extent: block.Extent{Off: off, Len: n},
		Data: bytes.Repeat([]byte{b}, int(n))}
}

func unmap(seq history.Seq, off, n uint64) store.Op {
	return store.Op{Kind: store.Unmap, Seq: seq, Extent: block.Extent{Off: off, Len: n}}
}

func rebase(seq, base history.Seq) store.Op {
	return store.Op{Kind: store.Rebase, Seq: seq, Base: base}
}

// rebaseTo is a rebase of a store that becomes one of size bytes.
func rebaseTo(seq, base history.Seq, size uint64) store.Op {
	o := rebase(seq, base)
	o.Extent.Len = size
	return o
}

// resize adds n bytes to a store of from bytes.
func resize(seq history.Seq, from, n uint64) store.Op {
	return store.Op{Kind: store.Resize, Seq: seq, Extent: block.Extent{Off: from, Len: n}}
}

func snapshot(seq history.Seq, name string) store.Op {
	return store.Op{Kind: store.Snapshot, Seq: seq, Name: name}
}

func drop(seq, which history.Seq) store.Op {
	return store.Op{Kind: store.DropSnapshot, Seq: seq, Base: which}
}

func apply(t *testing.T, s store.Store, ops ...store.Op) {
	t.Helper()
	if err := s.Apply(ops); err != nil {
		t.Fatalf("apply: %v", err)
	}
}

func flush(t *testing.T, s store.Store) {
	t.Helper()
	if err := s.Flush(); err != nil {
		t.Fatalf("flush: %v", err)
	}
}

func closeStore(t *testing.T, s store.Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatalf("close: %v", err)
	}
}

// Content reads all of s.
func Content(t *testing.T, s store.Store) []byte {
	t.Helper()
	p := make([]byte, s.Info().Size)
	const step = 1 << 20
	for off := 0; off < len(p); off += step {
		if err := s.ReadAt(p[off:min(off+step, len(p))], uint64(off)); err != nil {
			t.Fatalf("read at %d: %v", off, err)
		}
	}
	return p
}

// FirstDiff is the first byte at which a and b differ, -1 when they do not.
func FirstDiff(a, b []byte) int {
	if bytes.Equal(a, b) {
		return -1
	}
	for i := range a {
		if i >= len(b) || a[i] != b[i] {
			return i
		}
	}
	return len(a)
}

func wantContent(t *testing.T, s store.Store, want []byte) {
	t.Helper()
	if at := FirstDiff(Content(t, s), want); at >= 0 {
		t.Fatalf("content differs from the model first at byte %d (block %d of 512)", at, at/sector)
	}
}

func wantMark(t *testing.T, s store.Store, want history.Seq) {
	t.Helper()
	if got := s.Info().Mark; got != want {
		t.Fatalf("mark is %d, want %d", got, want)
	}
}

func changed(t *testing.T, s store.Store, since history.Seq) []block.Extent {
	t.Helper()
	ext, err := s.Changed(since)
	if err != nil {
		t.Fatalf("changed since %d: %v", since, err)
	}
	end := uint64(0)
	for i, e := range ext {
		if e.Len == 0 || e.End() > s.Info().Size || i > 0 && e.Off <= end {
			t.Fatalf("changed since %d: extent %d %v is empty, out of range, or not merged and ascending after %d", since, i, e, end)
		}
		end = e.End()
	}
	return ext
}

// Covers reports whether ext includes every sector of b that is not as in a, and
// the first that it does not. Beyond its end a is zeroes.
func Covers(ext []block.Extent, a, b []byte) (uint64, bool) {
	zero := make([]byte, sector)
	for off := uint64(0); off < uint64(len(b)); off += sector {
		was := zero
		if off < uint64(len(a)) {
			was = a[off : off+sector]
		}
		if bytes.Equal(was, b[off:off+sector]) {
			continue
		}
		if !includes(ext, off) {
			return off, false
		}
	}
	return 0, true
}

func includes(ext []block.Extent, off uint64) bool {
	for _, e := range ext {
		if off >= e.Off && off < e.End() {
			return true
		}
	}
	return false
}
