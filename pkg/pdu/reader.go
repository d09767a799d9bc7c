package pdu

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
)

// maxTail is the most padding and digest behind data, bytes.
const maxTail = 3 + DigestSize

// Reader takes PDUs off a stream: Skip, Start and Fill for the header, Expect
// for what it says of the data, then ReadData and EndData.
type Reader struct {
	src    *bufio.Reader
	tmp    [maxTail]byte
	left   uint32 // data not yet read
	pad    uint32 // bytes of padding behind it
	digest bool   // a digest comes behind that
	crc    uint32
}

// Shape is what comes behind a header.
type Shape struct {
	Data   uint32 // bytes
	Pad    uint32 // bytes, at most 3; the digest covers them
	Digest bool
}

// NewReader makes a Reader of r that buffers n bytes.
func NewReader(r io.Reader, n int) Reader { return Reader{src: bufio.NewReaderSize(r, n)} }

// Start fills b with the first bytes of a header. The error is io.EOF when the
// stream ends before them.
func (r *Reader) Start(b []byte) error {
	_, err := io.ReadFull(r.src, b)
	return err
}

// Fill fills b with what comes next of the PDU.
func (r *Reader) Fill(b []byte) error {
	_, err := io.ReadFull(r.src, b)
	return truncated(err)
}

// Discard drops n bytes of the PDU.
func (r *Reader) Discard(n uint32) error {
	_, err := r.src.Discard(int(n))
	return truncated(err)
}

// Expect sets what comes behind the header that was read.
func (r *Reader) Expect(s Shape) { r.left, r.pad, r.digest, r.crc = s.Data, s.Pad, s.Digest, 0 }

// ReadData fills b with the next bytes of the PDU's data.
func (r *Reader) ReadData(b []byte) error {
	if uint32(len(b)) > r.left {
		return fmt.Errorf("read of %d bytes of the %d that a PDU has left: %w", len(b), r.left, io.ErrShortBuffer)
	}
	if err := r.Fill(b); err != nil {
		return err
	}
	r.left -= uint32(len(b))
	if r.digest {
		r.crc = Sum(r.crc, b)
	}
	return nil
}

// EndData checks the digest after all data was read; ErrDataDigest leaves the
// stream usable. Data that was not read is skipped by Skip, unchecked.
func (r *Reader) EndData() error {
	if r.left > 0 || r.tail() == 0 {
		return nil
	}
	b, digest := r.tmp[:r.tail()], r.digest
	n := r.pad
	r.pad, r.digest = 0, false
	if err := r.Fill(b); err != nil {
		return err
	}
	if digest && Sum(r.crc, b[:n]) != binary.LittleEndian.Uint32(b[n:]) {
		return ErrDataDigest
	}
	return nil
}

// Skip drops what is left of the last PDU.
func (r *Reader) Skip() error {
	n := r.left + r.tail()
	r.Expect(Shape{})
	if n == 0 {
		return nil
	}
	return r.Discard(n)
}

// tail is how much comes behind the data.
func (r *Reader) tail() uint32 {
	if r.digest {
		return r.pad + DigestSize
	}
	return r.pad
}

// truncated turns the end of the stream within a PDU into an error.
func truncated(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
