//go:build cgo && linux

package dmu

// #include <stdlib.h>
// #include "shim.h"
import "C"

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"unsafe"

	"github.com/cask-storage/cask/internal/procs"
	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/history"
	"github.com/cask-storage/cask/pkg/store"
)

// maxOpen bounds the snapshots kept open for reading.
const maxOpen = 4

// snapshot is one that operation Seq took. It is there, as far as the store's
// history goes, while the mark is not below Seq, nor at or beyond that of a
// drop: settle makes that so after a crash.
type snapshot struct {
	store.SnapshotInfo
	txg  uint64      // what changed after Seq was born after it
	drop history.Seq // the operation that drops it, 0: none
}

// snapshots are the volume's.
type snapshots struct {
	mu   sync.Mutex
	cond sync.Cond // a reader is done
	list []snapshot
	open []*opened // the one used last at the end
}

// opened is a snapshot that is open for reading.
type opened struct {
	seq  history.Seq
	c    *C.cask_snap
	uses int
}

// loadSnapshots lists the snapshots and settles what a crash left undone.
func (s *Store) loadSnapshots() error {
	s.snaps.cond.L = &s.snaps.mu
	var list []snapshot
	var cookie C.uint64_t
	for {
		var name [C.CASK_NAME]C.char
		var w [C.CASK_SNAP_WORDS]C.uint64_t
		e := C.cask_snap_next(s.vol, &cookie, &name[0], &w[0])
		if e == C.int(syscall.ENOENT) {
			break
		}
		if e != 0 {
			return failed("list the snapshots of", s.opt.Path, e)
		}
		list = append(list, snapshot{
			SnapshotInfo: store.SnapshotInfo{Name: C.GoString(&name[0]), Seq: history.Seq(w[0]), Size: uint64(w[1])},
			drop:         history.Seq(w[2]), txg: uint64(w[3]),
		})
	}
	list, err := s.loadKept(list)
	if err != nil {
		return err
	}
	slices.SortFunc(list, func(a, b snapshot) int { return cmp.Compare(a.Seq, b.Seq) })
	for _, x := range list {
		keep, e := s.settle(x)
		if e != 0 {
			return failed("settle snapshot "+x.Name+" of", s.opt.Path, e)
		}
		if keep {
			x.drop = 0
			s.snaps.list = append(s.snaps.list, x)
		}
	}
	return nil
}

// settle does, or undoes, the operation on x that a crash cut short, and
// reports whether x stays.
func (s *Store) settle(x snapshot) (bool, C.int) {
	switch {
	case x.Seq > s.mark, x.drop != 0 && x.drop <= s.mark:
		return false, unlessSuspended(func() C.int { return s.end(x) })
	case x.drop != 0:
		return true, unlessSuspended(named(x.Name, func(n *C.char) C.int { return C.cask_snap_doom(s.vol, n, 0) }))
	}
	return true, 0
}

// named is a call of f with a C string.
func named(name string, f func(*C.char) C.int) func() C.int {
	return func() C.int {
		n := C.CString(name)
		defer C.free(unsafe.Pointer(n))
		return f(n)
	}
}

// takeSnapshot: the snapshot is on the disk before the mark says so, and the
// mark before anybody is told.
func (s *Store) takeSnapshot(o *store.Op) C.int {
	if store.Takes(s.Snapshots(), o.Name) {
		if e := s.take(o); e != 0 {
			return e
		}
		if e := s.noteTaken(o); e != 0 {
			return e
		}
	}
	if e := s.moveMark(o.Seq); e != 0 {
		return e
	}
	return s.guarded(func() C.int { return C.cask_flush(s.vol) })
}

func (s *Store) take(o *store.Op) C.int {
	return s.guarded(named(o.Name, func(n *C.char) C.int { return C.cask_snap_take(s.vol, n, C.uint64_t(o.Seq)) }))
}

// doom notes that operation seq drops x.
func (s *Store) doom(x snapshot, seq history.Seq) C.int {
	return s.guarded(named(x.Name, func(n *C.char) C.int { return C.cask_snap_doom(s.vol, n, C.uint64_t(seq)) }))
}

// noteTaken adds the snapshot just taken to the list.
func (s *Store) noteTaken(o *store.Op) C.int {
	x, e := s.described(o)
	if e == 0 {
		s.snaps.add(x)
	}
	return e
}

// described is the snapshot that o has just taken.
func (s *Store) described(o *store.Op) (snapshot, C.int) {
	var w [C.CASK_SNAP_WORDS]C.uint64_t
	e := s.guarded(named(o.Name, func(n *C.char) C.int { return C.cask_snap_describe(s.vol, n, &w[0]) }))
	return snapshot{SnapshotInfo: store.SnapshotInfo{Name: o.Name, Seq: history.Seq(w[0]), Size: uint64(w[1])}, txg: uint64(w[3])}, e
}

// moveMark changes nothing but the mark.
func (s *Store) moveMark(seq history.Seq) C.int {
	_, e := s.applyPlain([]store.Op{{Kind: store.Unmap, Seq: seq}})
	return e
}

// dropSnapshot: that operation Seq drops it is on the disk before the mark says
// that this was done, and the snapshot goes last, in no older TXG than the mark.
func (s *Store) dropSnapshot(o *store.Op) C.int {
	x, ok := s.forget(o.Base)
	if ok && o.Seq != 0 {
		if e := s.doom(x, o.Seq); e != 0 {
			return e
		}
	}
	if o.Seq != 0 {
		if e := s.moveMark(o.Seq); e != 0 {
			return e
		}
	}
	if !ok {
		return 0
	}
	return s.guarded(func() C.int { return s.end(x) })
}

// end takes a snapshot that is on no list any more off the disk, or puts it
// aside: what is kept has it.
func (s *Store) end(x snapshot) C.int {
	if s.keep.has(x) {
		return s.putAside(x)
	}
	return s.destroy(x.Name)
}

func (s *Store) destroy(name string) C.int {
	return named(name, func(n *C.char) C.int { return C.cask_snap_destroy(s.vol, n) })()
}

// dropAfter drops every snapshot after base.
func (s *Store) dropAfter(base history.Seq) C.int {
	for _, x := range slices.Backward(s.Snapshots()) {
		if x.Seq <= base {
			break
		}
		if e := s.dropSnapshot(&store.Op{Base: x.Seq}); e != 0 {
			return e
		}
	}
	return 0
}

// forget takes the snapshot of operation seq off the list and waits for its
// readers.
func (s *Store) forget(seq history.Seq) (snapshot, bool) {
	s.snaps.mu.Lock()
	defer s.snaps.mu.Unlock()
	i := s.snaps.find(seq)
	if i < 0 {
		return snapshot{}, false
	}
	x := s.snaps.list[i]
	s.snaps.list = slices.Delete(slices.Clone(s.snaps.list), i, i+1)
	for {
		k := slices.IndexFunc(s.snaps.open, func(o *opened) bool { return o.seq == seq })
		if k < 0 {
			return x, true
		}
		if o := s.snaps.open[k]; o.uses == 0 {
			C.cask_snap_close(o.c)
			s.snaps.open = slices.Delete(s.snaps.open, k, k+1)
			continue
		}
		s.snaps.cond.Wait()
	}
}

// find is the index of the snapshot of operation seq, -1 when it is not there.
// mu is held.
func (n *snapshots) find(seq history.Seq) int {
	return slices.IndexFunc(n.list, func(x snapshot) bool { return x.Seq == seq })
}

// add lists x in its place. mu is not held.
func (n *snapshots) add(x snapshot) {
	n.mu.Lock()
	defer n.mu.Unlock()
	i := slices.IndexFunc(n.list, func(o snapshot) bool { return o.Seq > x.Seq })
	if i < 0 {
		i = len(n.list)
	}
	n.list = slices.Insert(slices.Clone(n.list), i, x)
}

// txgOf is a TXG after which everything was born that changed after since. mu
// is not held.
func (n *snapshots) txgOf(since history.Seq) (txg uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, x := range n.list {
		if x.Seq <= since {
			txg = x.txg
		}
	}
	return txg
}

// acquire opens a snapshot, or uses it when it is; release ends that.
func (s *Store) acquire(seq history.Seq) (*opened, error) {
	n := &s.snaps
	n.mu.Lock()
	defer n.mu.Unlock()
	i := n.find(seq)
	if i < 0 {
		return nil, fmt.Errorf("snapshot of operation %d in extent %s: %w", seq, s.opt.Path, store.ErrNotFound)
	}
	if k := slices.IndexFunc(n.open, func(o *opened) bool { return o.seq == seq }); k >= 0 {
		o := n.open[k]
		n.open = append(slices.Delete(n.open, k, k+1), o)
		o.uses++
		return o, nil
	}
	for k := 0; k < len(n.open) && len(n.open) >= maxOpen; k++ {
		if n.open[k].uses == 0 {
			C.cask_snap_close(n.open[k].c)
			n.open = slices.Delete(n.open, k, k+1)
			k--
		}
	}
	name := C.CString(n.list[i].Name)
	defer C.free(unsafe.Pointer(name))
	o := &opened{seq: seq, uses: 1}
	if e := C.cask_snap_open(s.vol, name, &o.c); e != 0 {
		return nil, failed("open snapshot "+n.list[i].Name+" of", s.opt.Path, e)
	}
	n.open = append(n.open, o)
	return o, nil
}

func (s *Store) release(o *opened) {
	s.snaps.mu.Lock()
	defer s.snaps.mu.Unlock()
	o.uses--
	s.snaps.cond.Broadcast()
}

// closeSnapshots closes those that are open. Nobody uses them any more.
func (s *Store) closeSnapshots() {
	for _, o := range s.snaps.open {
		C.cask_snap_close(o.c)
	}
	s.snaps.open = nil
}

// Snapshots implements store.Past.
func (s *Store) Snapshots() (out []store.SnapshotInfo) {
	s.snaps.mu.Lock()
	defer s.snaps.mu.Unlock()
	for _, x := range s.snaps.list {
		out = append(out, x.SnapshotInfo)
	}
	return out
}

// ReadSnapshot implements store.Past.
func (s *Store) ReadSnapshot(seq history.Seq, p []byte, off uint64) error {
	if err := s.enter("read of a snapshot"); err != nil {
		return err
	}
	defer s.leave()
	s.readers <- struct{}{}
	defer func() { <-s.readers }()
	o, err := s.acquire(seq)
	if err != nil {
		return err
	}
	defer s.release(o)
	if err := (store.Info{Size: uint64(C.cask_snap_size(o.c))}).CheckRead(len(p), off); err != nil {
		return fmt.Errorf("snapshot of operation %d in extent %s: %w", seq, s.opt.Path, err)
	}
	if len(p) == 0 {
		return nil
	}
	if e := readSnap(o.c, p, off); e != 0 {
		return fmt.Errorf("read of %d+%d of the snapshot of operation %d: %w", off, len(p), seq, failed("read", s.opt.Path, e))
	}
	return nil
}

// readSnap fills p, which is not empty.
func readSnap(c *C.cask_snap, p []byte, off uint64) (e C.int) {
	procs.Hold(func() { e = C.cask_snap_read(c, C.uint64_t(off), C.uint64_t(len(p)), unsafe.Pointer(&p[0])) })
	return e
}

// ChangedIn implements store.Past.
func (s *Store) ChangedIn(span store.Span) ([]block.Extent, error) {
	if err := s.enter("changed"); err != nil {
		return nil, err
	}
	defer s.leave()
	o, err := s.acquire(span.Snapshot)
	if err != nil {
		return nil, err
	}
	defer s.release(o)
	txg := s.snaps.txgOf(span.Since)
	return s.listed(span.Since, maxExtents, func(pairs *C.uint64_t, n *C.uint64_t) C.int {
		return C.cask_snap_changed(s.vol, o.c, C.uint64_t(span.Since), C.uint64_t(txg), pairs, maxExtents, n)
	})
}
