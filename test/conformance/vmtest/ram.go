//go:build conformance

package vmtest

import (
	"os"
	"sync"
	"syscall"

	"github.com/cask-storage/cask/pkg/block"
)

// RAM is a device in a file in memory, which outlives its process.
type RAM struct {
	mu   sync.RWMutex // held for writing by a resize only
	size uint64
	data []byte
}

// Disk says what a RAM is, in bytes.
type Disk struct {
	File string
	Size uint64
	Room uint64 // that it may grow to
}

// Open maps the disk's file, which it makes if need be.
func (d Disk) Open() (*RAM, error) {
	f, err := os.OpenFile(d.File, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := f.Truncate(int64(d.Room)); err != nil {
		return nil, err
	}
	data, err := syscall.Mmap(int(f.Fd()), 0, int(d.Room), syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	return &RAM{size: d.Size, data: data}, err
}

// Resize changes the size, within the disk's room.
func (d *RAM) Resize(n uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.size = n
}

// Geometry implements block.Device.
func (d *RAM) Geometry() block.Geometry {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return block.Geometry{Size: d.size, BlockSize: 512, PhysicalBlock: 4096, MaxTransfer: 1 << 20}
}

// Submit implements block.Device.
func (d *RAM) Submit(r *block.Request) {
	err := d.Geometry().Check(r)
	if err == nil {
		switch r.Op {
		case block.OpRead:
			off := r.Extent.Off
			for _, b := range r.Bufs {
				off += uint64(copy(b, d.data[off:]))
			}
		case block.OpWrite:
			off := r.Extent.Off
			for _, b := range r.Bufs {
				off += uint64(copy(d.data[off:], b))
			}
		case block.OpUnmap, block.OpWriteZeroes:
			clear(d.data[r.Extent.Off:r.Extent.End()])
		}
	}
	r.Done(r, err)
}

// Close implements block.Device.
func (d *RAM) Close() error { return nil }
