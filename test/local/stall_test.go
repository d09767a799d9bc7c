package local

import (
	"fmt"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/block/blocktest"
	"github.com/cask-storage/cask/pkg/iscsi/iscsitest"
	"github.com/cask-storage/cask/pkg/local"
)

// TestTargetStall kills the target of a volume of three replicas, again and
// again, and measures until the next write is acknowledged: by our NVMe host,
// which reconnects by itself, and by an iSCSI initiator that logs in as soon
// as it can.
func TestTargetStall(t *testing.T) {
	const kills = 5
	for _, frontend := range []string{"nvme", "iscsi"} {
		t.Run(frontend, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "vol")
			st := up(t, dir, "--replicas", "3", "--size", "512Mi", "--frontend", frontend)
			write := writer(t, st)
			if err := write(); err != nil {
				t.Fatal(err)
			}
			var stalls []time.Duration
			for range kills {
				allInSync(t, dir, 3)
				now, err := local.ReadState(dir)
				if err != nil {
					t.Fatal(err)
				}
				begin := time.Now()
				if err := syscall.Kill(now.PIDs.Target, syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
				if err := write(); err != nil {
					t.Fatal(err)
				}
				stalls = append(stalls, time.Since(begin))
			}
			slices.Sort(stalls)
			t.Logf("target killed until a write was acknowledged: median %v, longest %v",
				stalls[kills/2].Round(time.Millisecond), stalls[kills-1].Round(time.Millisecond))
		})
	}
}

// writer returns what writes once, riding out a target that is away.
func writer(t *testing.T, st local.State) func() error {
	t.Helper()
	r := func() *block.Request {
		return &block.Request{Op: block.OpWrite, Extent: block.Extent{Len: 4096}, Bufs: [][]byte{make([]byte, 4096)}}
	}
	if st.ISCSI.Portal == "" {
		d := attach(t, st)
		t.Cleanup(func() { d.Close() })
		return func() error { return blocktest.Do(d, r()) }
	}
	var d *iscsitest.Device
	t.Cleanup(func() {
		if d != nil {
			d.Close()
		}
	})
	return func() error {
		for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			if d == nil {
				s, err := iscsitest.Dial(iscsitest.Options{Addr: st.ISCSI.Portal, Node: st.ISCSI.Node, Timeout: time.Minute})
				if err != nil {
					continue
				}
				if d, err = s.Start(); err != nil {
					s.Conn.Close()
					d = nil
					continue
				}
			}
			if err := blocktest.Do(d, r()); err == nil {
				return nil
			}
			d.Close()
			d = nil
		}
		return fmt.Errorf("no write within a minute")
	}
}
