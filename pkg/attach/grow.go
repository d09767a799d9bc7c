//go:build linux

package attach

import (
	"fmt"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// followEvery is how often the device is looked at for a larger size.
const followEvery = time.Second

// follow has the loop device grow with the volume. What fails is tried again.
func (a *Attachment) follow(srv *fuse.Server, f *file) {
	tick := time.NewTicker(followEvery)
	defer tick.Stop()
	told := f.size.Load()
	for {
		select {
		case <-a.ended:
			return
		case <-tick.C:
		}
		size := f.dev.Geometry().Size
		if size <= told {
			continue
		}
		f.size.Store(size)
		if err := a.grow(srv); err != nil {
			a.log.Warn("the device could not grow, trying again", "volume", a.name, "device", a.dev.Path, "bytes", size, "err", err)
			continue
		}
		told = size
		a.log.Info("the device has grown", "volume", a.name, "device", a.dev.Path, "bytes", size)
	}
}

// grow has the kernel forget the file's size, which it keeps for ever, and the
// loop driver ask for it.
func (a *Attachment) grow(srv *fuse.Server) error {
	if st := srv.InodeNotify(fileInode, -1, 0); st != fuse.OK {
		return fmt.Errorf("tell the kernel that the file has changed: %v", st)
	}
	return a.helper.grow(a.dev)
}
