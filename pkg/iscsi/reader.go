package iscsi

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// Role says which side of a connection a Reader is on.
type Role uint8

// The roles.
const (
	Target    Role = iota + 1 // reads what initiators send
	Initiator                 // reads what targets send
)

// Digests are the digests in use on a connection.
type Digests struct{ Header, Data bool }

// ErrDataDigest says that data arrived damaged; the stream stays usable.
var ErrDataDigest = errors.New("iSCSI: data digest does not match the data")

// ErrHeaderDigest says that a header arrived damaged: nothing of the stream
// can be relied on any more.
var ErrHeaderDigest = errors.New("iSCSI: header digest does not match the header")

// Error is a PDU that breaks the protocol; the connection is to be closed.
type Error struct {
	Reason Reason
	Header Header
	Detail string
}

func (e *Error) Error() string { return "iSCSI: " + e.Detail }

// Options of a Reader.
type Options struct {
	Role    Role
	MaxData uint32 // MaxRecvDataSegmentLength we declared, bytes
	Buffer  int    // bytes of read buffer
}

// Reader takes PDUs off a stream. Next returns a PDU's header; its data, of
// DataLen bytes, is then taken with ReadData, after which EndData checks the
// digest. What is not taken is skipped by the next Next.
type Reader struct {
	src     *bufio.Reader
	opts    Options
	digests Digests
	pdu     PDU
	ahs     [maxAHS + DigestSize]byte
	tmp     [8]byte
	left    uint32 // data not yet read
	tail    uint32 // padding and digest behind it
	crc     uint32
}

// PDU is a received PDU without its data. It is valid until the next Next.
type PDU struct {
	Header
	AHS []byte
}

// NewReader makes a Reader of r, without digests.
func NewReader(r io.Reader, o Options) *Reader {
	return &Reader{src: bufio.NewReaderSize(r, max(o.Buffer, HeaderSize)), opts: o}
}

// SetDigests sets what was negotiated.
func (r *Reader) SetDigests(d Digests) { r.digests = d }

// SetMaxData changes Options.MaxData.
func (r *Reader) SetMaxData(n uint32) { r.opts.MaxData = n }

// Fault builds an *Error about p.
func (p *PDU) Fault(reason Reason, format string, args ...any) *Error {
	return &Error{Reason: reason, Header: p.Header, Detail: fmt.Sprintf(format, args...)}
}

// Next skips what is left of the last PDU and reads the next header. At the
// end of the stream, between two PDUs, the error is io.EOF.
func (r *Reader) Next() (*PDU, error) {
	if err := r.skip(); err != nil {
		return nil, err
	}
	p := &r.pdu
	if _, err := io.ReadFull(r.src, p.Header[:]); err != nil {
		return nil, err
	}
	n := p.ahsLen()
	p.AHS = r.ahs[:n]
	tail := 0
	if r.digests.Header {
		tail = DigestSize
	}
	if n+tail > 0 {
		if err := r.full(r.ahs[:n+tail]); err != nil {
			return nil, err
		}
	}
	if r.digests.Header {
		crc := crc32.Update(crc32.Checksum(p.Header[:], castagnoli), castagnoli, p.AHS)
		if binary.LittleEndian.Uint32(r.ahs[n:]) != crc {
			return nil, ErrHeaderDigest
		}
	}
	if err := r.check(); err != nil {
		return nil, err
	}
	r.left, r.tail, r.crc = p.DataLen(), pad(p.DataLen()), 0
	if r.digests.Data && r.left > 0 {
		r.tail += DigestSize
	}
	return p, nil
}

// check holds opcode and length against what may come.
func (r *Reader) check() error {
	p := &r.pdu
	o := p.Opcode()
	if _, known := opcodeNames[o]; !known || o.fromInitiator() != (r.opts.Role == Target) {
		return p.Fault(ReasonNotSupported, "%v is not expected here", o)
	}
	if n := p.DataLen(); n > r.opts.MaxData {
		return p.Fault(ReasonProtocol, "%v with %d bytes of data, at most %d were agreed", o, n, r.opts.MaxData)
	}
	return nil
}

// ReadData fills b with the next bytes of the PDU's data.
func (r *Reader) ReadData(b []byte) error {
	if uint32(len(b)) > r.left {
		return fmt.Errorf("iSCSI: read of %d bytes of the %d that a PDU has left: %w", len(b), r.left, io.ErrShortBuffer)
	}
	if err := r.full(b); err != nil {
		return err
	}
	r.left -= uint32(len(b))
	if r.digests.Data {
		r.crc = crc32.Update(r.crc, castagnoli, b)
	}
	return nil
}

// EndData checks the digest after all data was read; ErrDataDigest leaves the
// stream usable. It skips data that was not read, unchecked.
func (r *Reader) EndData() error {
	if r.left > 0 || r.tail == 0 {
		return r.skip()
	}
	b := r.tmp[:r.tail]
	if err := r.full(b); err != nil {
		return err
	}
	r.tail = 0
	if !r.digests.Data {
		return nil
	}
	n := len(b) - DigestSize
	if crc32.Update(r.crc, castagnoli, b[:n]) != binary.LittleEndian.Uint32(b[n:]) {
		return ErrDataDigest
	}
	return nil
}

func (r *Reader) skip() error {
	n := int(r.left + r.tail)
	r.left, r.tail = 0, 0
	if n == 0 {
		return nil
	}
	_, err := r.src.Discard(n)
	return truncated(err)
}

func (r *Reader) full(b []byte) error {
	_, err := io.ReadFull(r.src, b)
	return truncated(err)
}

// truncated turns the end of the stream within a PDU into an error.
func truncated(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
