package memstore

import (
	"fmt"
	"maps"
	"slices"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/history"
	"github.com/cask-storage/cask/pkg/store"
)

// snapshot is the content at one time; nothing of it changes any more.
type snapshot struct {
	store.SnapshotInfo
	blocks  map[uint64][]byte
	changed map[uint64]history.Seq
}

// snapshotLocked is stable at once, with all that was applied before it.
func (s *Store) snapshotLocked(o *store.Op) {
	if store.Takes(s.infosLocked(), o.Name) {
		s.st.snaps = append(slices.Clip(s.st.snaps), snapshot{
			SnapshotInfo: store.SnapshotInfo{Name: o.Name, Seq: o.Seq, Size: s.st.size},
			blocks:       maps.Clone(s.st.blocks),
			changed:      maps.Clone(s.st.changed),
		})
	}
	s.st.mark = o.Seq
	s.undo = nil
}

// dropLocked is stable at once, too.
func (s *Store) dropLocked(o *store.Op) {
	s.st.snaps = slices.DeleteFunc(slices.Clone(s.st.snaps), func(x snapshot) bool { return x.Seq == o.Base })
	if o.Seq != 0 {
		s.st.mark = o.Seq
	}
	s.undo = nil
}

func (s *Store) infosLocked() (out []store.SnapshotInfo) {
	for _, x := range s.st.snaps {
		out = append(out, x.SnapshotInfo)
	}
	return out
}

// Snapshots implements store.Past.
func (s *Store) Snapshots() []store.SnapshotInfo {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.infosLocked()
}

// findLocked begins a call on the snapshot of operation seq.
func (s *Store) findLocked(seq history.Seq, c Call) (snapshot, error) {
	if s.closed {
		return snapshot{}, fmt.Errorf("%s of a snapshot: %w", c, store.ErrClosed)
	}
	if err := s.faults[c].hit(); err != nil {
		return snapshot{}, err
	}
	for _, x := range s.st.snaps {
		if x.Seq == seq {
			return x, nil
		}
	}
	return snapshot{}, fmt.Errorf("snapshot of operation %d: %w", seq, store.ErrNotFound)
}

// ReadSnapshot implements store.Past.
func (s *Store) ReadSnapshot(seq history.Seq, p []byte, off uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	x, err := s.findLocked(seq, Read)
	if err != nil {
		return err
	}
	if err := (store.Info{Size: x.Size}).CheckRead(len(p), off); err != nil {
		return err
	}
	s.readBlocks(x.blocks, p, off)
	return nil
}

// ChangedIn implements store.Past.
func (s *Store) ChangedIn(span store.Span) ([]block.Extent, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	x, err := s.findLocked(span.Snapshot, Changed)
	if err != nil {
		return nil, err
	}
	return s.changedSince(x.changed, span.Since, x.Size), nil
}
