package tcp

import (
	"fmt"
	"hash/crc32"
	"io"
	"net"
)

// batchArena is the room for headers of one Batch, bytes; a PDU takes at most
// maxPDUHeader of it, its digests and padding included.
const (
	batchArena   = 16 << 10
	maxPDUHeader = 256 + DigestSize
	// batchData is how much data a Batch takes before it is Full.
	batchData = 1 << 20
)

// Batch collects PDUs and writes them with as few system calls as it can.
// Headers are built in memory of its own; data is only referred to, and must
// not change until Flush returns.
type Batch struct {
	Digests Digests
	// Align is the alignment of data the peer asked for, bytes; at least 4.
	Align uint32

	arena []byte // fixed capacity: slices of it stay valid
	iov   net.Buffers
	tmp   net.Buffers
	data  int
}

// NewBatch makes an empty Batch without digests.
func NewBatch() *Batch {
	return &Batch{Align: 4, arena: make([]byte, 0, batchArena)}
}

// Full reports whether the Batch must be flushed before more is added.
func (b *Batch) Full() bool {
	return cap(b.arena)-len(b.arena) < maxPDUHeader || b.data >= batchData
}

// Empty reports whether there is nothing to flush.
func (b *Batch) Empty() bool { return len(b.iov) == 0 }

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
	p := b.grow(int(size))
	putCommon(p, c)
	return p
}

// finish seals a PDU whose header is p: header digest, data, data digest.
func (b *Batch) finish(p []byte, data [][]byte) {
	hlen, flags := p[2], Flags(p[1])
	if flags&FlagHDGST != 0 {
		le.PutUint32(p[hlen:], crc32.Checksum(p[:hlen], castagnoli))
	}
	var crc uint32
	for _, d := range data {
		if len(d) == 0 {
			continue
		}
		b.iov = append(b.iov, d)
		b.data += len(d)
		if flags&FlagDDGST != 0 {
			crc = crc32.Update(crc, castagnoli, d)
		}
	}
	if flags&FlagDDGST != 0 {
		le.PutUint32(b.grow(DigestSize), crc)
	}
}

// grow adds n zeroed bytes of arena to the output, extending the last slice
// when it is the neighbour.
func (b *Batch) grow(n int) []byte {
	at := len(b.arena)
	b.arena = b.arena[:at+n]
	p := b.arena[at : at+n : at+n]
	clear(p)
	if last := len(b.iov) - 1; last >= 0 && at > 0 {
		if l := b.iov[last]; len(l) > 0 && &l[len(l)-1] == &b.arena[at-1] {
			start := at - len(l)
			b.iov[last] = b.arena[start : at+n : at+n]
			return p
		}
	}
	b.iov = append(b.iov, p)
	return p
}

// Flush writes everything added and empties the Batch.
func (b *Batch) Flush(w io.Writer) error {
	if len(b.iov) == 0 {
		return nil
	}
	b.tmp = b.iov
	_, err := b.tmp.WriteTo(w)
	clear(b.iov)
	b.iov, b.arena, b.data = b.iov[:0], b.arena[:0], 0
	if err != nil {
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
