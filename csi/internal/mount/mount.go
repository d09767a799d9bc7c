//go:build linux

// Package mount puts file systems and bind mounts in place and tells what is
// mounted where, for the node service.
//
// What is mounted is read from the mount table, never by a stat of the path: a
// file system whose device is dead answers a stat with an error or not at
// all. Functions may be called from any goroutine; callers see to it that one
// path is changed by one call at a time.
package mount

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
	"k8s.io/mount-utils"
	"k8s.io/utils/exec"
)

// ErrBusy: somebody still uses what is to be unmounted.
var ErrBusy = errors.New("mount is in use")

// Device is a block device's number.
type Device struct{ Major, Minor uint32 }

// Mount is what is mounted at a path.
type Mount struct {
	Device   Device // of the file system
	FSType   string
	ReadOnly bool // the mount or its file system
}

// At tells the topmost mount at path.
func At(path string) (Mount, bool, error) {
	path, err := canonical(path)
	if err != nil {
		return Mount{}, false, err
	}
	infos, err := mountinfo.GetMounts(func(i *mountinfo.Info) (skip, stop bool) { return i.Mountpoint != path, false })
	if err != nil {
		return Mount{}, false, fmt.Errorf("read the mount table: %w", err)
	}
	if len(infos) == 0 {
		return Mount{}, false, nil
	}
	i := infos[len(infos)-1] // the topmost
	has := func(options string) bool { return slices.Contains(strings.Split(options, ","), "ro") }
	return Mount{
		Device:   Device{uint32(i.Major), uint32(i.Minor)},
		FSType:   i.FSType,
		ReadOnly: has(i.Options) || has(i.VFSOptions),
	}, true, nil
}

// Published tells where the file system of the device at path, or its node,
// is mounted as a whole. Parts of a file system (a pod's subPath) do not count.
func Published(path string) ([]string, error) {
	d, err := DeviceOf(path)
	if err != nil {
		return nil, err
	}
	node := "/" + filepath.Base(path) // its root in a mount of /dev's file system
	infos, err := mountinfo.GetMounts(func(i *mountinfo.Info) (skip, stop bool) {
		return i.Root != "/" && i.Root != node, false
	})
	if err != nil {
		return nil, fmt.Errorf("read the mount table: %w", err)
	}
	var at []string
	for _, i := range infos {
		if i.Root == "/" && (Device{uint32(i.Major), uint32(i.Minor)}) == d {
			at = append(at, i.Mountpoint)
		}
		if i.Root == node {
			if n, err := DeviceOf(i.Mountpoint); err == nil && n == d {
				at = append(at, i.Mountpoint)
			}
		}
	}
	return at, nil
}

// Same says that two paths are one place in the mount table.
func Same(a, b string) bool {
	x, errX := canonical(a)
	y, errY := canonical(b)
	return errX == nil && errY == nil && x == y
}

// canonical resolves links in the directory of path, as the mount table has it,
// without touching what may be mounted at path.
func canonical(path string) (string, error) {
	dir, err := filepath.EvalSymlinks(filepath.Dir(path))
	if errors.Is(err, os.ErrNotExist) {
		return filepath.Clean(path), nil // nothing can be mounted there
	}
	if err != nil {
		return "", fmt.Errorf("resolve %s: %w", path, err)
	}
	return filepath.Join(dir, filepath.Base(path)), nil
}

// DeviceOf is the number of the block device whose node is at path.
func DeviceOf(path string) (Device, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return Device{}, fmt.Errorf("stat %s: %w", path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return Device{}, fmt.Errorf("%s is no block device: %w", path, os.ErrInvalid)
	}
	return Device{unix.Major(st.Rdev), unix.Minor(st.Rdev)}, nil
}

// Request says what to mount.
type Request struct {
	Source, Target string
	FSType         string
	Options        []string
	ReadOnly       bool
}

// formatOptions: a new volume is thin and reads as zeroes, so discarding it
// first is time lost, and zeroing the tables now is a few requests that carry no
// data; left to the kernel they would be done in the background of the
// application.
var formatOptions = map[string][]string{
	"ext4": {"-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0"},
	"xfs":  {"-K"},
}

// probeBytes must be readable before a device can pass for blank: blkid says
// "nothing found" for a device that it cannot read, too.
const probeBytes = 128 << 10

// FormatAndMount mounts a device. One without any signature is formatted first;
// one with another file system, or with partitions, is never touched. A file
// system is checked before it is mounted for writing.
func FormatAndMount(r Request) error {
	if err := readable(r.Source); err != nil {
		return err
	}
	if err := os.MkdirAll(r.Target, 0o750); err != nil {
		return fmt.Errorf("make the mount point: %w", err)
	}
	options := slices.Clone(r.Options)
	if r.ReadOnly {
		options = append(options, "ro")
	}
	m := mount.NewSafeFormatAndMount(mount.New(""), exec.New())
	have, err := m.GetDiskFormat(r.Source)
	if err != nil {
		return fmt.Errorf("look for a file system on %s: %w", r.Source, err)
	}
	if have != "" && have != r.FSType {
		return fmt.Errorf("%s holds %q where %s is asked for: %w", r.Source, have, r.FSType, ErrFormat)
	}
	err = m.FormatAndMountSensitiveWithFormatOptions(r.Source, r.Target, r.FSType, options, nil, formatOptions[r.FSType])
	if err != nil {
		return fmt.Errorf("mount %s at %s: %w", r.Source, r.Target, err)
	}
	return nil
}

// ErrFormat: the device holds something else.
var ErrFormat = errors.New("unexpected content; it is not formatted over")

func readable(device string) error {
	f, err := os.Open(device)
	if err != nil {
		return fmt.Errorf("open the device: %w", err)
	}
	defer f.Close()
	if _, err := f.ReadAt(make([]byte, probeBytes), 0); err != nil {
		return fmt.Errorf("read the beginning of %s: %w", device, err)
	}
	return nil
}

// Grow makes the file system on the device r.Source, mounted at r.Target, as large
// as the device is. It is in use meanwhile.
func Grow(r Request) error {
	if _, err := mount.NewResizeFs(exec.New()).Resize(r.Source, r.Target); err != nil {
		return fmt.Errorf("grow the file system on %s at %s: %w", r.Source, r.Target, err)
	}
	return nil
}

// Bind makes r.Source, a directory or a device node, appear at r.Target, which
// is made as the same kind.
func Bind(r Request) error {
	if err := makeTarget(r); err != nil {
		return err
	}
	if err := unix.Mount(r.Source, r.Target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s at %s: %w", r.Source, r.Target, err)
	}
	if !r.ReadOnly {
		return nil
	}
	if err := unix.Mount("", r.Target, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		return errors.Join(fmt.Errorf("make %s read-only: %w", r.Target, err), unix.Unmount(r.Target, 0))
	}
	return nil
}

func makeTarget(r Request) error {
	st, err := os.Stat(r.Source)
	if err != nil {
		return fmt.Errorf("stat what is to be bound: %w", err)
	}
	if st.IsDir() {
		err = os.MkdirAll(r.Target, 0o750)
	} else if err = os.MkdirAll(filepath.Dir(r.Target), 0o750); err == nil {
		var f *os.File
		if f, err = os.OpenFile(r.Target, os.O_CREATE, 0o600); err == nil {
			err = f.Close()
		}
	}
	if err != nil {
		return fmt.Errorf("make the mount point: %w", err)
	}
	return nil
}

// maxStacked bounds mounts on top of each other at one path.
const maxStacked = 16

// Unmount takes away everything mounted at path; nothing there is no error.
func Unmount(path string) error {
	for range maxStacked {
		_, mounted, err := At(path)
		if err != nil || !mounted {
			return err
		}
		err = unix.Unmount(path, unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("unmount %s: %w", path, ErrBusy)
		}
		if err != nil {
			return fmt.Errorf("unmount %s: %w", path, err)
		}
	}
	return fmt.Errorf("unmount %s: more than %d mounts on top of each other: %w", path, maxStacked, ErrBusy)
}

// Remove unmounts path and removes the empty directory or file it was.
func Remove(path string) error {
	if err := Unmount(path); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove the mount point: %w", err)
	}
	return nil
}

// Usage of a file system, or the size of a block device.
type Usage struct {
	Block                          bool
	Bytes, BytesUsed, BytesFree    int64
	Inodes, InodesUsed, InodesFree int64
}

// UsageOf tells the usage at path.
func UsageOf(path string) (Usage, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return Usage{}, fmt.Errorf("stat %s: %w", path, err)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFBLK {
		n, err := DeviceSize(path)
		return Usage{Block: true, Bytes: n}, err
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		return Usage{}, fmt.Errorf("statfs %s: %w", path, err)
	}
	unit := fs.Frsize
	return Usage{
		Bytes:     int64(fs.Blocks) * unit,
		BytesUsed: int64(fs.Blocks-fs.Bfree) * unit,
		BytesFree: int64(fs.Bavail) * unit,
		Inodes:    int64(fs.Files), InodesUsed: int64(fs.Files - fs.Ffree), InodesFree: int64(fs.Ffree),
	}, nil
}

// DeviceSize of the block device at path, in bytes.
func DeviceSize(path string) (int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, fmt.Errorf("open the device: %w", err)
	}
	defer f.Close()
	n, err := f.Seek(0, 2)
	if err != nil {
		return 0, fmt.Errorf("size of %s: %w", path, err)
	}
	return n, nil
}
