//go:build linux

// Package loop puts Linux loop devices on files, finds them again and takes
// them away, by ioctl.
//
// # Identity
//
// A loop device is known by what is behind it, the (st_dev, inode) of its
// backing file and the name it was given, never by its number alone: numbers
// are used again, /dev is shared by every container of a node, and a number
// remembered across a crash may belong to somebody else by now. The kernel
// keeps a file system alive while a loop device is on one of its files, but
// afterwards the next one gets its st_dev, and a served file's inode is always
// the same: the name tells the volumes apart.
//
// # Autoclear
//
// Devices are configured without LO_FLAGS_AUTOCLEAR: it takes the device away
// at its last close, and a raw block volume is opened and closed by its
// application as it likes.
// Clear takes a device away explicitly; on one that is still open it sets the
// flag, and the device goes with its last user.
//
// Functions may be called from any goroutine.
package loop

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrBusy: the device is mounted, or claimed in another way.
var ErrBusy = errors.New("device is in use")

// ErrOther: the device is on another file by now.
var ErrOther = errors.New("device belongs to another file")

const (
	controlPath  = "/dev/loop-control"
	majorLoop    = 7
	maxFreeTries = 64 // others may take the free device first
)

// MaxName bounds a device's name, in bytes.
const MaxName = 63 // of LoopInfo64.File_name, less its zero

// Backing identifies a backing file.
type Backing struct {
	Dev   uint64 `json:"dev"`
	Inode uint64 `json:"inode"`
	Name  string `json:"name"` // given to the device
}

// Device is a configured loop device.
type Device struct {
	Path    string  `json:"path"`
	Backing Backing `json:"backing"`
	// DirectIO says that the backing file is used without the page cache.
	DirectIO bool `json:"directIO"`
}

// Config describes a device to make.
type Config struct {
	File      int    // open backing file; the caller may close it afterwards
	Name      string // told by losetup
	BlockSize uint32 // logical block, 512..4096
	ReadOnly  bool
}

// Configure takes a free loop device and puts it on c.File, with direct I/O.
func Configure(c Config) (Device, error) {
	if len(c.Name) > MaxName {
		return Device{}, fmt.Errorf("name %q is longer than %d bytes: %w", c.Name, MaxName, os.ErrInvalid)
	}
	ctl, err := unix.Open(controlPath, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return Device{}, fmt.Errorf("open %s: %w", controlPath, err)
	}
	defer unix.Close(ctl)
	for range maxFreeTries {
		n, err := unix.IoctlRetInt(ctl, unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return Device{}, fmt.Errorf("find a free loop device: %w", err)
		}
		d, err := configureNumber(n, c)
		if !errors.Is(err, unix.EBUSY) {
			return d, err
		}
	}
	return Device{}, fmt.Errorf("find a free loop device: each of %d was taken by others first", maxFreeTries)
}

func configureNumber(n int, c Config) (Device, error) {
	path := "/dev/loop" + strconv.Itoa(n)
	fd, err := openNumber(path, n)
	if err != nil {
		return Device{}, err
	}
	defer unix.Close(fd)
	lc := unix.LoopConfig{Fd: uint32(c.File), Size: c.BlockSize}
	lc.Info.Flags = unix.LO_FLAGS_DIRECT_IO
	if c.ReadOnly {
		lc.Info.Flags |= unix.LO_FLAGS_READ_ONLY
	}
	copy(lc.Info.File_name[:MaxName], c.Name)
	if err := unix.IoctlLoopConfigure(fd, &lc); err != nil {
		return Device{}, fmt.Errorf("configure %s: %w", path, err)
	}
	info, err := unix.IoctlLoopGetStatus64(fd)
	if err != nil {
		return Device{}, fmt.Errorf("read the status of %s: %w", path, err)
	}
	return Device{Path: path, Backing: backingOf(info), DirectIO: info.Flags&unix.LO_FLAGS_DIRECT_IO != 0}, nil
}

// openNumber opens a loop device, and makes its node when /dev is not a
// devtmpfs.
func openNumber(path string, n int) (int, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		err = unix.Mknod(path, unix.S_IFBLK|0o600, int(unix.Mkdev(majorLoop, uint32(n))))
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return -1, fmt.Errorf("make the device node %s: %w", path, err)
		}
		fd, err = unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		return -1, fmt.Errorf("open %s: %w", path, err)
	}
	return fd, nil
}

// BackingAt tells what is behind the loop device at path; false when nothing
// is.
func BackingAt(path string) (Backing, bool, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENXIO) {
			return Backing{}, false, nil
		}
		return Backing{}, false, fmt.Errorf("open %s: %w", path, err)
	}
	defer unix.Close(fd)
	return backingOfDevice(fd, path)
}

func backingOfDevice(fd int, path string) (Backing, bool, error) {
	info, err := unix.IoctlLoopGetStatus64(fd)
	if errors.Is(err, unix.ENXIO) {
		return Backing{}, false, nil
	}
	if err != nil {
		return Backing{}, false, fmt.Errorf("read the status of %s: %w", path, err)
	}
	return backingOf(info), true, nil
}

func backingOf(info *unix.LoopInfo64) Backing {
	return Backing{Dev: info.Device, Inode: info.Inode, Name: unix.ByteSliceToString(info.File_name[:])}
}

// Find looks for the loop device on b.
func Find(b Backing) (path string, found bool, err error) {
	dirs, err := filepath.Glob("/sys/block/loop*/loop")
	if err != nil {
		return "", false, fmt.Errorf("list loop devices: %w", err)
	}
	for _, dir := range dirs {
		path := "/dev/" + filepath.Base(filepath.Dir(dir))
		got, bound, err := BackingAt(path)
		if err == nil && bound && got == b {
			return path, true, nil
		}
	}
	return "", false, nil
}

// Clear takes the device at path away if it is on b; that it is on nothing is
// no error, that it is on another file is ErrOther. One that is mounted is
// ErrBusy, unless lazy.
func Clear(o ClearOptions) error {
	flags := unix.O_RDONLY | unix.O_CLOEXEC
	if !o.Lazy {
		flags |= unix.O_EXCL
	}
	fd, err := unix.Open(o.Path, flags, 0)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENXIO):
		return nil
	case errors.Is(err, unix.EBUSY):
		return fmt.Errorf("%s: %w: it is mounted; unmount it first", o.Path, ErrBusy)
	case err != nil:
		return fmt.Errorf("open %s: %w", o.Path, err)
	}
	defer unix.Close(fd)
	got, bound, err := backingOfDevice(fd, o.Path)
	if err != nil || !bound {
		return err
	}
	if got != o.Backing {
		return fmt.Errorf("%s: %w", o.Path, ErrOther)
	}
	if err := unix.IoctlSetInt(fd, unix.LOOP_CLR_FD, 0); err != nil && !errors.Is(err, unix.ENXIO) {
		return fmt.Errorf("clear %s: %w", o.Path, err)
	}
	return nil
}

// Grow has a device take the size that its file has now. Asking for the file's
// identity has the kernel ask for its size, too, when it has been told to.
func Grow(d Device) error {
	fd, err := unix.Open(d.Path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", d.Path, err)
	}
	defer unix.Close(fd)
	got, bound, err := backingOfDevice(fd, d.Path)
	if err != nil {
		return err
	}
	if !bound || got != d.Backing {
		return fmt.Errorf("%s: %w", d.Path, ErrOther)
	}
	if err := unix.IoctlSetInt(fd, unix.LOOP_SET_CAPACITY, 0); err != nil {
		return fmt.Errorf("grow %s: %w", d.Path, err)
	}
	return nil
}

// ClearOptions names a device to take away.
type ClearOptions struct {
	Path    string
	Backing Backing
	// Lazy takes a device that is in use away at its last close.
	Lazy bool
}

// Number is the N of /dev/loopN.
func Number(path string) (int, error) {
	n, ok := strings.CutPrefix(path, "/dev/loop")
	if !ok {
		return 0, fmt.Errorf("%s is no loop device: %w", path, os.ErrInvalid)
	}
	return strconv.Atoi(n)
}
