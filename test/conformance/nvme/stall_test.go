//go:build conformance

package nvme

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/block/blocktest"
	"github.com/cask-storage/cask/pkg/nvme"
	"github.com/cask-storage/cask/pkg/nvme/host"
	"github.com/cask-storage/cask/test/conformance/vmtest"
)

// TestRestartStall kills the target's process under our host library, starts it
// again at once, and measures how long the longest write took. No write fails,
// and what was written is there.
func TestRestartStall(t *testing.T) {
	shm, err := os.MkdirTemp("/dev/shm", "cask-stall-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(shm) })
	addr := vmtest.FreePort(t)
	p := vmtest.Start(t, addr, settings{NQN: subNQN, Disk: vmtest.Disk{File: filepath.Join(shm, "disk"), Size: 64 << 20, Room: 64 << 20},
		Listen: addr, First: 1, Port: 1, State: nvme.ANAOptimized})
	d, err := host.Attach(t.Context(), host.Config{Addr: addr, SubsystemNQN: subNQN, HostNQN: "nqn.2026-01.storage.cask:host:stall", HostID: nvme.UUID{8}})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	verified := make(chan struct{})
	go func() { // owner: this test, which waits below
		defer close(verified)
		blocktest.Verify(t, d, blocktest.Workload{Workers: 16, For: 12 * time.Second})
	}()
	var took []time.Duration
	off := uint64(48 << 20)
	var stalls []time.Duration
	for range 5 {
		time.Sleep(time.Second)
		begin := time.Now()
		p.Kill()
		p.Restart()
		up := time.Since(begin)
		if err := blocktest.Do(d, &block.Request{Op: block.OpWrite, Extent: block.Extent{Off: off, Len: 4096}, Bufs: [][]byte{make([]byte, 4096)}}); err != nil {
			t.Fatal(err)
		}
		stalls = append(stalls, time.Since(begin))
		took = append(took, up)
	}
	<-verified
	slices.Sort(stalls)
	slices.Sort(took)
	t.Logf("killed until written again: median %v, longest %v; of it the process was away: median %v, longest %v",
		stalls[2].Round(time.Millisecond), stalls[4].Round(time.Millisecond), took[2].Round(time.Millisecond), took[4].Round(time.Millisecond))
}
