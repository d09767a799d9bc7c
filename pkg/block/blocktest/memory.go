// Package blocktest holds what tests of block devices share: Memory, a device
// that fails, stalls and delays on command; Run, the conformance suite every
// implementation of block.Device passes; and Verify, a workload that checks
// every byte it reads against what it wrote.
//
// Memory may be used from any goroutine. It owns no goroutine unless
// Options.Workers asks for asynchronous completion; then Close ends and waits
// for them.
package blocktest

import (
	"fmt"
	"sync"
	"time"

	"github.com/cask-storage/cask/pkg/block"
)

// Options of a Memory.
type Options struct {
	Geometry block.Geometry // zero fields: 16 MiB, 512, 4096, 1 MiB
	// Workers complete requests from goroutines of their own; 0 completes
	// them within Submit.
	Workers int
	// Delay, when set, is asked how long each request is to wait before it
	// is executed.
	Delay func() time.Duration
	// Queue bounds the requests in flight when there are Workers; Submit
	// blocks beyond it. 0 is 128.
	Queue int
}

// Fault makes matching requests fail. Zero fields match everything.
type Fault struct {
	Op     block.Op
	Extent block.Extent // requests that overlap it
	Err    error
	Times  int // requests to fail; 0 is for ever
}

// Counts are requests completed, by verb.
type Counts struct{ Reads, Writes, Flushes, Unmaps, Zeroes, FUA uint64 }

// Memory is a block device in memory.
type Memory struct {
	opts   Options
	jobs   chan *block.Request
	closed chan struct{}
	wg     sync.WaitGroup

	mu       sync.RWMutex
	geo      block.Geometry
	data     []byte
	faults   []Fault
	counts   Counts
	stalled  chan struct{} // not nil while stalled; closed by Resume
	isClosed bool
	inside   sync.WaitGroup // Submit calls
}

// NewMemory makes a device full of zeroes.
func NewMemory(o Options) *Memory {
	def := func(p *uint32, v uint32) {
		if *p == 0 {
			*p = v
		}
	}
	if o.Geometry.Size == 0 {
		o.Geometry.Size = 16 << 20
	}
	def(&o.Geometry.BlockSize, 512)
	def(&o.Geometry.PhysicalBlock, 4096)
	def(&o.Geometry.MaxTransfer, 1<<20)
	if o.Queue == 0 {
		o.Queue = 128
	}
	m := &Memory{opts: o, geo: o.Geometry, data: make([]byte, o.Geometry.Size), closed: make(chan struct{})}
	if o.Workers > 0 {
		m.jobs = make(chan *block.Request, o.Queue)
		for range o.Workers {
			m.wg.Add(1)
			go func() { // owner: Memory; Close waits
				defer m.wg.Done()
				m.work()
			}()
		}
	}
	return m
}

// Geometry of the device.
func (m *Memory) Geometry() block.Geometry {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.geo
}

// Resize changes the size.
func (m *Memory) Resize(size uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	data := make([]byte, size)
	copy(data, m.data)
	m.data, m.geo.Size = data, size
}

// Inject adds a fault. An earlier one takes precedence.
func (m *Memory) Inject(f Fault) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.faults = append(m.faults, f)
}

// ClearFaults removes all faults.
func (m *Memory) ClearFaults() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.faults = nil
}

// Stall makes requests wait, not yet executed, until Resume or Close.
func (m *Memory) Stall() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.stalled == nil {
		m.stalled = make(chan struct{})
	}
}

// Resume ends a Stall.
func (m *Memory) Resume() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.stalled != nil {
		close(m.stalled)
		m.stalled = nil
	}
}

// Counts returns what was completed without error.
func (m *Memory) Counts() Counts {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.counts
}

// Submit executes r, here or on a worker.
func (m *Memory) Submit(r *block.Request) {
	m.mu.RLock()
	if m.isClosed {
		m.mu.RUnlock()
		r.Done(r, block.ErrClosed)
		return
	}
	m.inside.Add(1)
	m.mu.RUnlock()
	defer m.inside.Done()
	if m.jobs != nil {
		m.jobs <- r
		return
	}
	m.run(r)
}

func (m *Memory) work() {
	for r := range m.jobs {
		m.run(r)
	}
}

func (m *Memory) run(r *block.Request) {
	m.mu.RLock()
	stalled := m.stalled
	m.mu.RUnlock()
	if stalled != nil {
		select {
		case <-stalled:
		case <-m.closed:
		}
	}
	if m.opts.Delay != nil {
		select {
		case <-time.After(m.opts.Delay()):
		case <-m.closed:
		}
	}
	r.Done(r, m.execute(r))
}

func (m *Memory) execute(r *block.Request) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.isClosed {
		return block.ErrClosed
	}
	if err := m.geo.Check(r); err != nil {
		return err
	}
	if err := m.faultLocked(r); err != nil {
		return err
	}
	if r.FUA {
		m.counts.FUA++
	}
	switch r.Op {
	case block.OpRead:
		m.counts.Reads++
		off := r.Extent.Off
		for _, b := range r.Bufs {
			off += uint64(copy(b, m.data[off:]))
		}
	case block.OpWrite:
		m.counts.Writes++
		off := r.Extent.Off
		for _, b := range r.Bufs {
			off += uint64(copy(m.data[off:], b))
		}
	case block.OpFlush:
		m.counts.Flushes++
	case block.OpUnmap:
		m.counts.Unmaps++
		clear(m.data[r.Extent.Off:r.Extent.End()])
	case block.OpWriteZeroes:
		m.counts.Zeroes++
		clear(m.data[r.Extent.Off:r.Extent.End()])
	default:
		return fmt.Errorf("%v: %w", r.Op, block.ErrUnsupported)
	}
	return nil
}

func (m *Memory) faultLocked(r *block.Request) error {
	for i := range m.faults {
		f := &m.faults[i]
		if f.Op != 0 && f.Op != r.Op || f.Extent.Len > 0 && !f.Extent.Overlaps(r.Extent) {
			continue
		}
		err := f.Err
		if f.Times > 0 {
			if f.Times--; f.Times == 0 {
				m.faults = append(m.faults[:i], m.faults[i+1:]...)
			}
		}
		return fmt.Errorf("injected, %v of %v: %w", r.Op, r.Extent, err)
	}
	return nil
}

// Close fails what is in flight and waits for it. A second Close does nothing.
func (m *Memory) Close() error {
	m.mu.Lock()
	if m.isClosed {
		m.mu.Unlock()
		return nil
	}
	m.isClosed = true
	close(m.closed)
	m.mu.Unlock()
	m.inside.Wait()
	if m.jobs != nil {
		close(m.jobs)
	}
	m.wg.Wait()
	return nil
}
