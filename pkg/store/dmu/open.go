//go:build cgo && linux

package dmu

// #include <stdlib.h>
// #include "shim.h"
import "C"

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"github.com/cask-storage/cask/pkg/store"
)

// comment, in the pool's label, says that the extent holds a finished volume
// of this format. ZFS allows 31 characters.
const (
	commentPrefix = "cask volume v"
	comment       = commentPrefix + "1"
)

// label is what the extent's ZFS label says.
type label struct {
	pool    string
	comment string
	bytes   uint64 // the least a file with this pool can have
}

// finished reports whether the extent holds a volume that Create completed.
func (l label) finished() bool { return strings.HasPrefix(l.comment, commentPrefix) }

// Create makes a new, empty volume on an extent that holds none: a blank one,
// or one that an interrupted Create left behind. It refuses anything else.
func Create(o Options) (*Store, error) {
	o, err := o.complete()
	if err != nil {
		return nil, err
	}
	if err := o.checkCreate(); err != nil {
		return nil, err
	}
	lock, err := lockExtent(o.Path)
	if err != nil {
		return nil, err
	}
	return begin(o, lock, create)
}

// begin creates or opens the volume on an extent that is locked. When ZFS
// suspends the pool meanwhile, it keeps the extent and the names until the
// process ends: nothing is released then.
func begin(o Options, lock *os.File, how func(Options, cStrings, *os.File) (*Store, error)) (*Store, error) {
	if err := watchCalls(); err != nil {
		return nil, errors.Join(fmt.Errorf("extent %s: %w", o.Path, err), lock.Close())
	}
	c := newCStrings(o)
	s, err := how(o, c, lock)
	if errors.Is(err, store.ErrSuspended) {
		return nil, err
	}
	c.free()
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return s, nil
}

// unlessSuspended runs a call that ZFS may block for ever when it suspends the
// pool. It is given up then, and with it the goroutine and its thread, which
// end with the process.
func unlessSuspended(call func() C.int) C.int {
	before := C.cask_suspensions()
	done := make(chan C.int, 1)
	go func() { done <- call() }() // ends with the call, or with the process
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	for {
		select {
		case e := <-done:
			return e
		case <-tick.C:
			if C.cask_suspensions() != before {
				return C.CASK_SUSPENDED
			}
		}
	}
}

// Open opens the volume on an extent and brings it to the last operation that
// was stable when it was left.
func Open(o Options) (*Store, error) {
	o, err := o.complete()
	if err != nil {
		return nil, err
	}
	lock, err := lockExtent(o.Path)
	if err != nil {
		return nil, err
	}
	return begin(o, lock, open)
}

// lockExtent opens the extent and keeps other processes out of it.
func lockExtent(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("extent %s: %w", path, store.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("extent: %w: %w", store.ErrIO, err)
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		err = store.ErrInUse
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock extent %s: %w", path, err), f.Close())
	}
	return f, nil
}

func create(o Options, c cStrings, lock *os.File) (*Store, error) {
	st, err := lock.Stat()
	if err != nil {
		return nil, fmt.Errorf("extent: %w: %w", store.ErrIO, err)
	}
	if st.Size() < MinExtent {
		return nil, fmt.Errorf("extent %s has %d bytes, at least %d are needed: %w", o.Path, st.Size(), MinExtent, store.ErrNoSpace)
	}
	if err := wipe(o, lock, st.Size()); err != nil {
		return nil, err
	}
	if e := initialize(o); e != 0 {
		return nil, failed("start ZFS for", o.Path, e)
	}
	e := unlessSuspended(func() C.int {
		return C.cask_create(c.pool, c.path, c.comment, C.uint64_t(o.Size), C.uint64_t(o.BlockSize), C.int(slices.Index(compressions, o.Compression)))
	})
	if e != 0 {
		return nil, failed("create a pool on", o.Path, e)
	}
	return openVolume(o, c, lock)
}

// wipe clears the labels of an unfinished volume.
func wipe(o Options, lock *os.File, size int64) error {
	l, err := readLabel(o.Path)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if l.finished() || l.pool != o.Pool {
		return fmt.Errorf("extent %s holds pool %q (%q) already, open or delete it: %w", o.Path, l.pool, l.comment, store.ErrInUse)
	}
	const ends = 1 << 20
	zero := make([]byte, ends)
	for _, off := range []int64{0, size - ends} {
		if _, err := lock.WriteAt(zero, off); err != nil {
			return fmt.Errorf("wipe extent: %w: %w", store.ErrIO, err)
		}
	}
	return nil
}

func open(o Options, c cStrings, lock *os.File) (*Store, error) {
	l, err := readLabel(o.Path)
	if err != nil {
		return nil, err
	}
	if err := checkLabel(o, l, lock); err != nil {
		return nil, err
	}
	if e := initialize(o); e != 0 {
		return nil, failed("start ZFS for", o.Path, e)
	}
	if e := unlessSuspended(func() C.int { return C.cask_import(c.pool, c.path) }); e != 0 {
		return nil, failedOpen("import the pool on", o.Path, c, e)
	}
	return openVolume(o, c, lock)
}

// failedOpen is the error of an extent that cannot be opened. Where all of the
// file could be read, something that ZFS needs does not have its checksum, in any
// copy.
func failedOpen(what, path string, c cStrings, e C.int) error {
	err := failed(what, path, e)
	switch e {
	case C.int(syscall.EIO), C.int(syscall.ENXIO), errCksum, C.CASK_SUSPENDED:
		if C.cask_io_error(c.path) == 0 {
			return fmt.Errorf("%w: %w", err, errMetadata)
		}
	}
	return err
}

// errMetadata is why an extent whose file can be read and written is of no use.
var errMetadata = fmt.Errorf("what an open needs (metadata, the log, a block that an operation in the log changes in part) is rotten in all of its copies, rebuild the replica: %w", store.ErrCorrupt)

func checkLabel(o Options, l label, lock *os.File) error {
	if !l.finished() {
		return fmt.Errorf("extent %s holds pool %q without a finished volume: %w", o.Path, l.pool, store.ErrNotFound)
	}
	if l.comment != comment {
		return fmt.Errorf("extent %s holds a %q, this program knows %q: %w", o.Path, l.comment, comment, store.ErrFormat)
	}
	st, err := lock.Stat()
	if err != nil {
		return fmt.Errorf("extent: %w: %w", store.ErrIO, err)
	}
	if uint64(st.Size()) < l.bytes {
		return fmt.Errorf("extent %s has %d bytes, its pool needs %d: restore the file or rebuild the replica: %w",
			o.Path, st.Size(), l.bytes, store.ErrTruncated)
	}
	return nil
}

func readLabel(path string) (label, error) {
	var name, text [256]C.char
	var bytes C.uint64_t
	p := C.CString(path)
	defer C.free(unsafe.Pointer(p))
	switch e := C.cask_label(p, &name[0], &text[0], C.size_t(len(name)), &bytes); e {
	case 0:
		return label{C.GoString(&name[0]), C.GoString(&text[0]), uint64(bytes)}, nil
	case C.int(syscall.EILSEQ):
		return label{}, fmt.Errorf("extent %s is neither blank nor a ZFS pool: %w", path, store.ErrCorrupt)
	default:
		return label{}, failed("read the label of", path, e)
	}
}

// openVolume owns the dataset of a pool that is imported already.
func openVolume(o Options, c cStrings, lock *os.File) (*Store, error) {
	var vol *C.cask_vol
	e := unlessSuspended(func() C.int {
		var v *C.cask_vol
		e := C.cask_open(c.pool, c.path, &v)
		if e != 0 {
			C.cask_export(c.pool)
		}
		vol = v
		return e
	})
	if e != 0 {
		return nil, failedOpen("open the volume on", o.Path, c, e)
	}
	s := newStore(o, vol, lock)
	s.direct = C.cask_direct(c.path) != 0
	s.noteBytes()
	err := s.loadMeta()
	if err == nil {
		err = s.loadSnapshots()
	}
	if err != nil {
		s.closeKept()
		return nil, errors.Join(err, failed("close", o.Path, C.cask_close(vol)))
	}
	s.watch()
	s.trim()
	return s, nil
}

func initialize(o Options) C.int {
	engine, why := C.int(o.IO), C.int(0)
	e := C.cask_init(C.uint64_t(o.arc()), C.uint64_t(o.dirty()), C.uint64_t(o.HostID), &engine, &why)
	if why != 0 {
		ioEngine.Store(fmt.Sprintf("%v, because io_uring fails: %v", IO(engine), syscall.Errno(why)))
	} else {
		ioEngine.Store(IO(engine).String())
	}
	return e
}

// ioEngine describes the engine of the process.
var ioEngine atomic.Value

// Engine says how extents' files are read and written in this process, and
// why not in a better way; empty before the first store.
func Engine() string {
	s, _ := ioEngine.Load().(string)
	return s
}

// cStrings are the names a pool is opened by.
type cStrings struct{ pool, path, comment *C.char }

func newCStrings(o Options) cStrings {
	return cStrings{C.CString(o.Pool), C.CString(o.Path), C.CString(comment)}
}

func (c cStrings) free() {
	C.free(unsafe.Pointer(c.pool))
	C.free(unsafe.Pointer(c.path))
	C.free(unsafe.Pointer(c.comment))
}
