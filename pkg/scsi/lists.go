package scsi

import "fmt"

// Capacity is the size and shape of a unit.
type Capacity struct {
	Blocks    uint64
	BlockSize uint32
	Exponent  uint8 // logical blocks per physical block: a power of two
}

// Capacity10Size and Capacity16Size are the lengths of the answers.
const (
	Capacity10Size = 8
	Capacity16Size = 32
)

// Append10 encodes READ CAPACITY(10) data; a last LBA that does not fit is
// given as FFFFFFFFh.
func (c Capacity) Append10(b []byte) []byte {
	b = be.AppendUint32(b, uint32(min(c.Blocks-1, 0xffffffff)))
	return be.AppendUint32(b, c.BlockSize)
}

// Append16 encodes READ CAPACITY(16) data, of a thin unit (LBPME) whose
// unmapped blocks read as zeroes (LBPRZ).
func (c Capacity) Append16(b []byte) []byte {
	at := len(b)
	b = append(b, make([]byte, Capacity16Size)...)
	d := b[at:]
	be.PutUint64(d, c.Blocks-1)
	be.PutUint32(d[8:], c.BlockSize)
	d[13] = c.Exponent & 0xf
	d[14] = 0xc0
	return b
}

// DecodeCapacity reads READ CAPACITY(16) data.
func DecodeCapacity(b []byte) (Capacity, error) {
	if len(b) < 14 {
		return Capacity{}, ErrShort
	}
	return Capacity{Blocks: be.Uint64(b) + 1, BlockSize: be.Uint32(b[8:]), Exponent: b[13] & 0xf}, nil
}

// AppendLUNs encodes REPORT LUNS data.
func AppendLUNs(b []byte, luns []LUN) []byte {
	b = be.AppendUint32(b, uint32(8*len(luns)))
	b = append(b, 0, 0, 0, 0)
	for _, l := range luns {
		e := l.Encode()
		b = append(b, e[:]...)
	}
	return b
}

// BlockRange is a range of blocks in a parameter list.
type BlockRange struct {
	LBA    uint64
	Blocks uint32
}

// Sizes of UNMAP's parameter list. Frozen.
const (
	UnmapHeader = 8
	UnmapRange  = 16
)

// DecodeUnmap appends the ranges of an UNMAP parameter list to out. A list cut
// short, as its own lengths say, loses its last range (SBC-3 5.28.2).
func DecodeUnmap(out []BlockRange, b []byte) ([]BlockRange, error) {
	if len(b) < UnmapHeader {
		return out, ErrShort
	}
	data, list := int(be.Uint16(b))+2, int(be.Uint16(b[2:]))
	if data > len(b) || list+UnmapHeader > data {
		return out, fmt.Errorf("UNMAP list of %d bytes in %d of %d: %w", list, data, len(b), ErrFormat)
	}
	for p := b[UnmapHeader:][:list]; len(p) >= UnmapRange; p = p[UnmapRange:] {
		out = append(out, BlockRange{LBA: be.Uint64(p), Blocks: be.Uint32(p[8:])})
	}
	return out, nil
}

// AppendUnmap encodes an UNMAP parameter list.
func AppendUnmap(b []byte, ranges []BlockRange) []byte {
	n := UnmapRange * len(ranges)
	b = be.AppendUint16(b, uint16(n+6))
	b = be.AppendUint16(b, uint16(n))
	b = append(b, 0, 0, 0, 0)
	for _, r := range ranges {
		b = be.AppendUint64(b, r.LBA)
		b = be.AppendUint32(b, r.Blocks)
		b = append(b, 0, 0, 0, 0)
	}
	return b
}

// Provisioning is the state of a range in GET LBA STATUS data.
type Provisioning uint8

// The states.
const (
	Mapped      Provisioning = 0
	Deallocated Provisioning = 1
)

// LBAStatusSize is the length of GET LBA STATUS data with one descriptor.
const LBAStatusSize = 24

// AppendLBAStatus encodes GET LBA STATUS data with one descriptor.
func AppendLBAStatus(b []byte, r BlockRange, p Provisioning) []byte {
	b = be.AppendUint32(b, LBAStatusSize-4)
	b = append(b, 0, 0, 0, 0)
	b = be.AppendUint64(b, r.LBA)
	b = be.AppendUint32(b, r.Blocks)
	return append(b, byte(p), 0, 0, 0)
}

// AccessState is the asymmetric access state of a target port group.
type AccessState uint8

// The states. Frozen.
const (
	ActiveOptimized    AccessState = 0x0
	ActiveNonOptimized AccessState = 0x1
	Standby            AccessState = 0x2
	Unavailable        AccessState = 0x3
	Transitioning      AccessState = 0xf
)

// PortGroup is one target port group.
type PortGroup struct {
	ID    uint16
	State AccessState
	Ports []uint16 // relative target port identifiers
}

// GroupFormat says which parameter data REPORT TARGET PORT GROUPS returns.
type GroupFormat uint8

// The formats.
const (
	GroupsPlain    GroupFormat = 0
	GroupsExtended GroupFormat = 1
)

// AppendGroups encodes REPORT TARGET PORT GROUPS data.
func AppendGroups(b []byte, groups []PortGroup, f GroupFormat) []byte {
	at := len(b)
	b = append(b, 0, 0, 0, 0)
	if f == GroupsExtended {
		b = append(b, 0x10, 0, 0, 0)
	}
	for _, g := range groups {
		// All states are supported: T, U, S, AN and AO.
		b = append(b, byte(g.State), 0x8f)
		b = be.AppendUint16(b, g.ID)
		b = append(b, 0, 0x02, 0, byte(len(g.Ports))) // altered implicitly
		for _, p := range g.Ports {
			b = append(b, 0, 0)
			b = be.AppendUint16(b, p)
		}
	}
	be.PutUint32(b[at:], uint32(len(b)-at-4))
	return b
}

// AppendTMFs encodes REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS data: abort
// task, abort task set, clear task set, LUN reset; target resets.
func AppendTMFs(b []byte) []byte { return append(b, 0xda, 0, 0, 0) }

// AppendExtendedTMFs encodes the same with timeouts (REPD), which promise nothing.
func AppendExtendedTMFs(b []byte) []byte {
	return append(b, 0xda, 0, 0, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
}
