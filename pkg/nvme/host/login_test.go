package host_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cask-storage/cask/pkg/block/blocktest"
	"github.com/cask-storage/cask/pkg/nvme/dhchap"
	"github.com/cask-storage/cask/pkg/nvme/host"
	"github.com/cask-storage/cask/pkg/nvme/target"
)

const (
	hostSecret = "DHHC-1:00:Rhze4QDk83O+PsMQqqJPlM6GamZDYhQ/MI1wJO/CMIFjvAMY:"
	ctrlSecret = "DHHC-1:01:AXOjJdxCuyrj/wjQfFgKkbpqBTsUuoMqXeRNGAEpA1QQQEE8:"
)

// TestLogin: hosts that authenticate get in, those that do not, or cannot be sure
// of the target, do not, and do not disturb the one that is in.
func TestLogin(t *testing.T) {
	mem := blocktest.NewMemory(blocktest.Options{})
	defer mem.Close()
	unknown := errors.New("the secret is not to be had now")
	type answer = func() (dhchap.Secrets, error)
	var want atomic.Value
	want.Store(answer(func() (dhchap.Secrets, error) {
		return dhchap.Secrets{Host: hostSecret, Controller: ctrlSecret}, nil
	}))
	r := newRig(t, mem, target.Config{Authenticate: func(context.Context, string) (dhchap.Secrets, error) { return want.Load().(answer)() }})
	cfg := r.config()
	cfg.Queues, cfg.Secrets = 2, dhchap.Secrets{Host: hostSecret, Controller: ctrlSecret}
	d := attach(t, cfg)
	blocktest.Verify(t, d, blocktest.Workload{Workers: 2, Ops: 20})
	for name, s := range map[string]dhchap.Secrets{
		"no secret": {}, "another secret": {Host: ctrlSecret}, "another controller": {Host: hostSecret, Controller: hostSecret}, "nonsense": {Host: "x"},
	} {
		bad := cfg
		bad.Secrets = s
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		x, err := host.Attach(ctx, bad)
		cancel()
		if err == nil {
			t.Errorf("%s: attached", name)
			_ = x.Close()
		}
	}
	if n := d.State().Sessions; n != 1 {
		t.Errorf("%d associations: somebody without the secret displaced the one", n)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	var calls atomic.Int32
	want.Store(answer(func() (dhchap.Secrets, error) {
		if calls.Add(1) < 3 {
			return dhchap.Secrets{}, unknown
		}
		return dhchap.Secrets{}, nil // this host need not
	}))
	cfg.Secrets = dhchap.Secrets{Host: hostSecret}
	if err := blocktest.Flush(attach(t, cfg)); err != nil {
		t.Error(err)
	}
	want.Store(answer(func() (dhchap.Secrets, error) {
		return dhchap.Secrets{}, fmt.Errorf("no such host: %w", target.ErrNotAdmitted)
	}))
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := host.Attach(ctx, cfg); !host.NotAdmitted(err) {
		t.Errorf("not admitted: %v", err)
	}
}
