package memstore

import (
	"maps"
	"slices"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/store"
)

// Rot makes the block at byte off unreadable until it is changed whole. A block
// that takes no space cannot rot: Rot reports whether it did.
func (s *Store) Rot(off uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := off / uint64(s.opt.BlockSize)
	if s.st.blocks[n] == nil {
		return false
	}
	s.st.rotten[n] = true
	return true
}

// Plant changes the byte at off and leaves no trace of that.
func (s *Store) Plant(off uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, bs := off/uint64(s.opt.BlockSize), uint64(s.opt.BlockSize)
	fresh := make([]byte, bs)
	copy(fresh, s.st.blocks[n])
	fresh[off%bs] ^= 0x55
	s.st.blocks[n] = fresh
}

// Mend takes all rot away.
func (s *Store) Mend() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.st.rotten)
}

// Rotten lists the blocks that cannot be read.
func (s *Store) Rotten() block.Set {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.merge(slices.Sorted(maps.Keys(s.st.rotten)), s.st.size)
}

func (st *state) setRotten(n uint64, rotten bool) {
	if rotten {
		st.rotten[n] = true
	} else {
		delete(st.rotten, n)
	}
}

// rottenIn is a rotten block of the length bytes at off, if there is one.
// Snapshots do not rot.
func (o Options) rottenIn(st *state, length, off uint64) (n uint64, rotten bool) {
	bs := uint64(o.BlockSize)
	for n = off / bs; n*bs < off+length; n++ {
		if st.rotten[n] {
			return n, true
		}
	}
	return 0, false
}

// rottenEdgesLocked lists the rotten blocks that o changes in part only.
func (s *Store) rottenEdgesLocked(o *store.Op) (out block.Set) {
	if o.Kind != store.Write && o.Kind != store.Unmap || o.Extent.Len == 0 {
		return nil
	}
	bs := uint64(s.opt.BlockSize)
	for _, n := range []uint64{o.Extent.Off / bs, (o.Extent.End() - 1) / bs} {
		b := block.Extent{Off: n * bs, Len: min(bs, s.st.size-n*bs)}
		if s.st.rotten[n] && (b.Off < o.Extent.Off || b.End() > o.Extent.End()) {
			out = out.With(b)
		}
	}
	return out
}

// Peek is ReadAt that rot does not keep from reading.
func (s *Store) Peek(p []byte, off uint64) error {
	c := s.Clone()
	c.Mend()
	return c.ReadAt(p, off)
}
