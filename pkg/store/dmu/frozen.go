//go:build cgo && linux

package dmu

// #include "shim.h"
import "C"

import (
	"fmt"
	"slices"
	"sync"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/store"
)

// frozen is a snapshot that is in no list and that no crash leaves behind. Lock
// order: the store's use, mu, the store's mu.
type frozen struct {
	s    *Store
	info store.Info // its size

	mu sync.RWMutex // held for reading while c is used
	c  *C.cask_snap // nil: closed
}

// Freeze implements store.Comparer.
func (s *Store) Freeze() (store.Frozen, error) {
	if err := s.enterChange("freeze"); err != nil {
		return nil, err
	}
	defer s.leave()
	out := new(*C.cask_snap)
	if e := s.guarded(func() C.int { return C.cask_freeze(s.vol, out) }); e != 0 {
		return nil, fmt.Errorf("freeze: %w", s.failedCall("snapshot", e))
	}
	f := &frozen{s: s, c: *out, info: store.Info{Size: uint64(C.cask_snap_size(*out))}}
	s.mu.Lock()
	s.frozen = append(s.frozen, f)
	s.mu.Unlock()
	return f, nil
}

// use begins a call; done ends it.
func (f *frozen) use(what string) (done func(), err error) {
	if err := f.s.enter(what); err != nil {
		return nil, err
	}
	f.mu.RLock()
	done = func() {
		f.mu.RUnlock()
		f.s.leave()
	}
	if f.c == nil {
		done()
		return nil, fmt.Errorf("%s of frozen content: %w", what, store.ErrClosed)
	}
	return done, nil
}

// Digests implements store.Frozen.
func (f *frozen) Digests(e block.Extent, piece uint64) ([]store.Digest, error) {
	done, err := f.use("digests")
	if err != nil {
		return nil, err
	}
	defer done()
	if err := f.info.CheckDigests(e, piece, store.DigestUnit); err != nil {
		return nil, fmt.Errorf("extent %s: %w", f.s.opt.Path, err)
	}
	out := make([]store.Digest, (e.Len-1)/piece+1)
	words := make([]C.uint64_t, len(out)*C.CASK_DIGEST_WORDS)
	c := f.c
	if e := f.s.guarded(func() C.int {
		return C.cask_digest(c, C.uint64_t(e.Off), C.uint64_t(piece), C.uint64_t(len(out)), &words[0])
	}); e != 0 {
		return nil, fmt.Errorf("digests: %w", f.s.failedCall("traverse", e))
	}
	for i := range out {
		w := words[i*C.CASK_DIGEST_WORDS:]
		out[i] = store.Digest{Sum: [2]uint64{uint64(w[0]), uint64(w[1])}, Held: uint64(w[2]), Read: uint64(w[3])}
	}
	return out, nil
}

// ReadAt implements store.Frozen.
func (f *frozen) ReadAt(p []byte, off uint64) error {
	done, err := f.use("read")
	if err != nil {
		return err
	}
	defer done()
	if err := f.info.CheckRead(len(p), off); err != nil || len(p) == 0 {
		return err
	}
	f.s.readers <- struct{}{}
	defer func() { <-f.s.readers }()
	e := readSnap(f.c, p, off)
	if f.s.rotten(e) {
		e = errCksum
	}
	return failed("read", f.s.opt.Path, e)
}

// Close implements store.Frozen.
func (f *frozen) Close() error {
	if err := f.s.enter("thaw"); err != nil {
		return nil //nolint:nilerr // the store's Close has given it up
	}
	defer f.s.leave()
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.c
	if c == nil {
		return nil
	}
	f.c = nil
	f.s.mu.Lock()
	f.s.frozen = slices.DeleteFunc(f.s.frozen, func(o *frozen) bool { return o == f })
	f.s.mu.Unlock()
	return f.s.failedCall("destroy the snapshot of", f.s.guarded(func() C.int { return C.cask_thaw(f.s.vol, c) }))
}

// closeFrozen closes what is frozen. The store is not used any more.
func (s *Store) closeFrozen() (e C.int) {
	for _, f := range s.frozen {
		if x := C.cask_thaw(s.vol, f.c); x != 0 {
			e = x
		}
		f.c = nil
	}
	return e
}

var _ store.Comparer = (*Store)(nil)
