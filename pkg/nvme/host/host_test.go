package host_test

import (
	"bytes"
	"context"
	"net"
	"testing"
	"time"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/block/blocktest"
	"github.com/cask-storage/cask/pkg/nvme"
	"github.com/cask-storage/cask/pkg/nvme/host"
	"github.com/cask-storage/cask/pkg/nvme/target"
)

const (
	subNQN  = "nqn.2026-01.storage.cask:volume:test"
	hostNQN = "nqn.2026-01.storage.cask:host:node1:a1"
)

// rig is a target on loopback over a device.
type rig struct {
	t    testing.TB
	tgt  *target.Target
	addr string
}

func newRig(t testing.TB, dev block.Device, cfg target.Config) *rig {
	t.Helper()
	cfg.Logf = t.Logf
	tgt, err := target.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	err = tgt.AddSubsystem(target.Subsystem{NQN: subNQN, Namespaces: []target.Namespace{{ID: 1, Device: dev, UUID: nvme.UUID{1, 2, 3}}}})
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- tgt.Serve(context.Background(), ln) }()
	t.Cleanup(func() {
		_ = tgt.Close()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return &rig{t: t, tgt: tgt, addr: ln.Addr().String()}
}

func (r *rig) config() host.Config {
	return host.Config{Addr: r.addr, SubsystemNQN: subNQN, HostNQN: hostNQN, HostID: nvme.UUID{9}, Logf: r.t.Logf}
}

func attach(t testing.TB, cfg host.Config) *host.Device {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	d, err := host.Attach(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

func TestSmoke(t *testing.T) {
	mem := blocktest.NewMemory(blocktest.Options{})
	r := newRig(t, mem, target.Config{})
	d := attach(t, r.config())
	if g := d.Geometry(); g != mem.Geometry() {
		t.Fatalf("geometry %+v, want %+v", g, mem.Geometry())
	}
	for _, n := range []int{512, 4096, 16384, 16896, 1 << 20} {
		want := bytes.Repeat([]byte{byte(n >> 9), 0x5a, byte(n), 7}, n/4)
		if err := blocktest.Write(d, 4096, want); err != nil {
			t.Fatalf("write %d: %v", n, err)
		}
		got := make([]byte, n)
		if err := blocktest.Read(d, 4096, got); err != nil {
			t.Fatalf("read %d: %v", n, err)
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("read %d: differs", n)
		}
	}
	if err := blocktest.Flush(d); err != nil {
		t.Fatal(err)
	}
	if c := mem.Counts(); c.Flushes != 1 || c.Writes != 5 {
		t.Fatalf("counts %+v", c)
	}
}
