//go:build cgo && linux

package dmu_test

import (
	"bytes"
	"fmt"
	"math/rand"
	"os"
	"syscall"
	"testing"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/history"
	"github.com/cask-storage/cask/pkg/store"
	"github.com/cask-storage/cask/pkg/store/dmu"
)

// sparse is a model of a large volume: one byte for each 4096 written.
type sparse struct {
	rng    *rand.Rand
	size   uint64
	blocks map[uint64]byte
	seq    history.Seq
}

// offset is mostly near the beginning of a few far-apart places.
func (m *sparse) offset() uint64 {
	place := m.size / 8 * uint64(m.rng.Intn(8))
	if m.rng.Intn(2) == 0 {
		place = 0
	}
	return min(place+uint64(m.rng.Intn(16*mib/4096))*4096, m.size-21*4096)
}

func (m *sparse) op() store.Op {
	m.seq++
	off := m.offset()
	if m.rng.Intn(3) == 0 {
		n := []uint64{4096, mib, 9 * mib, 64 * mib, 65 * mib, m.size}[m.rng.Intn(6)]
		n = min(n, m.size-off)
		for b := range m.blocks {
			if b >= off && b < off+n {
				delete(m.blocks, b)
			}
		}
		return store.Op{Kind: store.Unmap, Seq: m.seq, Extent: block.Extent{Off: off, Len: n}}
	}
	fill := byte(1 + m.rng.Intn(255))
	n := uint64(1+m.rng.Intn(20)) * 4096
	for b := off; b < off+n; b += 4096 {
		m.blocks[b] = fill
	}
	return writeOp(m.seq, off, bytes.Repeat([]byte{fill}, int(n)))
}

func (m *sparse) check(t *testing.T, s *dmu.Store) {
	t.Helper()
	p := make([]byte, 4096)
	for range 30 {
		off := m.offset()
		if err := s.ReadAt(p, off); err != nil {
			t.Fatal(err)
		}
		if bytes.Count(p, []byte{m.blocks[off]}) != len(p) {
			t.Fatalf("byte %d is %d, want %d", off, p[0], m.blocks[off])
		}
	}
}

// Unmaps far beyond what was ever written, in volumes of all sizes.
func TestSparse(t *testing.T) {
	for _, size := range []uint64{64 * mib, 200 * mib, 3 << 30, 1 << 40, 40 << 40} {
		t.Run(fmt.Sprint(size/mib), func(t *testing.T) {
			o := extent(t, 0)
			o.Size = size
			s := create(t, o)
			m := &sparse{rng: rand.New(rand.NewSource(int64(size))), size: size, blocks: map[uint64]byte{}}
			for i := range 120 {
				if err := s.Apply([]store.Op{m.op()}); err != nil {
					t.Fatal(err)
				}
				switch {
				case i%40 == 39:
					if err := s.Close(); err != nil {
						t.Fatal(err)
					}
					s = open(t, o)
				case i%10 == 0:
					if err := s.SetMeta(nil); err != nil {
						t.Fatal(err)
					}
				}
				m.check(t, s)
			}
			if _, err := s.Changed(m.seq / 2); err != nil {
				t.Fatal(err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// What is unmapped goes back to the extent's file system.
func TestUnmapReturnsSpace(t *testing.T) {
	const span = 128 * mib
	o := extent(t, span)
	o.Compression = "off"
	s := create(t, o)
	data := random(mib)
	for i := range uint64(span / mib) {
		if err := s.Apply([]store.Op{writeOp(history.Seq(i+1), i*mib, data)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.SetMeta(nil); err != nil {
		t.Fatal(err)
	}
	full := allocated(t, o.Path)
	if err := s.Apply([]store.Op{{Kind: store.Unmap, Seq: 1000, Extent: block.Extent{Len: span}}}); err != nil {
		t.Fatal(err)
	}
	// ZFS holds what is freed for some transaction groups, then it is trimmed.
	for txgs := 0; allocated(t, o.Path) > full/4; txgs++ {
		if txgs == 300 {
			t.Fatalf("%d of %d bytes are still allocated after %d transaction groups", allocated(t, o.Path), full, txgs)
		}
		if err := s.SetMeta(nil); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("unmapped %d bytes: %d were allocated before, %d after", span, full, allocated(t, o.Path))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// writeRandom does so many writes of data at random places, 16 at a time.
func writeRandom(t *testing.T, s *dmu.Store, span, writes int, data []byte) {
	t.Helper()
	const batch = 16
	seq, rng := s.Info().Mark, rand.New(rand.NewSource(1))
	for range writes / batch {
		ops := make([]store.Op, batch)
		for i := range ops {
			seq++
			ops[i] = writeOp(seq, uint64(rng.Intn(span/len(data))*len(data)), data)
		}
		mustApply(t, s, ops...)
	}
}

// A transaction group is as large as memory allows, also when much is freed, and
// when the pool has little room: each block above those written is written once.
func TestLargeGroups(t *testing.T) {
	alone(t)
	const span, writes = 256 * mib, 6000
	s := create(t, extent(t, span))
	data := random(mib)
	for i := range uint64(span / mib) {
		mustApply(t, s, writeOp(history.Seq(i+1), i*mib, data))
	}
	before := s.TXG()
	writeRandom(t, s, span, writes, data[:4096])
	if err := s.SetMeta(nil); err != nil {
		t.Fatal(err)
	}
	if n := s.TXG() - before; n > writes/300 {
		t.Errorf("%d writes took %d transaction groups", writes, n)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// An extent that was written at random for long is still written in few, large
// pieces: blocks go where much is free, not into the next hole (then 7.6 to 8.6 for
// each of 128 KiB, not 4.5 to 5, or 6 on a machine that has much else to do).
func TestAgedExtent(t *testing.T) {
	alone(t)
	const span, piece = 256 * mib, 128 << 10
	o := extent(t, span)
	if err := os.Truncate(o.Path, span*7/4); err != nil {
		t.Fatal(err)
	}
	s := create(t, o)
	data := random(piece)
	overwrite := func() {
		seq := s.Info().Mark
		for off := uint64(0); off < span; off += piece {
			seq++
			mustApply(t, s, writeOp(seq, off, data))
		}
	}
	overwrite()
	writeRandom(t, s, span, 60000, data[:4096])
	before := dmu.IOCounts().Writes
	overwrite()
	if n := dmu.IOCounts().Writes - before; n > 7*span/piece {
		t.Errorf("%d writes of %d bytes in sequence were %d to the extent", span/piece, piece, n)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// allocated is what a file takes of its file system, in bytes.
func allocated(t *testing.T, path string) int64 {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}

// The log is written to where it was before: what it takes of the extent's file
// system does not grow with what is flushed, and a flush does not have to wait
// for the file system to allocate; but for trims.
func TestLogStaysInPlace(t *testing.T) {
	alone(t)
	const rounds, flushes, warm = 24, 40, 10
	dmu.SetFaults(dmu.FaultTrims)
	o := extent(t, 1024*mib)
	s := create(t, o)
	var seq history.Seq
	var logged uint64
	var grown int64
	for round := range rounds {
		wrote, size := dmu.IOCounts().Bytes, allocated(t, o.Path)
		for range flushes {
			seq++
			if err := s.Apply([]store.Op{writeOp(seq, 0, random(4096))}); err != nil {
				t.Fatal(err)
			}
			if err := s.Flush(); err != nil {
				t.Fatal(err)
			}
		}
		if round >= warm {
			logged += dmu.IOCounts().Bytes - wrote
			grown += allocated(t, o.Path) - size
		}
		if err := s.SetMeta(nil); err != nil { // a transaction group
			t.Fatal(err)
		}
	}
	t.Logf("%d bytes written by flushes, the file grew by %d", logged, grown)
	if grown > int64(logged)/2 {
		t.Error("the log goes on into holes of the file")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}
