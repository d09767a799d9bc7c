package iscsi

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/cask-storage/cask/pkg/pdu"
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
var ErrDataDigest = pdu.ErrDataDigest

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
	in      pdu.Reader
	opts    Options
	digests Digests
	pdu     PDU
	ahs     [maxAHS + DigestSize]byte
}

// PDU is a received PDU without its data. It is valid until the next Next.
type PDU struct {
	Header
	AHS []byte
}

// NewReader makes a Reader of r, without digests.
func NewReader(r io.Reader, o Options) *Reader {
	return &Reader{in: pdu.NewReader(r, max(o.Buffer, HeaderSize)), opts: o}
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
	if err := r.in.Skip(); err != nil {
		return nil, err
	}
	p := &r.pdu
	if err := r.in.Start(p.Header[:]); err != nil {
		return nil, err
	}
	n := p.ahsLen()
	p.AHS = r.ahs[:n]
	tail := 0
	if r.digests.Header {
		tail = DigestSize
	}
	if n+tail > 0 {
		if err := r.in.Fill(r.ahs[:n+tail]); err != nil {
			return nil, err
		}
	}
	if r.digests.Header {
		crc := pdu.Sum(pdu.Sum(0, p.Header[:]), p.AHS)
		if binary.LittleEndian.Uint32(r.ahs[n:]) != crc {
			return nil, ErrHeaderDigest
		}
	}
	if err := r.check(); err != nil {
		return nil, err
	}
	n32 := p.DataLen()
	r.in.Expect(pdu.Shape{Data: n32, Pad: pad(n32), Digest: r.digests.Data && n32 > 0})
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
func (r *Reader) ReadData(b []byte) error { return r.in.ReadData(b) }

// EndData checks the digest after all data was read; ErrDataDigest leaves the
// stream usable. Data that was not read is skipped by Next, unchecked.
func (r *Reader) EndData() error { return r.in.EndData() }
