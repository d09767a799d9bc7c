// Package replication is the wire protocol between a volume's target and its
// replicas: message types and their codec. Standard library and leaf packages
// only; the meaning of the messages is in pkg/volume/DESIGN.md.
//
// A connection starts with the 8 bytes of Preamble from the target. Then both
// sides send frames, little endian, of at most MaxFrame bytes:
//
//	 0 u32 length   of the whole frame
//	 4 u8  type
//	 5 u8  flags
//	 6 u8  kind     store.Kind of Apply and TailOp; Membership of State
//	 7 u8  code     Code of a reply
//	 8 u64 epoch
//	16 u64 id       correlates a reply with its request
//	24 u64 seq
//	32 u64 base
//	40 u64 offset   of the Extent
//	48 u64 length   of the Extent
//	56 u32 meta     bytes of the meta part that follows the header
//	60 u32 crc32c   of bytes 0-59, the meta part and the data
//	64 …   meta part, then data up to the frame's length
//
// The meta part, present in the types that need it: volume, replica and text
// (u16 length, bytes), history (u16 count, 16 bytes each), extents (u32 count,
// 16 bytes each), promised, tail, size, floor and mark (u64 each).
//
// The Extent of an operation Resize is what it adds, from the old size on.
// The data of an operation Snapshot, and of Settle, is its name. That of a
// SnapshotList, and of Rebuild (those the source has), is for each: seq, size
// (u64 each), name (u8 length, bytes). That of Digests is for each piece: two sums,
// bytes held, bytes read (u64 each).
//
// # Concurrency
//
// Messages are values; a Reader and a Writer each belong to one goroutine.
package replication

import (
	"encoding/binary"
	"fmt"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/block/buffer"
	"github.com/cask-storage/cask/pkg/history"
	"github.com/cask-storage/cask/pkg/store"
)

// Preamble opens a connection; the last byte is the protocol's version.
const Preamble = "CASKREP\x02"

// Bounds of what a peer can make the other side hold.
const (
	MaxData    = 1 << 20  // bytes of data in one frame
	MaxExtents = 64 << 10 // extents in one list
	MaxHistory = 100      // entries of a history: a replica's record (store.MaxMeta) holds them
	MaxText    = 512      // bytes of each text

	headerSize = 64
	maxMeta    = 3*(2+MaxText) + 2 + MaxHistory*16 + 4 + MaxExtents*16 + 40
	MaxFrame   = headerSize + maxMeta + MaxData
)

// Type is a message's type. Frozen.
type Type uint8

// The message types: requests of the target, then replies of the replica.
const (
	Hello   Type = iota + 1 // promise Epoch; says Volume, Replica → State or Refused
	Format                  // make the extent → State
	Adopt                   // take over History, and Size where nothing was ever applied → Done
	Begin                   // be a clean member at Seq with History → Done
	Apply                   // operation Seq: Kind, Extent, Data → Applied
	Flush                   // make all before it stable → Done
	Read                    // Extent, of the snapshot Base when not 0 → Data
	Tail                    // the recent operation Seq → TailOp
	Ping                    // → Pong if the epoch still stands
	Rebuild                 // stop counting; Base is common, ops of History follow from Seq+1, there is Size → Extents
	Changed                 // what changed after Base, up to the snapshot Seq when not 0 → Extents
	Copy                    // unnumbered content: Extent, Data (none: zeroes) → Done; ErrMedium: that did not help

	State   // all about the replica
	Refused // the request's epoch is superseded (Promised), or the connection is
	Done    // of the request ID, with Code
	Applied // everything up to Seq
	Data    // of the Read ID, at Seq or later
	TailOp  // of the Tail ID
	Pong    // of the Ping ID
	Extents // of the Changed or Rebuild ID

	Turn   // request: may a rebuild begin now? → Done, ErrTurn when the host is busy with others; FlagUrgent: it does anyway
	Copied // request: the content up to Extent's end is that of this place of the stream, remember it → Done

	Snapshots    // → SnapshotList
	SnapshotList // of the Snapshots ID, at Seq or later
	Settle       // request: the content is that of Seq-1 of History, take the snapshot Seq, which is common → Done

	Pull  // request: fetch Extent from Replica at Text, which has all up to Seq, and apply it as a Copy → Done
	Fetch // request of one replica to another: Extent, as the target of Epoch counts on it at Seq → Data (none: zeroes)

	Damage // unasked, of a replica: Extents, whole blocks, that it cannot read

	Freeze  // request: keep the content of this place of the stream, Seq, for Digest and Read → Done
	Thaw    // request: give that up → Done
	Digest  // request: the digests of Extent of what is frozen, in pieces of Size bytes → Digests
	Digests // of the Digest ID
	Grow    // request: make room for a volume of Size bytes → Done

	Return    // request: be what was kept when the rebuild began → Done: a step is done, ask again; State: it is
	typeCount = iota + 1
)

var typeNames = [...]string{"?", "Hello", "Format", "Adopt", "Begin", "Apply", "Flush", "Read", "Tail", "Ping",
	"Rebuild", "Changed", "Copy", "State", "Refused", "Done", "Applied", "Data", "TailOp", "Pong", "Extents", "Turn", "Copied",
	"Snapshots", "SnapshotList", "Settle", "Pull", "Fetch", "Damage", "Freeze", "Thaw", "Digest", "Digests", "Grow", "Return"}

func (t Type) String() string {
	if int(t) < len(typeNames) {
		return typeNames[t]
	}
	return fmt.Sprintf("type(%d)", uint8(t))
}

// hasMeta says which types carry the meta part.
func (t Type) hasMeta() bool {
	switch t {
	case Hello, Format, Adopt, Begin, Rebuild, Settle, State, Refused, Done, Extents, Pull, Fetch, Damage, Digest, Digests, Grow:
		return true
	}
	return false
}

// Code is the outcome of a request. Frozen.
type Code uint8

// The codes.
const (
	OK            Code = iota
	ErrRequest         // the request is not valid in the replica's state
	ErrMedium          // checksum error
	ErrNoSpace         // pool full
	ErrIO              // any other failure of the store; the replica is failing
	ErrGone            // the tail does not reach back that far
	ErrMissing         // the extent was made and is gone
	ErrShort           // the extent is truncated
	ErrForeign         // another volume, another replica, or a newer format
	ErrCorrupt         // the replica's own record is not readable
	ErrBusy            // the extent is in use by another process
	ErrTurn            // the replica's host rebuilds enough others
	ErrNoSnapshot      // the snapshot is not there
	ErrPeer            // another replica cannot be reached
)

var codeNames = [...]string{"OK", "BadRequest", "MediumError", "NoSpace", "IOError", "TailGone", "ExtentMissing",
	"ExtentTruncated", "ForeignExtent", "CorruptRecord", "ExtentInUse", "WaitsForTurn", "NoSuchSnapshot", "PeerUnreachable"}

// String is the code as a CamelCase reason.
func (c Code) String() string {
	if int(c) < len(codeNames) {
		return codeNames[c]
	}
	return fmt.Sprintf("Code%d", uint8(c))
}

// Membership is what a replica is to its volume.
type Membership uint8

// The memberships.
const (
	Blank      Membership = iota // no extent was ever made
	Fresh                        // formatted, never began: position zero
	Member                       // its content is a prefix of the history
	Rebuilding                   // its content is not a prefix; counts for nothing
	Failed                       // cannot serve; Code and Text say why
)

var membershipNames = [...]string{"Blank", "Fresh", "Member", "Rebuilding", "Failed"}

func (m Membership) String() string {
	if int(m) < len(membershipNames) {
		return membershipNames[m]
	}
	return fmt.Sprintf("membership(%d)", uint8(m))
}

// FlagSuspect in a State: the replica lost memory and has not been brought up
// to date since, so it may miss operations it has acknowledged.
const FlagSuspect = 1

// FlagKept in the State of a Rebuilding replica: it has kept the prefix that it
// gave up, of position Epoch and Base, and Return brings it back. FlagSuspect
// then tells of that.
const FlagKept = 2

// FlagUrgent in a Turn: I/O waits for this rebuild.
const FlagUrgent = 1

// FlagFrozen in a Read: of what was frozen.
const FlagFrozen = 1

// FlagLost in a Copy: no replica can read the Extent; it is not to be readable
// here either.
const FlagLost = 1

// Message is one frame. Which fields count depends on Type.
type Message struct {
	Type  Type
	Flags uint8
	Kind  uint8 // store.Kind, or Membership
	Code  Code
	// Epoch is the target's; in the State of a Member that of its last Begin (0:
	// not known): in later ones it has acknowledged nothing.
	Epoch  history.Epoch
	ID     uint64
	Seq    history.Seq
	Base   history.Seq
	Extent block.Extent
	Bufs   [][]byte // data; a decoded message has at most one
	// Own is the memory of Bufs, for its last user to free; nil: Go's.
	Own *buffer.Buffer

	Volume, Replica, Text string
	History               history.History
	Extents               []block.Extent
	Promised              history.Epoch
	Tail                  history.Seq // lowest operation the tail still has
	Size                  uint64      // bytes of the volume: of State as it is
	// Floor and Mark, with Extent, say in the State of a Rebuilding replica,
	// and in the Rebuild that goes on from there, how far an earlier rebuild
	// came: the content up to Extent's end differs from the history only in
	// what changed after Floor; History holds up to Mark (State only).
	Floor, Mark history.Seq
}

// Op is the store operation of an Apply or TailOp.
func (m *Message) Op() store.Op {
	op := store.Op{Kind: store.Kind(m.Kind), Seq: m.Seq, Base: m.Base, Extent: m.Extent}
	if len(m.Bufs) != 1 {
		return op
	}
	if op.Kind == store.Snapshot {
		op.Name = string(m.Bufs[0])
	} else {
		op.Data, op.Own = m.Bufs[0], m.Own
	}
	return op
}

// SetOp is the reverse of Op.
func (m *Message) SetOp(op store.Op) {
	m.Kind, m.Seq, m.Base, m.Extent, m.Bufs = uint8(op.Kind), op.Seq, op.Base, op.Extent, nil
	if op.Kind == store.Snapshot {
		op.Data = []byte(op.Name)
	}
	if len(op.Data) > 0 {
		m.Bufs = [][]byte{op.Data}
	}
}

// DataLen is the number of bytes in Bufs.
func (m *Message) DataLen() int {
	n := 0
	for _, b := range m.Bufs {
		n += len(b)
	}
	return n
}

func (m *Message) String() string {
	s := fmt.Sprintf("%v e%d", m.Type, m.Epoch)
	if m.ID != 0 {
		s += fmt.Sprintf(" id=%d", m.ID)
	}
	if m.Seq != 0 {
		s += fmt.Sprintf(" seq=%d", m.Seq)
	}
	if m.Base != 0 {
		s += fmt.Sprintf(" base=%d", m.Base)
	}
	if m.Extent.Len != 0 {
		s += " " + m.Extent.String()
	}
	if m.Type == State {
		s += fmt.Sprintf(" %v flags=%d promised=%d tail=%d", Membership(m.Kind), m.Flags, m.Promised, m.Tail)
	}
	if len(m.History) > 0 {
		s += fmt.Sprintf(" %v", m.History)
	}
	if m.Code != OK {
		s += " " + m.Code.String() + " " + m.Text
	}
	return s
}

// Zero reports whether b is all zeroes: such content travels without data.
func Zero(b []byte) bool {
	for len(b) >= 8 {
		if binary.LittleEndian.Uint64(b) != 0 {
			return false
		}
		b = b[8:]
	}
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}
