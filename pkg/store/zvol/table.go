package zvol

import (
	"fmt"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/history"
)

// Bounds of a table: a region is 1 MiB, or as large as maxRegions of them need to be
// to cover the volume.
const (
	minShift   = 20
	maxShift   = 46
	maxRegions = 1 << 17
)

// table says of each region, of 1<<shift bytes, the highest Seq that changed it, 0:
// none ever did, and whether it was changed since what is kept was kept.
type table struct {
	shift uint
	seqs  []history.Seq
	away  []bool // as long as seqs
}

// fit makes t cover size bytes, with larger regions if need be.
func (t *table) fit(size uint64) {
	t.shift = max(t.shift, minShift)
	for (size+1<<t.shift-1)>>t.shift > maxRegions {
		t.coarsen(t.shift + 1)
	}
	for n := int((size + 1<<t.shift - 1) >> t.shift); len(t.seqs) < n; {
		t.seqs, t.away = append(t.seqs, 0), append(t.away, false)
	}
}

// coarsen makes regions larger: each is what the ones in it were.
func (t *table) coarsen(shift uint) {
	if shift <= t.shift {
		return
	}
	by := shift - t.shift
	n := (len(t.seqs) + 1<<by - 1) >> by
	c := table{shift: shift, seqs: make([]history.Seq, n), away: make([]bool, n)}
	for i, seq := range t.seqs {
		c.seqs[i>>by] = max(c.seqs[i>>by], seq)
		c.away[i>>by] = c.away[i>>by] || t.away[i]
	}
	*t = c
}

// raise notes a change of e by operation seq.
func (t *table) raise(e block.Extent, seq history.Seq) {
	if e.Len == 0 {
		return
	}
	for i := e.Off >> t.shift; i <= (e.End()-1)>>t.shift; i++ {
		t.seqs[i], t.away[i] = max(t.seqs[i], seq), true
	}
}

// rebase has all that changed after base count as changed after seq.
func (t *table) rebase(base, seq history.Seq) {
	for i, c := range t.seqs {
		if c > base {
			t.seqs[i] = seq + 1
		}
	}
}

// since lists the regions, within size bytes, that changed after seq.
func (t *table) since(seq history.Seq, size uint64) []block.Extent {
	return t.extents(size, func(i int) bool { return t.seqs[i] > seq })
}

// extents lists the regions within size bytes for which in is true, merged.
func (t *table) extents(size uint64, in func(i int) bool) (out []block.Extent) {
	for i := range t.seqs {
		off := uint64(i) << t.shift
		if off >= size {
			break
		}
		if !in(i) {
			continue
		}
		n := min(1<<t.shift, size-off)
		if k := len(out); k > 0 && out[k-1].End() == off {
			out[k-1].Len += n
		} else {
			out = append(out, block.Extent{Off: off, Len: n})
		}
	}
	return out
}

// encode appends the table: shift u32, count u32, the seqs, the bits of away.
func (t *table) encode(b []byte) []byte {
	b = le.AppendUint32(b, uint32(t.shift))
	b = le.AppendUint32(b, uint32(len(t.seqs)))
	for _, seq := range t.seqs {
		b = le.AppendUint64(b, uint64(seq))
	}
	bits := make([]byte, (len(t.away)+7)/8)
	for i, a := range t.away {
		if a {
			bits[i/8] |= 1 << (i % 8)
		}
	}
	return append(b, bits...)
}

// decodeTable reads what encode wrote.
func decodeTable(r *reader) (t table) {
	shift, n := uint(r.u32()), int(r.u32())
	if shift < minShift || shift > maxShift || n > maxRegions || len(r.b) < n*8+(n+7)/8 {
		r.fail(fmt.Errorf("a table of %d regions of 2^%d bytes in %d bytes", n, shift, len(r.b)))
		return t
	}
	t = table{shift: shift, seqs: make([]history.Seq, n), away: make([]bool, n)}
	for i := range n {
		t.seqs[i] = history.Seq(r.u64())
	}
	bits := r.bytes((n + 7) / 8)
	for i := range n {
		t.away[i] = bits[i/8]>>(i%8)&1 == 1
	}
	return t
}
