package blocktest_test

import (
	"errors"
	"testing"
	"time"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/block/blocktest"
)

func TestMemory(t *testing.T) {
	for name, o := range map[string]blocktest.Options{
		"synchronous":  {},
		"asynchronous": {Workers: 3, Queue: 16},
		"4k blocks":    {Geometry: block.Geometry{BlockSize: 4096}},
	} {
		t.Run(name, func(t *testing.T) {
			blocktest.Run(t, func(*testing.T) block.Device { return blocktest.NewMemory(o) })
		})
	}
}

func TestFaults(t *testing.T) {
	m := blocktest.NewMemory(blocktest.Options{})
	defer m.Close()
	m.Inject(blocktest.Fault{Op: block.OpWrite, Extent: block.Extent{Off: 4096, Len: 512}, Err: block.ErrNoSpace, Times: 1})
	if err := blocktest.Write(m, 0, make([]byte, 4096)); err != nil {
		t.Errorf("write beside the fault: %v", err)
	}
	if err := blocktest.Write(m, 0, make([]byte, 8192)); !errors.Is(err, block.ErrNoSpace) {
		t.Errorf("write across the fault: %v", err)
	}
	if err := blocktest.Write(m, 0, make([]byte, 8192)); err != nil {
		t.Errorf("write after the fault: %v", err)
	}
}

func TestStall(t *testing.T) {
	m := blocktest.NewMemory(blocktest.Options{Workers: 1})
	defer m.Close()
	m.Stall()
	done := make(chan error, 1)
	m.Submit(&block.Request{Op: block.OpFlush, Done: func(_ *block.Request, err error) { done <- err }})
	select {
	case <-done:
		t.Fatal("completed while stalled")
	case <-time.After(20 * time.Millisecond):
	}
	m.Resume()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
