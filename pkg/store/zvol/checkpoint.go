package zvol

import (
	"fmt"
	"hash/crc32"
	"slices"

	"github.com/cask-storage/cask/pkg/history"
	"github.com/cask-storage/cask/pkg/store"
)

// Where things are on the log, in bytes. Frozen: doc.go draws it.
const (
	superLen   = 4 << 10
	areaAt     = 64 << 10
	areaLen    = 2 << 20
	ringAt     = 8 << 20
	slotLen    = 1<<20 + 64<<10
	maxSlots   = 2*store.MaxSnapshots + 2
	defaultLog = 64 << 20 // the ring
)

const (
	superMagic   = 0x4c4f565a4b534143 // "CASKZVOL"
	slotMagic    = 0x544f4c535a4b5343 // "CSKZSLOT"
	superVersion = 1
	superFields  = 72 // bytes, and then the checksum
)

// super is a superblock. The one of the higher generation counts, once its
// checkpoint is whole.
type super struct {
	generation  uint64
	incarnation uint64 // of the records after it
	number      uint64 // of the first one
	pos         uint64 // where that one begins: bytes of the log's whole life
	ring        uint64 // bytes
	blockSize   uint32 // bytes, of vol
	length, sum uint32 // of the checkpoint: bytes, CRC-32C
}

func (s *super) encode() []byte {
	b := le.AppendUint64(make([]byte, 0, superLen), superMagic)
	b = le.AppendUint32(b, superVersion)
	b = le.AppendUint32(b, s.blockSize)
	for _, v := range []uint64{s.generation, s.incarnation, s.number, s.pos, s.ring} {
		b = le.AppendUint64(b, v)
	}
	b = le.AppendUint32(b, s.length)
	b = le.AppendUint32(b, s.sum)
	b = append(b, zeroSector[:superFields-len(b)]...)
	b = le.AppendUint32(b, crc32.Checksum(b, castagnoli))
	return append(b, make([]byte, sector-len(b))...)
}

// decodeSuper reads a superblock; errNoRecord when there is none.
func decodeSuper(b []byte) (s super, err error) {
	if len(b) < sector || le.Uint64(b) != superMagic {
		return s, errNoRecord
	}
	if crc32.Checksum(b[:superFields], castagnoli) != le.Uint32(b[superFields:]) {
		return s, errChecksum
	}
	r := reader{b: b[8:]}
	if v := r.u32(); v != superVersion {
		return s, fmt.Errorf("log of version %d, want %d: %w", v, superVersion, store.ErrFormat)
	}
	s.blockSize = r.u32()
	for _, v := range []*uint64{&s.generation, &s.incarnation, &s.number, &s.pos, &s.ring} {
		*v = r.u64()
	}
	s.length, s.sum = r.u32(), r.u32()
	if s.length > areaLen || s.ring == 0 || s.ring%sector != 0 || s.pos%sector != 0 || s.blockSize == 0 {
		return s, fmt.Errorf("superblock %+v: %w", s, store.ErrFormat)
	}
	return s, nil
}

const noMeta = ^uint32(0)

// encode is the checkpoint.
func (st *state) encode() []byte {
	b := le.AppendUint64(nil, st.size)
	b = le.AppendUint64(b, uint64(st.mark))
	b = appendMeta(b, st.meta)
	b = appendSnaps(b, st.snaps)
	if st.kept == nil {
		b = append(b, 0)
	} else {
		b = append(b, 1)
		b = le.AppendUint64(b, uint64(st.kept.Mark))
		b = le.AppendUint64(b, st.kept.Size)
		b = appendMeta(b, st.kept.Meta)
		b = le.AppendUint64(b, st.kept.id)
		b = le.AppendUint32(b, st.kept.slot)
		b = appendSnaps(b, st.kept.snaps)
	}
	return st.table.encode(b)
}

func appendMeta(b, meta []byte) []byte {
	if meta == nil {
		return le.AppendUint32(b, noMeta)
	}
	return append(le.AppendUint32(b, uint32(len(meta))), meta...)
}

func appendSnaps(b []byte, snaps []snapshot) []byte {
	b = le.AppendUint32(b, uint32(len(snaps)))
	for _, x := range snaps {
		for _, v := range []uint64{uint64(x.Seq), x.Size, x.id} {
			b = le.AppendUint64(b, v)
		}
		b = le.AppendUint32(b, x.slot)
		b = append(append(b, byte(len(x.Name))), x.Name...)
	}
	return b
}

// decodeState reads a checkpoint.
func decodeState(b []byte) (*state, error) {
	r := &reader{b: b}
	st := &state{size: r.u64(), mark: history.Seq(r.u64()), meta: decodeMeta(r), snaps: decodeSnaps(r)}
	if r.u8() == 1 {
		st.kept = &kept{Kept: store.Kept{Mark: history.Seq(r.u64()), Size: r.u64(), Meta: decodeMeta(r)}}
		st.kept.id, st.kept.slot, st.kept.snaps = r.u64(), r.u32(), decodeSnaps(r)
		if st.kept.slot >= maxSlots {
			r.fail(fmt.Errorf("slot %d", st.kept.slot))
		}
	}
	st.table = decodeTable(r)
	if r.err == nil && (len(r.b) > 0 || st.size > uint64(len(st.table.seqs))<<st.table.shift) {
		r.fail(fmt.Errorf("%d bytes too many, or a table too small for %d bytes", len(r.b), st.size))
	}
	if r.err != nil {
		return nil, fmt.Errorf("checkpoint: %w: %w", store.ErrFormat, r.err)
	}
	return st, nil
}

func decodeMeta(r *reader) []byte {
	n := r.u32()
	switch {
	case n == noMeta || r.err != nil:
		return nil
	case n > store.MaxMeta:
		r.fail(fmt.Errorf("record of %d bytes", n))
		return nil
	}
	return append([]byte{}, r.bytes(int(n))...)
}

func decodeSnaps(r *reader) (out []snapshot) {
	n := r.u32()
	if n > store.MaxSnapshots {
		r.fail(fmt.Errorf("%d snapshots", n))
		return nil
	}
	for range n {
		x := snapshot{SnapshotInfo: store.SnapshotInfo{Seq: history.Seq(r.u64()), Size: r.u64()}, id: r.u64(), slot: r.u32()}
		x.Name = string(r.bytes(int(r.u8())))
		if x.slot >= maxSlots || len(x.Name) > store.MaxName {
			r.fail(fmt.Errorf("snapshot %.80q in slot %d", x.Name, x.slot))
		}
		if r.err != nil {
			return nil
		}
		out = append(out, x)
	}
	return slices.Clip(out)
}

// slotTable is what a snapshot's slot holds: what was known when it was taken.
type slotTable struct {
	mark  history.Seq
	table table
}

// encode is a slot: magic u64, length u32, checksum u32, mark u64, table.
func (s *slotTable) encode() []byte {
	b := le.AppendUint64(nil, slotMagic)
	b = le.AppendUint64(b, 0)
	b = s.table.encode(le.AppendUint64(b, uint64(s.mark)))
	le.PutUint32(b[8:], uint32(len(b)-16))
	le.PutUint32(b[12:], crc32.Checksum(b[16:], castagnoli))
	return append(b, zeroSector[:roundUp(uint64(len(b)), sector)-uint64(len(b))]...)
}

// decodeSlot reads a slot whose first sector says that it is len(b) bytes or less.
func decodeSlot(b []byte) (s slotTable, err error) {
	n, err := slotSize(b)
	if err != nil {
		return s, err
	}
	if n > len(b) {
		return s, errShort
	}
	if crc32.Checksum(b[16:n], castagnoli) != le.Uint32(b[12:]) {
		return s, errChecksum
	}
	r := &reader{b: b[16:n]}
	s.mark = history.Seq(r.u64())
	s.table = decodeTable(r)
	return s, r.err
}

// slotSize is how many bytes of the slot that begins with b are used.
func slotSize(b []byte) (int, error) {
	if len(b) < 16 || le.Uint64(b) != slotMagic {
		return 0, errNoRecord
	}
	n := le.Uint32(b[8:])
	if n > slotLen-16 {
		return 0, fmt.Errorf("slot of %d bytes: %w", n, store.ErrFormat)
	}
	return int(n) + 16, nil
}
