package zvol

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/store"
)

// Store implements store.Store, and store.Comparer.
type Store struct {
	name      string // of the volume, for errors
	m         machine
	j         *journal
	blockSize uint32 // bytes, of vol

	// What only the goroutine that changes the store uses.
	actual []taken // our snapshots of vol, but for those of frozen content
	frozen uint64  // how many there were

	life   sync.RWMutex // held for reading through every call; Close holds it for writing
	closed bool         // guarded by life

	mu     sync.RWMutex // guards st, which only the changing goroutine writes
	st     *state
	failed error // sticky, guarded by mu

	past past
}

// maxBatch bounds what one write to the log carries, in bytes, but for one operation.
const maxBatch = 1 << 20

// enter begins a call.
func (s *Store) enter(what string) error {
	s.life.RLock()
	if s.closed {
		s.life.RUnlock()
		return fmt.Errorf("%s of volume %s: %w", what, s.name, store.ErrClosed)
	}
	return nil
}

func (s *Store) leave() { s.life.RUnlock() }

// enterChange begins a call that changes, or promises, something.
func (s *Store) enterChange(what string) error {
	if err := s.enter(what); err != nil {
		return err
	}
	s.mu.RLock()
	failed := s.failed
	s.mu.RUnlock()
	if failed != nil {
		s.leave()
		return fmt.Errorf("%s of volume %s after a failure, close the store and open it again: %w", what, s.name, failed)
	}
	return nil
}

// fail makes err, if it is one, the answer to all that would change something.
func (s *Store) fail(err error) error {
	if err == nil {
		return nil
	}
	err = fmt.Errorf("volume %s: %w", s.name, err)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed == nil {
		s.failed = err
	}
	return err
}

// Info implements store.Store.
func (s *Store) Info() store.Info {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return store.Info{Size: s.st.size, BlockSize: s.blockSize, Mark: s.st.mark}
}

// Apply implements store.Store.
func (s *Store) Apply(ops []store.Op) error {
	if err := s.Info().Check(ops); err != nil {
		return fmt.Errorf("volume %s: %w", s.name, err)
	}
	if err := s.enterChange("apply"); err != nil {
		return err
	}
	defer s.leave()
	var corrupt *store.CorruptError
	err := s.apply(ops)
	if errors.As(err, &corrupt) {
		return err
	}
	return s.fail(err)
}

// apply logs and performs operations. Plain ones, that come one after the other, are
// logged together.
func (s *Store) apply(ops []store.Op) error {
	var b batch
	for i := range ops {
		o := &ops[i]
		if o.Kind != store.Write && o.Kind != store.Unmap {
			if err := s.perform(&b); err != nil {
				return err
			}
			if err := s.special(o); err != nil {
				return fmt.Errorf("operation %d: %w", o.Seq, err)
			}
			continue
		}
		r := recordOf(o)
		if b.bytes > 0 && b.bytes+r.size() > min(maxBatch, s.j.largest()) {
			if err := s.perform(&b); err != nil {
				return err
			}
		}
		rotten, err := s.rottenEdges(o.Extent)
		if len(rotten) > 0 && b.bytes > 0 { // what comes before may heal them
			if err = s.perform(&b); err == nil {
				rotten, err = s.rottenEdges(o.Extent)
			}
		}
		if err != nil {
			return err
		}
		if len(rotten) > 0 {
			return &store.CorruptError{Done: i, Blocks: rotten, Err: fmt.Errorf("apply to volume %s: %w", s.name, store.ErrCorrupt)}
		}
		b.add(&r)
	}
	return s.perform(&b)
}

// batch is what is logged together.
type batch struct {
	records []*record
	bytes   uint64 // in the log
}

func (b *batch) add(r *record) {
	b.records = append(b.records, r)
	b.bytes += r.size()
}

// perform logs the batch, changes vol, and empties the batch. The log has it before
// vol is touched: see the package's doc.
func (s *Store) perform(b *batch) error {
	if b.bytes == 0 {
		return nil
	}
	if err := s.log(b.records...); err != nil {
		return err
	}
	for _, r := range b.records {
		if err := s.place(r); err != nil {
			return err
		}
	}
	err := s.note(b.records...)
	*b = batch{}
	return err
}

// log appends records, which must not be larger than the log can take, once there
// is room.
func (s *Store) log(rs ...*record) error {
	if err := s.makeRoom(rs...); err != nil {
		return err
	}
	return s.j.append(rs...)
}

// makeRoom makes a checkpoint if records would not fit without one.
func (s *Store) makeRoom(rs ...*record) error {
	n := uint64(0)
	for _, r := range rs {
		n += r.size()
	}
	if !s.j.full(n) {
		return nil
	}
	return s.checkpoint(s.j.super.incarnation)
}

// note has the state follow records that were carried out.
func (s *Store) note(rs ...*record) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range rs {
		if err := s.st.apply(r, s.j.readSlot); err != nil {
			return err
		}
	}
	return nil
}

// logStable logs a record and makes it stable.
func (s *Store) logStable(r *record) error {
	if err := s.log(r); err != nil {
		return err
	}
	return s.j.flush()
}

// commit logs a record, makes it stable, and has the state follow.
func (s *Store) commit(r *record) error {
	if err := s.logStable(r); err != nil {
		return err
	}
	return s.note(r)
}

// checkpoint empties the log: the state of now is where it begins. The log is flushed
// before vol: vol must not be ahead of it.
func (s *Store) checkpoint(incarnation uint64) error {
	if err := s.j.flush(); err != nil {
		return err
	}
	if err := s.m.vol.Flush(); err != nil {
		return fmt.Errorf("flush the content: %w", err)
	}
	return s.j.checkpoint(s.st, incarnation)
}

// special carries out an operation that is stable when it returns.
func (s *Store) special(o *store.Op) error {
	r := recordOf(o)
	switch {
	case o.Kind == store.Snapshot:
		return s.snapshot(&r)
	case o.Resized(s.st.size) != s.st.size:
		if err := s.resize(&r, o.Resized(s.st.size)); err != nil {
			return err
		}
	default:
		if err := s.commit(&r); err != nil {
			return err
		}
	}
	return s.settle()
}

// resize carries out a record that changes the size. The log begins with it, so that
// what is done again after it is within the size that vol has.
func (s *Store) resize(r *record, size uint64) error {
	if err := s.checkpoint(s.j.super.incarnation); err != nil {
		return err
	}
	if err := s.logStable(r); err != nil {
		return err
	}
	if err := s.m.node.Resize(size); err != nil {
		return err
	}
	return s.note(r)
}

// snapshot takes one. It is stable, with the table in its slot and all before it,
// before its record says so.
func (s *Store) snapshot(r *record) error {
	if !store.Takes(s.st.infos(), string(r.payload)) {
		return s.commit(r)
	}
	if err := s.makeRoom(r); err != nil {
		return err
	}
	r.taken, r.slot = true, s.st.freeSlot()
	x := taken{name: string(r.payload), id: s.j.number(r.size()), seq: uint64(r.seq)}
	if err := s.take(x, r.slot); err != nil {
		return err
	}
	return s.commitAs(r, x.id)
}

// commitAs commits the record by whose number a snapshot is known.
func (s *Store) commitAs(r *record, id uint64) error {
	err := s.commit(r)
	if err == nil && r.number != id {
		err = fmt.Errorf("record %d of snapshot %d: %w", r.number, id, store.ErrFormat)
	}
	return err
}

// take has ZFS take a snapshot, once the table is in the slot.
func (s *Store) take(x taken, slot uint32) error {
	if err := s.j.writeSlot(slot, &slotTable{mark: s.st.mark, table: s.st.table}); err != nil {
		return err
	}
	if err := s.m.node.Snapshot(x); err != nil {
		return fmt.Errorf("take snapshot %s: %w", x.name, err)
	}
	s.actual = append(s.actual, x)
	return nil
}

// ReadAt implements store.Store.
func (s *Store) ReadAt(p []byte, off uint64) error {
	if err := s.Info().CheckRead(len(p), off); err != nil {
		return fmt.Errorf("volume %s: %w", s.name, err)
	}
	if err := s.enter("read"); err != nil {
		return err
	}
	defer s.leave()
	if len(p) == 0 {
		return nil
	}
	if err := s.m.vol.ReadAt(p, off); err != nil {
		return fmt.Errorf("volume %s: read of %v: %w", s.name, block.Extent{Off: off, Len: uint64(len(p))}, err)
	}
	return nil
}

// Flush implements store.Store. What is in the log need not be stable in vol.
func (s *Store) Flush() error {
	if err := s.enterChange("flush"); err != nil {
		return err
	}
	defer s.leave()
	return s.fail(s.j.flush())
}

// Meta implements store.Meta.
func (s *Store) Meta() []byte {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return slices.Clone(s.st.meta)
}

// SetMeta implements store.Meta.
func (s *Store) SetMeta(b []byte) error {
	if err := store.CheckMeta(b); err != nil {
		return fmt.Errorf("volume %s: %w", s.name, err)
	}
	if err := s.enterChange("set the record"); err != nil {
		return err
	}
	defer s.leave()
	return s.fail(s.commit(&record{kind: kindMeta, payload: b}))
}

// Close implements store.Meta. A closed volume has all its content in vol, for any
// machine to read. One that failed is only given up.
func (s *Store) Close() error {
	s.life.Lock()
	defer s.life.Unlock()
	if s.closed {
		return fmt.Errorf("close volume %s: %w", s.name, store.ErrClosed)
	}
	s.closed = true
	s.past.close()
	var err error
	if s.failed == nil {
		err = s.checkpoint(s.j.super.incarnation)
	} else {
		err = s.j.flush()
	}
	if err = errors.Join(err, s.m.close()); err != nil {
		return fmt.Errorf("close volume %s: %w", s.name, err)
	}
	return nil
}

var (
	_ store.Store    = (*Store)(nil)
	_ store.Comparer = (*Store)(nil)
)
