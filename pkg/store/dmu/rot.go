//go:build cgo && linux

package dmu

// #include <stdlib.h>
// #include "shim.h"
import "C"

import (
	"fmt"
	"syscall"
	"unsafe"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/store"
)

// rotten reports whether e, of a read or a change, comes from a checksum that
// does not match. Below an indirect block that cannot be read ZFS says EIO: so
// it is when no call on the extent's file has failed.
func (s *Store) rotten(e C.int) bool {
	if e != C.int(syscall.EIO) {
		return e == errCksum
	}
	path := C.CString(s.opt.Path)
	defer C.free(unsafe.Pointer(path))
	return C.cask_io_error(path) == 0 && C.cask_suspended(s.vol) == 0
}

// meetsRot says how far ops came that failed after done of them: a transaction
// fails as a whole, before it changes anything. What goes without those of its
// operations that change rotten blocks in part is performed one by one.
func (s *Store) meetsRot(ops []store.Op, done int) (int, error) {
	for {
		failed := &store.CorruptError{Done: done, Blocks: s.rottenEdges(&ops[done]),
			Err: fmt.Errorf("apply to extent %s: %w", s.opt.Path, store.ErrCorrupt)}
		if len(failed.Blocks) > 0 {
			return done, failed
		}
		n, e := s.applyPlain(ops[done : done+1])
		done += n
		switch {
		case s.rotten(e):
			return done, failed
		case e != 0:
			return done, s.fail(s.failedCall("apply to", e))
		case done == len(ops) || !plain(&ops[done]):
			return done, nil
		}
	}
}

// rottenEdges lists the blocks that o changes in part and that cannot be read.
func (s *Store) rottenEdges(o *store.Op) (out block.Set) {
	if !plain(o) || o.Extent.Len == 0 {
		return nil
	}
	bs := uint64(s.info.BlockSize)
	one := make([]byte, 1)
	for _, at := range []uint64{o.Extent.Off, o.Extent.End() - 1} {
		b := block.Extent{Off: at - at%bs, Len: bs}
		whole := b.Off >= o.Extent.Off && b.End() <= o.Extent.End()
		if !whole && s.read(one, b.Off) == errCksum {
			out = out.With(b)
		}
	}
	return out
}
