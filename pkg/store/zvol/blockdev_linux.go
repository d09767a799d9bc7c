package zvol

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/cask-storage/cask/internal/procs"
	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/store"
)

// How a device is opened.
const (
	exclusive = unix.O_RDWR | unix.O_EXCL // refused while another process has it so
	readOnly  = unix.O_RDONLY
)

// blockDevice is a zvol's, past the page cache.
type blockDevice struct{ f *os.File }

// pageLen is what buffers are aligned to, in bytes, so that a request is cut at
// whole blocks; maxIO is the most of one.
const (
	pageLen = 4 << 10
	maxIO   = 1 << 20
)

// openDevice opens the device of a zvol or a snapshot, which appears some time after
// that is made.
func openDevice(ctx context.Context, name string, flags int) (*blockDevice, error) {
	ctx, stop := context.WithTimeout(ctx, patience)
	defer stop()
	for {
		f, err := find(name, flags)
		if err == nil {
			return &blockDevice{f}, nil
		}
		if errors.Is(err, unix.EBUSY) {
			return nil, fmt.Errorf("device of %s: another process has it, end that first: %w", name, store.ErrInUse)
		}
		if !wait(ctx) {
			return nil, fmt.Errorf("device of %s: %w: is volmode or snapdev changed? %w", name, store.ErrNotFound, err)
		}
	}
}

// find opens the device that is called name: by udev's link, or where no udev is, by
// asking each device of ZFS.
func find(name string, flags int) (*os.File, error) {
	f, err := openNamed("/dev/zvol/"+name, name, flags)
	if !errors.Is(err, os.ErrNotExist) {
		return f, err
	}
	devices, err := filepath.Glob("/dev/zd*[0-9]")
	if err != nil {
		return nil, err
	}
	slices.SortFunc(devices, func(a, b string) int { // the newest first
		return cmp.Or(cmp.Compare(len(b), len(a)), cmp.Compare(b, a))
	})
	for _, path := range devices {
		if f, err = openNamed(path, name, unix.O_RDONLY); err != nil {
			continue
		}
		_ = f.Close() // it was only asked
		return openNamed(path, name, flags)
	}
	return nil, fmt.Errorf("none of %d devices: %w", len(devices), os.ErrNotExist)
}

// blkZName is the ioctl that says which zvol a device is.
const (
	blkZName = 2<<30 | zNameLen<<16 | 0x12<<8 | 125
	zNameLen = 256
)

// openNamed opens a device if it is that of name: a number may be used again.
func openNamed(path, name string, flags int) (*os.File, error) {
	f, err := os.OpenFile(path, flags|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	var b [zNameLen]byte
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, f.Fd(), blkZName, uintptr(unsafe.Pointer(&b))); e != 0 {
		err = fmt.Errorf("%s: ask for its name: %w", path, e)
	} else if is := unix.ByteSliceToString(b[:]); is != name {
		err = fmt.Errorf("%s is that of %s: %w", path, is, os.ErrNotExist)
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// moveAbove gives d a higher descriptor than o has. It closes d when it fails.
func (d *blockDevice) moveAbove(o *blockDevice) error {
	fd, err := unix.FcntlInt(d.f.Fd(), unix.F_DUPFD_CLOEXEC, int(o.f.Fd())+1)
	_ = d.f.Close() // fd has it still
	if err != nil {
		return classed("duplicate a descriptor", err)
	}
	d.f = os.NewFile(uintptr(fd), d.f.Name())
	return nil
}

// aligned is a buffer of n bytes that begins with a page.
func aligned(n uint64) []byte {
	b := make([]byte, n+pageLen)
	skip := (pageLen - uint64(uintptr(unsafe.Pointer(&b[0])))%pageLen) % pageLen
	return b[skip : skip+n : skip+n]
}

// ReadAt implements device.
func (d *blockDevice) ReadAt(p []byte, off uint64) error {
	from, to := off/sector*sector, roundUp(off+uint64(len(p)), sector)
	buf := aligned(min(to-from, maxIO))
	for at := from; at < to; at += uint64(len(buf)) {
		b := buf[:min(to-at, uint64(len(buf)))]
		var n int
		var err error
		procs.Hold(func() { n, err = d.f.ReadAt(b, int64(at)) })
		if err != nil || n < len(b) {
			return readFailed(at, err)
		}
		begin := max(at, off)
		copy(p[begin-off:], b[begin-at:])
	}
	return nil
}

// readFailed: ZFS turns a checksum that does not match into EIO.
func readFailed(at uint64, err error) error {
	if errors.Is(err, unix.EIO) {
		return fmt.Errorf("read at %d: %w: %w", at, store.ErrCorrupt, err)
	}
	return classed(fmt.Sprintf("read at %d", at), err)
}

// WriteAt implements device.
func (d *blockDevice) WriteAt(p []byte, off uint64) error {
	buf := aligned(min(uint64(len(p)), maxIO))
	for len(p) > 0 {
		// requests end at multiples of maxIO, and so of every block size
		n := copy(buf[:min(uint64(len(buf)), maxIO-off%maxIO)], p)
		var err error
		procs.Hold(func() { _, err = d.f.WriteAt(buf[:n], int64(off)) })
		if err != nil {
			return classed(fmt.Sprintf("write of %d bytes at %d", n, off), err)
		}
		p, off = p[n:], off+uint64(n)
	}
	return nil
}

// Discard implements device.
func (d *blockDevice) Discard(e block.Extent) error {
	arg := [2]uint64{e.Off, e.Len}
	var err unix.Errno
	procs.Hold(func() {
		_, _, err = unix.Syscall(unix.SYS_IOCTL, d.f.Fd(), unix.BLKDISCARD, uintptr(unsafe.Pointer(&arg)))
	})
	runtime.KeepAlive(d.f)
	if err != 0 {
		return classed(fmt.Sprintf("discard %v", e), err)
	}
	return nil
}

// Flush implements device.
func (d *blockDevice) Flush() (err error) {
	procs.Hold(func() { err = d.f.Sync() })
	return classed("flush", err)
}

// Close implements device.
func (d *blockDevice) Close() error { return classed("close", d.f.Close()) }

// classed gives a system call's error one of the store's classes.
func classed(what string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return fmt.Errorf("%s: %w: %w", what, store.ErrNoSpace, err)
	}
	return fmt.Errorf("%s: %w: %w", what, store.ErrIO, err)
}
