package zvol

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/history"
	"github.com/cask-storage/cask/pkg/store"
)

// maxOpen bounds the snapshots kept open for reading.
const maxOpen = 4

// past reads snapshots of vol.
type past struct {
	// use is held for reading while one is, or its slot; for writing while some are
	// renamed or destroyed.
	use  sync.RWMutex
	mu   sync.Mutex
	open []*opened // the one used last at the end
}

type opened struct {
	id   uint64
	dev  device
	uses int
}

// read reads the snapshot called name, that is known as id. use is held for reading.
func (p *past) read(n node, x taken, at func(device) error) error {
	o, err := p.acquire(n, x)
	if err != nil {
		return err
	}
	err = at(o.dev)
	p.mu.Lock()
	defer p.mu.Unlock()
	o.uses--
	return err
}

func (p *past) acquire(n node, x taken) (*opened, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if k := slices.IndexFunc(p.open, func(o *opened) bool { return o.id == x.id }); k >= 0 {
		o := p.open[k]
		p.open = append(slices.Delete(p.open, k, k+1), o)
		o.uses++
		return o, nil
	}
	if k := slices.IndexFunc(p.open, func(o *opened) bool { return o.uses == 0 }); k >= 0 && len(p.open) >= maxOpen {
		_ = p.open[k].dev.Close() // it was only read
		p.open = slices.Delete(p.open, k, k+1)
	}
	dev, err := n.OpenSnapshot(x.name)
	if err != nil {
		return nil, fmt.Errorf("open snapshot %s: %w", x.name, err)
	}
	o := &opened{id: x.id, dev: dev, uses: 1}
	p.open = append(p.open, o)
	return o, nil
}

// close closes all that are open. use is held for writing, or nobody reads.
func (p *past) close() {
	for _, o := range p.open {
		_ = o.dev.Close() // it was only read
	}
	p.open = nil
}

// Changed implements store.Past.
func (s *Store) Changed(since history.Seq) ([]block.Extent, error) {
	if err := s.enter("changed"); err != nil {
		return nil, err
	}
	defer s.leave()
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.st.table.since(min(since, s.st.mark), s.st.size), nil
}

// Snapshots implements store.Past.
func (s *Store) Snapshots() []store.SnapshotInfo {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.st.infos()
}

// enterPast begins a call on the snapshot of operation seq, which stays until the
// function that it returns is called.
func (s *Store) enterPast(what string, seq history.Seq) (x snapshot, leave func(), err error) {
	if err := s.enter(what); err != nil {
		return x, nil, err
	}
	s.past.use.RLock()
	leave = func() {
		s.past.use.RUnlock()
		s.leave()
	}
	s.mu.RLock()
	x, ok := s.st.find(seq)
	s.mu.RUnlock()
	if !ok {
		leave()
		return x, nil, fmt.Errorf("%s: snapshot of operation %d of volume %s: %w", what, seq, s.name, store.ErrNotFound)
	}
	return x, leave, nil
}

// ReadSnapshot implements store.Past.
func (s *Store) ReadSnapshot(seq history.Seq, p []byte, off uint64) error {
	x, leave, err := s.enterPast("read", seq)
	if err != nil {
		return err
	}
	defer leave()
	return s.readPast(taken{name: x.Name, id: x.id}, x.Size, func(size uint64) error {
		return (store.Info{Size: size}).CheckRead(len(p), off)
	}, p, off)
}

// readPast fills p from a snapshot, when check agrees.
//
//lint:signature the buffer and its place belong together as in every read
func (s *Store) readPast(x taken, size uint64, check func(uint64) error, p []byte, off uint64) error {
	err := check(size)
	if err == nil && len(p) > 0 {
		err = s.past.read(s.m.node, x, func(d device) error { return d.ReadAt(p, off) })
	}
	if err != nil {
		return fmt.Errorf("volume %s: read of %d+%d of snapshot %s: %w", s.name, off, len(p), x.name, err)
	}
	return nil
}

// ChangedIn implements store.Past.
func (s *Store) ChangedIn(span store.Span) ([]block.Extent, error) {
	x, leave, err := s.enterPast("changed", span.Snapshot)
	if err != nil {
		return nil, err
	}
	defer leave()
	t, err := s.j.readSlot(x.slot)
	if err != nil {
		return nil, fmt.Errorf("volume %s: snapshot of operation %d: %w", s.name, x.Seq, err)
	}
	return t.table.since(min(span.Since, t.mark), x.Size), nil
}

// settle makes ZFS's snapshots those that the state has: the ones that nobody knows
// any more go, then the names follow. A crash in between leaves it to the next Open.
func (s *Store) settle() error {
	want := s.st.wanted()
	if err := s.destroy(func(x taken) bool { return want[x.id] == "" }); err != nil {
		return err
	}
	for i := range s.actual {
		x := &s.actual[i]
		if want[x.id] == x.name {
			continue
		}
		if err := s.still(func() error { return s.m.node.Rename(x.name, want[x.id]) }); err != nil {
			return err
		}
		x.name = want[x.id]
	}
	return nil
}

// destroy has ZFS destroy those of our snapshots that are gone for us.
func (s *Store) destroy(gone func(taken) bool) error {
	var errs []error
	s.actual = slices.DeleteFunc(s.actual, func(x taken) bool {
		if !gone(x) {
			return false
		}
		err := s.still(func() error { return s.m.node.Destroy(x.name) })
		errs = append(errs, err)
		return err == nil
	})
	return errors.Join(errs...)
}

// still does what may only be done while nobody reads a snapshot.
func (s *Store) still(do func() error) error {
	s.past.use.Lock()
	defer s.past.use.Unlock()
	s.past.close()
	return do()
}

// wanted are the names of ZFS's snapshots by what they are known by: those that are
// there, what is kept, and those that it had and that were dropped.
func (st *state) wanted() map[uint64]string {
	want := map[uint64]string{}
	if st.kept != nil {
		for _, x := range st.kept.snaps {
			want[x.id] = fmt.Sprint(asideName, x.id)
		}
		want[st.kept.id] = fmt.Sprint(keptName, st.kept.id)
	}
	for _, x := range st.snaps {
		want[x.id] = x.Name
	}
	return want
}

// The names of our own snapshots, to which their number is added. No operation can
// take such names.
const (
	asideName  = "cask_aside_"
	keptName   = "cask_kept_"
	frozenName = "cask_frozen_"
)

// have forgets the snapshots that ZFS does not have: somebody destroyed them.
func (st *state) have(actual []taken) {
	lost := func(id uint64) bool { return !slices.ContainsFunc(actual, func(x taken) bool { return x.id == id }) }
	gone := func(x snapshot) bool { return lost(x.id) }
	st.snaps = without(st.snaps, gone)
	if st.kept == nil {
		return
	}
	if lost(st.kept.id) {
		st.kept = nil
		return
	}
	k := *st.kept
	k.snaps = without(k.snaps, gone)
	st.kept = &k
}
