package iscsi

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"net"
)

const (
	batchArena   = 16 << 10 // room for headers of one Batch, bytes
	maxPDUHeader = HeaderSize + DigestSize + 3 + DigestSize
	batchData    = 1 << 20 // data a Batch takes before it is Full
)

// Batch collects PDUs and writes them with as few system calls as it can.
// Headers are built in memory of its own; data is only referred to, and must
// not change until Flush returns.
type Batch struct {
	Digests Digests

	arena []byte // fixed capacity: slices of it stay valid
	head  *Header
	iov   net.Buffers
	tmp   net.Buffers
	data  int
}

// NewBatch makes an empty Batch without digests.
func NewBatch() *Batch { return &Batch{arena: make([]byte, 0, batchArena)} }

// Full reports whether the Batch must be flushed before more is added.
func (b *Batch) Full() bool {
	return cap(b.arena)-len(b.arena) < maxPDUHeader || b.data >= batchData
}

// Empty reports whether there is nothing to flush.
func (b *Batch) Empty() bool { return len(b.iov) == 0 }

// Begin adds a PDU and returns its zeroed header to be filled in before End.
func (b *Batch) Begin(o Opcode) *Header {
	n := HeaderSize
	if b.Digests.Header {
		n += DigestSize
	}
	b.head = (*Header)(b.grow(n))
	b.head.SetOpcode(o)
	return b.head
}

// End seals the PDU begun last, with this data.
func (b *Batch) End(data []byte) {
	n := uint32(len(data))
	b.head.setDataLen(n)
	if b.Digests.Header {
		sum := b.arena[len(b.arena)-DigestSize:]
		binary.LittleEndian.PutUint32(sum, crc32.Checksum(b.head[:], castagnoli))
	}
	if n == 0 {
		return
	}
	b.iov = append(b.iov, data)
	b.data += len(data)
	crc := uint32(0)
	if b.Digests.Data {
		crc = crc32.Checksum(data, castagnoli)
	}
	if p := pad(n); p > 0 {
		zeroes := b.grow(int(p))
		if b.Digests.Data {
			crc = crc32.Update(crc, castagnoli, zeroes)
		}
	}
	if b.Digests.Data {
		binary.LittleEndian.PutUint32(b.grow(DigestSize), crc)
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
		return fmt.Errorf("iSCSI: write: %w", err)
	}
	return nil
}
