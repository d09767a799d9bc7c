//go:build linux

package attach

import (
	"errors"
	"fmt"
	"log"
	"log/slog"
	"strconv"
	"strings"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/cask-storage/cask/pkg/block"
)

const (
	fileInode   = 2
	blockUnit   = 512     // of st_blocks
	maxRequest  = 1 << 20 // the kernel's own cap on a FUSE request
	maxInflight = 48 << 20
	// maxBackground requests are in flight at once; the loop device's own
	// queue has 128.
	maxBackground = 64
	// forever is the validity of attributes: the loop driver asks for the
	// inode's identity, which must be had when the server is gone too.
	forever = 1 << 40
)

// tree is the FUSE file system: a root directory and one file.
type tree struct {
	fuse.RawFileSystem
	name string
	file *file
	ro   bool
	log  *slog.Logger
}

func newTree(o Options, f *file) *tree {
	return &tree{RawFileSystem: fuse.NewDefaultRawFileSystem(), name: o.Name, file: f, ro: o.ReadOnly, log: o.Log}
}

func (t *tree) String() string { return "cask" }

func (t *tree) attr(node uint64, out *fuse.Attr) bool {
	size := t.file.size.Load()
	switch node {
	case fuse.FUSE_ROOT_ID:
		*out = fuse.Attr{Ino: fuse.FUSE_ROOT_ID, Mode: fuse.S_IFDIR | 0o700, Nlink: 2}
	case fileInode:
		*out = fuse.Attr{
			Ino: fileInode, Mode: fuse.S_IFREG | 0o600, Nlink: 1, Size: size,
			Blocks: size / blockUnit, Blksize: max(t.file.geo.PhysicalBlock, t.file.geo.BlockSize),
		}
	default:
		return false
	}
	return true
}

// Lookup finds the one file.
func (t *tree) Lookup(_ <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	if h.NodeId != fuse.FUSE_ROOT_ID || name != t.name {
		return fuse.ENOENT
	}
	out.NodeId, out.EntryValid, out.AttrValid = fileInode, forever, forever
	t.attr(fileInode, &out.Attr)
	return fuse.OK
}

// GetAttr describes the root or the file.
func (t *tree) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	out.AttrValid = forever
	if !t.attr(in.NodeId, &out.Attr) {
		return fuse.ENOENT
	}
	return fuse.OK
}

// SetAttr takes changes of times and refuses a change of size.
func (t *tree) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	if size, set := in.GetSize(); set && size != t.file.size.Load() {
		return fuse.EPERM
	}
	out.AttrValid = forever
	if !t.attr(in.NodeId, &out.Attr) {
		return fuse.ENOENT
	}
	return fuse.OK
}

// StatFs tells the loop driver the granularity of a hole.
func (t *tree) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	bs := max(t.file.geo.PhysicalBlock, t.file.geo.BlockSize)
	out.Bsize, out.Frsize, out.Blocks = bs, bs, t.file.size.Load()/uint64(bs)
	return fuse.OK
}

// Access allows everything: only this process and the loop driver get here.
func (t *tree) Access(<-chan struct{}, *fuse.AccessIn) fuse.Status { return fuse.OK }

// Open opens the file, without a page cache of its own.
func (t *tree) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if in.NodeId != fileInode {
		return fuse.ENOENT
	}
	out.OpenFlags = fuse.FOPEN_DIRECT_IO | fuse.FOPEN_PARALLEL_DIRECT_WRITES
	return fuse.OK
}

// Release is nothing: a Flush is asked for by fsync.
func (t *tree) Release(<-chan struct{}, *fuse.ReleaseIn) {}

// Flush is close(2) of the file, not the block device's verb.
func (t *tree) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status { return fuse.OK }

// Read is OpRead.
func (t *tree) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	e := t.file.clip(block.Extent{Off: in.Offset, Len: uint64(min(in.Size, uint32(len(buf))))})
	p := buf[:e.Len]
	if err := t.file.read(e.Off, p); err != nil {
		return nil, t.failed("read", e, err)
	}
	return fuse.ReadResultData(p), fuse.OK
}

// Write is OpWrite.
func (t *tree) Write(_ <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	e := block.Extent{Off: in.Offset, Len: uint64(len(data))}
	if t.ro {
		return 0, fuse.EROFS
	}
	if t.file.clip(e) != e {
		return 0, t.failed("write", e, errShort)
	}
	if err := t.file.write(e.Off, [][]byte{data}); err != nil {
		return 0, t.failed("write", e, err)
	}
	return uint32(len(data)), fuse.OK
}

// Fsync is OpFlush.
func (t *tree) Fsync(<-chan struct{}, *fuse.FsyncIn) fuse.Status {
	if err := t.file.flush(); err != nil {
		return t.failed("flush", block.Extent{}, err)
	}
	return fuse.OK
}

// Fallocate is OpUnmap for a hole and OpWriteZeroes for a zeroed range; any
// other mode is not supported.
func (t *tree) Fallocate(_ <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	e := block.Extent{Off: in.Offset, Len: in.Length}
	if t.ro {
		return fuse.EROFS
	}
	if t.file.clip(e) != e {
		return t.failed("fallocate", e, errShort)
	}
	var op block.Op
	switch in.Mode {
	case unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE:
		op = block.OpUnmap
	case unix.FALLOC_FL_ZERO_RANGE, unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE:
		op = block.OpWriteZeroes
	default:
		return fuse.Status(unix.EOPNOTSUPP)
	}
	if err := t.file.zero(op, e); err != nil {
		return t.failed(op.String(), e, err)
	}
	return fuse.OK
}

func (t *tree) failed(what string, e block.Extent, err error) fuse.Status {
	errno := errnoOf(err)
	if errno != unix.EOPNOTSUPP {
		t.log.Error("request failed", "volume", t.name, "op", what, "extent", e, "errno", errno, "err", err)
	}
	return fuse.Status(errno)
}

// errnoOf is the one place where an error class becomes an errno.
func errnoOf(err error) syscall.Errno {
	switch {
	case errors.Is(err, block.ErrNoSpace):
		return unix.ENOSPC
	case errors.Is(err, block.ErrReadOnly):
		return unix.EROFS
	case errors.Is(err, block.ErrRange), errors.Is(err, errShort):
		return unix.EINVAL
	case errors.Is(err, block.ErrUnsupported):
		return unix.EOPNOTSUPP
	}
	return unix.EIO
}

// mountDetached starts a FUSE file system that is in no mount table. The
// first descriptor is the connection, the second the root.
func mountDetached(name string) (conn, root int, err error) {
	conn, err = unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, -1, fmt.Errorf("open /dev/fuse: %w", err)
	}
	root, err = mountConn(conn, name)
	if err != nil {
		unix.Close(conn)
		return -1, -1, fmt.Errorf("mount FUSE for volume %s (CAP_SYS_ADMIN and Linux 5.8 are needed): %w", name, err)
	}
	return conn, root, nil
}

func mountConn(conn int, name string) (root int, err error) {
	fs, err := unix.Fsopen("fuse", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("fsopen: %w", err)
	}
	defer unix.Close(fs)
	for _, kv := range [][2]string{
		{"source", "cask:" + name}, {"subtype", "cask"},
		{"fd", strconv.Itoa(conn)}, {"rootmode", "40000"}, {"user_id", "0"}, {"group_id", "0"},
		{"max_read", strconv.Itoa(maxRequest)},
	} {
		if err := unix.FsconfigSetString(fs, kv[0], kv[1]); err != nil {
			return -1, fmt.Errorf("fsconfig %s=%s: %w", kv[0], kv[1], err)
		}
	}
	if err := unix.FsconfigSetFlag(fs, "allow_other"); err != nil {
		return -1, fmt.Errorf("fsconfig allow_other: %w", err)
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, fmt.Errorf("fsconfig create: %w", err)
	}
	attrs := unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC
	root, err = unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, attrs)
	if err != nil {
		return -1, fmt.Errorf("fsmount: %w", err)
	}
	return root, nil
}

// newServer makes the server of a connection; it does not serve yet.
func newServer(t *tree, conn int) (*fuse.Server, error) {
	return fuse.NewServer(t, "/dev/fd/"+strconv.Itoa(conn), &fuse.MountOptions{
		MaxWrite: maxRequest, MaxBackground: maxBackground, MaxInflightRequestBytes: maxInflight,
		ExtraCapabilities: fuse.CAP_ASYNC_DIO, DisableXAttrs: true, DisableReadDirPlus: true, DisableSplice: true,
		Name: "cask", Logger: log.New(fuseLog{t.log}, "", 0),
	})
}

// fuseLog brings what go-fuse prints into the structured log.
type fuseLog struct{ log *slog.Logger }

func (l fuseLog) Write(p []byte) (int, error) {
	l.log.Warn("fuse", "message", strings.TrimSpace(string(p)))
	return len(p), nil
}
