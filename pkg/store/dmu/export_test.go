//go:build cgo && linux

package dmu

import (
	"time"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/history"
	"github.com/cask-storage/cask/pkg/store"
)

const (
	FaultWrites  = faultWrites
	FaultReads   = faultReads
	FaultFlushes = faultFlushes
	FaultFull    = faultFull
	FaultTrims   = faultTrims
	FaultLooks   = faultLooks
)

var (
	SetFaults  = setFaults
	SetJournal = setJournal
	IOCounts   = ioCounts
)

// SetWatchInterval is for stores that are opened after it.
func SetWatchInterval(d time.Duration) { watchInterval = d }

// SetTrimInterval is for stores that are opened after it.
func SetTrimInterval(d time.Duration) { trimInterval = d }

// Uncache has the store hold nothing in memory that can be read again.
func (s *Store) Uncache() error {
	e := s.sync()
	s.giveBack()
	return failed("sync", s.opt.Path, e)
}

// Reads is how many reads of this process were answered past dbufs, and how many
// were left to them.
func Reads() (past, left uint64) { return reading.past.Load(), reading.left.Load() }

// CrashPoint ends an operation on snapshots half way, as a crash does.
type CrashPoint int

const (
	Taken     CrashPoint = iota // the snapshot is there, the mark does not say so
	Doomed                      // a drop is noted, the mark does not say so
	DoomMoved                   // the mark says that it was dropped, the snapshot is there
)

// Half performs o up to p. The store is to be closed then.
func (s *Store) Half(p CrashPoint, o store.Op) error {
	if p == Taken {
		return s.failedCall("take a snapshot in", s.take(&o))
	}
	x, _ := s.forget(o.Base)
	if e := s.doom(x, o.Seq); e != 0 || p == Doomed {
		return s.failedCall("doom a snapshot in", e)
	}
	return s.failedCall("move the mark of", s.moveMark(o.Seq))
}

// HalfReturn does the first n steps of Return, HalfDrop the first of DropKept.
func (s *Store) HalfReturn(n int) error {
	for _, step := range s.returning()[:n] {
		if err := s.failedCall("return", step()); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) HalfDrop() error {
	s.closeKept()
	return s.failedCall("drop", s.destroy(keptName))
}

// ChangedAtMost is Changed with a lower bound on the extents.
func (s *Store) ChangedAtMost(since history.Seq, limit int) ([]block.Extent, error) {
	return s.changed(since, limit)
}

// TXG is the last transaction group that is on the disk.
func (s *Store) TXG() uint64 { return uint64(s.words()[3]) }

// Staying is the number of writes whose data the log refers to.
func Staying() int {
	staying.free()
	staying.mu.Lock()
	defer staying.mu.Unlock()
	return len(staying.held)
}
