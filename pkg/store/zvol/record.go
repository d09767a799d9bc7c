package zvol

import (
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/history"
	"github.com/cask-storage/cask/pkg/store"
)

// kind says what a record is: those below kindPad are of store.Kind. Frozen.
type kind uint8

const (
	kindPad      kind = iota + 0x40 // the next record is at the ring's beginning
	kindMeta                        // SetMeta: the payload is the record
	kindKeep                        // Keep; slot has the table
	kindReturn                      // Return
	kindDropKept                    // DropKept
)

// The sizes of a record, in bytes. Frozen.
const (
	sector     = store.Alignment
	headerLen  = sector
	maxPayload = store.MaxOp
)

const recordMagic = 0x3152435a // "ZCR1"

// flagTaken is of a Snapshot that did take one.
const flagTaken = 1

// record is one change of the volume's state. doc.go draws its form.
type record struct {
	incarnation uint64 // of the log: how often it was opened
	number      uint64 // its place in the log; what a snapshot is known by, too
	kind        kind
	taken       bool // Snapshot: not only the mark moves
	slot        uint32
	seq, base   history.Seq
	extent      block.Extent
	payload     []byte // Write: the data; Snapshot: the name; kindMeta
}

var (
	errNoRecord = errors.New("there is no record")
	errChecksum = errors.New("checksum does not match")
)

// size is how many bytes r takes in the ring.
func (r *record) size() uint64 { return headerLen + roundUp(uint64(len(r.payload)), sector) }

// encode appends r.
func (r *record) encode(b []byte) []byte {
	at := len(b)
	b = le.AppendUint32(b, recordMagic)
	b = le.AppendUint32(b, 0)
	b = le.AppendUint64(b, r.incarnation)
	b = le.AppendUint64(b, r.number)
	flags := byte(0)
	if r.taken {
		flags = flagTaken
	}
	b = append(b, byte(r.kind), flags, 0, 0)
	b = le.AppendUint32(b, r.slot)
	for _, v := range []uint64{uint64(r.seq), uint64(r.base), r.extent.Off, r.extent.Len} {
		b = le.AppendUint64(b, v)
	}
	b = le.AppendUint32(b, uint32(len(r.payload)))
	b = append(b, zeroSector[:headerLen-(len(b)-at)]...)
	b = append(b, r.payload...)
	le.PutUint32(b[at+4:], crc32.Checksum(b[at+8:], castagnoli))
	return append(b, zeroSector[:roundUp(uint64(len(r.payload)), sector)-uint64(len(r.payload))]...)
}

var zeroSector [sector]byte

// decodeHeader reads a record's first sector: all but its payload, of n bytes. What
// it says is to be trusted once checkRecord agrees.
func decodeHeader(b []byte) (rec record, n int, err error) {
	r := reader{b: b}
	if r.u32() != recordMagic {
		return rec, 0, errNoRecord
	}
	_ = r.u32() // the checksum
	rec.incarnation, rec.number = r.u64(), r.u64()
	rec.kind, rec.taken = kind(r.u8()), r.u8() == flagTaken
	_ = r.bytes(2)
	rec.slot = r.u32()
	rec.seq, rec.base = history.Seq(r.u64()), history.Seq(r.u64())
	rec.extent = block.Extent{Off: r.u64(), Len: r.u64()}
	size := r.u32()
	if r.err != nil || len(b) < headerLen {
		return rec, 0, errNoRecord
	}
	if size > maxPayload {
		return rec, 0, fmt.Errorf("a payload of %d bytes, at most %d: %w", size, maxPayload, errNoRecord)
	}
	return rec, int(size), nil
}

// decodeRecord reads the record that b begins with. The payload shares b's memory.
func decodeRecord(b []byte) (record, error) {
	rec, n, err := decodeHeader(b)
	if err != nil {
		return rec, err
	}
	if len(b) < headerLen+n {
		return rec, errNoRecord
	}
	if crc32.Checksum(b[8:headerLen+n], castagnoli) != le.Uint32(b[4:]) {
		return rec, errChecksum
	}
	if n > 0 {
		rec.payload = b[headerLen : headerLen+n : headerLen+n]
	}
	return rec, rec.check()
}

// check refuses what no version of this package writes.
func (r *record) check() error {
	k, n := r.kind, uint64(len(r.payload))
	switch known := k >= kind(store.Write) && k <= kind(store.Resize) || k >= kindPad && k <= kindDropKept; {
	case !known:
		return fmt.Errorf("record %d is of unknown kind %d: %w", r.number, k, store.ErrFormat)
	case k == kind(store.Write) && n != r.extent.Len, k == kindMeta && n > store.MaxMeta,
		k == kind(store.Snapshot) && n > store.MaxName:
		return fmt.Errorf("record %d of kind %d has %d bytes: %w", r.number, k, n, store.ErrFormat)
	}
	if r.extent.End() < r.extent.Off {
		return fmt.Errorf("record %d is of %v: %w", r.number, r.extent, store.ErrFormat)
	}
	return nil
}

// recordOf is the record of an operation.
func recordOf(o *store.Op) record {
	r := record{kind: kind(o.Kind), seq: o.Seq, base: o.Base, extent: o.Extent, payload: o.Data}
	if o.Kind == store.Snapshot {
		r.payload = []byte(o.Name)
	}
	return r
}

// op is the operation that r is a record of.
func (r *record) op() store.Op {
	return store.Op{Kind: store.Kind(r.kind), Seq: r.seq, Base: r.base, Extent: r.extent}
}

func roundUp(n, to uint64) uint64 { return (n + to - 1) / to * to }
