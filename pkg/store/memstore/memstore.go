// Package memstore is a store.Store in memory, for tests and simulators: it
// can crash, fail on demand and be cloned.
//
// # Crashes
//
// What was applied since the last completed Flush, SetMeta or Rebase is kept
// with its undo record. Crash returns the store as it comes back from a loss
// of power: some prefix of that, chosen by the random source given, is there
// and the rest never happened. Nothing here depends on time or scheduling:
// the same calls with the same source give the same store.
//
// # Changed blocks
//
// Each block remembers the Seq that last changed it; an operation without one
// counts as the next after the mark. Options.Coarse makes the answers coarser,
// as those of an engine with few checkpoints are.
//
// # Concurrency
//
// As store.Store; one mutex guards everything.
package memstore

import (
	"fmt"
	"maps"
	"math/rand"
	"slices"
	"sync"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/history"
	"github.com/cask-storage/cask/pkg/store"
)

// maxPending bounds the operations that a crash may undo: beyond it the
// oldest become stable by themselves, as in a transaction group.
const maxPending = 4096

// Options shape a Store.
type Options struct {
	Size      uint64      // bytes at first, a multiple of BlockSize
	BlockSize uint32      // bytes, a multiple of store.Alignment; 4096 when 0
	Coarse    history.Seq // Changed knows only states whose Seq is a multiple; exact when 0
}

// Store implements store.Store.
type Store struct {
	opt Options

	mu     sync.Mutex
	closed bool
	failed error // of an Apply: everything that changes is refused after it
	st     state
	kept   *state // see keep.go; nil: nothing
	undo   []undo // of what is not stable yet, oldest first
	faults [calls]fault
}

// state is a store's content. Blocks are never changed in place: states share
// them.
type state struct {
	size    uint64
	mark    history.Seq
	blocks  map[uint64][]byte      // by block number; absent reads as zeroes
	changed map[uint64]history.Seq // by block number: the Seq that changed it last
	rotten  map[uint64]bool        // by block number
	meta    []byte
	snaps   []snapshot // ascending by Seq
}

// undo takes one operation back.
type undo struct {
	mark   history.Seq
	blocks []undoBlock
}

type undoBlock struct {
	n       uint64
	data    []byte // nil: was absent
	changed history.Seq
	rotten  bool
}

// New makes an empty store with mark 0.
func New(opt Options) *Store {
	if opt.BlockSize == 0 {
		opt.BlockSize = 4096
	}
	return &Store{opt: opt, st: state{
		size:    opt.Size,
		blocks:  map[uint64][]byte{},
		changed: map[uint64]history.Seq{},
		rotten:  map[uint64]bool{},
	}}
}

// Clone is an open store with the same content and the same operations still
// unstable, whether s is closed or not. Injected faults are not cloned.
func (s *Store) Clone() *Store {
	s.mu.Lock()
	defer s.mu.Unlock()
	return &Store{
		opt:  s.opt,
		undo: slices.Clone(s.undo),
		kept: s.kept,
		st:   s.st.clone(),
	}
}

func (st *state) clone() state {
	return state{
		size:    st.size,
		mark:    st.mark,
		blocks:  maps.Clone(st.blocks),
		changed: maps.Clone(st.changed),
		rotten:  maps.Clone(st.rotten),
		meta:    slices.Clone(st.meta),
		snaps:   slices.Clone(st.snaps),
	}
}

// Crash is an open store in the state that s comes back with when it loses
// its memory now; s itself is left as it is.
func (s *Store) Crash(rng *rand.Rand) *Store {
	c := s.Clone()
	for lost := rng.Intn(len(c.undo) + 1); lost > 0; lost-- {
		c.takeBackLocked()
	}
	c.undo = nil
	return c
}

// takeBackLocked undoes the last operation that is not stable.
func (s *Store) takeBackLocked() {
	u := s.undo[len(s.undo)-1]
	s.undo = s.undo[:len(s.undo)-1]
	s.st.mark = u.mark
	for _, b := range slices.Backward(u.blocks) {
		if b.data == nil {
			delete(s.st.blocks, b.n)
		} else {
			s.st.blocks[b.n] = b.data
		}
		if b.changed == 0 {
			delete(s.st.changed, b.n)
		} else {
			s.st.changed[b.n] = b.changed
		}
		s.st.setRotten(b.n, b.rotten)
	}
}

// Unstable is how many operations a crash may lose now.
func (s *Store) Unstable() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.undo)
}

// Volatile reports whether a crash may undo some of the content of e now.
func (s *Store) Volatile(e block.Extent) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	bs := uint64(s.opt.BlockSize)
	return slices.ContainsFunc(s.undo, func(u undo) bool {
		return slices.ContainsFunc(u.blocks, func(b undoBlock) bool { return e.Overlaps(block.Extent{Off: b.n * bs, Len: bs}) })
	})
}

// Info implements store.Store.
func (s *Store) Info() store.Info {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.infoLocked()
}

func (s *Store) infoLocked() store.Info {
	return store.Info{Size: s.st.size, BlockSize: s.opt.BlockSize, Mark: s.st.mark}
}

// usableLocked says why s cannot be changed, counting this call for faults.
func (s *Store) usableLocked(c Call) error {
	if s.closed {
		return fmt.Errorf("%s: %w", c, store.ErrClosed)
	}
	if s.failed != nil {
		return fmt.Errorf("%s after a failed Apply, close the store and open it again: %w", c, s.failed)
	}
	return s.faults[c].hit()
}

// Apply implements store.Store. A fault injected into it lets the first half
// of ops happen.
func (s *Store) Apply(ops []store.Op) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.infoLocked().Check(ops); err != nil {
		return err
	}
	err := s.usableLocked(Apply)
	if err != nil && (s.closed || s.failed != nil) {
		return err
	}
	if err != nil {
		ops = ops[:len(ops)/2]
		s.failed = err
	}
	for i := range ops {
		if rotten := s.rottenEdgesLocked(&ops[i]); len(rotten) > 0 {
			return &store.CorruptError{Done: i, Blocks: rotten, Err: fmt.Errorf("apply: %w", store.ErrCorrupt)}
		}
		s.applyLocked(&ops[i])
	}
	if n := len(s.undo) - maxPending; n > 0 {
		s.undo = slices.Clone(s.undo[n:])
	}
	return err
}

func (s *Store) applyLocked(o *store.Op) {
	switch o.Kind {
	case store.Rebase:
		s.rebaseLocked(o)
		return
	case store.Snapshot:
		s.snapshotLocked(o)
		return
	case store.DropSnapshot:
		s.dropLocked(o)
		return
	case store.Resize: // stable at once, with all that was applied before it
		s.st.mark, s.st.size, s.undo = o.Seq, o.Extent.End(), nil
		return
	}
	key := s.st.mark + 1
	if o.Seq != 0 {
		key = o.Seq
	}
	u := undo{mark: s.st.mark}
	bs := uint64(s.opt.BlockSize)
	for off := o.Extent.Off; off < o.Extent.End(); {
		n, at := off/bs, off%bs
		end := min(n*bs+bs, o.Extent.End())
		u.blocks = append(u.blocks, undoBlock{n, s.st.blocks[n], s.st.changed[n], s.st.rotten[n]})
		s.changeLocked(n, at, end-off, o.Data[min(off-o.Extent.Off, uint64(len(o.Data))):])
		s.st.changed[n] = key
		delete(s.st.rotten, n) // it was changed whole: see rottenEdgesLocked
		off = end
	}
	if o.Seq != 0 {
		s.st.mark = o.Seq
	}
	s.undo = append(s.undo, u)
}

// changeLocked replaces n bytes from at of block b, by zeroes when data is
// empty.
func (s *Store) changeLocked(b, at, n uint64, data []byte) {
	bs := uint64(s.opt.BlockSize)
	if len(data) == 0 && n == bs {
		delete(s.st.blocks, b)
		return
	}
	fresh := make([]byte, bs)
	copy(fresh, s.st.blocks[b])
	if len(data) == 0 {
		clear(fresh[at : at+n])
	} else {
		copy(fresh[at:at+n], data)
	}
	s.st.blocks[b] = fresh
}

// rebaseLocked is stable at once, with all that was applied before it.
func (s *Store) rebaseLocked(o *store.Op) {
	base := min(o.Base, o.Seq)
	for n, c := range s.st.changed {
		if c > base {
			s.st.changed[n] = o.Seq + 1
		}
	}
	s.st.mark, s.st.size = o.Seq, o.Resized(s.st.size)
	s.st.snaps = slices.DeleteFunc(slices.Clone(s.st.snaps), func(x snapshot) bool { return x.Seq > base })
	s.undo = nil
}

// ReadAt implements store.Store.
func (s *Store) ReadAt(p []byte, off uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.infoLocked().CheckRead(len(p), off); err != nil {
		return err
	}
	if s.closed {
		return fmt.Errorf("read: %w", store.ErrClosed)
	}
	if err := s.faults[Read].hit(); err != nil {
		return err
	}
	if n, rotten := s.opt.rottenIn(&s.st, uint64(len(p)), off); rotten {
		return fmt.Errorf("read of block %d: %w", n, store.ErrCorrupt)
	}
	s.readBlocks(s.st.blocks, p, off)
	return nil
}

func (s *Store) readBlocks(blocks map[uint64][]byte, p []byte, off uint64) {
	bs := uint64(s.opt.BlockSize)
	for len(p) > 0 {
		n := min(bs-off%bs, uint64(len(p)))
		if b := blocks[off/bs]; b != nil {
			copy(p[:n], b[off%bs:])
		} else {
			clear(p[:n])
		}
		p, off = p[n:], off+n
	}
}

// Flush implements store.Store.
func (s *Store) Flush() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.usableLocked(Flush); err != nil {
		return err
	}
	s.undo = nil
	return nil
}

// Changed implements store.Past.
func (s *Store) Changed(since history.Seq) ([]block.Extent, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, fmt.Errorf("changed: %w", store.ErrClosed)
	}
	if err := s.faults[Changed].hit(); err != nil {
		return nil, err
	}
	return s.changedSince(s.st.changed, min(since, s.st.mark), s.st.size), nil
}

// changedSince lists what of a content of size bytes changed after since.
func (s *Store) changedSince(changed map[uint64]history.Seq, since history.Seq, size uint64) []block.Extent {
	if s.opt.Coarse > 1 {
		since -= since % s.opt.Coarse
	}
	var ns []uint64
	for n, c := range changed {
		if c > since && n*uint64(s.opt.BlockSize) < size {
			ns = append(ns, n)
		}
	}
	slices.Sort(ns)
	return s.merge(ns, size)
}

// merge turns ascending block numbers into extents.
func (s *Store) merge(ns []uint64, size uint64) []block.Extent {
	var out []block.Extent
	bs := uint64(s.opt.BlockSize)
	for _, n := range ns {
		off := n * bs
		length := min(bs, size-off)
		if k := len(out); k > 0 && out[k-1].End() == off {
			out[k-1].Len += length
		} else {
			out = append(out, block.Extent{Off: off, Len: length})
		}
	}
	return out
}

// Meta implements store.Meta.
func (s *Store) Meta() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.st.meta)
}

// SetMeta implements store.Meta.
func (s *Store) SetMeta(b []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := store.CheckMeta(b); err != nil {
		return err
	}
	if err := s.usableLocked(SetMeta); err != nil {
		return err
	}
	s.st.meta = append([]byte{}, b...)
	s.undo = nil
	return nil
}

// Close implements store.Meta. A closed store is opened again by Clone, or
// by Crash when it failed.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return fmt.Errorf("close: %w", store.ErrClosed)
	}
	s.closed = true
	if s.failed == nil {
		s.undo = nil
	}
	return nil
}

var _ store.Store = (*Store)(nil)
