package pdu

import (
	"encoding/binary"
	"io"
	"net"
)

const (
	arenaSize = 16 << 10 // room of one Batch for what it holds itself, bytes
	dataSize  = 1 << 20  // data a Batch takes before it is Full, bytes
)

// Batch gathers bytes to be written: headers, padding and digests in memory of
// its own, and data, which is only referred to and must not change until Flush
// returns.
type Batch struct {
	arena []byte // fixed capacity: slices of it stay valid
	iov   net.Buffers
	tmp   net.Buffers
	data  int
	pdu   int
}

// NewBatch makes an empty Batch for PDUs of which it holds at most n bytes,
// n at most 16 KiB.
func NewBatch(n int) Batch { return Batch{arena: make([]byte, 0, arenaSize), pdu: n} }

// Full reports whether the Batch must be flushed before a PDU is added.
func (b *Batch) Full() bool { return cap(b.arena)-len(b.arena) < b.pdu || b.data >= dataSize }

// Empty reports whether there is nothing to flush.
func (b *Batch) Empty() bool { return len(b.iov) == 0 }

// Grow adds n zeroed bytes and returns them, to be filled in before Flush. It
// extends the last piece when that is the neighbour. n must fit, which Full
// tells before each PDU.
func (b *Batch) Grow(n int) []byte {
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

// Refer adds data by reference.
func (b *Batch) Refer(data []byte) {
	if len(data) > 0 {
		b.iov = append(b.iov, data)
		b.data += len(data)
	}
}

// Digest adds a CRC32C.
func (b *Batch) Digest(crc uint32) { binary.LittleEndian.PutUint32(b.Grow(DigestSize), crc) }

// Flush writes everything and empties the Batch.
func (b *Batch) Flush(w io.Writer) error {
	if len(b.iov) == 0 {
		return nil
	}
	b.tmp = b.iov
	_, err := b.tmp.WriteTo(w)
	clear(b.iov)
	b.iov, b.arena, b.data = b.iov[:0], b.arena[:0], 0
	return err
}
