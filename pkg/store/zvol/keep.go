package zvol

import (
	"fmt"
	"slices"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/store"
)

// Keep implements store.Keeper. Where ZFS takes no snapshot the store can be used on.
func (s *Store) Keep() error {
	if err := s.enterChange("keep"); err != nil {
		return err
	}
	defer s.leave()
	r := record{kind: kindKeep, slot: s.st.freeSlot()}
	if err := s.makeRoom(&r); err != nil {
		return s.fail(err)
	}
	id := s.j.number(r.size())
	if err := s.take(taken{name: fmt.Sprint(keptName, id), id: id, seq: uint64(s.st.mark)}, r.slot); err != nil {
		return fmt.Errorf("keep volume %s: %w", s.name, err)
	}
	if err := s.commitAs(&r, id); err != nil {
		return s.fail(err)
	}
	return s.fail(s.settle())
}

// Kept implements store.Keeper.
func (s *Store) Kept() (store.Kept, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.st.kept == nil {
		return store.Kept{}, false
	}
	k := s.st.kept.Kept
	k.Meta = slices.Clone(k.Meta)
	return k, true
}

// keptNow is what is kept, an error when that is nothing.
func (s *Store) keptNow() (*kept, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.st.kept == nil {
		return nil, fmt.Errorf("volume %s: %w", s.name, store.ErrNotKept)
	}
	return s.st.kept, nil
}

// ReadKept implements store.Keeper.
func (s *Store) ReadKept(p []byte, off uint64) error {
	if err := s.enter("read what is kept"); err != nil {
		return err
	}
	defer s.leave()
	s.past.use.RLock()
	defer s.past.use.RUnlock()
	k, err := s.keptNow()
	if err != nil {
		return err
	}
	return s.readPast(taken{name: fmt.Sprint(keptName, k.id), id: k.id}, k.Size, func(size uint64) error {
		return (store.Info{Size: size}).CheckRead(len(p), off)
	}, p, off)
}

// ChangedSinceKeep implements store.Keeper.
func (s *Store) ChangedSinceKeep() ([]block.Extent, error) {
	if err := s.enter("changed since what is kept"); err != nil {
		return nil, err
	}
	defer s.leave()
	if _, err := s.keptNow(); err != nil {
		return nil, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.st.changedSinceKeep(), nil
}

// Return implements store.Keeper.
func (s *Store) Return() error {
	if err := s.enterChange("return to what is kept"); err != nil {
		return err
	}
	defer s.leave()
	k, err := s.keptNow()
	if err != nil {
		return err
	}
	r := record{kind: kindReturn}
	if k.Size != s.st.size {
		err = s.resize(&r, k.Size)
	} else {
		err = s.commit(&r)
	}
	if err == nil {
		err = s.settle()
	}
	if err == nil { // to do it again would take the slot of what is kept
		err = s.checkpoint(s.j.super.incarnation)
	}
	return s.fail(err)
}

// DropKept implements store.Keeper. The space is given back first: without it the
// log may have no room to say so, and what is not there is not kept.
func (s *Store) DropKept() error {
	if err := s.enter("drop what is kept"); err != nil {
		return err
	}
	defer s.leave()
	k := s.st.kept
	if k == nil {
		return nil
	}
	if err := s.destroyKept(k); err != nil {
		return fmt.Errorf("volume %s: drop what is kept: %w", s.name, err)
	}
	s.mu.RLock()
	failed := s.failed
	s.mu.RUnlock()
	r := record{kind: kindDropKept}
	if failed != nil {
		return s.note(&r)
	}
	if err := s.commit(&r); err != nil {
		return s.fail(err)
	}
	return nil
}

// destroyKept destroys what is kept, then the snapshots that only it has.
func (s *Store) destroyKept(k *kept) error {
	after := *s.st
	after.kept = nil
	want := after.wanted()
	if err := s.destroy(func(x taken) bool { return x.id == k.id }); err != nil {
		return err
	}
	return s.destroy(func(x taken) bool { return want[x.id] == "" })
}
