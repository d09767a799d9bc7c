package memstore

import (
	"fmt"
	"maps"
	"slices"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/store"
)

// Keep implements store.Keeper. What is kept never changes: states share it.
func (s *Store) Keep() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usableLocked(Keep); err != nil {
		return err
	}
	st := s.st.clone()
	s.kept, s.undo = &st, nil
	return nil
}

// Kept implements store.Keeper.
func (s *Store) Kept() (store.Kept, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.kept == nil {
		return store.Kept{}, false
	}
	return store.Kept{Mark: s.kept.mark, Size: s.kept.size, Meta: slices.Clone(s.kept.meta)}, true
}

// usableKeptLocked says why nothing can be asked of what is kept.
func (s *Store) usableKeptLocked() error {
	switch {
	case s.closed:
		return fmt.Errorf("kept state: %w", store.ErrClosed)
	case s.kept == nil:
		return store.ErrNotKept
	}
	return nil
}

// ReadKept implements store.Keeper.
func (s *Store) ReadKept(p []byte, off uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usableKeptLocked(); err != nil {
		return err
	}
	if err := (store.Info{Size: s.kept.size}).CheckRead(len(p), off); err != nil {
		return err
	}
	if n, rotten := s.opt.rottenIn(s.kept, uint64(len(p)), off); rotten {
		return fmt.Errorf("read of block %d as kept: %w", n, store.ErrCorrupt)
	}
	s.readBlocks(s.kept.blocks, p, off)
	return nil
}

// ChangedSinceKeep implements store.Keeper.
func (s *Store) ChangedSinceKeep() ([]block.Extent, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usableKeptLocked(); err != nil {
		return nil, err
	}
	ns := s.differLocked()
	end := (s.st.size-1)/uint64(s.opt.BlockSize) + 1
	return s.merge(slices.DeleteFunc(ns, func(n uint64) bool { return n >= end }), s.st.size), nil
}

// differLocked lists, ascending, the blocks that were changed since Keep.
func (s *Store) differLocked() (ns []uint64) {
	all := maps.Clone(s.st.blocks)
	maps.Copy(all, s.kept.blocks)
	for n := range all {
		a, b := s.st.blocks[n], s.kept.blocks[n]
		if (a == nil) != (b == nil) || a != nil && &a[0] != &b[0] || s.st.rotten[n] && !s.kept.rotten[n] {
			ns = append(ns, n)
		}
	}
	slices.Sort(ns)
	return ns
}

// Return implements store.Keeper.
func (s *Store) Return() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usableLocked(Keep); err != nil {
		return err
	}
	if s.kept == nil {
		return store.ErrNotKept
	}
	changed := maps.Clone(s.kept.changed)
	for _, n := range s.differLocked() { // written anew: who asks is told
		changed[n] = s.kept.mark + 1
	}
	s.st.mark, s.st.size, s.st.changed, s.st.snaps, s.undo = s.kept.mark, s.kept.size, changed, slices.Clone(s.kept.snaps), nil
	return nil
}

// DropKept implements store.Keeper.
func (s *Store) DropKept() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return fmt.Errorf("kept state: %w", store.ErrClosed)
	}
	s.kept = nil
	return nil
}
