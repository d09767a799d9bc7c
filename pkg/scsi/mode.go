package scsi

import (
	"bytes"
	"fmt"
)

// ModePage is the code of a mode page.
type ModePage uint8

// The pages a unit has. Frozen.
const (
	ModeErrorRecovery ModePage = 0x01
	ModeCaching       ModePage = 0x08
	ModeControl       ModePage = 0x0a
	ModeExceptions    ModePage = 0x1c
	ModeAll           ModePage = 0x3f
)

// AllSubpages in a MODE SENSE asks for the subpages, of which there are none.
const AllSubpages uint8 = 0xff

// PageControl says which values MODE SENSE returns.
type PageControl uint8

// The page controls.
const (
	ModeCurrent    PageControl = 0
	ModeChangeable PageControl = 1
	ModeDefault    PageControl = 2
	ModeSaved      PageControl = 3
)

// ModeValues is what initiators can change.
type ModeValues struct {
	DescriptorSense bool // D_SENSE, Control page
	WriteProtect    bool // SWP, Control page
	WriteCache      bool // WCE, Caching page
}

// ModeDefaults are the values after a power on or a reset.
var ModeDefaults = ModeValues{WriteCache: true}

// ModePages lists the pages, in order.
var ModePages = []ModePage{ModeErrorRecovery, ModeCaching, ModeControl, ModeExceptions}

// appendPage encodes one page; mask asks for the changeable bits.
func (v ModeValues) appendPage(b []byte, p ModePage, pc PageControl) []byte {
	mask := pc == ModeChangeable
	if mask {
		v = ModeValues{DescriptorSense: true, WriteProtect: true, WriteCache: true}
	}
	set := func(at *byte, on bool, bit byte) {
		if on {
			*at |= bit
		}
	}
	var d [20]byte
	n := 12
	switch p {
	case ModeCaching:
		n = 20
		set(&d[2], v.WriteCache, 0x04)
	case ModeControl:
		set(&d[2], v.DescriptorSense, 0x04)
		set(&d[4], v.WriteProtect, 0x08)
		if !mask {
			d[3] = 0x10 // QUEUE ALGORITHM MODIFIER: simple tasks in any order
			d[5] = 0x40 // TAS: who has a task aborted by another gets TASK ABORTED
			be.PutUint16(d[8:], 0xffff)
		}
	case ModeErrorRecovery, ModeExceptions: // all zero
	}
	d[0], d[1] = byte(p), byte(n-2)
	return append(b, d[:n]...)
}

// HasModePage reports whether the page exists.
func HasModePage(p ModePage) bool {
	return bytes.IndexByte([]byte{byte(ModeErrorRecovery), byte(ModeCaching), byte(ModeControl), byte(ModeExceptions)}, byte(p)) >= 0
}

// Device specific parameter of the mode parameter header.
const (
	modeDPOFUA = 0x10
	modeWP     = 0x80
)

// ModeSense is what a MODE SENSE asks for.
type ModeSense struct {
	Ten        bool // the 10 byte command
	LongLBA    bool // LLBAA: long block descriptor
	NoBlockDes bool // DBD
	Control    PageControl
	Page       ModePage
}

// DecodeModeSense reads the CDB of either command.
func DecodeModeSense(c *CDB) ModeSense {
	return ModeSense{
		Ten: c.Opcode() == ModeSense10, LongLBA: c.Opcode() == ModeSense10 && c[1]&0x10 != 0,
		NoBlockDes: c[1]&0x08 != 0, Control: PageControl(c[2] >> 6), Page: ModePage(c[2] & 0x3f),
	}
}

// Append encodes the answer: header, block descriptor, pages.
func (m ModeSense) Append(b []byte, v ModeValues, c Capacity) []byte {
	at := len(b)
	specific := byte(modeDPOFUA)
	if v.WriteProtect {
		specific |= modeWP
	}
	head := 4
	if m.Ten {
		head = 8
	}
	b = append(b, make([]byte, head)...)
	first := len(b)
	b = m.appendDescriptor(b, c)
	descriptor := len(b) - first
	values := v
	if m.Control == ModeDefault {
		values = ModeDefaults
	}
	for _, p := range ModePages {
		if m.Page == ModeAll || m.Page == p {
			b = values.appendPage(b, p, m.Control)
		}
	}
	d := b[at:]
	if m.Ten {
		be.PutUint16(d, uint16(len(d)-2))
		d[3] = specific
		if m.LongLBA {
			d[4] = 1
		}
		be.PutUint16(d[6:], uint16(descriptor))
		return b
	}
	d[0], d[2], d[3] = byte(len(d)-1), specific, byte(descriptor)
	return b
}

func (m ModeSense) appendDescriptor(b []byte, c Capacity) []byte {
	switch {
	case m.NoBlockDes:
		return b
	case m.LongLBA:
		b = be.AppendUint64(b, c.Blocks)
		b = append(b, 0, 0, 0, 0)
		return be.AppendUint32(b, c.BlockSize)
	}
	b = be.AppendUint32(b, uint32(min(c.Blocks, 0xffffffff)))
	return be.AppendUint32(b, c.BlockSize&0xffffff)
}

// ModeError says which byte of a MODE SELECT parameter list is refused.
type ModeError struct{ At uint16 }

func (e *ModeError) Error() string {
	return fmt.Sprintf("mode parameter list: byte %d is not acceptable", e.At)
}

// ModeSelect reads the parameter list of a MODE SELECT, 6 or 10, and returns
// the values it asks for. The error is ErrShort or a *ModeError.
func (v ModeValues) ModeSelect(b []byte, op Opcode, blockSize uint32) (ModeValues, error) {
	head, descriptor := 4, 0
	if op == ModeSelect10 {
		head = 8
	}
	if len(b) == 0 {
		return v, nil
	}
	if len(b) < head {
		return v, ErrShort
	}
	if op == ModeSelect10 {
		descriptor = int(be.Uint16(b[6:]))
	} else {
		descriptor = int(b[3])
	}
	if descriptor != 0 && descriptor != 8 && descriptor != 16 {
		return v, &ModeError{At: uint16(head - 1)}
	}
	at := head + descriptor
	if len(b) < at {
		return v, ErrShort
	}
	if d := b[head:at]; len(d) > 0 && be.Uint32(d[len(d)-4:])&0xffffff != blockSize {
		return v, &ModeError{At: uint16(at - 3)}
	}
	return v.selectPages(b, at)
}

// selectPages applies the pages from at on.
func (v ModeValues) selectPages(b []byte, at int) (ModeValues, error) {
	for at < len(b) {
		p := ModePage(b[at] & 0x3f)
		if b[at]&0x40 != 0 || !HasModePage(p) {
			return v, &ModeError{At: uint16(at)}
		}
		now, may := v.appendPage(nil, p, ModeCurrent), v.appendPage(nil, p, ModeChangeable)
		if len(b)-at < 2 {
			return v, ErrShort
		}
		if int(b[at+1]) != len(now)-2 {
			return v, &ModeError{At: uint16(at + 1)}
		}
		if len(b)-at < len(now) {
			return v, ErrShort
		}
		page := b[at:][:len(now)]
		for i := 2; i < len(page); i++ {
			if (page[i]^now[i])&^may[i] != 0 {
				return v, &ModeError{At: uint16(at + i)}
			}
		}
		v = v.with(p, page)
		at += len(now)
	}
	return v, nil
}

// with takes the changeable bits of a page.
func (v ModeValues) with(p ModePage, page []byte) ModeValues {
	switch p {
	case ModeCaching:
		v.WriteCache = page[2]&0x04 != 0
	case ModeControl:
		v.DescriptorSense = page[2]&0x04 != 0
		v.WriteProtect = page[4]&0x08 != 0
	case ModeErrorRecovery, ModeExceptions:
	}
	return v
}
