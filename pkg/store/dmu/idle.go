//go:build cgo && linux

package dmu

// #include "shim.h"
import "C"

import (
	"runtime/debug"
	"time"
)

// rest gives memory back once a store has not been used for a while: most
// volumes of a cluster are idle most of the time.
type rest struct {
	after time.Duration
	uses  uint64    // seen by the last look
	since time.Time // when they changed last
	done  bool      // since then
}

// look is called now and then with the number of uses so far, and reports
// whether it is time to give back.
func (r *rest) look(now time.Time, uses uint64) bool {
	if uses != r.uses || r.since.IsZero() {
		r.uses, r.since, r.done = uses, now, false
	}
	if r.done || now.Sub(r.since) < r.after {
		return false
	}
	r.done = true
	return true
}

// giveBack drops what can be read again. It runs beside any call.
func (s *Store) giveBack() {
	staying.free()
	C.cask_give_back(s.vol)
	debug.FreeOSMemory()
}
