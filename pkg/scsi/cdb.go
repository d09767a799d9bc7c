package scsi

// Opcode is the first byte of a CDB.
type Opcode uint8

// The operation codes of a disk. Frozen.
const (
	TestUnitReady      Opcode = 0x00
	RequestSense       Opcode = 0x03
	Read6              Opcode = 0x08
	Write6             Opcode = 0x0a
	Inquiry            Opcode = 0x12
	ModeSelect6        Opcode = 0x15
	Reserve6           Opcode = 0x16
	Release6           Opcode = 0x17
	ModeSense6         Opcode = 0x1a
	StartStopUnit      Opcode = 0x1b
	PreventAllow       Opcode = 0x1e
	ReadCapacity10     Opcode = 0x25
	Read10             Opcode = 0x28
	Write10            Opcode = 0x2a
	WriteVerify10      Opcode = 0x2e
	Verify10           Opcode = 0x2f
	Prefetch10         Opcode = 0x34
	SynchronizeCache10 Opcode = 0x35
	WriteSame10        Opcode = 0x41
	Unmap              Opcode = 0x42
	ModeSelect10       Opcode = 0x55
	ModeSense10        Opcode = 0x5a
	ReserveIn          Opcode = 0x5e
	ReserveOut         Opcode = 0x5f
	ReceiveCopy        Opcode = 0x84
	Read16             Opcode = 0x88
	CompareAndWrite    Opcode = 0x89
	Write16            Opcode = 0x8a
	OrWrite            Opcode = 0x8b
	WriteVerify16      Opcode = 0x8e
	Verify16           Opcode = 0x8f
	Prefetch16         Opcode = 0x90
	SynchronizeCache16 Opcode = 0x91
	WriteSame16        Opcode = 0x93
	ServiceIn16        Opcode = 0x9e
	ReportLUNs         Opcode = 0xa0
	MaintenanceIn      Opcode = 0xa3
	Read12             Opcode = 0xa8
	Write12            Opcode = 0xaa
	WriteVerify12      Opcode = 0xae
	Verify12           Opcode = 0xaf
)

// Service actions. Frozen.
const (
	SAReadCapacity16    uint8 = 0x10 // of ServiceIn16
	SAGetLBAStatus      uint8 = 0x12
	SATargetPortGroups  uint8 = 0x0a // of MaintenanceIn
	SASupportedOpcodes  uint8 = 0x0c
	SASupportedTMFs     uint8 = 0x0d
	PRReadKeys          uint8 = 0x00 // of ReserveIn
	PRReadReservation   uint8 = 0x01
	PRReportCapability  uint8 = 0x02
	PRReadFullStatus    uint8 = 0x03
	PRRegister          uint8 = 0x00 // of ReserveOut
	PRReserve           uint8 = 0x01
	PRRelease           uint8 = 0x02
	PRClear             uint8 = 0x03
	PRPreempt           uint8 = 0x04
	PRPreemptAndAbort   uint8 = 0x05
	PRRegisterAndIgnore uint8 = 0x06
	PRRegisterAndMove   uint8 = 0x07
)

// Flags of byte 1 of the commands that transfer or verify blocks.
const (
	FlagFUA     uint8 = 1 << 3
	FlagDPO     uint8 = 1 << 4
	MaskProtect uint8 = 7 << 5
	MaskBytChk  uint8 = 3 << 1 // VERIFY, WRITE AND VERIFY
	FlagImmed   uint8 = 1 << 1 // SYNCHRONIZE CACHE, PRE-FETCH
	FlagNDOB    uint8 = 1 << 0 // WRITE SAME(16)
	FlagUnmap   uint8 = 1 << 3 // WRITE SAME
	FlagAnchor  uint8 = 1 << 4 // WRITE SAME
)

// ControlNACA is the bit of the control byte a unit without ACA refuses.
const ControlNACA uint8 = 1 << 2

// CDB is a command descriptor block of at most 16 bytes.
type CDB [16]byte

// Opcode of the command.
func (c *CDB) Opcode() Opcode { return Opcode(c[0]) }

// Len is the length the operation code's group fixes; 0 is a group without one.
func (c *CDB) Len() int {
	switch c[0] >> 5 {
	case 0:
		return 6
	case 1, 2:
		return 10
	case 4:
		return 16
	case 5:
		return 12
	}
	return 0
}

// Control is the last byte.
func (c *CDB) Control() uint8 {
	if n := c.Len(); n > 0 {
		return c[n-1]
	}
	return 0
}

// ServiceAction is the five bits of byte 1.
func (c *CDB) ServiceAction() uint8 { return c[1] & 0x1f }

// Range is the LBA and the number of blocks of a command that addresses
// blocks. The zero of READ(6) and WRITE(6) stands for 256.
func (c *CDB) Range() (lba uint64, blocks uint32) {
	switch c.Len() {
	case 6:
		lba, blocks = uint64(c[1]&0x1f)<<16|uint64(be.Uint16(c[2:])), uint32(c[4])
		if blocks == 0 {
			blocks = 256
		}
	case 10:
		lba, blocks = uint64(be.Uint32(c[2:])), uint32(be.Uint16(c[7:]))
	case 12:
		lba, blocks = uint64(be.Uint32(c[2:])), be.Uint32(c[6:])
	case 16:
		lba, blocks = be.Uint64(c[2:]), be.Uint32(c[10:])
	}
	if c.Opcode() == CompareAndWrite {
		blocks = uint32(c[13])
	}
	return lba, blocks
}

// LBAField is the first byte of the LBA, for a field pointer.
func (c *CDB) LBAField() uint16 {
	if c.Len() == 6 {
		return 1
	}
	return 2
}

// LengthField is the first byte of the number of blocks.
func (c *CDB) LengthField() uint16 {
	switch {
	case c.Opcode() == CompareAndWrite:
		return 13
	case c.Len() == 6:
		return 4
	case c.Len() == 10:
		return 7
	case c.Len() == 12:
		return 6
	}
	return 10
}

// Uint16 and Uint32 read a field of the CDB.
func (c *CDB) Uint16(at int) uint16 { return be.Uint16(c[at:]) }

// Uint32 reads a field of the CDB.
func (c *CDB) Uint32(at int) uint32 { return be.Uint32(c[at:]) }

// SetRange sets LBA and number of blocks; those of a 6 byte CDB must fit.
func (c *CDB) SetRange(lba uint64, blocks uint32) {
	switch c.Len() {
	case 6:
		c[1], c[2], c[3], c[4] = byte(lba>>16)&0x1f, byte(lba>>8), byte(lba), byte(blocks)
	case 10:
		be.PutUint32(c[2:], uint32(lba))
		be.PutUint16(c[7:], uint16(blocks))
	case 12:
		be.PutUint32(c[2:], uint32(lba))
		be.PutUint32(c[6:], blocks)
	case 16:
		be.PutUint64(c[2:], lba)
		be.PutUint32(c[10:], blocks)
	}
	if c.Opcode() == CompareAndWrite {
		be.PutUint32(c[10:], 0)
		c[13] = byte(blocks)
	}
}
