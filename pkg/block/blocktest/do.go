package blocktest

import "github.com/cask-storage/cask/pkg/block"

// Do runs one request and waits for it.
func Do(d block.Device, r *block.Request) error {
	ch := make(chan error, 1)
	r.Done = func(_ *block.Request, err error) { ch <- err }
	d.Submit(r)
	return <-ch
}

// Write writes b at off and waits.
func Write(d block.Device, off uint64, b []byte) error {
	return Do(d, &block.Request{Op: block.OpWrite, Extent: block.Extent{Off: off, Len: uint64(len(b))}, Bufs: [][]byte{b}})
}

// Read fills b from off and waits.
func Read(d block.Device, off uint64, b []byte) error {
	return Do(d, &block.Request{Op: block.OpRead, Extent: block.Extent{Off: off, Len: uint64(len(b))}, Bufs: [][]byte{b}})
}

// Flush flushes and waits.
func Flush(d block.Device) error { return Do(d, &block.Request{Op: block.OpFlush}) }
