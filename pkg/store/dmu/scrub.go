//go:build cgo && linux

package dmu

// #include "shim.h"
import "C"

import (
	"time"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/store"
)

// maxFound bounds the blocks of one answer of Rotten.
const maxFound = 1024

// BeginScrub implements store.Scrubber. ZFS keeps how far a scrub has come in the
// pool: it goes on by itself when the store is opened again, unless it was paused.
func (s *Store) BeginScrub() error { return s.scrub(0) }

// PauseScrub implements store.Scrubber.
func (s *Store) PauseScrub() error { return s.scrub(1) }

func (s *Store) scrub(pause C.int) error {
	if err := s.enterChange("scrub"); err != nil {
		return err
	}
	defer s.leave()
	return s.failedCall("scrub", s.guarded(func() C.int { return C.cask_scrub(s.vol, pause) }))
}

// Scrubbing implements store.Scrubber.
func (s *Store) Scrubbing() (store.ScrubStatus, error) {
	var st store.ScrubStatus
	if err := s.enter("scrub status"); err != nil {
		return st, err
	}
	defer s.leave()
	var w [C.CASK_SCRUB_WORDS]C.uint64_t
	C.cask_scrub_status(s.vol, &w[0])
	st = store.ScrubStatus{Running: w[0] != 0, Paused: w[1] != 0, Done: uint64(w[2]), Total: uint64(w[3]), Errors: uint64(w[4])}
	if w[5] != 0 {
		st.Ended = time.Unix(int64(w[5]), 0) //nolint:gosec // seconds
	}
	return st, nil
}

// Rotten implements store.Scrubber.
func (s *Store) Rotten() (out block.Set, others uint64, err error) {
	if err := s.enter("rotten blocks"); err != nil {
		return nil, 0, err
	}
	defer s.leave()
	pairs := make([]C.uint64_t, 2*maxFound)
	var n, more C.uint64_t
	C.cask_found(s.vol, &pairs[0], maxFound, &n, &more)
	es := make([]block.Extent, n)
	for i := range es {
		es[i] = block.Extent{Off: uint64(pairs[2*i]), Len: uint64(pairs[2*i+1])}
	}
	return block.SetOf(es...), uint64(more), nil
}

var _ store.Scrubber = (*Store)(nil)
