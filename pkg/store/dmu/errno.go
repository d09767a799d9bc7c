//go:build cgo && linux

package dmu

// #include "shim.h"
import "C"

import (
	"fmt"
	"syscall"

	"github.com/cask-storage/cask/pkg/store"
)

// errCksum is ZFS's ECKSUM on Linux.
const errCksum = C.int(syscall.EBADE)

// class maps the shim's answers to the store's error classes, once for all.
func class(e C.int) error {
	switch e {
	case 0:
		return nil
	case C.CASK_SUSPENDED:
		return store.ErrSuspended
	case C.CASK_FORMAT, C.int(syscall.ENOTSUP):
		return store.ErrFormat
	case errCksum:
		return store.ErrCorrupt
	case C.int(syscall.ENOSPC), C.int(syscall.EDQUOT):
		return store.ErrNoSpace
	case C.int(syscall.EBUSY), C.int(syscall.EEXIST):
		return store.ErrInUse
	case C.int(syscall.ENOENT):
		return store.ErrNotFound
	}
	return fmt.Errorf("%w: %w", store.ErrIO, syscall.Errno(e))
}

// failed is the error of operation what on the extent at path.
func failed(what, path string, e C.int) error {
	err := class(e)
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s extent %s: %w", what, path, err)
}
