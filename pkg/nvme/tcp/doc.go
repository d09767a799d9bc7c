// Package tcp is the codec of the NVMe/TCP transport (NVM Express TCP
// Transport Specification 1.0): a Reader that takes PDUs off a stream and
// checks them, and a Batch that puts PDUs on one. It imports the standard
// library and package pdu only; SQEs and CQEs are opaque bytes to it.
//
// Every PDU begins with the common header, frozen, little endian:
//
//	0  type
//	1  flags: HDGSTF (0), DDGSTF (1), LAST_PDU (2), SUCCESS (3)
//	2  HLEN: length of the header, without digest
//	3  PDO: offset of the data, 0 when there is none
//	4  PLEN: length of the PDU, with digests and data (4)
//
// followed by what the type adds, up to HLEN:
//
//	ICReq       128  8 PFV(2) 10 HPDA 11 DGST 12 MAXR2T(4)
//	ICResp      128  8 PFV(2) 10 CPDA 11 DGST 12 MAXH2CDATA(4)
//	H2CTermReq   24  8 FES(2) 10 FEI(4), then up to 128 bytes of the PDU in error
//	C2HTermReq   24  the same
//	CapsuleCmd   72  8 SQE(64), then in-capsule data
//	CapsuleResp  24  8 CQE(16)
//	H2CData      24  8 CCCID(2) 10 TTAG(2) 12 DATAO(4) 16 DATAL(4), then data
//	C2HData      24  the same, TTAG reserved
//	R2T          24  8 CCCID(2) 10 TTAG(2) 12 R2TO(4) 16 R2TL(4)
//
// and then, as negotiated, HDGST(4) over the header, padding up to PDO, the
// data and DDGST(4) over the data. Digests are CRC32C.
//
// A Reader belongs to one goroutine and a Batch to one goroutine at a time.
package tcp

import (
	"encoding/binary"
	"fmt"
)

var le = binary.LittleEndian

// Type is the type of a PDU.
type Type uint8

// PDU types. Frozen.
const (
	TypeICReq       Type = 0x00
	TypeICResp      Type = 0x01
	TypeH2CTermReq  Type = 0x02
	TypeC2HTermReq  Type = 0x03
	TypeCapsuleCmd  Type = 0x04
	TypeCapsuleResp Type = 0x05
	TypeH2CData     Type = 0x06
	TypeC2HData     Type = 0x07
	TypeR2T         Type = 0x09
)

var typeNames = [...]string{
	TypeICReq: "ICReq", TypeICResp: "ICResp", TypeH2CTermReq: "H2CTermReq", TypeC2HTermReq: "C2HTermReq",
	TypeCapsuleCmd: "CapsuleCmd", TypeCapsuleResp: "CapsuleResp", TypeH2CData: "H2CData",
	TypeC2HData: "C2HData", TypeR2T: "R2T",
}

func (t Type) String() string {
	if int(t) < len(typeNames) && typeNames[t] != "" {
		return typeNames[t]
	}
	return fmt.Sprintf("PDU type %#02x", uint8(t))
}

// Sizes, bytes. Frozen.
const (
	CommonSize  = 8
	ICSize      = 128
	CommandSize = 72
	HeaderSize  = 24 // of every other type
	DigestSize  = 4
	SQESize     = 64
	CQESize     = 16
	MaxTermData = 128
	maxHeader   = ICSize
)

// headerLen is the HLEN each type must have; 0 is no type.
func headerLen(t Type) uint8 {
	switch t {
	case TypeICReq, TypeICResp:
		return ICSize
	case TypeCapsuleCmd:
		return CommandSize
	case TypeH2CTermReq, TypeC2HTermReq, TypeCapsuleResp, TypeH2CData, TypeC2HData, TypeR2T:
		return HeaderSize
	}
	return 0
}

// Flags of the common header.
type Flags uint8

// The flags.
const (
	FlagHDGST   Flags = 1 << 0
	FlagDDGST   Flags = 1 << 1
	FlagLast    Flags = 1 << 2 // H2CData, C2HData: last PDU of the transfer
	FlagSuccess Flags = 1 << 3 // C2HData: stands for a successful CapsuleResp
)

// Digests are the digests in use on a connection, in the encoding of DGST.
type Digests uint8

// The digests.
const (
	HeaderDigest Digests = 1 << 0
	DataDigest   Digests = 1 << 1
)

// FES is a fatal error status, carried by a TermReq.
type FES uint16

// Fatal error statuses. Frozen.
const (
	FESInvalidHeader FES = 1 // FEI: offset of the field
	FESSequence      FES = 2
	FESHeaderDigest  FES = 3 // FEI: the digest received
	FESDataRange     FES = 4
	FESLimit         FES = 5 // C2H: data transfer limit; H2C: R2T limit
	FESUnsupported   FES = 6 // FEI: offset of the parameter
)

var fesNames = [...]string{
	FESInvalidHeader: "invalid PDU header field", FESSequence: "PDU sequence error",
	FESHeaderDigest: "header digest error", FESDataRange: "data transfer out of range",
	FESLimit: "transfer limit exceeded", FESUnsupported: "unsupported parameter",
}

func (f FES) String() string {
	if int(f) < len(fesNames) && fesNames[f] != "" {
		return fesNames[f]
	}
	return fmt.Sprintf("fatal error status %d", uint16(f))
}

// Error is a fatal transport error: the connection must be terminated.
// Whoever finds it sends it in a TermReq.
type Error struct {
	FES    FES
	FEI    uint32
	Header []byte // the PDU in error, as much of its header as was read
	Detail string
}

func (e *Error) Error() string {
	return fmt.Sprintf("NVMe/TCP: %v: %s", e.FES, e.Detail)
}

// PFV is the only PDU format version there is.
const PFV = 0

// IC is an ICReq or an ICResp.
type IC struct {
	PFV     uint16
	Align   uint8 // HPDA or CPDA: data alignment the sender asks for, dwords, 0's based
	Digests Digests
	Max     uint32 // ICReq: MAXR2T, 0's based; ICResp: MAXH2CDATA, bytes
}

// MaxAlign is the largest HPDA and CPDA.
const MaxAlign = 31

// Append encodes ic, as a PDU of type t, at the end of b.
func (ic IC) Append(b []byte, t Type) []byte {
	n := len(b)
	b = append(b, make([]byte, ICSize)...)
	p := b[n:]
	putCommon(p, common{Type: t, HLen: ICSize, PLen: ICSize})
	le.PutUint16(p[8:], ic.PFV)
	p[10] = ic.Align
	p[11] = byte(ic.Digests)
	le.PutUint32(p[12:], ic.Max)
	return b
}

// Term is a TermReq.
type Term struct {
	FES    FES
	FEI    uint32
	Header []byte // of the PDU in error, at most MaxTermData bytes
}

// Append encodes t, as a PDU of type typ, at the end of b. A longer Header is
// cut.
func (t Term) Append(b []byte, typ Type) []byte {
	h := t.Header[:min(len(t.Header), MaxTermData)]
	n := len(b)
	b = append(b, make([]byte, HeaderSize)...)
	p := b[n:]
	putCommon(p, common{Type: typ, HLen: HeaderSize, PLen: uint32(HeaderSize + len(h))})
	le.PutUint16(p[8:], uint16(t.FES))
	le.PutUint32(p[10:], t.FEI)
	return append(b, h...)
}

// Transfer is the header of H2CData, C2HData and R2T.
type Transfer struct {
	CCCID  uint16 // the command
	TTAG   uint16 // the target's tag; reserved in C2HData
	Offset uint32 // within the command's data
	Len    uint32
}

// common is the common header.
type common struct {
	Type  Type
	Flags Flags
	HLen  uint8
	PDO   uint8
	PLen  uint32
}

func putCommon(p []byte, c common) {
	p[0], p[1], p[2], p[3] = byte(c.Type), byte(c.Flags), c.HLen, c.PDO
	le.PutUint32(p[4:], c.PLen)
}

func getCommon(p []byte) common {
	return common{Type: Type(p[0]), Flags: Flags(p[1]), HLen: p[2], PDO: p[3], PLen: le.Uint32(p[4:])}
}

// The layout is frozen: these fail to compile when a size changes.
var (
	_ [8]byte   = [CommonSize]byte{}
	_ [128]byte = [ICSize]byte{}
	_ [72]byte  = [CommonSize + SQESize]byte{}
	_ [24]byte  = [CommonSize + CQESize]byte{}
	_ [72]byte  = [CommandSize]byte{}
	_ [24]byte  = [HeaderSize]byte{}
)
