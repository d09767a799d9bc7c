//go:build cgo && linux

package dmu

import (
	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/history"
)

const (
	FaultWrites  = faultWrites
	FaultReads   = faultReads
	FaultFlushes = faultFlushes
	FaultFull    = faultFull
)

var (
	SetFaults  = setFaults
	SetJournal = setJournal
)

// ChangedAtMost is Changed with a lower bound on the extents.
func (s *Store) ChangedAtMost(since history.Seq, limit int) ([]block.Extent, error) {
	return s.changed(since, limit)
}
