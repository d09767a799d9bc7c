package nvme

import "math/bits"

// CNS selects what Identify returns.
type CNS uint8

// The CNS values used.
const (
	CNSNamespace       CNS = 0x00
	CNSController      CNS = 0x01
	CNSActiveNS        CNS = 0x02
	CNSDescriptors     CNS = 0x03
	CNSNamespaceCSI    CNS = 0x05 // I/O command set specific namespace
	CNSControllerCSI   CNS = 0x06 // I/O command set specific controller
	CNSActiveNSCSI     CNS = 0x07
	CNSNamespaceCommon CNS = 0x08 // I/O command set independent namespace
	CNSAttachedCtrls   CNS = 0x12 // controllers attached to a namespace
	CNSControllers     CNS = 0x13 // controllers of the subsystem
	CNSCommandSets     CNS = 0x1c
)

// IdentifyParams are the fields of an Identify command.
type IdentifyParams struct {
	CNS    CNS
	CNTLID CNTLID
	CSI    uint8 // 0 is the NVM command set
}

// IdentifyParams reads an Identify command.
func (c *Command) IdentifyParams() IdentifyParams {
	return IdentifyParams{CNS: CNS(c[40]), CNTLID: CNTLID(le.Uint16(c[42:])), CSI: c[47]}
}

// SetIdentify makes c an Identify command.
func (c *Command) SetIdentify(p IdentifyParams) {
	c.SetOpcode(OpIdentify)
	c[40] = byte(p.CNS)
	le.PutUint16(c[42:], uint16(p.CNTLID))
	c[47] = p.CSI
}

// Bits of Identify Controller fields.
const (
	CMICMultiPorts       = 1 << 0
	CMICMultiControllers = 1 << 1
	CMICANA              = 1 << 3
	OAESNamespace        = 1 << 8  // namespace attribute notices
	OAESANA              = 1 << 11 // ANA change notices
	OAESDiscovery        = 1 << 31 // discovery log change notices
	CTRATTHostID128      = 1 << 0  // 128-bit host identifier
	CTRATTTraffic        = 1 << 6  // traffic based keep alive
	ONCSCompare          = 1 << 0
	ONCSReservations     = 1 << 5
	ONCSVerify           = 1 << 7
	ONCSCopy             = 1 << 8
	FUSESCompareWrite    = 1 << 0
	OCFSFormat0          = 1 << 0
	// ANACAPAll: optimized, non-optimized, inaccessible, persistent loss
	// and change are reported, and a group never changes its number.
	ANACAPAll         = 0x5f
	ONCSDSM           = 1 << 2  // Dataset Management
	ONCSWriteZeroes   = 1 << 3  // Write Zeroes
	VWCPresent        = 1 << 0  // volatile write cache
	VWCFlushOneNS     = 2 << 1  // Flush to NSIDAll is not supported
	SGLSSupported     = 1 << 0  // SGLs, no alignment
	SGLSInCapsule     = 1 << 20 // offsets in capsule
	LPAEffects        = 1 << 1  // commands supported and effects log
	LPAExtended       = 1 << 2  // 32-bit NUMD and offset
	CtrlTypeIO        = 1
	CtrlTypeDiscovery = 2
)

// IdentifyController holds the fields of Identify Controller that Cask sets
// or reads. Field offsets are in the code of Encode.
type IdentifyController struct {
	Serial, Model, Firmware string
	CMIC                    uint8
	MDTS                    uint8 // log2 of the largest transfer in pages; 0 is no limit
	CNTLID                  CNTLID
	Version                 uint32
	OAES, CTRATT            uint32
	Type                    uint8
	ACL, AERL, LPA, ELPE    uint8  // all 0's based but LPA
	KAS                     uint16 // keep alive granularity, 100 ms
	MaxCmd                  uint16
	NN, MNAN                uint32 // largest NSID; most namespaces
	ANATT, ANACAP           uint8  // ANATT: longest transition, seconds
	ANAGRPMAX, NANAGRPID    uint32 // largest group, number of groups
	ONCS, FUSES             uint16
	ACWU, OCFS              uint16 // ACWU: blocks of a compare-and-write, 0's based
	VWC                     uint8
	SGLS                    uint32
	SubNQN                  string
	IOCCSZ, IORCSZ          uint32 // capsule sizes, 16 bytes
	MSDBD                   uint8
}

// MaxTransfer is the largest data transfer in bytes, or 0 for no limit.
func (i *IdentifyController) MaxTransfer() uint32 {
	if i.MDTS == 0 || i.MDTS > 19 {
		return 0
	}
	return PageSize << i.MDTS
}

// MDTSFor is the largest MDTS that does not exceed n bytes, which is at
// least two pages.
func MDTSFor(n uint32) uint8 { return uint8(bits.Len32(n/PageSize) - 1) }

// Encode writes the 4096 bytes of i into b.
func (i *IdentifyController) Encode(b *[IdentifySize]byte) {
	*b = [IdentifySize]byte{}
	putString(b[4:24], i.Serial, ' ')
	putString(b[24:64], i.Model, ' ')
	putString(b[64:72], i.Firmware, ' ')
	b[72] = 6 // RAB: recommended arbitration burst, unused by us
	b[76] = i.CMIC
	b[77] = i.MDTS
	le.PutUint16(b[78:], uint16(i.CNTLID))
	le.PutUint32(b[80:], i.Version)
	le.PutUint32(b[92:], i.OAES)
	le.PutUint32(b[96:], i.CTRATT)
	b[111] = i.Type
	b[258] = i.ACL
	b[259] = i.AERL
	b[261], b[262] = i.LPA, i.ELPE
	le.PutUint16(b[320:], i.KAS)
	b[342], b[343] = i.ANATT, i.ANACAP
	le.PutUint32(b[344:], i.ANAGRPMAX)
	le.PutUint32(b[348:], i.NANAGRPID)
	b[512] = 0x66 // SQES: 64 bytes
	b[513] = 0x44 // CQES: 16 bytes
	le.PutUint16(b[514:], i.MaxCmd)
	le.PutUint32(b[516:], i.NN)
	le.PutUint16(b[520:], i.ONCS)
	le.PutUint16(b[522:], i.FUSES)
	b[525] = i.VWC
	le.PutUint16(b[532:], i.ACWU)
	le.PutUint16(b[534:], i.OCFS)
	le.PutUint32(b[536:], i.SGLS)
	le.PutUint32(b[540:], i.MNAN)
	putString(b[768:1024], i.SubNQN, 0)
	le.PutUint32(b[1792:], i.IOCCSZ)
	le.PutUint32(b[1796:], i.IORCSZ)
	b[1803] = i.MSDBD
}

// Decode reads i from b.
func (i *IdentifyController) Decode(b []byte) error {
	if len(b) < IdentifySize {
		return ErrShort
	}
	*i = IdentifyController{
		Serial: getString(b[4:24]), Model: getString(b[24:64]), Firmware: getString(b[64:72]),
		CMIC: b[76], MDTS: b[77], CNTLID: CNTLID(le.Uint16(b[78:])), Version: le.Uint32(b[80:]),
		OAES: le.Uint32(b[92:]), CTRATT: le.Uint32(b[96:]), Type: b[111],
		ACL: b[258], AERL: b[259], LPA: b[261], ELPE: b[262], KAS: le.Uint16(b[320:]),
		MaxCmd: le.Uint16(b[514:]), NN: le.Uint32(b[516:]), MNAN: le.Uint32(b[540:]),
		ANATT: b[342], ANACAP: b[343], ANAGRPMAX: le.Uint32(b[344:]), NANAGRPID: le.Uint32(b[348:]),
		ONCS: le.Uint16(b[520:]), FUSES: le.Uint16(b[522:]), VWC: b[525],
		ACWU: le.Uint16(b[532:]), OCFS: le.Uint16(b[534:]), SGLS: le.Uint32(b[536:]),
		SubNQN: getString(b[768:1024]),
		IOCCSZ: le.Uint32(b[1792:]), IORCSZ: le.Uint32(b[1796:]), MSDBD: b[1803],
	}
	return nil
}

// Bits of Identify Namespace fields.
const (
	NSFeatThin      = 1 << 0
	NSFeatOptPerf   = 1 << 4 // NPWG and NOWS are set
	NMICShared      = 1 << 0
	DLFeatZeroes    = 1 << 0 // deallocated blocks read as zeroes
	DLFeatWZDealloc = 1 << 3 // Write Zeroes may deallocate
)

// IdentifyNamespace holds the fields of Identify Namespace (NVM command set)
// that Cask sets or reads. There is one LBA format, without metadata.
type IdentifyNamespace struct {
	Size, Capacity, Used uint64 // logical blocks
	Features, NMIC       uint8
	DLFeat, RESCAP       uint8
	NPWG                 uint16 // preferred write granularity, blocks, 0's based
	NPWA, NPDG, NPDA     uint16
	NOWS                 uint16
	MSSRL                uint16 // most blocks of one source range of a Copy
	MCL                  uint32 // most blocks of one Copy
	MSRC                 uint8  // most source ranges of one Copy, 0's based
	ANAGroup             uint32
	NGUID                UUID
	EUI64                [8]byte
	LBADS                uint8 // log2 of the logical block size
}

// Encode writes the 4096 bytes of n into b.
func (n *IdentifyNamespace) Encode(b *[IdentifySize]byte) {
	*b = [IdentifySize]byte{}
	le.PutUint64(b[0:], n.Size)
	le.PutUint64(b[8:], n.Capacity)
	le.PutUint64(b[16:], n.Used)
	b[24] = n.Features
	b[30] = n.NMIC
	b[31], b[33] = n.RESCAP, n.DLFeat
	le.PutUint16(b[64:], n.NPWG)
	le.PutUint16(b[66:], n.NPWA)
	le.PutUint16(b[68:], n.NPDG)
	le.PutUint16(b[70:], n.NPDA)
	le.PutUint16(b[72:], n.NOWS)
	le.PutUint16(b[74:], n.MSSRL)
	le.PutUint32(b[76:], n.MCL)
	b[80] = n.MSRC
	le.PutUint32(b[92:], n.ANAGroup)
	copy(b[104:120], n.NGUID[:])
	copy(b[120:128], n.EUI64[:])
	b[130] = n.LBADS
}

// Decode reads n from b. The format in use is found through FLBAS.
func (n *IdentifyNamespace) Decode(b []byte) error {
	if len(b) < IdentifySize {
		return ErrShort
	}
	format := int(b[26]&0xf) | int(b[26]>>5&3)<<4
	*n = IdentifyNamespace{
		Size: le.Uint64(b[0:]), Capacity: le.Uint64(b[8:]), Used: le.Uint64(b[16:]),
		Features: b[24], NMIC: b[30], RESCAP: b[31], DLFeat: b[33],
		MSSRL: le.Uint16(b[74:]), MCL: le.Uint32(b[76:]), MSRC: b[80], ANAGroup: le.Uint32(b[92:]),
		NPWG: le.Uint16(b[64:]), NPWA: le.Uint16(b[66:]),
		NPDG: le.Uint16(b[68:]), NPDA: le.Uint16(b[70:]), NOWS: le.Uint16(b[72:]),
		NGUID: UUID(b[104:120]), EUI64: [8]byte(b[120:128]),
		LBADS: b[130+4*format],
	}
	return nil
}

// NIDT is the type of a namespace identification descriptor.
type NIDT uint8

// Namespace identifier types.
const (
	NIDTEUI64 NIDT = 1
	NIDTNGUID NIDT = 2
	NIDTUUID  NIDT = 3
	NIDTCSI   NIDT = 4
)

// Descriptor is one namespace identification descriptor: type, length,
// 2 reserved bytes, identifier.
type Descriptor struct {
	Type NIDT
	ID   []byte
}

// Append encodes d at the end of b.
func (d Descriptor) Append(b []byte) []byte {
	b = append(b, byte(d.Type), byte(len(d.ID)), 0, 0)
	return append(b, d.ID...)
}

// DecodeDescriptors reads a descriptor list; it ends at a length of zero or
// at the end of b. The identifiers point into b.
func DecodeDescriptors(b []byte) ([]Descriptor, error) {
	var out []Descriptor
	for len(b) >= 4 && b[1] != 0 {
		n := 4 + int(b[1])
		if n > len(b) {
			return nil, ErrShort
		}
		out = append(out, Descriptor{Type: NIDT(b[0]), ID: b[4:n:n]})
		b = b[n:]
	}
	return out, nil
}

// AppendNSIDs encodes a list of namespace identifiers at the end of b.
func AppendNSIDs(b []byte, ids []NSID) []byte {
	for _, id := range ids {
		b = le.AppendUint32(b, uint32(id))
	}
	return b
}

// DecodeNSIDs reads a list of namespace identifiers, which ends at a zero or
// at the end of b.
func DecodeNSIDs(b []byte) []NSID {
	var out []NSID
	for ; len(b) >= 4 && le.Uint32(b) != 0; b = b[4:] {
		out = append(out, NSID(le.Uint32(b)))
	}
	return out
}

// MaxControllerList is the most entries of a controller list.
const MaxControllerList = 2047

// AppendControllers encodes a controller list: their number, then each.
func AppendControllers(b []byte, ids []CNTLID) []byte {
	b = le.AppendUint16(b, uint16(len(ids)))
	for _, id := range ids {
		b = le.AppendUint16(b, uint16(id))
	}
	return b
}

// DecodeControllers reads a controller list.
func DecodeControllers(b []byte) ([]CNTLID, error) {
	if len(b) < 2 || len(b) < 2+2*int(le.Uint16(b)) || le.Uint16(b) > MaxControllerList {
		return nil, ErrShort
	}
	var out []CNTLID
	for i := range int(le.Uint16(b)) {
		out = append(out, CNTLID(le.Uint16(b[2+2*i:])))
	}
	return out, nil
}

// IdentifyControllerNVM is the NVM command set's part of Identify Controller
// (CNS 06h): the limits of commands that carry no data.
type IdentifyControllerNVM struct {
	VSL   uint8  // log2 pages, largest Verify; 0 is no limit
	WZSL  uint8  // log2 pages, largest Write Zeroes; 0 is no limit
	DMRL  uint8  // most ranges of a Dataset Management; 0 is no limit
	DMRSL uint32 // most blocks of one range
	DMSL  uint64 // most blocks of one Dataset Management
}

// Encode writes the 4096 bytes of i into b.
func (i *IdentifyControllerNVM) Encode(b *[IdentifySize]byte) {
	*b = [IdentifySize]byte{}
	b[0], b[1] = i.VSL, i.WZSL
	b[3] = i.DMRL
	le.PutUint32(b[4:], i.DMRSL)
	le.PutUint64(b[8:], i.DMSL)
}

// Decode reads i from b.
func (i *IdentifyControllerNVM) Decode(b []byte) error {
	if len(b) < IdentifySize {
		return ErrShort
	}
	*i = IdentifyControllerNVM{VSL: b[0], WZSL: b[1], DMRL: b[3], DMRSL: le.Uint32(b[4:]), DMSL: le.Uint64(b[8:])}
	return nil
}

// IdentifyNamespaceCommon is the I/O command set independent part of Identify
// Namespace (CNS 08h).
type IdentifyNamespaceCommon struct {
	Features, NMIC, RESCAP uint8
	ANAGroup               uint32
	Ready                  bool
}

// Encode writes the 4096 bytes of n into b.
func (n *IdentifyNamespaceCommon) Encode(b *[IdentifySize]byte) {
	*b = [IdentifySize]byte{}
	b[0], b[1], b[2] = n.Features, n.NMIC, n.RESCAP
	le.PutUint32(b[4:], n.ANAGroup)
	if n.Ready {
		b[14] = 1
	}
}

// Decode reads n from b.
func (n *IdentifyNamespaceCommon) Decode(b []byte) error {
	if len(b) < IdentifySize {
		return ErrShort
	}
	*n = IdentifyNamespaceCommon{Features: b[0], NMIC: b[1], RESCAP: b[2], ANAGroup: le.Uint32(b[4:]), Ready: b[14]&1 == 1}
	return nil
}
