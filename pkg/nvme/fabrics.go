package nvme

// Property is the offset of a controller property.
type Property uint32

// The properties a Fabrics controller has.
const (
	PropCAP  Property = 0x00 // 8 bytes
	PropVS   Property = 0x08
	PropCC   Property = 0x14
	PropCSTS Property = 0x1c
	PropNSSR Property = 0x20
)

// Bits of CC and CSTS.
const (
	CCEnable      uint32 = 1 << 0
	CCShutdown    uint32 = 3 << 14
	CCShutNormal  uint32 = 1 << 14
	CCIOSQES      uint32 = 6 << 16 // log2 of 64
	CCIOCQES      uint32 = 4 << 20 // log2 of 16
	CSTSReady     uint32 = 1 << 0
	CSTSFatal     uint32 = 1 << 1
	CSTSShutMask  uint32 = 3 << 2
	CSTSShutting  uint32 = 1 << 2 // shutdown processing occurring
	CSTSShutReady uint32 = 2 << 2 // shutdown processing complete
)

// Version is the value of VS and of Identify's VER: NVMe 2.0.
const Version uint32 = 0x00020000

// Capabilities are the fields of CAP that a Fabrics controller varies.
type Capabilities struct {
	QueueDepth uint32 // largest queue, entries: 1 to 65536
	TimeoutMS  uint32 // for CSTS.RDY to follow CC.EN; unit 500 ms, at most 127500
}

// Encode builds the property CAP: contiguous queues required, NVM command
// set, pages of 4 KiB.
func (c Capabilities) Encode() uint64 {
	v := uint64(uint16(c.QueueDepth - 1))
	v |= 1 << 16
	v |= uint64(uint8((c.TimeoutMS+499)/500)) << 24
	return v | 1<<37
}

// DecodeCapabilities reads the property CAP.
func DecodeCapabilities(v uint64) Capabilities {
	return Capabilities{QueueDepth: uint32(uint16(v)) + 1, TimeoutMS: uint32(uint8(v>>24)) * 500}
}

// ConnectParams are the fields of a Connect command's SQE.
type ConnectParams struct {
	Format     uint16
	QID        QID
	QueueDepth uint32 // entries, 1 to 65536
	NoSQFlow   bool   // the host asks not to be told SQHD
	KATO       uint32 // milliseconds
}

const cattrNoSQFlow = 1 << 2

// ConnectParams reads a Connect command.
func (c *Command) ConnectParams() ConnectParams {
	return ConnectParams{
		Format:     le.Uint16(c[40:]),
		QID:        QID(le.Uint16(c[42:])),
		QueueDepth: uint32(le.Uint16(c[44:])) + 1,
		NoSQFlow:   c[46]&cattrNoSQFlow != 0,
		KATO:       le.Uint32(c[48:]),
	}
}

// SetConnect makes c a Connect command.
func (c *Command) SetConnect(p ConnectParams) {
	c.SetOpcode(OpFabrics)
	c[4] = byte(FConnect)
	le.PutUint16(c[40:], p.Format)
	le.PutUint16(c[42:], uint16(p.QID))
	le.PutUint16(c[44:], uint16(p.QueueDepth-1))
	if p.NoSQFlow {
		c[46] |= cattrNoSQFlow
	}
	le.PutUint32(c[48:], p.KATO)
}

// Offsets within the Connect command and its data, to say which was invalid.
const (
	ConnectOffQID     = 42
	ConnectOffSQSize  = 44
	ConnectOffKATO    = 48
	ConnectOffHostID  = 0
	ConnectOffCNTLID  = 16
	ConnectOffSubNQN  = 256
	ConnectOffHostNQN = 512
)

// ConnectInvalid is the result that goes with ConnectInvalidParam: the offset
// of the parameter in the SQE, or in the data.
type ConnectInvalid struct {
	Offset uint16
	InData bool
}

// Encode builds the 8 bytes of the completion's result.
func (e ConnectInvalid) Encode() uint64 {
	v := uint64(e.Offset)
	if e.InData {
		v |= 1 << 16
	}
	return v
}

// ConnectAuthRequired in the result of a Connect asks the host to authenticate
// before it sends anything else on the queue.
const ConnectAuthRequired = 1 << 17

// ConnectData is the data of a Connect command, 1024 bytes:
//
//	  0  host identifier (16)
//	 16  controller ID
//	256  subsystem NQN, zero terminated (256)
//	512  host NQN, zero terminated (256)
type ConnectData struct {
	HostID  UUID
	CNTLID  CNTLID
	SubNQN  string
	HostNQN string
}

// DecodeConnectData reads the data of a Connect command.
func DecodeConnectData(b []byte) (ConnectData, error) {
	if len(b) < ConnectSize {
		return ConnectData{}, ErrShort
	}
	return ConnectData{
		HostID:  UUID(b[:16]),
		CNTLID:  CNTLID(le.Uint16(b[16:])),
		SubNQN:  getString(b[256:512]),
		HostNQN: getString(b[512:768]),
	}, nil
}

// Append encodes d at the end of b.
func (d ConnectData) Append(b []byte) []byte {
	n := len(b)
	b = append(b, make([]byte, ConnectSize)...)
	p := b[n:]
	copy(p, d.HostID[:])
	le.PutUint16(p[16:], uint16(d.CNTLID))
	putString(p[256:512], d.SubNQN, 0)
	putString(p[512:768], d.HostNQN, 0)
	return b
}

// PropertyParams are the fields of Property Get and Property Set.
type PropertyParams struct {
	Wide   bool // 8 bytes rather than 4
	Offset Property
	Value  uint64 // Property Set
}

// Property reads a Property Get or Set command.
func (c *Command) Property() PropertyParams {
	return PropertyParams{Wide: c[40]&7 == 1, Offset: Property(le.Uint32(c[44:])), Value: le.Uint64(c[48:])}
}

// SetPropertyGet makes c a Property Get.
func (c *Command) SetPropertyGet(p PropertyParams) { c.setProperty(FPropertyGet, p) }

// SetPropertySet makes c a Property Set.
func (c *Command) SetPropertySet(p PropertyParams) {
	c.setProperty(FPropertySet, p)
	le.PutUint64(c[48:], p.Value)
}

func (c *Command) setProperty(t FType, p PropertyParams) {
	c.SetOpcode(OpFabrics)
	c[4] = byte(t)
	if p.Wide {
		c[40] = 1
	}
	le.PutUint32(c[44:], uint32(p.Offset))
}
