//go:build linux

package attach

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/cask-storage/cask/pkg/block"
)

// maxUnmap is the largest extent of one Unmap or WriteZeroes: it bounds the
// time that one request takes.
const maxUnmap = 1 << 30

// file is a Device as a file of bytes: any offset, any length, and it waits.
type file struct {
	dev block.Device
	geo block.Geometry // but its Size, which can grow:
	// size is in bytes.
	size atomic.Uint64
	// mu is held shared by aligned writes and alone by a
	// read-modify-write.
	mu sync.RWMutex
}

func newFile(dev block.Device) (*file, error) {
	g := dev.Geometry()
	if g.BlockSize < 512 || g.BlockSize > 4096 || g.BlockSize&(g.BlockSize-1) != 0 {
		return nil, fmt.Errorf("a logical block of %d bytes cannot be a loop device's: %w", g.BlockSize, block.ErrUnsupported)
	}
	if g.Size == 0 || g.Size%uint64(g.BlockSize) != 0 || g.MaxTransfer < g.BlockSize {
		return nil, fmt.Errorf("geometry %+v makes no sense: %w", g, block.ErrUnsupported)
	}
	g.MaxTransfer -= g.MaxTransfer % g.BlockSize
	f := &file{dev: dev, geo: g}
	f.size.Store(g.Size)
	return f, nil
}

// clip cuts e at the end of the file.
func (f *file) clip(e block.Extent) block.Extent {
	size := f.size.Load()
	if e.Off >= size {
		return block.Extent{Off: size}
	}
	e.Len = min(e.Len, size-e.Off)
	return e
}

// outer is the smallest extent of whole blocks around e.
func (f *file) outer(e block.Extent) block.Extent {
	bs := uint64(f.geo.BlockSize)
	off := e.Off &^ (bs - 1)
	return block.Extent{Off: off, Len: (e.End()+bs-1)&^(bs-1) - off}
}

// inner is the largest extent of whole blocks within e, empty if there is none.
func (f *file) inner(e block.Extent) block.Extent {
	bs := uint64(f.geo.BlockSize)
	off, end := (e.Off+bs-1)&^(bs-1), e.End()&^(bs-1)
	if end <= off {
		return block.Extent{Off: off}
	}
	return block.Extent{Off: off, Len: end - off}
}

func (f *file) aligned(e block.Extent) bool { return f.outer(e) == e }

// read fills p from off; the range must lie within the file.
func (f *file) read(off uint64, p []byte) error {
	e := block.Extent{Off: off, Len: uint64(len(p))}
	if f.aligned(e) {
		return f.transfer(block.OpRead, e, [][]byte{p})
	}
	o := f.outer(e)
	whole := make([]byte, o.Len)
	if err := f.transfer(block.OpRead, o, [][]byte{whole}); err != nil {
		return err
	}
	copy(p, whole[e.Off-o.Off:])
	return nil
}

// write stores bufs at off; the range must lie within the file.
func (f *file) write(off uint64, bufs [][]byte) error {
	e := block.Extent{Off: off}
	for _, b := range bufs {
		e.Len += uint64(len(b))
	}
	if f.aligned(e) {
		f.mu.RLock()
		defer f.mu.RUnlock()
		return f.transfer(block.OpWrite, e, bufs)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	o := f.outer(e)
	whole := make([]byte, o.Len)
	if err := f.transfer(block.OpRead, o, [][]byte{whole}); err != nil {
		return err
	}
	at := e.Off - o.Off
	for _, b := range bufs {
		at += uint64(copy(whole[at:], b))
	}
	return f.transfer(block.OpWrite, o, [][]byte{whole})
}

// zero makes e zeroes by op, OpUnmap or OpWriteZeroes.
func (f *file) zero(op block.Op, e block.Extent) error {
	in := f.inner(e)
	if in.Len == 0 {
		if e.Len == 0 {
			return nil
		}
		return f.write(e.Off, [][]byte{make([]byte, e.Len)})
	}
	if n := in.Off - e.Off; n > 0 {
		if err := f.write(e.Off, [][]byte{make([]byte, n)}); err != nil {
			return err
		}
	}
	if n := e.End() - in.End(); n > 0 {
		if err := f.write(in.End(), [][]byte{make([]byte, n)}); err != nil {
			return err
		}
	}
	f.mu.RLock()
	defer f.mu.RUnlock()
	for off := in.Off; off < in.End(); off += maxUnmap {
		part := block.Extent{Off: off, Len: min(maxUnmap, in.End()-off)}
		if err := f.do(&block.Request{Op: op, Extent: part}); err != nil {
			return err
		}
	}
	return nil
}

func (f *file) flush() error { return f.do(&block.Request{Op: block.OpFlush}) }

// do submits one request and waits for it.
func (f *file) do(r *block.Request) error {
	done := make(chan error, 1)
	r.Done = func(_ *block.Request, err error) { done <- err }
	f.dev.Submit(r)
	return <-done
}

// transfer reads or writes whole blocks, split into what the device takes, all
// in flight at once; the first error wins.
func (f *file) transfer(op block.Op, e block.Extent, bufs [][]byte) error {
	most := uint64(f.geo.MaxTransfer)
	if e.Len == 0 {
		return nil
	}
	if e.Len <= most {
		return f.do(&block.Request{Op: op, Extent: e, Bufs: bufs})
	}
	n := int((e.Len + most - 1) / most)
	done := make(chan error, n)
	for off := e.Off; off < e.End(); off += most {
		part := block.Extent{Off: off, Len: min(most, e.End()-off)}
		f.dev.Submit(&block.Request{
			Op: op, Extent: part, Bufs: slice(bufs, part.Off-e.Off, part.Len),
			Done: func(_ *block.Request, err error) { done <- err },
		})
	}
	var first error
	for range n {
		if err := <-done; first == nil {
			first = err
		}
	}
	return first
}

// slice is bufs[off:off+length] of the concatenation.
func slice(bufs [][]byte, off, length uint64) [][]byte {
	var out [][]byte
	for _, b := range bufs {
		n := uint64(len(b))
		if off >= n {
			off -= n
			continue
		}
		take := min(n-off, length)
		out = append(out, b[off:off+take])
		if length -= take; length == 0 {
			break
		}
		off = 0
	}
	return out
}

var errShort = errors.New("request beyond the end of the volume")
