// Package scsi holds the codecs of SCSI that do not depend on a transport:
// command descriptor blocks, status, sense data, INQUIRY and its pages, mode
// pages, and the parameter lists of SPC-4 and SBC-3 that a disk uses. It
// imports the standard library only. What executes commands is package lun.
//
// All integers are big endian. A command descriptor block (CDB), frozen:
//
//	 0     operation code
//	 6     byte 1..3 LBA (21 bits), 4 length, 5 control
//	10     1 flags, 2..5 LBA, 6 group, 7..8 length, 9 control
//	12     1 flags, 2..5 LBA, 6..9 length, 10 group, 11 control
//	16     1 flags or service action, 2..9 LBA, 10..13 length, 14 group, 15 control
//
// Commands says for every operation code which length it has and which bits of
// it a device server evaluates; REPORT SUPPORTED OPERATION CODES is made of it.
//
// Values of these types may be read from many goroutines; whoever writes one
// owns it.
package scsi

import (
	"encoding/binary"
	"errors"
	"fmt"
)

var be = binary.BigEndian

// ErrShort says that a buffer is too small to hold the structure asked for.
var ErrShort = errors.New("buffer is shorter than the structure")

// ErrFormat says that a parameter list contradicts itself.
var ErrFormat = errors.New("parameter list is malformed")

// Status is the outcome of a command (SAM-5 5.3).
type Status uint8

// The statuses. Frozen.
const (
	Good                Status = 0x00
	CheckCondition      Status = 0x02
	ConditionMet        Status = 0x04
	Busy                Status = 0x08
	ReservationConflict Status = 0x18
	TaskSetFull         Status = 0x28
	TaskAborted         Status = 0x40
)

var statusNames = map[Status]string{
	Good: "GOOD", CheckCondition: "CHECK CONDITION", ConditionMet: "CONDITION MET", Busy: "BUSY",
	ReservationConflict: "RESERVATION CONFLICT", TaskSetFull: "TASK SET FULL", TaskAborted: "TASK ABORTED",
}

func (s Status) String() string {
	if n, ok := statusNames[s]; ok {
		return n
	}
	return fmt.Sprintf("status %#02x", uint8(s))
}

// LUN is a logical unit number in the single level forms, decoded.
type LUN uint16

// NoLUN is what DecodeLUN returns for a form that addresses no unit here.
const NoLUN LUN = 0xffff

// MaxLUN is the largest LUN the flat space method can express.
const MaxLUN LUN = 1<<14 - 1

// DecodeLUN reads the eight bytes of a LUN field: peripheral (00b) and flat
// space (01b) addressing of one level.
func DecodeLUN(b [8]byte) LUN {
	if b[2]|b[3]|b[4]|b[5]|b[6]|b[7] != 0 {
		return NoLUN
	}
	switch b[0] >> 6 {
	case 0:
		if b[0]&0x3f != 0 {
			return NoLUN
		}
		return LUN(b[1])
	case 1:
		return LUN(b[0]&0x3f)<<8 | LUN(b[1])
	}
	return NoLUN
}

// Encode is the LUN field: peripheral addressing below 256, else flat space.
func (l LUN) Encode() (b [8]byte) {
	b[1] = byte(l)
	if l > 0xff {
		b[0] = 0x40 | byte(l>>8)&0x3f
	}
	return b
}

// putString copies s into b and pads it with spaces.
func putString(b []byte, s string) {
	for n := copy(b, s); n < len(b); n++ {
		b[n] = ' '
	}
}
