package nvme

// LID identifies a log page.
type LID uint8

// The log pages used.
const (
	LogSupported LID = 0x00
	LogError     LID = 0x01
	LogSMART     LID = 0x02
	LogFirmware  LID = 0x03
	LogChangedNS LID = 0x04
	LogEffects   LID = 0x05
	LogANA       LID = 0x0c
	LogDiscovery LID = 0x70

	LogReservation LID = 0x80
)

// Sizes of log pages, bytes.
const (
	LogSupportedSize = 1024
	LogErrorSize     = 64 // one entry
	LogSMARTSize     = 512
	LogFirmwareSize  = 512
	LogChangedNSSize = 4096
	LogEffectsSize   = 4096
	LogReservSize    = 64
	ANAHeader        = 16
	ANAGroupHeader   = 32
	DiscoveryHeader  = 1024
	DiscoveryRecord  = 1024
)

// MaxChangedNS is the most entries of the changed namespace list; one more is
// reported as the single entry NSIDAll.
const MaxChangedNS = 1024

// LogParams are the fields of Get Log Page.
type LogParams struct {
	LID    LID
	Len    uint64 // bytes, a multiple of 4
	Offset uint64
	Retain bool  // keep the event masked
	LSP    uint8 // specific to the page, 7 bits
}

// Log reads a Get Log Page command.
func (c *Command) Log() LogParams {
	d := c.DW(10)
	numd := uint64(d>>16) | uint64(c.DW(11)&0xffff)<<16
	return LogParams{
		LID: LID(d), Retain: d>>15&1 == 1, LSP: uint8(d>>8) & 0x7f, Len: (numd + 1) * 4,
		Offset: uint64(c.DW(12)) | uint64(c.DW(13))<<32,
	}
}

// SetLog makes c a Get Log Page command.
func (c *Command) SetLog(p LogParams) {
	numd := uint32(p.Len/4 - 1)
	c.SetOpcode(OpGetLogPage)
	d := uint32(p.LID) | uint32(p.LSP&0x7f)<<8 | numd<<16
	if p.Retain {
		d |= 1 << 15
	}
	c.SetDW(10, d)
	c.SetDW(11, numd>>16)
	c.SetDW(12, uint32(p.Offset))
	c.SetDW(13, uint32(p.Offset>>32))
}

// SMART holds the fields of the health log that Cask sets.
type SMART struct {
	Critical      uint8
	Kelvin        uint16
	Spare         uint8 // percent
	SpareLow      uint8 // threshold
	UnitsRead     uint64
	UnitsWritten  uint64 // thousands of 512 bytes
	Reads, Writes uint64 // commands
	MediaErrors   uint64
	ErrorEntries  uint64 // ever made in the error log
}

// Encode writes the 512 bytes of s into b.
func (s *SMART) Encode(b *[LogSMARTSize]byte) {
	*b = [LogSMARTSize]byte{}
	b[0] = s.Critical
	le.PutUint16(b[1:], s.Kelvin)
	b[3] = s.Spare
	b[4] = s.SpareLow
	le.PutUint64(b[32:], s.UnitsRead)
	le.PutUint64(b[48:], s.UnitsWritten)
	le.PutUint64(b[64:], s.Reads)
	le.PutUint64(b[80:], s.Writes)
	le.PutUint64(b[160:], s.MediaErrors)
	le.PutUint64(b[176:], s.ErrorEntries)
}

// Decode reads s from b.
func (s *SMART) Decode(b []byte) error {
	if len(b) < LogSMARTSize {
		return ErrShort
	}
	*s = SMART{
		Critical: b[0], Kelvin: le.Uint16(b[1:]), Spare: b[3], SpareLow: b[4],
		UnitsRead: le.Uint64(b[32:]), UnitsWritten: le.Uint64(b[48:]),
		Reads: le.Uint64(b[64:]), Writes: le.Uint64(b[80:]),
		MediaErrors: le.Uint64(b[160:]), ErrorEntries: le.Uint64(b[176:]),
	}
	return nil
}

// Bits of an entry of the commands supported and effects log.
const (
	EffectSupported uint32 = 1 << 0
	EffectContent   uint32 = 1 << 1 // logical block content changes
)

// Effects is the commands supported and effects log: one word per opcode.
type Effects struct{ Admin, IO [256]uint32 }

// Encode writes the 4096 bytes of e into b.
func (e *Effects) Encode(b *[LogEffectsSize]byte) {
	*b = [LogEffectsSize]byte{}
	for i := range 256 {
		le.PutUint32(b[4*i:], e.Admin[i])
		le.PutUint32(b[1024+4*i:], e.IO[i])
	}
}

// Decode reads e from b.
func (e *Effects) Decode(b []byte) error {
	if len(b) < LogEffectsSize {
		return ErrShort
	}
	for i := range 256 {
		e.Admin[i] = le.Uint32(b[4*i:])
		e.IO[i] = le.Uint32(b[1024+4*i:])
	}
	return nil
}

// Values of a discovery record.
const (
	TransportTCP    = 3
	AddressIPv4     = 1
	AddressIPv6     = 2
	SubtypeNVM      = 2
	TreqNotRequired = 2 // secure channel not required
)

// DiscoveryEntry is one record of the discovery log page, 1024 bytes:
//
//	  0  TRTYPE, ADRFAM, SUBTYPE, TREQ
//	  4  PORTID, CNTLID, ASQSZ (2 each)
//	 32  TRSVCID (32)
//	256  SUBNQN (256)
//	512  TRADDR (256)
//	768  TSAS (256)
type DiscoveryEntry struct {
	Transport, Family, Subtype, Treq uint8
	PortID                           uint16
	CNTLID                           CNTLID
	AdminDepth                       uint16
	Service, SubNQN, Address         string
}

// DecodeDiscoveryEntry reads the record at the start of b.
func DecodeDiscoveryEntry(b []byte) (DiscoveryEntry, error) {
	if len(b) < DiscoveryRecord {
		return DiscoveryEntry{}, ErrShort
	}
	return DiscoveryEntry{
		Transport: b[0], Family: b[1], Subtype: b[2], Treq: b[3],
		PortID: le.Uint16(b[4:]), CNTLID: CNTLID(le.Uint16(b[6:])), AdminDepth: le.Uint16(b[8:]),
		Service: getString(b[32:64]), SubNQN: getString(b[256:512]), Address: getString(b[512:768]),
	}, nil
}

// Append encodes e at the end of b.
func (e DiscoveryEntry) Append(b []byte) []byte {
	n := len(b)
	b = append(b, make([]byte, DiscoveryRecord)...)
	p := b[n:]
	p[0], p[1], p[2], p[3] = e.Transport, e.Family, e.Subtype, e.Treq
	le.PutUint16(p[4:], e.PortID)
	le.PutUint16(p[6:], uint16(e.CNTLID))
	le.PutUint16(p[8:], e.AdminDepth)
	putString(p[32:64], e.Service, ' ')
	putString(p[256:512], e.SubNQN, 0)
	putString(p[512:768], e.Address, ' ')
	return b
}

// DiscoveryLog is the discovery log page: a header of 1024 bytes (GENCTR 8,
// NUMREC 8, RECFMT 2) and its records.
type DiscoveryLog struct {
	Generation uint64
	Entries    []DiscoveryEntry
}

// Append encodes l at the end of b.
func (l *DiscoveryLog) Append(b []byte) []byte {
	n := len(b)
	b = append(b, make([]byte, DiscoveryHeader)...)
	le.PutUint64(b[n:], l.Generation)
	le.PutUint64(b[n+8:], uint64(len(l.Entries)))
	for _, e := range l.Entries {
		b = e.Append(b)
	}
	return b
}

// DecodeDiscoveryLog reads a whole discovery log page.
func DecodeDiscoveryLog(b []byte) (DiscoveryLog, error) {
	if len(b) < DiscoveryHeader {
		return DiscoveryLog{}, ErrShort
	}
	l := DiscoveryLog{Generation: le.Uint64(b)}
	n := le.Uint64(b[8:])
	b = b[DiscoveryHeader:]
	if n > uint64(len(b)/DiscoveryRecord) {
		return DiscoveryLog{}, ErrShort
	}
	for range n {
		e, err := DecodeDiscoveryEntry(b)
		if err != nil {
			return DiscoveryLog{}, err
		}
		l.Entries = append(l.Entries, e)
		b = b[DiscoveryRecord:]
	}
	return l, nil
}

// AsyncEvent is the result of a completed Asynchronous Event Request.
type AsyncEvent struct {
	Type uint8
	Info uint8
	Log  LID
}

// Asynchronous event types and what Cask sends of them.
const (
	EventNotice      = 2
	NoticeNamespace  = 0    // attributes changed: read LogChangedNS
	NoticeANA        = 3    // read LogANA
	NoticeDiscovery  = 0xf0 // read LogDiscovery
	EventIO          = 6    // I/O command set specific
	EventReservation = 0    // read LogReservation
)

// Bits of FeatAsyncEvents.
const (
	AsyncConfigNamespace = 1 << 8
	AsyncConfigANA       = 1 << 11
	AsyncConfigDiscovery = 1 << 31
)

// Encode builds the completion's result.
func (e AsyncEvent) Encode() uint64 {
	return uint64(e.Type&7) | uint64(e.Info)<<8 | uint64(e.Log)<<16
}

// DecodeAsyncEvent reads the completion's result.
func DecodeAsyncEvent(v uint64) AsyncEvent {
	return AsyncEvent{Type: uint8(v) & 7, Info: uint8(v >> 8), Log: LID(v >> 16)}
}
