package local

import (
	"errors"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/local"
	"github.com/cask-storage/cask/pkg/nvme/host"
)

// TestLoss kills every replica at once, after a write that was flushed and one
// that was not, then asks for a flush: it must fail, for what it would cover may
// be gone, and so must all that this host asks for afterwards, whatever becomes
// of the target. A host that attaches anew goes on with what was flushed.
func TestLoss(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "vol")
	st := up(t, dir, "--replicas", "3", "--size", "256Mi")
	allInSync(t, dir, 3)
	old := &load{dev: attach(t, st)}
	defer old.dev.Close()
	buf := make([]byte, ioSize)
	fill(buf, 0, 1)
	for _, err := range []error{old.do(block.OpWrite, 0, buf), old.do(block.OpFlush, 0, nil), old.do(block.OpWrite, blockStride, buf)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	st, err := local.ReadState(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range st.PIDs.Replicas {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	start := time.Now()
	if err := old.do(block.OpFlush, 0, nil); !errors.Is(err, host.ErrReplaced) {
		t.Fatalf("a flush that would cover a write that may be lost ended with %v", err)
	}
	t.Logf("the flush failed after %v: %v", time.Since(start).Round(time.Millisecond), old.dev.State().LastError)
	allInSync(t, dir, 3)
	if err := old.verify(buf, 0, 1); !errors.Is(err, host.ErrReplaced) {
		t.Fatalf("a session that is over goes on: %v", err)
	}

	fresh := &load{dev: attach(t, st)}
	defer fresh.dev.Close()
	if err := fresh.verify(buf, 0, 1); err != nil {
		t.Fatalf("what was flushed: %v", err)
	}
	// The name outlives the target that gave it.
	if st, err = local.ReadState(dir); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(st.PIDs.Target, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := fresh.do(block.OpFlush, 0, nil); err != nil {
		t.Fatalf("a session from after the loss does not survive the target: %v", err)
	}
	if err := old.do(block.OpFlush, 0, nil); !errors.Is(err, host.ErrReplaced) {
		t.Fatalf("a session that is over goes on at the next target: %v", err)
	}
	if why := old.dev.State().LastError.Error(); !strings.Contains(why, "attach anew") {
		t.Fatalf("the reason does not say what to do: %s", why)
	}
}
