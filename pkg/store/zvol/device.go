package zvol

import (
	"errors"

	"github.com/cask-storage/cask/pkg/block"
)

// device is a zvol or the snapshot of one. ReadAt may be called by any number of
// goroutines beside all else. Errors are of the store's classes; a block that cannot
// be read is store.ErrCorrupt, also when it is to be changed in part.
//
// What was written is there after a loss of power as the package's doc says. A write,
// or a discard, may be there in part.
type device interface {
	ReadAt(p []byte, off uint64) error
	WriteAt(p []byte, off uint64) error // off and len(p) are multiples of a sector
	// Discard makes e, whole blocks, read as zeroes and frees its space.
	Discard(e block.Extent) error
	// Flush returns once all that was written before is stable.
	Flush() error
	Close() error
}

// node is the volume's place on a node: what of ZFS is not reading and writing. Each
// change is stable, with all that was written to both devices before, when its call
// returns. Any goroutine may call it.
type node interface {
	Snapshot(x taken) error // of vol
	Snapshots() ([]taken, error)
	Rename(from, to string) error
	Destroy(name string) error
	// OpenSnapshot is for reading. It must be closed before the snapshot is renamed or
	// destroyed.
	OpenSnapshot(name string) (device, error)
	Resize(size uint64) error // of vol; what is beyond is gone
}

// taken is a snapshot of vol as ZFS knows it.
type taken struct {
	name string
	id   uint64 // cask:id; 0: not ours
	seq  uint64 // cask:seq, for people
}

// machine is what a store works on. It is the one process that has it open.
type machine struct {
	vol, log device
	node     node
}

// close gives the devices up. log goes first: the last close of a zvol commits its
// intent log, and that of vol must not be ahead of that of log.
func (m machine) close() error { return errors.Join(m.log.Close(), m.vol.Close()) }
