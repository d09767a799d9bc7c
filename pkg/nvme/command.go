package nvme

// Opcode is the first byte of a Command. Admin and I/O queues have opcode
// spaces of their own.
type Opcode uint8

// I/O (NVM command set) opcodes.
const (
	OpFlush       Opcode = 0x00
	OpWrite       Opcode = 0x01
	OpRead        Opcode = 0x02
	OpCompare     Opcode = 0x05
	OpWriteZeroes Opcode = 0x08
	OpDSM         Opcode = 0x09 // Dataset Management
	OpVerify      Opcode = 0x0c
	OpCopy        Opcode = 0x19

	OpReservationRegister Opcode = 0x0d
	OpReservationReport   Opcode = 0x0e
	OpReservationAcquire  Opcode = 0x11
	OpReservationRelease  Opcode = 0x15
)

// Admin opcodes.
const (
	OpGetLogPage  Opcode = 0x02
	OpIdentify    Opcode = 0x06
	OpAbort       Opcode = 0x08
	OpSetFeatures Opcode = 0x09
	OpGetFeatures Opcode = 0x0a
	OpAsyncEvent  Opcode = 0x0c
	OpKeepAlive   Opcode = 0x18
)

// OpFabrics is the opcode of every Fabrics command, on any queue.
const OpFabrics Opcode = 0x7f

// FType is the type of a Fabrics command.
type FType uint8

// Fabrics command types.
const (
	FPropertySet FType = 0x00
	FConnect     FType = 0x01
	FPropertyGet FType = 0x04
	FAuthSend    FType = 0x05
	FAuthReceive FType = 0x06
	FDisconnect  FType = 0x08
)

// Flag bits of a Command.
const (
	FlagFuseMask uint8 = 0x03
	FuseFirst    uint8 = 0x01
	FuseSecond   uint8 = 0x02
	FlagPSDTMask uint8 = 0xc0
	FlagPSDTSGL  uint8 = 0x40
)

// Bits of CDW10..12 of I/O commands.
const (
	CDW12FUA uint32 = 1 << 30 // read, write, write zeroes, copy
	CDW12DEA uint32 = 1 << 25 // write zeroes: deallocate
	CDW12PI  uint32 = 0xf << 26
	CDW11AD  uint32 = 1 << 2 // dataset management: deallocate
)

// Command is a submission queue entry.
type Command [CommandSize]byte

// Opcode of the command.
func (c *Command) Opcode() Opcode { return Opcode(c[0]) }

// SetOpcode sets the opcode.
func (c *Command) SetOpcode(o Opcode) { c[0] = byte(o) }

// Flags is the byte that holds FUSE and PSDT.
func (c *Command) Flags() uint8 { return c[1] }

// CID is the command identifier.
func (c *Command) CID() CID { return CID(le.Uint16(c[2:])) }

// SetCID sets the command identifier.
func (c *Command) SetCID(id CID) { le.PutUint16(c[2:], uint16(id)) }

// NSID is the namespace addressed.
func (c *Command) NSID() NSID { return NSID(le.Uint32(c[4:])) }

// SetNSID sets the namespace addressed.
func (c *Command) SetNSID(n NSID) { le.PutUint32(c[4:], uint32(n)) }

// FType is the type of a Fabrics command.
func (c *Command) FType() FType { return FType(c[4]) }

// DW returns command dword n, 0 to 15.
func (c *Command) DW(n int) uint32 { return le.Uint32(c[4*n:]) }

// SetDW sets command dword n.
func (c *Command) SetDW(n int, v uint32) { le.PutUint32(c[4*n:], v) }

// SLBA is the starting LBA of a read, write or write zeroes.
func (c *Command) SLBA() uint64 { return le.Uint64(c[40:]) }

// Blocks is the number of logical blocks of a read, write or write zeroes.
func (c *Command) Blocks() uint32 { return uint32(le.Uint16(c[48:])) + 1 }

// SetRange sets SLBA and the number of blocks, 1 to 65536.
func (c *Command) SetRange(slba uint64, blocks uint32) {
	le.PutUint64(c[40:], slba)
	le.PutUint16(c[48:], uint16(blocks-1))
}

// SGLType is the type byte of an SGL descriptor: type (7:4), subtype (3:0).
type SGLType uint8

// The two descriptors NVMe/TCP uses.
const (
	SGLInCapsule SGLType = 0x01 // data block, address is an offset into the capsule
	SGLTransport SGLType = 0x5a // transport data block: data moves by PDUs
)

// SGL is the data descriptor of a Command.
type SGL struct {
	Addr uint64
	Len  uint32
	Type SGLType
}

// SGL reads the command's data descriptor.
func (c *Command) SGL() SGL {
	return SGL{Addr: le.Uint64(c[24:]), Len: le.Uint32(c[32:]), Type: SGLType(c[39])}
}

// SetSGL sets the data descriptor and the flag that says there is one.
func (c *Command) SetSGL(s SGL) {
	c[1] = c[1]&^FlagPSDTMask | FlagPSDTSGL
	le.PutUint64(c[24:], s.Addr)
	le.PutUint32(c[32:], s.Len)
	c[36], c[37], c[38] = 0, 0, 0
	c[39] = byte(s.Type)
}

// CopyParams are the fields of a Copy command.
type CopyParams struct {
	SDLBA  uint64 // destination
	Ranges uint32 // 1 to 256
	Format uint8
}

// Copy reads a Copy command.
func (c *Command) Copy() CopyParams {
	return CopyParams{SDLBA: le.Uint64(c[40:]), Ranges: uint32(c[48]) + 1, Format: c[49] & 0xf}
}

// SetCopy makes c a Copy command.
func (c *Command) SetCopy(p CopyParams) {
	c.SetOpcode(OpCopy)
	le.PutUint64(c[40:], p.SDLBA)
	c[48], c[49] = uint8(p.Ranges-1), c[49]&0xf0|p.Format&0xf
}

// CopyRangeSize is the size of a source range of format 0.
const CopyRangeSize = 32

// CopyRange is a source range of a Copy command, format 0: SLBA at byte 8, the
// number of blocks, 0's based, at byte 16.
type CopyRange struct {
	SLBA   uint64
	Blocks uint32 // 1 to 65536
}

// DecodeCopyRange reads the range at the start of b.
func DecodeCopyRange(b []byte) (CopyRange, error) {
	if len(b) < CopyRangeSize {
		return CopyRange{}, ErrShort
	}
	return CopyRange{SLBA: le.Uint64(b[8:]), Blocks: uint32(le.Uint16(b[16:])) + 1}, nil
}

// Append encodes r at the end of b.
func (r CopyRange) Append(b []byte) []byte {
	n := len(b)
	b = append(b, make([]byte, CopyRangeSize)...)
	le.PutUint64(b[n+8:], r.SLBA)
	le.PutUint16(b[n+16:], uint16(r.Blocks-1))
	return b
}

// SecurityParams are the fields of Authentication Send and Receive.
type SecurityParams struct {
	Protocol, Specific0, Specific1 uint8
	Len                            uint32 // bytes transferred, or room for them
}

// Security reads an Authentication Send or Receive.
func (c *Command) Security() SecurityParams {
	return SecurityParams{Specific0: c[41], Specific1: c[42], Protocol: c[43], Len: le.Uint32(c[44:])}
}

// SetSecurity makes c an Authentication Send or Receive.
func (c *Command) SetSecurity(t FType, p SecurityParams) {
	c.SetOpcode(OpFabrics)
	c[4] = byte(t)
	c[41], c[42], c[43] = p.Specific0, p.Specific1, p.Protocol
	le.PutUint32(c[44:], p.Len)
}

// Completion is a completion queue entry.
type Completion [CompletionSize]byte

// Result is the command specific part, 8 bytes.
func (c *Completion) Result() uint64 { return le.Uint64(c[0:]) }

// SetResult sets the command specific part.
func (c *Completion) SetResult(v uint64) { le.PutUint64(c[0:], v) }

// SQHead is the submission queue head pointer.
func (c *Completion) SQHead() uint16 { return le.Uint16(c[8:]) }

// SetSQHead sets the submission queue head pointer.
func (c *Completion) SetSQHead(v uint16) { le.PutUint16(c[8:], v) }

// CID is the command completed.
func (c *Completion) CID() CID { return CID(le.Uint16(c[12:])) }

// SetCID sets the command completed.
func (c *Completion) SetCID(id CID) { le.PutUint16(c[12:], uint16(id)) }

// Status is the outcome.
func (c *Completion) Status() Status { return Status(le.Uint16(c[14:]) >> 1) }

// SetStatus sets the outcome.
func (c *Completion) SetStatus(s Status) { le.PutUint16(c[14:], uint16(s)<<1) }

// Range is one entry of a Dataset Management command.
type Range struct {
	Attributes uint32
	Blocks     uint32
	SLBA       uint64
}

// MaxRanges is the most ranges of one Dataset Management command.
const MaxRanges = 256

// DecodeRange reads the range at the start of b.
func DecodeRange(b []byte) (Range, error) {
	if len(b) < RangeSize {
		return Range{}, ErrShort
	}
	return Range{Attributes: le.Uint32(b), Blocks: le.Uint32(b[4:]), SLBA: le.Uint64(b[8:])}, nil
}

// Append encodes r at the end of b.
func (r Range) Append(b []byte) []byte {
	b = le.AppendUint32(b, r.Attributes)
	b = le.AppendUint32(b, r.Blocks)
	return le.AppendUint64(b, r.SLBA)
}
