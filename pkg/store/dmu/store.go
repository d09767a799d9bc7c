//go:build cgo && linux

package dmu

/*
#cgo CFLAGS: -O2 -g -Wall -D_GNU_SOURCE -D_LARGEFILE64_SOURCE -D_REENTRANT
#cgo CFLAGS: -I${SRCDIR}/compat -isystem /usr/include/libzfs -isystem /usr/include/libspl
#cgo LDFLAGS: -Wl,--allow-multiple-definition -ljemalloc
#include <stdlib.h>
#include "shim.h"

#cgo noescape cask_apply
#cgo nocallback cask_apply
#cgo noescape cask_read
#cgo nocallback cask_read
#cgo noescape cask_info
#cgo nocallback cask_info
*/
import "C"

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"github.com/cask-storage/cask/internal/procs"
	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/history"
	"github.com/cask-storage/cask/pkg/store"
)

// Bounds on what runs at once, and on answers.
const (
	maxReaders = 16
	maxFlushes = 1 // at once: who comes meanwhile is in the next one, with all others
	maxExtents = 64 << 10
)

// watchInterval is how often the pool and its file are looked at. Only tests
// change it.
var watchInterval = 100 * time.Millisecond

// Store is a volume on an extent; it implements store.Store.
type Store struct {
	opt  Options
	lock *os.File
	info store.Info // BlockSize
	// direct: past the page cache, where the file system allows it
	direct bool

	readers chan struct{}
	flushes group[C.int]
	calls   sync.WaitGroup // goroutines inside ZFS

	suspended chan struct{} // closed by the watcher; inspect may say why
	bytes     atomic.Uint64 // the least the extent's file can have
	stop      chan struct{} // ends the watcher
	watcher   sync.WaitGroup

	// use is held for reading through every call, so that Close can wait.
	use    sync.RWMutex
	uses   atomic.Uint64 // calls that began
	vol    *C.cask_vol
	closed bool

	mu     sync.Mutex
	failed error // of an Apply or SetMeta: nothing is changed after it
	meta   []byte
	mark   history.Seq
	frozen []*frozen
	size   uint64 // bytes

	snaps snapshots
	keep  keeping
}

func newStore(o Options, vol *C.cask_vol, lock *os.File) *Store {
	s := &Store{
		opt: o, vol: vol, lock: lock,
		readers:   make(chan struct{}, maxReaders),
		flushes:   group[C.int]{slots: make(chan struct{}, maxFlushes)},
		suspended: make(chan struct{}),
		stop:      make(chan struct{}),
	}
	w := s.words()
	s.info = store.Info{BlockSize: uint32(w[1])}
	s.size, s.mark = uint64(w[0]), history.Seq(w[2])
	return s
}

func (s *Store) words() (w [C.CASK_INFO_WORDS]C.uint64_t) {
	C.cask_info(s.vol, &w[0])
	return w
}

// watch starts the watcher: once the pool is suspended, or the file gone,
// calls that wait for it are given up.
func (s *Store) watch() {
	s.watcher.Go(func() { // owned by s, ended by Close
		tick := time.NewTicker(watchInterval)
		defer tick.Stop()
		idle := rest{after: s.opt.Idle}
		for {
			select {
			case <-s.stop:
				return
			case <-tick.C:
				lost := s.inspect()
				if lost != nil {
					_ = s.fail(lost)
				}
				if lost != nil || C.cask_suspended(s.vol) != 0 {
					close(s.suspended)
					return
				}
				if idle.look(time.Now(), s.uses.Load()) {
					s.giveBack()
				}
			}
		}
	})
}

// inspect says what is wrong with the extent's file: ZFS would write to one that
// has no name any more, and make one longer that was cut off.
func (s *Store) inspect() error {
	st, err := s.lock.Stat()
	switch {
	case err != nil:
		return fmt.Errorf("extent %s: %w: %w", s.opt.Path, store.ErrIO, err)
	case st.Sys().(*syscall.Stat_t).Nlink == 0:
		return fmt.Errorf("extent %s was deleted while it was in use: %w", s.opt.Path, store.ErrNotFound)
	case uint64(st.Size()) < s.bytes.Load():
		return fmt.Errorf("extent %s has %d bytes, its pool needs %d: it was cut off while it was in use: %w",
			s.opt.Path, st.Size(), s.bytes.Load(), store.ErrTruncated)
	}
	return nil
}

// failedCall is the error of operation what; of a suspension it says the cause.
func (s *Store) failedCall(what string, e C.int) error {
	if e != C.CASK_SUSPENDED {
		return failed(what, s.opt.Path, e)
	}
	if lost := s.inspect(); lost != nil { // also before the watcher does
		return fmt.Errorf("%s: %w", what, lost)
	}
	path := C.CString(s.opt.Path)
	defer C.free(unsafe.Pointer(path))
	err := failed(what, s.opt.Path, e)
	if cause := class(C.cask_io_error(path)); cause != nil {
		return fmt.Errorf("%w: the file under it failed: %w", err, cause)
	}
	return fmt.Errorf("%w: %w", err, errMetadata)
}

// guarded runs a call that ZFS may block for ever when the pool is suspended.
// It is given up then, and with it the goroutine and its thread: only the end
// of the process helps such a pool.
func (s *Store) guarded(call func() C.int) C.int {
	done := make(chan C.int, 1)
	s.calls.Add(1)
	go func() { // owned by s; Close waits unless the pool is suspended
		defer s.calls.Done()
		procs.Hold(func() { done <- call() })
	}()
	select {
	case e := <-done:
		return e
	case <-s.suspended:
		return C.CASK_SUSPENDED
	}
}

// enter begins a call; leave ends it.
func (s *Store) enter(what string) error {
	s.use.RLock()
	s.uses.Add(1)
	if s.closed {
		s.use.RUnlock()
		return fmt.Errorf("%s of extent %s: %w", what, s.opt.Path, store.ErrClosed)
	}
	return nil
}

func (s *Store) leave() { s.use.RUnlock() }

// enterChange begins a call that changes the store.
func (s *Store) enterChange(what string) error {
	if err := s.enter(what); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed != nil {
		s.leave()
		return fmt.Errorf("%s after a failure, close the store and open it again: %w", what, s.failed)
	}
	return nil
}

// fail keeps the first error of a change.
func (s *Store) fail(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed == nil {
		s.failed = err
	}
	return err
}

// Describe says in one line what the store is and how it does its I/O.
func (s *Store) Describe() string {
	cache := "through the page cache"
	if s.direct {
		cache = "O_DIRECT"
	}
	return fmt.Sprintf("%s, %d bytes in blocks of %d, I/O by %s, %s", s.opt.Path, s.Info().Size, s.info.BlockSize, Engine(), cache)
}

// Info implements store.Store.
func (s *Store) Info() store.Info {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := s.info
	i.Mark, i.Size = s.mark, s.size
	return i
}

// Apply implements store.Store.
func (s *Store) Apply(ops []store.Op) error {
	if err := s.enterChange("apply"); err != nil {
		return err
	}
	defer s.leave()
	if err := s.Info().Check(ops); err != nil {
		return fmt.Errorf("extent %s: %w", s.opt.Path, err)
	}
	var err error
	for done := 0; done < len(ops); {
		n, e := s.applySome(ops[done:])
		done += n
		switch {
		case e == 0:
		case plain(&ops[done]) && s.rotten(e):
			if done, err = s.meetsRot(ops, done); err != nil {
				return err
			}
		default:
			return s.fail(s.failedCall("apply to", e))
		}
	}
	return nil
}

// applySome performs the first operations: one on snapshots, or all that have
// nothing to do with them. It returns how many were performed.
func (s *Store) applySome(ops []store.Op) (int, C.int) {
	switch o := &ops[0]; o.Kind {
	case store.Snapshot:
		return performed(s.takeSnapshot(o))
	case store.DropSnapshot:
		return performed(s.dropSnapshot(o))
	case store.Rebase:
		if e := s.dropAfter(o.Base); e != 0 {
			return 0, e
		}
		return s.applyPlain(ops[:1])
	case store.Resize:
		return s.applyPlain(ops[:1])
	}
	n := slices.IndexFunc(ops, func(o store.Op) bool { return !plain(&o) })
	if n < 0 {
		n = len(ops)
	}
	return s.applyPlain(ops[:n])
}

// plain reports whether o changes content and nothing else.
func plain(o *store.Op) bool { return o.Kind == store.Write || o.Kind == store.Unmap }

// performed is what became of one operation.
func performed(e C.int) (int, C.int) {
	if e != 0 {
		return 0, e
	}
	return 1, 0
}

// fewOps are performed by the thread that asks for it: another one would have to be
// woken.
const fewOps = 3

// applyPlain performs ops. It returns how many were performed.
func (s *Store) applyPlain(ops []store.Op) (int, C.int) {
	var pins runtime.Pinner
	words := encode(ops, &pins)
	staying.free()
	done, e := 0, C.int(syscall.EAGAIN)
	if len(ops) <= fewOps {
		procs.Hold(func() { done, e = s.applyWords(words) })
	}
	if e == C.int(syscall.EAGAIN) {
		var more int
		more, e = s.applyAway(words[done*C.CASK_OP_WORDS:], &pins)
		done += more
	} else {
		pins.Unpin()
	}
	if e != C.CASK_SUSPENDED {
		staying.drop(words[done*C.CASK_OP_WORDS:])
		w := s.words()
		s.mu.Lock()
		s.size, s.mark = uint64(w[0]), history.Seq(w[2])
		s.mu.Unlock()
	}
	return done, e
}

// applyAway has a thread of C's perform what words describe. Pins are released when
// it is done, even if the pool is suspended meanwhile.
func (s *Store) applyAway(words []uint64, pins *runtime.Pinner) (int, C.int) {
	pins.Pin(&words[0])
	ended := make(chan answer, 1)
	s.calls.Add(1) // Close waits unless the pool is suspended
	number := calling.begin(func(a answer) {
		pins.Unpin()
		ended <- a
		s.calls.Done()
	})
	C.cask_apply_start(s.vol, (*C.uint64_t)(unsafe.Pointer(&words[0])), C.uint64_t(len(words)/C.CASK_OP_WORDS), number)
	select {
	case a := <-ended:
		return a.done, a.code
	case <-s.suspended:
		return 0, C.CASK_SUSPENDED
	}
}

// applyWords performs what words describe as long as nothing blocks.
func (s *Store) applyWords(words []uint64) (int, C.int) {
	var done C.uint64_t
	if len(words) == 0 {
		return 0, 0
	}
	e := C.cask_apply(s.vol, (*C.uint64_t)(unsafe.Pointer(&words[0])),
		C.uint64_t(len(words)/C.CASK_OP_WORDS), &done, 0)
	return int(done), e
}

// encode flattens ops for the shim and pins their data.
func encode(ops []store.Op, pins *runtime.Pinner) []uint64 {
	words := make([]uint64, 0, len(ops)*C.CASK_OP_WORDS)
	for i := range ops {
		o := &ops[i]
		var data, number uint64
		if len(o.Data) > 0 {
			if o.Own != nil && len(o.Data) >= stayMin && o.Own.Has(o.Data) {
				number = staying.hold(o.Own)
			} else {
				pins.Pin(&o.Data[0])
			}
			data = uint64(uintptr(unsafe.Pointer(&o.Data[0])))
		}
		words = append(words, kind(o.Kind), uint64(o.Seq), uint64(o.Base), o.Extent.Off, o.Extent.Len, data, number)
	}
	return words
}

func kind(k store.Kind) uint64 {
	switch k {
	case store.Write:
		return C.CASK_OP_WRITE
	case store.Unmap:
		return C.CASK_OP_UNMAP
	case store.Rebase:
		return C.CASK_OP_REBASE
	case store.Resize:
		return C.CASK_OP_RESIZE
	}
	return 0
}

// ReadAt implements store.Store.
func (s *Store) ReadAt(p []byte, off uint64) error {
	if err := s.enter("read"); err != nil {
		return err
	}
	defer s.leave()
	if err := s.Info().CheckRead(len(p), off); err != nil {
		return fmt.Errorf("extent %s: %w", s.opt.Path, err)
	}
	if len(p) == 0 {
		return nil
	}
	if e := s.read(p, off); e != 0 {
		return fmt.Errorf("read of %d+%d: %w", off, len(p), failed("read", s.opt.Path, e))
	}
	return nil
}

// read fills p, which is not empty.
func (s *Store) read(p []byte, off uint64) C.int {
	s.readers <- struct{}{}
	defer func() { <-s.readers }()
	if reading.do(s.vol, p, off) {
		return 0
	}
	var e C.int
	procs.Hold(func() {
		e = C.cask_read(s.vol, C.uint64_t(off), C.uint64_t(len(p)), unsafe.Pointer(&p[0]))
	})
	if s.rotten(e) {
		return errCksum
	}
	return e
}

// Flush implements store.Store.
func (s *Store) Flush() error {
	if err := s.enterChange("flush"); err != nil {
		return err
	}
	defer s.leave()
	e := s.flushes.do(func() C.int {
		return s.guarded(func() C.int { return C.cask_flush(s.vol) })
	})
	return s.failedCall("flush", e)
}

// Grow implements store.Grower.
func (s *Store) Grow() error {
	if err := s.enterChange("grow"); err != nil {
		return err
	}
	defer s.leave()
	if e := s.guarded(func() C.int { return C.cask_expand(s.vol) }); e != 0 {
		return s.failedCall("expand the pool on", e)
	}
	s.noteBytes()
	return nil
}

// noteBytes remembers how long the extent's file has to be.
func (s *Store) noteBytes() {
	if l, err := readLabel(s.opt.Path); err == nil {
		s.bytes.Store(l.bytes)
	}
}

// Changed implements store.Past.
func (s *Store) Changed(since history.Seq) ([]block.Extent, error) {
	return s.changed(since, maxExtents)
}

// changed answers with at most limit extents.
func (s *Store) changed(since history.Seq, limit int) ([]block.Extent, error) {
	if err := s.enter("changed"); err != nil {
		return nil, err
	}
	defer s.leave()
	txg := s.snaps.txgOf(since)
	return s.listed(since, limit, func(pairs *C.uint64_t, n *C.uint64_t) C.int {
		return C.cask_changed(s.vol, C.uint64_t(since), C.uint64_t(txg), pairs, C.uint64_t(limit), n)
	})
}

// listed is what call finds to have changed after since.
func (s *Store) listed(since history.Seq, limit int, call func(pairs, n *C.uint64_t) C.int) ([]block.Extent, error) {
	pairs := make([]C.uint64_t, 2*limit)
	var n C.uint64_t
	if e := s.guarded(func() C.int { return call(&pairs[0], &n) }); e != 0 {
		return nil, fmt.Errorf("changed since %d: %w", since, s.failedCall("traverse", e))
	}
	out := make([]block.Extent, n)
	for i := range out {
		out[i] = block.Extent{Off: uint64(pairs[2*i]), Len: uint64(pairs[2*i+1])}
	}
	return out, nil
}

func (s *Store) loadMeta() error {
	var n C.uint64_t
	b := make([]byte, store.MaxMeta)
	e := C.cask_get_meta(s.vol, unsafe.Pointer(&b[0]), C.uint64_t(len(b)), &n)
	if e == C.int(syscall.ENOENT) {
		return nil
	}
	if e != 0 {
		return failed("read the metadata of", s.opt.Path, e)
	}
	s.meta = b[:n:n]
	return nil
}

// Meta implements store.Meta.
func (s *Store) Meta() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.meta)
}

// SetMeta implements store.Meta.
func (s *Store) SetMeta(b []byte) error {
	if err := store.CheckMeta(b); err != nil {
		return fmt.Errorf("extent %s: %w", s.opt.Path, err)
	}
	if err := s.enterChange("set meta"); err != nil {
		return err
	}
	defer s.leave()
	own := append(make([]byte, 0, len(b)+1), b...)
	e := s.guarded(func() C.int {
		return C.cask_set_meta(s.vol, unsafe.Pointer(unsafe.SliceData(own)), C.uint64_t(len(own)))
	})
	if e != 0 {
		return s.fail(s.failedCall("set the metadata of", e))
	}
	s.mu.Lock()
	s.meta = own
	s.mu.Unlock()
	return nil
}

// sync waits until everything is in a synced TXG.
func (s *Store) sync() C.int {
	return s.guarded(func() C.int { return C.cask_sync(s.vol) })
}

// Close implements store.Meta. A suspended pool cannot be closed: its extent
// stays locked until the process ends.
func (s *Store) Close() error {
	s.use.Lock()
	defer s.use.Unlock()
	if s.closed {
		return fmt.Errorf("close of extent %s: %w", s.opt.Path, store.ErrClosed)
	}
	s.closed = true
	e := s.sync()
	close(s.stop)
	s.watcher.Wait()
	if e == C.CASK_SUSPENDED {
		return s.failedCall("close", e)
	}
	s.calls.Wait()
	s.closeSnapshots()
	if end := s.closeFrozen(); e == 0 {
		e = end
	}
	s.closeKept()
	defer staying.free()
	if end := C.cask_close(s.vol); e == 0 {
		e = end
	}
	s.vol = nil
	return errors.Join(failed("close", s.opt.Path, e), s.lock.Close())
}

var (
	_ store.Store  = (*Store)(nil)
	_ store.Grower = (*Store)(nil)
)
