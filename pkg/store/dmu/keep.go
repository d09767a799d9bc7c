//go:build cgo && linux

package dmu

// #include <stdlib.h>
// #include "shim.h"
import "C"

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"unsafe"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/store"
)

// What Keep keeps is a snapshot; its Seq is that after the mark. Snapshots that
// it has and that are dropped later are renamed: they are off the list, their
// names free, and Return gives them back. No operation can take such names.
const (
	keptName = "cask_kept"
	aside    = "cask_kept_" // then the name it had
)

// keeping is what is kept.
type keeping struct {
	use  sync.RWMutex // held for reading through every use of c
	on   bool
	x    snapshot
	c    *C.cask_snap
	meta []byte
	// aside is looked at by the one goroutine that changes the store.
	aside []snapshot
}

// has reports whether x was there when the state was kept.
func (k *keeping) has(x snapshot) bool { return k.on && x.txg < k.x.txg }

// loadKept takes what is kept, and what belongs to it, off the list.
func (s *Store) loadKept(list []snapshot) ([]snapshot, error) {
	k := &s.keep
	if i := slices.IndexFunc(list, func(x snapshot) bool { return x.Name == keptName }); i >= 0 {
		k.x = list[i]
		list = slices.Delete(list, i, i+1)
		if err := s.openKept(); err != nil {
			return nil, err
		}
	}
	var rest []snapshot
	for _, x := range list {
		switch name, is := strings.CutPrefix(x.Name, aside); {
		case !is:
			rest = append(rest, x)
		case k.on:
			x.Name = name
			k.aside = append(k.aside, x)
		default:
			if e := unlessSuspended(func() C.int { return s.destroy(x.Name) }); e != 0 {
				return nil, failed("destroy snapshot "+x.Name+" of", s.opt.Path, e)
			}
		}
	}
	return rest, nil
}

// openKept opens snapshot k.x as what is kept.
func (s *Store) openKept() error {
	k := &s.keep
	name := C.CString(keptName)
	defer C.free(unsafe.Pointer(name))
	b := make([]byte, store.MaxMeta)
	var n C.uint64_t
	e := unlessSuspended(func() C.int { return C.cask_snap_open(s.vol, name, &k.c) })
	if e != 0 {
		return failed("open the kept state of", s.opt.Path, e)
	}
	e = C.cask_snap_meta(k.c, unsafe.Pointer(&b[0]), C.uint64_t(len(b)), &n)
	if e != 0 && e != C.int(syscall.ENOENT) { // none was set then
		s.closeKept()
		return failed("read the kept record of", s.opt.Path, e)
	}
	k.on, k.meta = true, b[:n:n]
	return nil
}

func (s *Store) closeKept() {
	if s.keep.c != nil {
		C.cask_snap_close(s.keep.c)
	}
	s.keep.on, s.keep.c = false, nil
}

// putAside renames a snapshot that what is kept has.
func (s *Store) putAside(x snapshot) C.int {
	if e := s.rename(x.Name, aside+x.Name); e != 0 {
		return e
	}
	s.keep.aside = append(s.keep.aside, x)
	return 0
}

func (s *Store) rename(from, to string) C.int {
	t := C.CString(to)
	defer C.free(unsafe.Pointer(t))
	return named(from, func(n *C.char) C.int { return C.cask_snap_rename(s.vol, n, t) })()
}

// Keep implements store.Keeper. The store can be used on when it fails.
func (s *Store) Keep() error {
	if err := s.DropKept(); err != nil {
		return err
	}
	if err := s.enterChange("keep"); err != nil {
		return err
	}
	defer s.leave()
	o := &store.Op{Name: keptName, Seq: s.Info().Mark + 1}
	if e := s.take(o); e != 0 {
		return s.failedCall("keep the state of", e)
	}
	x, e := s.described(o)
	if e != 0 {
		return s.failedCall("keep the state of", e)
	}
	s.keep.use.Lock()
	defer s.keep.use.Unlock()
	s.keep.x = x
	return s.openKept()
}

// Kept implements store.Keeper.
func (s *Store) Kept() (store.Kept, bool) {
	s.keep.use.RLock()
	defer s.keep.use.RUnlock()
	return store.Kept{Mark: s.keep.x.Seq - 1, Size: s.keep.x.Size, Meta: slices.Clone(s.keep.meta)}, s.keep.on
}

// enterKept begins a use of what is kept; the function that it returns ends it.
func (s *Store) enterKept(what string) (func(), error) {
	if err := s.enter(what); err != nil {
		return nil, err
	}
	s.keep.use.RLock()
	leave := func() {
		s.keep.use.RUnlock()
		s.leave()
	}
	if !s.keep.on {
		leave()
		return nil, fmt.Errorf("%s of extent %s: %w", what, s.opt.Path, store.ErrNotKept)
	}
	return leave, nil
}

// ReadKept implements store.Keeper.
func (s *Store) ReadKept(p []byte, off uint64) error {
	leave, err := s.enterKept("read of the kept state")
	if err != nil {
		return err
	}
	defer leave()
	if err := (store.Info{Size: s.keep.x.Size}).CheckRead(len(p), off); err != nil || len(p) == 0 {
		return err
	}
	s.readers <- struct{}{}
	defer func() { <-s.readers }()
	e := readSnap(s.keep.c, p, off)
	if s.rotten(e) {
		e = errCksum
	}
	return failed("read the kept state of", s.opt.Path, e)
}

// ChangedSinceKeep implements store.Keeper.
func (s *Store) ChangedSinceKeep() ([]block.Extent, error) {
	leave, err := s.enterKept("changed since the kept state")
	if err != nil {
		return nil, err
	}
	defer leave()
	return s.listed(s.keep.x.Seq-1, maxExtents, func(pairs, n *C.uint64_t) C.int {
		return C.cask_changed(s.vol, 0, C.uint64_t(s.keep.x.txg), pairs, maxExtents, n)
	})
}

// Return implements store.Keeper. Snapshots that came later go first, or the
// mark would say that they are there; those that were dropped come back last,
// or it would say that they are not.
func (s *Store) Return() error {
	if err := s.enterChange("return to the kept state"); err != nil {
		return err
	}
	defer s.leave()
	leave, err := s.enterKept("return to the kept state")
	if err != nil {
		return err
	}
	defer leave()
	for _, step := range s.returning() {
		if e := step(); e != 0 {
			return s.fail(s.failedCall("return to the kept state of", e))
		}
	}
	return nil
}

// returning are the steps of Return.
func (s *Store) returning() []func() C.int {
	return []func() C.int{s.dropLater, s.returnMark, s.takeBack}
}

func (s *Store) dropLater() C.int {
	s.snaps.mu.Lock()
	later := slices.DeleteFunc(slices.Clone(s.snaps.list), s.keep.has)
	s.snaps.mu.Unlock()
	for _, x := range later {
		if e := s.dropSnapshot(&store.Op{Base: x.Seq}); e != 0 {
			return e
		}
	}
	return 0
}

func (s *Store) returnMark() C.int {
	e := s.guarded(func() C.int { return C.cask_snap_return(s.vol, s.keep.c) })
	if e == 0 {
		s.mu.Lock()
		s.mark, s.size = s.keep.x.Seq-1, s.keep.x.Size
		s.mu.Unlock()
	}
	return e
}

// takeBack lists again what was put aside.
func (s *Store) takeBack() C.int {
	for k := &s.keep; len(k.aside) > 0; k.aside = k.aside[1:] {
		x, hidden := k.aside[0], k.aside[0]
		hidden.Name = aside + x.Name
		e := s.doom(hidden, 0)
		if e == 0 {
			e = s.guarded(func() C.int { return s.rename(hidden.Name, x.Name) })
		}
		if e != 0 {
			return e
		}
		s.snaps.add(x)
	}
	return 0
}

// DropKept implements store.Keeper. What was put aside for it goes after it: by
// itself it means nothing.
func (s *Store) DropKept() error {
	if err := s.enter("drop the kept state"); err != nil {
		return err
	}
	defer s.leave()
	k := &s.keep
	k.use.Lock()
	defer k.use.Unlock()
	if !k.on {
		return nil
	}
	s.closeKept()
	errs := []error{s.failedCall("drop the kept state of", s.guarded(func() C.int { return s.destroy(keptName) }))}
	for _, x := range k.aside {
		errs = append(errs, s.failedCall("drop snapshot "+x.Name+" of", s.guarded(func() C.int { return s.destroy(aside + x.Name) })))
	}
	k.aside = nil
	return errors.Join(errs...)
}
