//go:build cgo && linux

package dmu

// #include "shim.h"
import "C"

import (
	"runtime"
	"sync"

	"github.com/cask-storage/cask/pkg/block/buffer"
)

// stayMin is from how many bytes on data is not copied: below, a copy is cheaper.
const stayMin = 16 << 10

// stay is the data of writes that the log's records refer to, until ZFS has
// synced the content or let go of it otherwise: there is no copy of it in C.
type stay struct {
	mu   sync.Mutex
	last uint64
	held map[uint64]*held // by number
}

type held struct {
	b    *buffer.Buffer
	pins runtime.Pinner
}

// staying is that of all stores: the last of it may be let go after its store was
// closed.
var staying = stay{held: map[uint64]*held{}}

// hold returns the number of b's data, which stays as it is.
func (s *stay) hold(b *buffer.Buffer) uint64 {
	b.Hold()
	h := &held{b: b}
	h.pins.Pin(&b.B[0])
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last++
	s.held[s.last] = h
	return s.last
}

// drop gives up what was held for operations that were not performed.
func (s *stay) drop(words []uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := C.CASK_OP_WORDS - 1; i < len(words); i += C.CASK_OP_WORDS {
		s.letGo(words[i : i+1])
	}
}

// free gives up what C has let go.
func (s *stay) free() {
	var numbers [64]uint64
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		n := int(C.cask_let_go((*C.uint64_t)(&numbers[0]), C.uint64_t(len(numbers))))
		if n == 0 {
			return
		}
		s.letGo(numbers[:n])
	}
}

// letGo is called with mu held.
func (s *stay) letGo(numbers []uint64) {
	for _, n := range numbers {
		if h, ok := s.held[n]; ok {
			delete(s.held, n)
			h.pins.Unpin()
			h.b.Free()
		}
	}
}
