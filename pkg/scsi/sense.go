package scsi

import "fmt"

// Key is a sense key.
type Key uint8

// The sense keys. Frozen.
const (
	NoSense        Key = 0x0
	RecoveredError Key = 0x1
	NotReady       Key = 0x2
	MediumError    Key = 0x3
	HardwareError  Key = 0x4
	IllegalRequest Key = 0x5
	UnitAttention  Key = 0x6
	DataProtect    Key = 0x7
	CopyAborted    Key = 0xa
	AbortedCommand Key = 0xb
	Miscompare     Key = 0xe
)

// Code is an additional sense code (high byte) with its qualifier.
type Code uint16

// The codes in use. Frozen.
const (
	NoAdditional          Code = 0x0000
	WriteError            Code = 0x0c00
	InvalidFieldInIU      Code = 0x0e03 // command information unit: its length and the CDB's differ
	UnrecoveredRead       Code = 0x1100
	ParameterListLength   Code = 0x1a00
	MiscompareDuringCheck Code = 0x1d00
	InvalidOpcode         Code = 0x2000
	LBAOutOfRange         Code = 0x2100
	InvalidFieldInCDB     Code = 0x2400
	LUNotSupported        Code = 0x2500
	InvalidFieldInList    Code = 0x2600
	InvalidRelease        Code = 0x2604
	WriteProtected        Code = 0x2700
	SoftwareWriteProtect  Code = 0x2702
	SpaceAllocation       Code = 0x2707
	PowerOnOrReset        Code = 0x2900
	PowerOn               Code = 0x2901
	BusDeviceReset        Code = 0x2903
	ModeChanged           Code = 0x2a01
	ReservationsPreempted Code = 0x2a03
	ReservationsReleased  Code = 0x2a04
	RegistrationsPreempt  Code = 0x2a05
	AccessStateChanged    Code = 0x2a06
	CapacityChanged       Code = 0x2a09
	SavingNotSupported    Code = 0x3900
	InternalFailure       Code = 0x4400
	ServiceCRC            Code = 0x4705
	InvalidMessage        Code = 0x4900
	InsufficientResources Code = 0x5503
	InsufficientRegs      Code = 0x5504
	AccessTransition      Code = 0x040a
	AccessStandby         Code = 0x040b
	AccessUnavailable     Code = 0x040c
)

// Sense is sense data: what went wrong, and where.
type Sense struct {
	Key   Key
	Code  Code
	Info  Info
	Field Field
}

// Info is the INFORMATION field, such as the LBA of a medium error.
type Info struct {
	Valid bool
	Value uint64
}

// Field is the field pointer of an ILLEGAL REQUEST.
type Field struct {
	Valid  bool
	InList bool   // in the parameter list; else in the CDB
	Byte   uint16 // first byte in error
	Bit    int8   // its most significant bit in error; -1: the whole byte
}

// CDBField is the field pointer to bit of a byte of the CDB; -1 is the whole byte.
func CDBField(at uint16, bit int8) Field { return Field{Valid: true, Byte: at, Bit: bit} }

// ListField is the field pointer to a byte of the parameter list.
func ListField(at uint16) Field { return Field{Valid: true, InList: true, Byte: at, Bit: -1} }

func (s Sense) String() string {
	return fmt.Sprintf("sense key %#x, additional sense %#04x", uint8(s.Key), uint16(s.Code))
}

// Format is a form of sense data.
type Format uint8

// The formats, as the D_SENSE bit of the Control mode page chooses.
const (
	FixedSense      Format = iota // response code 70h
	DescriptorSense               // response code 72h
)

// MaxSense is the most bytes Append adds.
const MaxSense = 28

// fixedLength of fixed format sense data. Frozen.
const fixedLength = 18

// Append encodes s at the end of b. An Info beyond 32 bits is left out of the
// fixed format, which cannot hold it.
//
//	fixed       0 70h  2 key  3 information(4)  7 additional length  12 ASC  13 ASCQ  15 field pointer(3)
//	descriptor  0 72h  1 key  2 ASC  3 ASCQ  7 additional length  8 descriptors
func (s Sense) Append(b []byte, f Format) []byte {
	if f == DescriptorSense {
		return s.appendDescriptors(b)
	}
	var d [fixedLength]byte
	d[0], d[2], d[7] = 0x70, byte(s.Key), fixedLength-8
	if s.Info.Valid && s.Info.Value <= 0xffffffff {
		d[0] |= 0x80
		be.PutUint32(d[3:], uint32(s.Info.Value))
	}
	be.PutUint16(d[12:], uint16(s.Code))
	s.Field.put(d[15:])
	return append(b, d[:]...)
}

func (s Sense) appendDescriptors(b []byte) []byte {
	at := len(b)
	b = append(b, 0x72, byte(s.Key), byte(s.Code>>8), byte(s.Code), 0, 0, 0, 0)
	if s.Info.Valid {
		b = append(b, 0x00, 0x0a, 0x80, 0x00)
		b = be.AppendUint64(b, s.Info.Value)
	}
	if s.Field.Valid {
		var d [8]byte
		d[0], d[1] = 0x02, 0x06
		s.Field.put(d[4:])
		b = append(b, d[:]...)
	}
	b[at+7] = byte(len(b) - at - 8)
	return b
}

// put encodes the sense key specific bytes.
func (f Field) put(b []byte) {
	if !f.Valid {
		return
	}
	b[0] = 0x80
	if !f.InList {
		b[0] |= 0x40
	}
	if f.Bit >= 0 {
		b[0] |= 0x08 | byte(f.Bit)&7
	}
	be.PutUint16(b[1:], f.Byte)
}

// DecodeSense reads either format.
func DecodeSense(b []byte) (Sense, error) {
	if len(b) < 8 {
		return Sense{}, ErrShort
	}
	switch b[0] & 0x7f {
	case 0x70, 0x71:
		return decodeFixed(b)
	case 0x72, 0x73:
		return decodeDescriptors(b)
	}
	return Sense{}, fmt.Errorf("sense data with response code %#02x: %w", b[0]&0x7f, ErrFormat)
}

func decodeFixed(b []byte) (Sense, error) {
	if len(b) < 14 {
		return Sense{}, ErrShort
	}
	s := Sense{Key: Key(b[2] & 0xf), Code: Code(be.Uint16(b[12:]))}
	if b[0]&0x80 != 0 {
		s.Info = Info{Valid: true, Value: uint64(be.Uint32(b[3:]))}
	}
	if len(b) >= fixedLength {
		s.Field = getField(b[15:])
	}
	return s, nil
}

func decodeDescriptors(b []byte) (Sense, error) {
	s := Sense{Key: Key(b[1] & 0xf), Code: Code(be.Uint16(b[2:]))}
	list := b[8:min(len(b), 8+int(b[7]))]
	for len(list) >= 2 {
		n := 2 + int(list[1])
		if n > len(list) {
			return s, ErrShort
		}
		switch {
		case list[0] == 0 && n >= 12:
			if list[2]&0x80 != 0 {
				s.Info = Info{Valid: true, Value: be.Uint64(list[4:])}
			}
		case list[0] == 2 && n >= 8:
			s.Field = getField(list[4:])
		}
		list = list[n:]
	}
	return s, nil
}

func getField(b []byte) Field {
	if b[0]&0x80 == 0 {
		return Field{}
	}
	f := Field{Valid: true, InList: b[0]&0x40 == 0, Byte: be.Uint16(b[1:]), Bit: -1}
	if b[0]&0x08 != 0 {
		f.Bit = int8(b[0] & 7)
	}
	return f
}
