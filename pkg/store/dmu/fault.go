//go:build cgo && linux

package dmu

// #include "shim.h"
import "C"

// The calls of extents' files that setFaults can make fail.
const (
	faultWrites  = 1
	faultReads   = 2
	faultFlushes = 4
	faultFull    = 8  // writes of data, not of labels, with ENOSPC
	faultTrims   = 16 // trims do nothing
	faultLooks   = 32 // reads pause between their looks at what is there
)

// setFaults makes calls on the files of all extents fail, most with EIO, from now
// on, for tests.
func setFaults(kinds int) { C.cask_file_fault(C.int(kinds)) }

// setJournal has what a loss of power could undo written to fd, for tests.
func setJournal(fd uintptr) { C.cask_journal(C.int(fd)) }

// counts are how often extents' files were read, written and flushed, and the
// bytes written, for tests.
type counts struct{ Reads, Writes, Flushes, Bytes uint64 }

func ioCounts() counts {
	var w [C.CASK_COUNT_WORDS]C.uint64_t
	C.cask_io_counts(&w[0])
	return counts{uint64(w[0]), uint64(w[1]), uint64(w[2]), uint64(w[3])}
}
