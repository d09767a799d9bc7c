//go:build cgo && linux

package dmu

// #include "shim.h"
import "C"

import "time"

// trimInterval is how often one of the extent's metaslabs (16 to 200) is rid of
// what was freed in it. Only tests change it.
var trimInterval = time.Second

// trim gives what is free back to the extent's file system, a part at a time.
func (s *Store) trim() {
	s.watcher.Go(func() { // owned by s, ended by Close
		tick := time.NewTicker(trimInterval)
		defer tick.Stop()
		var next C.uint64_t
		for {
			select {
			case <-s.stop:
				return
			case <-s.suspended:
				return
			case <-tick.C:
				s.guarded(func() C.int {
					C.cask_trim(s.vol, &next)
					return 0
				})
			}
		}
	})
}
