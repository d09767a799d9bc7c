package scsi

import (
	"errors"
	"fmt"
)

// Identity is what a unit tells about itself.
type Identity struct {
	Vendor   string // at most 8 characters
	Product  string // 16
	Revision string // 4
	Serial   string
	UUID     [16]byte // of the content; never changes
	NAA      [8]byte  // locally assigned NAA designator
}

// inquirySize of the standard INQUIRY data here.
const inquirySize = 96

// Version descriptors: SAM-5, SPC-4, SBC-3, iSCSI.
var versions = [...]uint16{0x00a0, 0x0460, 0x04c0, 0x0960}

// Peripheral qualifier and device type of INQUIRY's byte 0.
const (
	PeripheralDisk uint8 = 0x00
	PeripheralNone uint8 = 0x7f // no such unit
)

// AppendInquiry encodes standard INQUIRY data.
//
//	0 peripheral  2 version 06h  3 HISUP, format 2  4 additional length  5 TPGS 01b, 3PC 0
//	7 CMDQUE  8 vendor(8)  16 product(16)  32 revision(4)  58 version descriptors
func (id *Identity) AppendInquiry(b []byte, peripheral uint8) []byte {
	at := len(b)
	b = append(b, make([]byte, inquirySize)...)
	d := b[at:]
	d[0], d[2], d[3], d[4] = peripheral, 0x06, 0x12, inquirySize-5
	d[5] = 0x10
	d[7] = 0x02
	putString(d[8:16], id.Vendor)
	putString(d[16:32], id.Product)
	putString(d[32:36], id.Revision)
	for i, v := range versions {
		be.PutUint16(d[58+2*i:], v)
	}
	return b
}

// Page is the code of a vital product data page.
type Page uint8

// The pages. Frozen.
const (
	PageSupported     Page = 0x00
	PageSerial        Page = 0x80
	PageIdentity      Page = 0x83
	PageExtended      Page = 0x86
	PageModePolicy    Page = 0x87
	PageBlockLimits   Page = 0xb0
	PageBlockDevice   Page = 0xb1
	PageProvisioning  Page = 0xb2
	pageHeader             = 4
	maxDesignatorText      = 252
)

// Pages lists the supported pages, in order.
var Pages = []Page{PageSupported, PageSerial, PageIdentity, PageExtended, PageModePolicy, PageBlockLimits, PageBlockDevice, PageProvisioning}

// beginPage adds a page header; endPage sets its length.
func beginPage(b []byte, p Page) []byte {
	return append(b, PeripheralDisk, byte(p), 0, 0)
}

func endPage(b []byte, at int) []byte {
	be.PutUint16(b[at+2:], uint16(len(b)-at-pageHeader))
	return b
}

// AppendSupported encodes page 00h.
func AppendSupported(b []byte) []byte {
	at := len(b)
	b = beginPage(b, PageSupported)
	for _, p := range Pages {
		b = append(b, byte(p))
	}
	return endPage(b, at)
}

// AppendSerial encodes page 80h.
func (id *Identity) AppendSerial(b []byte) []byte {
	at := len(b)
	return endPage(append(beginPage(b, PageSerial), id.Serial...), at)
}

// Port is the target port a command came in by.
type Port struct {
	Device   string // name of the target device, such as an IQN
	Name     string // of the port: Device,t,0xTAG
	Relative uint16 // relative target port identifier
	Group    uint16 // target port group
}

// AppendIdentity encodes page 83h: the unit (NAA, T10 vendor, UUID), the port
// (relative identifier, group, name) and the target device.
func (id *Identity) AppendIdentity(b []byte, p Port) []byte {
	const (
		binarySet, asciiSet, utf8Set    = 1, 2, 3
		unit, port, device              = 0x00, 0x10, 0x20
		t10, naa, relative, group, name = 1, 3, 4, 5, 8
		uuid                            = 10
		iscsi                           = 0x80
	)
	at := len(b)
	b = beginPage(b, PageIdentity)
	b = designator(b, [2]byte{binarySet, unit | naa}, id.NAA[:])
	vendor := make([]byte, 8, 8+len(id.Serial))
	putString(vendor, id.Vendor)
	b = designator(b, [2]byte{asciiSet, unit | t10}, append(vendor, id.Serial...))
	b = designator(b, [2]byte{binarySet, unit | uuid}, append([]byte{0x10, 0}, id.UUID[:]...))
	b = designator(b, [2]byte{0x50 | binarySet, iscsi | port | relative}, []byte{0, 0, byte(p.Relative >> 8), byte(p.Relative)})
	b = designator(b, [2]byte{0x50 | binarySet, iscsi | port | group}, []byte{0, 0, byte(p.Group >> 8), byte(p.Group)})
	b = designator(b, [2]byte{0x50 | utf8Set, iscsi | port | name}, nameString(p.Name))
	b = designator(b, [2]byte{0x50 | utf8Set, iscsi | device | name}, nameString(p.Device))
	return endPage(b, at)
}

// designator adds one descriptor; kind is code set and protocol, then PIV,
// association and type.
func designator(b []byte, kind [2]byte, d []byte) []byte {
	b = append(b, kind[0], kind[1], 0, byte(len(d)))
	return append(b, d...)
}

// nameString is s with a zero behind it, padded to a multiple of four.
func nameString(s string) []byte {
	s = s[:min(len(s), maxDesignatorText-1)]
	b := make([]byte, (len(s)+4)&^3)
	copy(b, s)
	return b
}

// AppendExtended encodes page 86h: SIMPSUP, ORDSUP, HEADSUP; volatile cache
// (V_SUP); LUICLR.
func AppendExtended(b []byte) []byte {
	at := len(b)
	b = append(beginPage(b, PageExtended), make([]byte, 60)...)
	d := b[at:]
	d[5] = 0x07
	d[6] = 0x01
	d[7] = 0x01
	return endPage(b, at)
}

// AppendModePolicy encodes page 87h: every mode page is shared by all nexuses.
func AppendModePolicy(b []byte) []byte {
	at := len(b)
	return endPage(append(beginPage(b, PageModePolicy), 0x3f, 0xff, 0x00, 0x00), at)
}

// Limits are the contents of page B0h, in blocks.
type Limits struct {
	CompareAndWrite uint8
	Granularity     uint16
	MaxTransfer     uint32
	OptTransfer     uint32
	UnmapBlocks     uint32
	UnmapRanges     uint32
	UnmapGrain      uint32
	WriteSame       uint64
}

// AppendLimits encodes page B0h, with WSNZ set: a WRITE SAME of zero blocks is
// refused.
func (l *Limits) AppendLimits(b []byte) []byte {
	at := len(b)
	b = append(beginPage(b, PageBlockLimits), make([]byte, 60)...)
	d := b[at:]
	d[4] = 0x01
	d[5] = l.CompareAndWrite
	be.PutUint16(d[6:], l.Granularity)
	be.PutUint32(d[8:], l.MaxTransfer)
	be.PutUint32(d[12:], l.OptTransfer)
	be.PutUint32(d[16:], l.MaxTransfer) // PRE-FETCH
	be.PutUint32(d[20:], l.UnmapBlocks)
	be.PutUint32(d[24:], l.UnmapRanges)
	be.PutUint32(d[28:], l.UnmapGrain)
	be.PutUint32(d[32:], 0x80000000) // alignment 0, valid
	be.PutUint64(d[36:], l.WriteSame)
	return endPage(b, at)
}

// AppendBlockDevice encodes page B1h: not a rotating medium.
func AppendBlockDevice(b []byte) []byte {
	at := len(b)
	b = append(beginPage(b, PageBlockDevice), make([]byte, 60)...)
	be.PutUint16(b[at+4:], 1)
	b[at+8] = 0x02 // FUAB: SYNCHRONIZE CACHE is not needed after a write with FUA
	return endPage(b, at)
}

// AppendProvisioning encodes page B2h: thin, UNMAP and WRITE SAME unmap, and
// unmapped blocks read as zeroes.
func AppendProvisioning(b []byte) []byte {
	at := len(b)
	return endPage(append(beginPage(b, PageProvisioning), 0, 0xe4, 2, 0), at)
}

// ErrNoName says that a unit has no name of its own.
var ErrNoName = errors.New("page 83h has no designator of the unit")

// DecodeUnitName reads the name of the unit that is the same by every port from
// page 83h: its UUID if it has one, else its NAA, EUI-64 or T10 designator.
func DecodeUnitName(b []byte) (string, error) {
	if len(b) < 4 || b[1] != byte(PageIdentity) {
		return "", ErrShort
	}
	b = b[4:min(len(b), 4+int(be.Uint16(b[2:])))]
	best, name := 0, ""
	for len(b) >= 4 {
		n := 4 + int(b[3])
		if n > len(b) {
			return "", ErrShort
		}
		// By type: T10, EUI-64, NAA, UUID.
		rank := map[byte]int{1: 1, 2: 2, 3: 3, 10: 4}[b[1]&0xf]
		if unit := b[1]&0x30 == 0; unit && rank > best {
			best, name = rank, fmt.Sprintf("%x-%x", b[1]&0xf, b[4:n])
		}
		b = b[n:]
	}
	if best == 0 {
		return "", ErrNoName
	}
	return name, nil
}

// DecodeLimits is the inverse of AppendLimits.
func DecodeLimits(b []byte) (Limits, error) {
	if len(b) < 44 || b[1] != byte(PageBlockLimits) {
		return Limits{}, ErrShort
	}
	return Limits{
		CompareAndWrite: b[5], Granularity: be.Uint16(b[6:]), MaxTransfer: be.Uint32(b[8:]), OptTransfer: be.Uint32(b[12:]),
		UnmapBlocks: be.Uint32(b[20:]), UnmapRanges: be.Uint32(b[24:]), UnmapGrain: be.Uint32(b[28:]), WriteSame: be.Uint64(b[36:]),
	}, nil
}
