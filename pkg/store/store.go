// Package store defines what a replica keeps its volume in: one Store is one
// replica's copy of one volume. pkg/store/dmu implements it on the DMU of ZFS,
// pkg/store/zvol on the zvols of a kernel that has ZFS, pkg/store/memstore in
// memory with crash clones; storetest holds the conformance suite all pass.
//
// # Contract
//
// The content is a flat range of bytes beside a mark (a Seq) and a small
// metadata record. Apply changes content and mark atomically: after a crash
// the store reads back as the result of some prefix of the operations applied,
// at least every one before the last completed Flush, and the mark says exactly
// which.
//
// # Concurrency
//
// Apply, SetMeta, Keep, Return, DropKept and Close are called by one goroutine at a time; all else by any
// number beside it. A Flush covers the Apply calls that returned before it began.
//
// # Snapshots
//
// A snapshot is the content after all operations before the one that took it,
// and named by that one's Seq. It survives a crash exactly when the mark is not
// below that Seq; that it was dropped, when the mark is not below the Seq of the
// drop.
package store

import (
	"errors"
	"fmt"
	"time"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/block/buffer"
	"github.com/cask-storage/cask/pkg/history"
)

// Kind says what an Op does.
type Kind uint8

// The kinds.
const (
	Write Kind = iota + 1 // Data replaces the Extent's content
	Unmap                 // the Extent reads as zeroes; its space is freed
	// Rebase moves the mark to Seq without changing content and forgets
	// what is known of the states after Base: from here on every block
	// that was, or will be, changed after Base counts as changed.
	// It drops the snapshots after Base. Extent.Len, when not 0, is the new
	// size: nothing is to be allocated beyond it (Unmap).
	Rebase
	// Snapshot keeps the content as it is under Name. It is stable, with all
	// before it, when Apply returns. Where Name is taken, or MaxSnapshots are
	// there, it does nothing but move the mark: the same on each replica.
	Snapshot
	// DropSnapshot gives up the snapshot that operation Base took, if it is
	// there.
	DropSnapshot
	// Resize adds the Extent, which begins at the size, to the content: it reads
	// as zeroes. It is stable, with all before it, when Apply returns. The
	// store has taken up the room for it before: see Grower.
	Resize
)

// Op is one change. Ops of one Apply happen in order.
type Op struct {
	Kind   Kind
	Seq    history.Seq    // new mark, greater than the one before; 0 leaves the mark
	Base   history.Seq    // Rebase: at most the mark; DropSnapshot: the snapshot's Seq
	Extent block.Extent   // Write, Unmap: aligned to 512 bytes; Rebase, Resize: see there
	Data   []byte         // Write only, len == Extent.Len; not kept after Apply returns, unless there is Own
	Own    *buffer.Buffer // of Data, which a store may hold; nil: Go's memory
	Name   string         // Snapshot only
}

// Bounds of snapshots. The length of names is what an operation's place on the
// wire and ZFS both hold.
const (
	MaxName      = 63 // bytes
	MaxSnapshots = 1024
)

// MaxMeta bounds the metadata record, in bytes.
const MaxMeta = 8 << 10

// Info is a store's shape and state.
type Info struct {
	Size      uint64      // bytes
	BlockSize uint32      // record size of the volume, bytes
	Mark      history.Seq // last applied
}

// Store is one replica's copy of one volume.
type Store interface {
	Info() Info
	// Apply performs ops in order; either all of them or, on error, a
	// prefix that ends before the failed one, after which the store must be
	// closed, unless the error is a CorruptError. Completion does not imply
	// stability.
	Apply(ops []Op) error
	// ReadAt fills p from byte off. It observes every Apply that returned
	// before.
	ReadAt(p []byte, off uint64) error
	// Flush returns once everything applied before it is stable.
	Flush() error
	Past
	Meta
}

// SnapshotInfo is a snapshot.
type SnapshotInfo struct {
	Name string
	Seq  history.Seq // of the operation that took it
	Size uint64      // of the volume then, bytes
}

// Span is the history from Since, exclusive, to the snapshot of operation
// Snapshot.
type Span struct{ Since, Snapshot history.Seq }

// Past is the part of a Store that knows earlier states.
type Past interface {
	// Changed lists, ascending and merged, a superset of the blocks whose
	// content was changed by operations after since: all that is allocated
	// or was ever freed since, when since is 0 or older than what is
	// remembered.
	Changed(since history.Seq) ([]block.Extent, error)
	// Snapshots lists them, ascending by Seq.
	Snapshots() []SnapshotInfo
	// ReadSnapshot fills p from byte off of the snapshot that operation seq
	// took; ErrNotFound when it is not there.
	ReadSnapshot(seq history.Seq, p []byte, off uint64) error
	// ChangedIn is Changed as it was when the snapshot was taken;
	// ErrNotFound when that is not there.
	ChangedIn(s Span) ([]block.Extent, error)
	Keeper
}

// Keeper keeps one earlier state, whole, while the store goes on to another
// history: content, size, mark, record and snapshots. A snapshot of it that is dropped
// meanwhile is gone from the list, and comes back with Return.
type Keeper interface {
	// Keep keeps the state as it is, instead of the one kept before. It is
	// stable, with all that was applied, when Keep returns.
	Keep() error
	// Kept describes what is kept, false when that is nothing.
	Kept() (Kept, bool)
	// ReadKept fills p from byte off of what is kept.
	ReadKept(p []byte, off uint64) error
	// ChangedSinceKeep lists, ascending and merged, a superset of the blocks
	// whose content is not what is kept, within the size that the store has.
	ChangedSinceKeep() ([]block.Extent, error)
	// Return makes the mark, the size, the snapshots, and what Changed knows,
	// those of what is kept, which stays. The content is so already, by Apply of
	// what differed, without Seq: a smaller store is made larger before that
	// (Rebase), in a larger one nothing is allocated beyond. It is stable when
	// Return returns; cut short, it is to be done again before the mark means
	// anything.
	Return() error
	// DropKept gives up what is kept, after a failure for want of space too.
	DropKept() error
}

// Kept is a state that is kept.
type Kept struct {
	Mark history.Seq
	Size uint64 // bytes
	Meta []byte
}

// Meta is the part of a Store that holds the replica's own record, and ends it.
type Meta interface {
	// Meta returns a copy of the last record set, nil when there is none.
	Meta() []byte
	// SetMeta replaces the record and returns once it, and everything
	// applied before, is stable.
	SetMeta(b []byte) error
	// Close flushes and releases the store.
	Close() error
}

// Scrubber is a Store that verifies by itself, in the background, that all it
// holds can be read. Any goroutine may call it.
type Scrubber interface {
	// BeginScrub begins a scrub, or goes on with a paused one.
	BeginScrub() error
	PauseScrub() error
	Scrubbing() (ScrubStatus, error)
	// Rotten returns the blocks that a scrub or a read has found unreadable since
	// the last call, and how many others: not of the volume's content, or too
	// many to name.
	Rotten() (blocks block.Set, others uint64, err error)
}

// Grower is a Store on an extent that can become larger. Grow takes up the room
// that the extent has now. Any goroutine may call it.
type Grower interface{ Grow() error }

// ScrubStatus is the scrub under way, or the last one.
type ScrubStatus struct {
	Running, Paused bool
	Done, Total     uint64    // bytes allocated
	Errors          uint64    // blocks that it could not read
	Ended           time.Time // of the last one; zero when none has
}

// Comparer is a Store that can be compared with another by what its engine keeps
// of each block, without reading the content.
type Comparer interface {
	// Freeze keeps the content as it is now beside all that changes it later,
	// until it is closed, or the store is, or a crash. It is called as Apply is.
	Freeze() (Frozen, error)
}

// Frozen is content that does not change. Any goroutine may call it.
type Frozen interface {
	// Digests are those of the pieces of e, each piece bytes but the last; see
	// CheckDigests. Where two stores' are the same the content is. Where they
	// are not it may be: a block of zeroes and one that is not there, or
	// blocks that were compressed in two ways, are told apart.
	Digests(e block.Extent, piece uint64) ([]Digest, error)
	// ReadAt fills p from byte off.
	ReadAt(p []byte, off uint64) error
	// Close gives it up, once what was asked has been answered.
	Close() error
}

// Digest says what a piece of the content is.
type Digest struct {
	Sum  [2]uint64 // zero: nothing is there
	Held uint64    // bytes that the piece takes
	Read uint64    // bytes that were read, or found in a cache, to say so
}

// The error classes; test with errors.Is.
var (
	ErrNotFound  = errors.New("extent does not exist or holds no volume")
	ErrTruncated = errors.New("extent is shorter than it was made")
	ErrCorrupt   = errors.New("checksum does not match")
	ErrInUse     = errors.New("extent is in use by another process")
	ErrNoSpace   = errors.New("no space left in the extent")
	ErrFormat    = errors.New("extent is of a newer or foreign format")
	ErrSuspended = errors.New("pool is suspended after failed writes")
	ErrIO        = errors.New("input/output error")
	ErrClosed    = errors.New("store is closed")
	ErrNotKept   = errors.New("no earlier state is kept")
)

// CorruptError is what Apply returns when it meets a rotten block. The store
// stays usable. It is of class ErrCorrupt.
type CorruptError struct {
	Done int // operations performed, the first ones
	// Blocks that the next operations change in part and that cannot be read. To
	// change them whole makes them readable again. None: more than content is
	// rotten, no change there can succeed.
	Blocks block.Set
	Err    error
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("after %d operations: blocks %v: %v", e.Done, e.Blocks, e.Err)
}

// Unwrap makes it of class ErrCorrupt.
func (e *CorruptError) Unwrap() error { return e.Err }
