package host_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/block/blocktest"
	"github.com/cask-storage/cask/pkg/nvme"
	"github.com/cask-storage/cask/pkg/nvme/host"
	"github.com/cask-storage/cask/pkg/nvme/target"
)

// TestReplaced: when another subsystem has taken the place of a Device's, what
// it has in flight and what comes fails for good, with a reason; a new Attach by
// the old name goes to the new subsystem.
func TestReplaced(t *testing.T) {
	const after = subNQN + ":lost-7"
	mem := blocktest.NewMemory(blocktest.Options{})
	defer mem.Close()
	hung := &hanging{Device: mem}
	var moved, away atomic.Bool
	r := newRig(t, hung, target.Config{Locate: func(_ context.Context, nqn string) error {
		switch {
		case away.Load():
			return errors.New("nobody knows")
		case moved.Load() && nqn == subNQN:
			return fmt.Errorf("%w: by %s", target.ErrReplaced, after)
		}
		return nil
	}})
	d := attach(t, r.config())
	want := make([]byte, 4096)
	want[7] = 3
	if err := blocktest.Write(d, 0, want); err != nil {
		t.Fatal(err)
	}
	hung.hold.Store(true)
	inFlight := make(chan error, 1)
	d.Submit(&block.Request{Op: block.OpFlush, Done: func(_ *block.Request, err error) { inFlight <- err }})
	for hung.held.Load() == 0 {
		time.Sleep(time.Millisecond)
	}

	away.Store(true)
	hung.fail()
	if err := r.tgt.RemoveSubsystem(t.Context(), subNQN); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-inFlight:
		t.Fatalf("the flush ended with %v while nobody knew what has become of the subsystem", err)
	case <-time.After(300 * time.Millisecond):
	}
	if err := r.tgt.AddSubsystem(target.Subsystem{NQN: after, Namespaces: []target.Namespace{{ID: 1, Device: mem, UUID: nvme.UUID{1, 2, 3}}}}); err != nil {
		t.Fatal(err)
	}
	moved.Store(true)
	away.Store(false)
	if err := <-inFlight; !errors.Is(err, host.ErrReplaced) || !errors.Is(err, block.ErrIO) {
		t.Fatalf("flush in flight: %v", err)
	}
	if err := blocktest.Flush(d); !errors.Is(err, host.ErrReplaced) {
		t.Fatalf("flush afterwards: %v", err)
	}
	if s := d.State(); !s.Replaced || s.Connected || !errors.Is(s.LastError, host.ErrReplaced) {
		t.Fatalf("state %+v", s)
	}

	fresh := attach(t, r.config())
	got := make([]byte, 4096)
	if err := blocktest.Read(fresh, 0, got); err != nil || got[7] != 3 {
		t.Fatalf("read by a new session: %v, %v", got[:8], err)
	}
	if name, err := host.Resolve(t.Context(), r.config()); err != nil || name != after {
		t.Fatalf("resolved to %q, %v", name, err)
	}
	other := r.config()
	other.SubsystemNQN = subNQN + "2"
	if name, err := host.Resolve(t.Context(), other); err == nil {
		t.Fatalf("another volume resolved to %q", name)
	}
}

// hanging holds requests back, if told to, until they are to fail as those of
// a session that is over.
type hanging struct {
	block.Device
	hold atomic.Bool
	held atomic.Int64

	mu       sync.Mutex
	requests []*block.Request
}

func (h *hanging) Submit(r *block.Request) {
	if !h.hold.Load() {
		h.Device.Submit(r)
		return
	}
	h.mu.Lock()
	h.requests = append(h.requests, r)
	h.mu.Unlock()
	h.held.Add(1)
}

func (h *hanging) fail() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, r := range h.requests {
		r.Done(r, block.ErrSessionOver)
	}
	h.requests = nil
}
