//go:build linux

package attach

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/cask-storage/cask/pkg/attach/loop"
	"github.com/cask-storage/cask/pkg/block"
)

// FilePrefix begins the name of the file behind every loop device of this
// package, as losetup shows it: /cask-<volume>.
const FilePrefix = "cask-"

// ErrBusy: the device is mounted.
var ErrBusy = loop.ErrBusy

// ErrInUse: the device is still open somewhere; it goes with its last user.
var ErrInUse = errors.New("device is still open")

// Options say what to attach.
type Options struct {
	// Device is served; it stays the caller's, who closes it after the
	// Attachment has ended.
	Device block.Device
	// Name is the volume's, of at most loop.MaxName less FilePrefix bytes;
	// losetup shows it.
	Name     string
	ReadOnly bool
	// Helper is the command line of a process that runs RunHelper.
	Helper []string
	// Found is called with the identity of the served file before a loop
	// device is put on it, for a record that a crash leaves behind.
	Found func(loop.Backing) error
	// Log is slog.Default when nil.
	Log *slog.Logger
}

// Attachment is a Device with a place in /dev.
type Attachment struct {
	dev    loop.Device
	helper helper
	log    *slog.Logger
	name   string
	ended  chan struct{} // closed by the goroutine that serves
}

// Serve puts o.Device behind a loop device and serves it until Close, or until
// the loop device is cleared by others. ctx bounds the setting up only.
func Serve(ctx context.Context, o Options) (*Attachment, error) {
	if o.Log == nil {
		o.Log = slog.Default()
	}
	f, err := newFile(o.Device)
	if err != nil {
		return nil, fmt.Errorf("attach volume %s: %w", o.Name, err)
	}
	o.Name = FilePrefix + o.Name
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("attach volume %s: %w", o.Name, err)
	}
	conn, root, err := mountDetached(o.Name)
	if err != nil {
		return nil, err
	}
	srv, err := newServer(newTree(o, f), conn)
	if err != nil {
		unix.Close(root)
		unix.Close(conn)
		return nil, fmt.Errorf("serve FUSE for volume %s: %w", o.Name, err)
	}
	a := &Attachment{helper: o.Helper, log: o.Log, name: o.Name, ended: make(chan struct{})}
	go a.serve(srv) // ends with the FUSE connection; Close waits for ended
	a.dev, err = configure(root, o, f.geo)
	unix.Close(root) // drops the mount; the loop device, if there is one, keeps the rest
	if err != nil {
		<-a.ended
		return nil, fmt.Errorf("attach volume %s: %w", o.Name, err)
	}
	go a.follow(srv, f) // ends when nothing is served any more
	if !a.dev.DirectIO {
		o.Log.Warn("the kernel refused direct I/O on the backing file; pages are cached twice", "volume", o.Name, "device", a.dev.Path)
	}
	return a, nil
}

func configure(root int, o Options, g block.Geometry) (loop.Device, error) {
	b, err := backingBelow(root, o.Name)
	if err != nil {
		return loop.Device{}, err
	}
	if o.Found != nil {
		if err := o.Found(b); err != nil {
			return loop.Device{}, err
		}
	}
	d, err := helper(o.Helper).bind(root, bind{Name: o.Name, BlockSize: g.BlockSize, ReadOnly: o.ReadOnly})
	if err == nil && d.Backing != b {
		return d, fmt.Errorf("%s is on file %v, and not on %v", d.Path, d.Backing, b)
	}
	return d, err
}

// backingBelow identifies the file without asking the server.
func backingBelow(root int, name string) (loop.Backing, error) {
	var st unix.Statx_t
	if err := unix.Statx(root, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_INO, &st); err != nil {
		return loop.Backing{}, fmt.Errorf("stat of the root: %w", err)
	}
	return loop.Backing{Dev: unix.Mkdev(st.Dev_major, st.Dev_minor), Inode: fileInode, Name: name}, nil
}

func (a *Attachment) serve(srv *fuse.Server) {
	defer close(a.ended)
	srv.Serve()
}

// DevicePath is /dev/loopN.
func (a *Attachment) DevicePath() string { return a.dev.Path }

// Loop is the loop device, with the identity of what is behind it.
func (a *Attachment) Loop() loop.Device { return a.dev }

// Done is closed when the loop device is gone and nothing is served any more.
func (a *Attachment) Done() <-chan struct{} { return a.ended }

// closeWait bounds how long Close waits for whoever has the device open for a
// moment, such as a prober of file systems.
const closeWait = 10 * time.Second

// Close takes the loop device away and waits for the server to end. A mounted
// device is ErrBusy and stays; one that is open elsewhere is ErrInUse and goes
// with its last user.
func (a *Attachment) Close() error {
	select {
	case <-a.ended:
		return nil
	default:
	}
	err := a.helper.clear(loop.ClearOptions{Path: a.dev.Path, Backing: a.dev.Backing})
	if err != nil && !errors.Is(err, loop.ErrOther) {
		return fmt.Errorf("detach %s: %w", a.name, err)
	}
	t := time.NewTimer(closeWait)
	defer t.Stop()
	select {
	case <-a.ended:
		return nil
	case <-t.C:
		return fmt.Errorf("detach %s: %s: %w; it goes when its last user closes it", a.name, a.dev.Path, ErrInUse)
	}
}

// Abandon takes the loop device away as soon as its last user closes it. It
// does not wait.
func (a *Attachment) Abandon() error {
	return a.helper.clear(loop.ClearOptions{Path: a.dev.Path, Backing: a.dev.Backing, Lazy: true})
}
