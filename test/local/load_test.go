package local

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/local"
	"github.com/cask-storage/cask/pkg/nvme"
	"github.com/cask-storage/cask/pkg/nvme/host"
	"github.com/cask-storage/cask/pkg/volume"
)

const (
	writers     = 8
	perWriter   = 64 // blocks of its own
	ioSize      = 4096
	blockStride = 1 << 20 // spread over the volume
)

// load writes and reads back for as long as ctx lasts. Each writer owns its
// blocks, so it knows what each must hold.
type load struct {
	dev           *host.Device
	writes, reads atomic.Int64
	slowest       atomic.Int64 // ns of one request
}

func attach(t *testing.T, st local.State) *host.Device {
	t.Helper()
	dev, err := host.Attach(t.Context(), host.Config{Addr: st.NVMe.Addr, SubsystemNQN: st.NVMe.NQN, NSID: nvme.NSID(st.NVMe.NSID),
		HostNQN: volume.HostNQN("test", "load"), HostID: nvme.UUID{1, 2, 3}})
	if err != nil {
		t.Fatal(err)
	}
	return dev
}

// do carries out one request and waits for it.
func (l *load) do(op block.Op, off uint64, buf []byte) error {
	start := time.Now()
	done := make(chan error, 1)
	r := &block.Request{Op: op, Extent: block.Extent{Off: off, Len: uint64(len(buf))}, Bufs: [][]byte{buf},
		Done: func(_ *block.Request, err error) { done <- err }}
	if op == block.OpFlush {
		r.Extent, r.Bufs = block.Extent{}, nil
	}
	l.dev.Submit(r)
	err := <-done
	for d := int64(time.Since(start)); ; {
		old := l.slowest.Load()
		if d <= old || l.slowest.CompareAndSwap(old, d) {
			return err
		}
	}
}

func fill(buf []byte, off, value uint64) {
	for i := 0; i < len(buf); i += 16 {
		binary.LittleEndian.PutUint64(buf[i:], off)
		binary.LittleEndian.PutUint64(buf[i+8:], value)
	}
}

func check(buf []byte, off, value uint64) error {
	for i := 0; i < len(buf); i += 16 {
		o, v := binary.LittleEndian.Uint64(buf[i:]), binary.LittleEndian.Uint64(buf[i+8:])
		if value == 0 && o == 0 && v == 0 {
			continue
		}
		if o != off || v != value {
			return fmt.Errorf("byte %d of the block at %d holds value %d of offset %d, the last one acknowledged is %d", i, off, v, o, value)
		}
	}
	return nil
}

// writer is one worker: after each acknowledged write its block holds that.
func (l *load) writer(ctx context.Context, n int, values []uint64) error {
	rng := rand.New(rand.NewPCG(uint64(n), 7))
	buf := make([]byte, ioSize)
	for ctx.Err() == nil {
		b := rng.IntN(perWriter)
		off := uint64(b)*blockStride + uint64(n)*ioSize
		switch x := rng.IntN(100); {
		case x < 2:
			if err := l.do(block.OpFlush, 0, nil); err != nil {
				return fmt.Errorf("flush: %w", err)
			}
		case x < 60:
			values[b]++
			fill(buf, off, values[b])
			if err := l.do(block.OpWrite, off, buf); err != nil {
				return fmt.Errorf("write at %d: %w", off, err)
			}
			l.writes.Add(1)
		default:
			if err := l.verify(buf, off, values[b]); err != nil {
				return err
			}
			l.reads.Add(1)
		}
	}
	return nil
}

func (l *load) verify(buf []byte, off, value uint64) error {
	if err := l.do(block.OpRead, off, buf); err != nil {
		return fmt.Errorf("read at %d: %w", off, err)
	}
	return check(buf, off, value)
}

// run keeps the writers going until ctx ends, then reads every block.
func (l *load) run(ctx context.Context, values [writers][]uint64) error {
	var wg sync.WaitGroup
	errs := make(chan error, writers)
	for n := range writers {
		wg.Go(func() { errs <- l.writer(ctx, n, values[n]) })
	}
	wg.Wait()
	for range writers {
		if err := <-errs; err != nil {
			return err
		}
	}
	return l.readAll(values)
}

func (l *load) readAll(values [writers][]uint64) error {
	buf := make([]byte, ioSize)
	for n := range writers {
		for b, v := range values[n] {
			if err := l.verify(buf, uint64(b)*blockStride+uint64(n)*ioSize, v); err != nil {
				return err
			}
		}
	}
	return nil
}
