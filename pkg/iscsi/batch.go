package iscsi

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/cask-storage/cask/pkg/pdu"
)

// maxPDUHeader is the most a PDU takes besides its data, bytes.
const maxPDUHeader = HeaderSize + DigestSize + 3 + DigestSize

// Batch collects PDUs and writes them with as few system calls as it can. Data
// is only referred to, and must not change until Flush returns.
type Batch struct {
	Digests Digests

	out  pdu.Batch
	head *Header
	sum  []byte // room for the header's digest, if there is one
	one  [1][]byte
}

// NewBatch makes an empty Batch without digests.
func NewBatch() *Batch { return &Batch{out: pdu.NewBatch(maxPDUHeader)} }

// Full reports whether the Batch must be flushed before more is added.
func (b *Batch) Full() bool { return b.out.Full() }

// Empty reports whether there is nothing to flush.
func (b *Batch) Empty() bool { return b.out.Empty() }

// Begin adds a PDU and returns its zeroed header to be filled in before End.
func (b *Batch) Begin(o Opcode) *Header {
	n := HeaderSize
	if b.Digests.Header {
		n += DigestSize
	}
	p := b.out.Grow(n)
	b.head, b.sum = (*Header)(p), p[HeaderSize:]
	b.head.SetOpcode(o)
	return b.head
}

// End seals the PDU begun last, with this data.
func (b *Batch) End(data []byte) {
	b.one[0] = data
	b.EndPieces(b.one[:])
	b.one[0] = nil
}

// EndPieces is End with data in pieces.
func (b *Batch) EndPieces(data [][]byte) {
	n := uint32(0)
	for _, d := range data {
		n += uint32(len(d))
	}
	b.head.setDataLen(n)
	if b.Digests.Header {
		binary.LittleEndian.PutUint32(b.sum, pdu.Sum(0, b.head[:]))
	}
	if n == 0 {
		return
	}
	crc := uint32(0)
	for _, d := range data {
		b.out.Refer(d)
		if b.Digests.Data {
			crc = pdu.Sum(crc, d)
		}
	}
	if p := pad(n); p > 0 {
		zeroes := b.out.Grow(int(p))
		if b.Digests.Data {
			crc = pdu.Sum(crc, zeroes)
		}
	}
	if b.Digests.Data {
		b.out.Digest(crc)
	}
}

// Flush writes everything added and empties the Batch.
func (b *Batch) Flush(w io.Writer) error {
	if err := b.out.Flush(w); err != nil {
		return fmt.Errorf("iSCSI: write: %w", err)
	}
	return nil
}
