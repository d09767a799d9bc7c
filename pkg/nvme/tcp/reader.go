package tcp

import (
	"fmt"
	"io"

	"github.com/cask-storage/cask/pkg/pdu"
)

// Role says which side of a connection a Reader is on.
type Role uint8

// The roles.
const (
	Controller Role = iota + 1 // reads what hosts send
	Host                       // reads what controllers send
)

// accepts reports whether the role may receive the type.
func (r Role) accepts(t Type) bool {
	switch t {
	case TypeICReq, TypeH2CTermReq, TypeCapsuleCmd, TypeH2CData:
		return r == Controller
	case TypeICResp, TypeC2HTermReq, TypeCapsuleResp, TypeC2HData, TypeR2T:
		return r == Host
	}
	return false
}

// ErrDataDigest says that data arrived damaged. It concerns one command, not
// the connection.
var ErrDataDigest = pdu.ErrDataDigest

// Options of a Reader. What is negotiated later is set with Reader.Negotiated.
type Options struct {
	Role       Role
	MaxCapsule uint32 // most in-capsule data, bytes
	MaxData    uint32 // most data of one H2CData or C2HData, bytes
	Buffer     int    // bytes of read buffer
}

// Reader takes PDUs off a stream. Next returns a PDU's header; its data, of
// DataLen bytes, is then taken with ReadData, after which EndData checks the
// digest. What is not taken is skipped by the next Next.
type Reader struct {
	in      pdu.Reader
	opts    Options
	digests Digests
	align   uint32 // data alignment we asked for, bytes
	pdu     PDU
	buf     [maxHeader + DigestSize]byte
}

// PDU is a received PDU without its data. It is valid until the next Next.
type PDU struct {
	Type    Type
	Flags   Flags
	DataLen uint32
	raw     []byte
}

// NewReader makes a Reader of r.
func NewReader(r io.Reader, o Options) *Reader {
	return &Reader{in: pdu.NewReader(r, max(o.Buffer, maxHeader)), opts: o, align: 4}
}

// Negotiated sets what ICReq and ICResp agreed on.
func (r *Reader) Negotiated(d Digests) { r.digests = d }

// SetMaxCapsule changes Options.MaxCapsule.
func (r *Reader) SetMaxCapsule(n uint32) { r.opts.MaxCapsule = n }

// Next skips what is left of the last PDU and reads the next header. The
// error is an *Error when the peer broke the protocol, else one of reading.
// At the end of the stream, between two PDUs, it is io.EOF.
func (r *Reader) Next() (*PDU, error) {
	if err := r.in.Skip(); err != nil {
		return nil, err
	}
	if err := r.in.Start(r.buf[:CommonSize]); err != nil {
		return nil, err
	}
	c := getCommon(r.buf[:])
	if err := r.check(c); err != nil {
		return nil, err
	}
	n := int(c.HLen)
	if c.Flags&FlagHDGST != 0 {
		n += DigestSize
	}
	if err := r.in.Fill(r.buf[CommonSize:n]); err != nil {
		return nil, err
	}
	if c.Flags&FlagHDGST != 0 {
		if err := r.checkHeaderDigest(int(c.HLen)); err != nil {
			return nil, err
		}
	}
	return r.begin(c, uint32(n))
}

// begin sets up the data part of a PDU whose header took n bytes.
func (r *Reader) begin(c common, n uint32) (*PDU, error) {
	r.pdu = PDU{Type: c.Type, Flags: c.Flags, raw: r.buf[:c.HLen]}
	var s pdu.Shape
	if c.PLen > n {
		start := n
		if c.Type != TypeH2CTermReq && c.Type != TypeC2HTermReq {
			start = uint32(c.PDO)
		}
		if err := r.in.Discard(start - n); err != nil {
			return nil, err
		}
		s.Data = c.PLen - start
		if c.Flags&FlagDDGST != 0 {
			s.Data -= DigestSize
			s.Digest = true
		}
	}
	r.in.Expect(s)
	r.pdu.DataLen = s.Data
	return &r.pdu, r.checkTransfer()
}

// checkTransfer holds a data PDU's own length against its real one.
func (r *Reader) checkTransfer() error {
	switch r.pdu.Type {
	case TypeH2CData, TypeC2HData:
		if t := r.pdu.Transfer(); t.Len != r.pdu.DataLen || t.Len == 0 {
			return r.fault(FESInvalidHeader, 16, "DATAL %d with %d bytes of data", t.Len, r.pdu.DataLen)
		}
	}
	return nil
}

// check validates the common header before anything else is read.
func (r *Reader) check(c common) error {
	hlen := headerLen(c.Type)
	if hlen == 0 || !r.opts.Role.accepts(c.Type) {
		return r.fault(FESInvalidHeader, 0, "%v is not expected here", c.Type)
	}
	if c.HLen != hlen {
		return r.fault(FESInvalidHeader, 2, "%v with HLEN %d, must be %d", c.Type, c.HLen, hlen)
	}
	if err := r.checkFlags(c); err != nil {
		return err
	}
	return r.checkLength(c)
}

// checkFlags holds the digest flags against what was negotiated.
func (r *Reader) checkFlags(c common) error {
	var may, must Flags
	switch c.Type {
	case TypeICReq, TypeICResp, TypeH2CTermReq, TypeC2HTermReq:
	default:
		if r.digests&HeaderDigest != 0 {
			must |= FlagHDGST
		}
	}
	if r.digests&DataDigest != 0 && takesData(c.Type) {
		may |= FlagDDGST
		if c.PLen > uint32(c.HLen)+DigestSize {
			must |= FlagDDGST
		}
	}
	if c.Type == TypeH2CData || c.Type == TypeC2HData {
		may |= FlagLast
	}
	if c.Type == TypeC2HData {
		may |= FlagSuccess
	}
	if c.Flags&^(may|must) != 0 || c.Flags&must != must {
		return r.fault(FESInvalidHeader, 1, "%v with flags %#02x", c.Type, uint8(c.Flags))
	}
	if c.Flags&FlagSuccess != 0 && c.Flags&FlagLast == 0 {
		return r.fault(FESInvalidHeader, 1, "%v has SUCCESS without LAST_PDU", c.Type)
	}
	return nil
}

func takesData(t Type) bool { return t == TypeCapsuleCmd || t == TypeH2CData || t == TypeC2HData }

// checkLength validates PLEN and PDO; after it, PLEN is bounded.
func (r *Reader) checkLength(c common) error {
	head, tail := uint32(c.HLen), uint32(0)
	if c.Flags&FlagHDGST != 0 {
		head += DigestSize
	}
	if c.Flags&FlagDDGST != 0 {
		tail = DigestSize
	}
	switch {
	case c.Type == TypeH2CTermReq || c.Type == TypeC2HTermReq:
		if c.PLen < head || c.PLen > head+MaxTermData {
			return r.fault(FESInvalidHeader, 4, "%v with PLEN %d", c.Type, c.PLen)
		}
	case c.PLen == head+tail:
		if tail != 0 {
			return r.fault(FESInvalidHeader, 1, "%v has a data digest and no data", c.Type)
		}
	case !takesData(c.Type) || c.PLen < head+tail:
		return r.fault(FESInvalidHeader, 4, "%v with PLEN %d", c.Type, c.PLen)
	default:
		pdo := uint32(c.PDO)
		if pdo < head || pdo%r.align != 0 {
			return r.fault(FESInvalidHeader, 3, "%v with PDO %d", c.Type, c.PDO)
		}
		limit := r.opts.MaxData
		if c.Type == TypeCapsuleCmd {
			limit = r.opts.MaxCapsule
		}
		if c.Type == TypeH2CData && c.PLen > pdo+tail && c.PLen-pdo-tail > limit {
			return r.fault(FESLimit, 0, "%v with PLEN %d, MAXH2CDATA %d", c.Type, c.PLen, limit)
		}
		if c.PLen <= pdo+tail || c.PLen-pdo-tail > limit {
			return r.fault(FESInvalidHeader, 4, "%v with PLEN %d, data limit %d", c.Type, c.PLen, limit)
		}
	}
	return nil
}

func (r *Reader) checkHeaderDigest(hlen int) error {
	got := le.Uint32(r.buf[hlen:])
	if want := pdu.Sum(0, r.buf[:hlen]); got != want {
		e := r.fault(FESHeaderDigest, got, "received %#08x, computed %#08x", got, want)
		e.Header = append([]byte(nil), r.buf[:hlen]...)
		return e
	}
	return nil
}

// fault builds an *Error about the PDU being read.
func (r *Reader) fault(f FES, fei uint32, format string, args ...any) *Error {
	return &Error{FES: f, FEI: fei, Header: append([]byte(nil), r.buf[:CommonSize]...), Detail: fmt.Sprintf(format, args...)}
}

// Fault builds an *Error about p, whose header goes along with it.
func (p *PDU) Fault(f FES, fei uint32, format string, args ...any) *Error {
	return &Error{FES: f, FEI: fei, Header: append([]byte(nil), p.raw...), Detail: fmt.Sprintf(format, args...)}
}

// ReadData fills b with the next bytes of the PDU's data.
func (r *Reader) ReadData(b []byte) error { return r.in.ReadData(b) }

// EndData checks the digest after all data was read; ErrDataDigest leaves the
// stream usable.
func (r *Reader) EndData() error { return r.in.EndData() }

// IC decodes an ICReq or ICResp.
func (p *PDU) IC() IC {
	return IC{PFV: le.Uint16(p.raw[8:]), Align: p.raw[10], Digests: Digests(p.raw[11]), Max: le.Uint32(p.raw[12:])}
}

// Term decodes a TermReq without its data.
func (p *PDU) Term() Term { return Term{FES: FES(le.Uint16(p.raw[8:])), FEI: le.Uint32(p.raw[10:])} }

// SQE is the command of a CapsuleCmd.
func (p *PDU) SQE() *[SQESize]byte { return (*[SQESize]byte)(p.raw[CommonSize:]) }

// CQE is the completion of a CapsuleResp.
func (p *PDU) CQE() *[CQESize]byte { return (*[CQESize]byte)(p.raw[CommonSize:]) }

// Transfer decodes an H2CData, C2HData or R2T.
func (p *PDU) Transfer() Transfer {
	return Transfer{
		CCCID: le.Uint16(p.raw[8:]), TTAG: le.Uint16(p.raw[10:]),
		Offset: le.Uint32(p.raw[12:]), Len: le.Uint32(p.raw[16:]),
	}
}
