package tcp

import (
	"fmt"
	"io"

	"github.com/cask-storage/cask/pkg/pdu"
)

// maxPDUHeader is the most a PDU takes besides its data, padding and digests
// included, bytes.
const maxPDUHeader = 256 + DigestSize

// Batch collects PDUs and writes them with as few system calls as it can. Data
// is only referred to, and must not change until Flush returns.
type Batch struct {
	Digests Digests
	// Align is the alignment of data the peer asked for, bytes; at least 4.
	Align uint32

	out pdu.Batch
}

// NewBatch makes an empty Batch without digests.
func NewBatch() *Batch { return &Batch{Align: 4, out: pdu.NewBatch(maxPDUHeader)} }

// Full reports whether the Batch must be flushed before more is added.
func (b *Batch) Full() bool { return b.out.Full() }

// Empty reports whether there is nothing to flush.
func (b *Batch) Empty() bool { return b.out.Empty() }

// Command adds a CapsuleCmd with in-capsule data, if any.
func (b *Batch) Command(sqe *[SQESize]byte, data [][]byte) {
	n := total(data)
	p := b.header(common{Type: TypeCapsuleCmd, HLen: CommandSize}, n)
	copy(p[CommonSize:], sqe[:])
	b.finish(p, data)
}

// Response adds a CapsuleResp.
func (b *Batch) Response(cqe *[CQESize]byte) {
	p := b.header(common{Type: TypeCapsuleResp, HLen: HeaderSize}, 0)
	copy(p[CommonSize:], cqe[:])
	b.finish(p, nil)
}

// R2T adds an R2T.
func (b *Batch) R2T(t Transfer) {
	p := b.header(common{Type: TypeR2T, HLen: HeaderSize}, 0)
	putTransfer(p, t)
	b.finish(p, nil)
}

// H2CData adds an H2CData; t.Len must be the length of data.
func (b *Batch) H2CData(t Transfer, f Flags, data [][]byte) { b.transfer(TypeH2CData, t, f, data) }

// C2HData adds a C2HData; t.Len must be the length of data.
func (b *Batch) C2HData(t Transfer, f Flags, data [][]byte) { b.transfer(TypeC2HData, t, f, data) }

func (b *Batch) transfer(typ Type, t Transfer, f Flags, data [][]byte) {
	p := b.header(common{Type: typ, Flags: f, HLen: HeaderSize}, t.Len)
	putTransfer(p, t)
	b.finish(p, data)
}

func putTransfer(p []byte, t Transfer) {
	le.PutUint16(p[8:], t.CCCID)
	le.PutUint16(p[10:], t.TTAG)
	le.PutUint32(p[12:], t.Offset)
	le.PutUint32(p[16:], t.Len)
}

// header reserves room for a header, its digest and padding, fills in the
// common part for n bytes of data and returns the room.
func (b *Batch) header(c common, n uint32) []byte {
	size := uint32(c.HLen)
	if b.Digests&HeaderDigest != 0 {
		c.Flags |= FlagHDGST
		size += DigestSize
	}
	c.PLen = size
	if n > 0 {
		size = (size + b.Align - 1) / b.Align * b.Align
		c.PDO = uint8(size)
		c.PLen = size + n
		if b.Digests&DataDigest != 0 {
			c.Flags |= FlagDDGST
			c.PLen += DigestSize
		}
	}
	p := b.out.Grow(int(size))
	putCommon(p, c)
	return p
}

// finish seals a PDU whose header is p: header digest, data, data digest.
func (b *Batch) finish(p []byte, data [][]byte) {
	hlen, flags := p[2], Flags(p[1])
	if flags&FlagHDGST != 0 {
		le.PutUint32(p[hlen:], pdu.Sum(0, p[:hlen]))
	}
	var crc uint32
	for _, d := range data {
		b.out.Refer(d)
		if flags&FlagDDGST != 0 {
			crc = pdu.Sum(crc, d)
		}
	}
	if flags&FlagDDGST != 0 {
		b.out.Digest(crc)
	}
}

// Flush writes everything added and empties the Batch.
func (b *Batch) Flush(w io.Writer) error {
	if err := b.out.Flush(w); err != nil {
		return fmt.Errorf("NVMe/TCP: write: %w", err)
	}
	return nil
}

func total(data [][]byte) uint32 {
	n := 0
	for _, d := range data {
		n += len(d)
	}
	return uint32(n)
}
