// Package nvme holds the codecs of NVM Express that do not depend on a
// transport: commands, completions, statuses, Identify structures, log pages,
// features and the Fabrics commands, after the NVM Express Base Specification
// 2.0, the NVM Command Set 1.0 and NVMe over Fabrics. It imports the standard
// library only.
//
// All integers are little endian. Fixed structures are arrays of bytes with
// typed accessors, so that decoding them costs nothing; the larger, colder ones
// are Go structs with an Append (or Encode) and a Decode.
//
// Submission queue entry (Command), frozen:
//
//	 0  opcode
//	 1  flags: FUSE (1:0), PSDT (7:6), 01b = SGL
//	 2  command identifier (CID)
//	 4  namespace identifier (NSID); Fabrics: byte 4 is FCTYPE
//	 8  CDW2, CDW3
//	16  metadata pointer
//	24  SGL1: address (8), length (4), reserved (3), type (1)
//	40  CDW10 … CDW15
//
// Completion queue entry (Completion), frozen:
//
//	 0  command specific result (8)
//	 8  SQ head pointer
//	10  SQ identifier (reserved on Fabrics)
//	12  command identifier
//	14  status, in bits 15:1; bit 0 is the phase tag (reserved on Fabrics)
//
// Values of these types may be read from many goroutines; whoever writes one
// owns it.
package nvme

import (
	"encoding/binary"
	"errors"
	"strings"
	"unicode"
	"unicode/utf8"
)

// ErrShort says that a buffer is too small to hold the structure asked for.
var ErrShort = errors.New("buffer is shorter than the structure")

var le = binary.LittleEndian

// Sizes of structures, bytes. Frozen.
const (
	CommandSize    = 64
	CompletionSize = 16
	IdentifySize   = 4096
	ConnectSize    = 1024
	RangeSize      = 16 // one Dataset Management range
	UUIDSize       = 16
)

// PageSize is the memory page CAP.MPSMIN stands for here: MDTS counts in it.
const PageSize = 4096

// NSID identifies a namespace within a subsystem.
type NSID uint32

// NSIDAll addresses every namespace.
const NSIDAll NSID = 0xffffffff

// CID identifies a command among those outstanding on one queue.
type CID uint16

// QID identifies a queue pair of a controller; 0 is the admin queue.
type QID uint16

// CNTLID identifies a controller within a subsystem.
type CNTLID uint16

// CNTLIDDynamic in a Connect asks the subsystem to choose a controller.
const CNTLIDDynamic CNTLID = 0xffff

// UUID is a 128-bit identifier: of a host (HOSTID), of a namespace.
type UUID [UUIDSize]byte

// IsZero reports whether u was left out.
func (u UUID) IsZero() bool { return u == UUID{} }

// DiscoveryNQN is the well-known name of the discovery subsystem.
const DiscoveryNQN = "nqn.2014-08.org.nvmexpress.discovery"

// MaxNQN is the longest NQN, in bytes.
const MaxNQN = 223

// CheckNQN validates a name's form: its length, its prefix, and that it is text:
// peers' names are logged.
func CheckNQN(s string) error {
	if len(s) > MaxNQN {
		return errors.New("NQN is longer than 223 bytes")
	}
	if len(s) < 5 || s[:4] != "nqn." {
		return errors.New("NQN does not begin with \"nqn.\"")
	}
	if !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl) {
		return errors.New("NQN is not UTF-8 without control characters")
	}
	return nil
}

// putString copies s into b, padded with the byte pad.
func putString(b []byte, s string, pad byte) {
	n := copy(b, s)
	for ; n < len(b); n++ {
		b[n] = pad
	}
}

// getString reads a string padded with zeroes or spaces.
func getString(b []byte) string {
	n := 0
	for n < len(b) && b[n] != 0 {
		n++
	}
	for n > 0 && b[n-1] == ' ' {
		n--
	}
	return string(b[:n])
}
