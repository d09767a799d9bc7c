//go:build linux

package attach

import (
	"errors"
	"sync"

	"github.com/cask-storage/cask/pkg/block"
)

// memory is a Device in memory that completes requests on other goroutines
// and insists on the contract.
type memory struct {
	mu      sync.Mutex
	geo     block.Geometry
	data    []byte
	flushes int
	unmaps  int
	failure error         // every request fails with it
	gate    chan struct{} // requests wait until it is closed, when not nil
	wg      sync.WaitGroup
}

func newMemory(size uint64) *memory {
	return &memory{
		geo:  block.Geometry{Size: size, BlockSize: 4096, PhysicalBlock: 4096, MaxTransfer: 128 << 10},
		data: make([]byte, size),
	}
}

func (m *memory) Geometry() block.Geometry { return m.geo }

func (m *memory) Submit(r *block.Request) {
	m.wg.Add(1)
	go func() {
		defer m.wg.Done()
		r.Done(r, m.do(r))
	}()
}

func (m *memory) do(r *block.Request) error {
	m.mu.Lock()
	gate := m.gate
	m.mu.Unlock()
	if gate != nil {
		<-gate
	}
	if err := m.geo.Check(r); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.failure != nil {
		return m.failure
	}
	at := m.data[r.Extent.Off:r.Extent.End()]
	switch r.Op {
	case block.OpRead:
		for _, b := range r.Bufs {
			at = at[copy(b, at):]
		}
	case block.OpWrite:
		for _, b := range r.Bufs {
			at = at[copy(at, b):]
		}
	case block.OpFlush:
		m.flushes++
	case block.OpUnmap:
		m.unmaps++
		clear(at)
	case block.OpWriteZeroes:
		clear(at)
	default:
		return errors.New("unknown operation")
	}
	return nil
}

func (m *memory) Close() error {
	m.wg.Wait()
	return nil
}

// set changes the device under its lock.
func (m *memory) set(change func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change()
}
