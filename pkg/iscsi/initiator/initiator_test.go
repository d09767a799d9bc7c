package initiator_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/block/blocktest"
	"github.com/cask-storage/cask/pkg/block/ride"
	"github.com/cask-storage/cask/pkg/iscsi"
	"github.com/cask-storage/cask/pkg/iscsi/initiator"
	"github.com/cask-storage/cask/pkg/iscsi/target"
)

const (
	nodeName = "iqn.2026-01.storage.cask:volume:test"
	selfName = "iqn.2026-01.storage.cask:host:node1:a1"
)

// rig is a target on loopback over a device.
type rig struct {
	t    *testing.T
	dev  block.Device
	tgt  *target.Target
	addr string
	stop func()
}

func newRig(t *testing.T, dev block.Device, cfg target.Config) *rig {
	t.Helper()
	r := &rig{t: t, dev: dev, addr: "127.0.0.1:0"}
	r.start(cfg)
	t.Cleanup(func() { r.stop() })
	return r
}

// start serves at the address of before.
func (r *rig) start(cfg target.Config, names ...string) {
	r.t.Helper()
	cfg.Logf = r.t.Logf
	var err error
	if r.tgt, err = target.New(cfg); err != nil {
		r.t.Fatal(err)
	}
	if len(names) == 0 {
		names = []string{nodeName}
	}
	for _, name := range names {
		if err := r.tgt.AddNode(target.Node{Name: name, Units: []target.Unit{{Device: r.dev, UUID: [16]byte{1, 2, 3}}}}); err != nil {
			r.t.Fatal(err)
		}
	}
	l, err := net.Listen("tcp", r.addr)
	if err != nil {
		r.t.Fatal(err)
	}
	r.addr = l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- r.tgt.Serve(ctx, l) }() // owner: the test, by stop
	r.stop = func() {
		r.stop = func() {}
		cancel()
		if err := <-served; err != nil {
			r.t.Errorf("Serve: %v", err)
		}
	}
}

func (r *rig) config() initiator.Config {
	return initiator.Config{Addr: r.addr, Target: nodeName, Initiator: selfName, Logf: r.t.Logf}
}

func attach(t *testing.T, cfg initiator.Config) *initiator.Device {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	d, err := initiator.Attach(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

// TestConformance: a unit is a block.Device, with bursts smaller than its
// transfers, and with digests through a small window.
func TestConformance(t *testing.T) {
	for name, change := range map[string]func(*initiator.Config, *target.Config){
		"bursts": func(_ *initiator.Config, tc *target.Config) {
			tc.Limits.FirstBurst, tc.Limits.MaxBurst = 64<<10, 256<<10
		},
		"digests": func(c *initiator.Config, tc *target.Config) {
			c.HeaderDigest, c.DataDigest, tc.Limits.QueueDepth = true, true, 2
		},
	} {
		t.Run(name, func(t *testing.T) {
			blocktest.Run(t, func(t *testing.T) block.Device {
				mem := blocktest.NewMemory(blocktest.Options{})
				t.Cleanup(func() { _ = mem.Close() })
				var tc target.Config
				r := &rig{t: t, dev: mem, addr: "127.0.0.1:0"}
				c := initiator.Config{Target: nodeName, Initiator: selfName}
				change(&c, &tc)
				r.start(tc)
				t.Cleanup(func() { r.stop() })
				c.Addr = r.addr
				return attach(t, c)
			})
		})
	}
}

// TestRidesOut: a target that goes away and comes back is a stall; what was
// written is there, and the session is one that reinstates the older.
func TestRidesOut(t *testing.T) {
	mem := blocktest.NewMemory(blocktest.Options{})
	defer mem.Close()
	r := newRig(t, mem, target.Config{})
	d := attach(t, r.config())
	ended := make(chan error, 1)
	var restarted atomic.Bool
	go func() { // ends a round after the restarts
		for i, last := 0, false; !last; i++ {
			last = i >= 400 && restarted.Load()
			want := bytes.Repeat([]byte{byte(i), byte(i >> 8)}, 4096)
			got := make([]byte, len(want))
			off := uint64(i%16) << 16
			err := errors.Join(blocktest.Write(d, off, want), blocktest.Read(d, off, got))
			if err == nil && !bytes.Equal(got, want) {
				err = fmt.Errorf("round %d: read back something else", i)
			}
			if err != nil {
				ended <- err
				return
			}
		}
		ended <- nil
	}()
	for range 3 {
		time.Sleep(20 * time.Millisecond)
		r.stop()
		r.start(target.Config{})
	}
	restarted.Store(true)
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if s := d.State(); s.Sessions < 2 {
		t.Errorf("only %d sessions: nothing was tested", s.Sessions)
	}
}

// TestSilentTarget is given up, and another login tried.
func TestSilentTarget(t *testing.T) {
	mem := blocktest.NewMemory(blocktest.Options{})
	defer mem.Close()
	r := newRig(t, mem, target.Config{})
	cfg := r.config()
	cfg.Silence = 300 * time.Millisecond
	var silent atomic.Bool
	cfg.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		nc, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		return deaf{nc, &silent}, err
	}
	d := attach(t, cfg)
	before := d.State().Sessions
	silent.Store(true)
	wait(t, "the silence is noticed", func() bool { return !d.State().Connected })
	silent.Store(false)
	if err := blocktest.Write(d, 0, make([]byte, 4096)); err != nil {
		t.Error(err)
	}
	if n := d.State().Sessions; n == before {
		t.Error("the session is still the first")
	}
}

// deaf loses what is written to it while silent.
type deaf struct {
	net.Conn
	silent *atomic.Bool
}

func (d deaf) Write(b []byte) (int, error) {
	if d.silent.Load() {
		return len(b), nil
	}
	return d.Conn.Write(b)
}

func wait(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 6000 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("in vain waited until %s", what)
}

// TestResize: a new size is seen after the unit attention.
func TestResize(t *testing.T) {
	mem := blocktest.NewMemory(blocktest.Options{Geometry: block.Geometry{Size: 1 << 20}})
	defer mem.Close()
	r := newRig(t, mem, target.Config{})
	d := attach(t, r.config())
	mem.Resize(2 << 20)
	r.tgt.Resized(nodeName)
	wait(t, "the new size is seen", func() bool {
		if err := blocktest.Flush(d); err != nil {
			t.Fatal(err)
		}
		return d.Geometry().Size == 2<<20
	})
	if err := blocktest.Write(d, 1<<20, make([]byte, 4096)); err != nil {
		t.Error(err)
	}
}

// TestSecrets: who has the secrets gets in, in both directions; nobody else.
func TestSecrets(t *testing.T) {
	mem := blocktest.NewMemory(blocktest.Options{})
	defer mem.Close()
	auth := target.Auth{User: "host", Secret: "a secret of the host", MutualUser: "disk", MutualSecret: "a secret of the disk"}
	r := newRig(t, mem, target.Config{Auth: func(_, node string) (*target.Auth, error) {
		if node == "" {
			return nil, nil
		}
		return &auth, nil
	}})
	open := newRig(t, mem, target.Config{})
	good := initiator.Secrets{User: "host", Secret: "a secret of the host"}
	both := good
	both.MutualUser, both.MutualSecret = "disk", "a secret of the disk"
	wrong, impostor, same := good, both, both
	same.MutualSecret = same.Secret
	wrong.Secret, impostor.MutualSecret = "another secret", "another secret"
	for _, c := range []struct {
		name string
		rig  *rig
		s    initiator.Secrets
		want string // of the error
	}{
		{"one way", r, good, ""},
		{"mutual", r, both, ""},
		{"not asked for", open, good, ""},
		{"none", r, initiator.Secrets{}, "authentication failed"},
		{"wrong", r, wrong, "authentication failed"},
		{"impostor", r, impostor, "has not proven"},
		{"one secret for both", r, same, "must differ"},
		{"does not prove itself", open, both, "authentication failed"},
	} {
		cfg := c.rig.config()
		cfg.Secrets = c.s
		if c.want == "" {
			if err := blocktest.Write(attach(t, cfg), 0, make([]byte, 4096)); err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		_, err := initiator.Attach(ctx, cfg)
		cancel()
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
		for _, secret := range []string{c.s.Secret, c.s.MutualSecret} {
			if secret != "" && err != nil && strings.Contains(err.Error(), secret) {
				t.Errorf("%s: the error tells a secret", c.name)
			}
		}
	}
}

// TestLongName: with the longest of names, which the unit's identity holds more
// than once.
func TestLongName(t *testing.T) {
	mem := blocktest.NewMemory(blocktest.Options{})
	defer mem.Close()
	name := nodeName + ":" + strings.Repeat("n", iscsi.MaxName-len(nodeName)-1)
	r := &rig{t: t, dev: mem, addr: "127.0.0.1:0"}
	r.start(target.Config{}, name)
	t.Cleanup(func() { r.stop() })
	cfg := r.config()
	cfg.Target = name
	if err := blocktest.Write(attach(t, cfg), 0, make([]byte, 4096)); err != nil {
		t.Error(err)
	}
}

// TestNotAdmitted: a refused initiator tries on, and knows why.
func TestNotAdmitted(t *testing.T) {
	mem := blocktest.NewMemory(blocktest.Options{})
	defer mem.Close()
	var in atomic.Bool
	var refused atomic.Int32
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r := newRig(t, mem, target.Config{Admit: func(context.Context, string, string) error {
		if in.Load() {
			return nil
		}
		if refused.Add(1) == 3 {
			cancel() // the first refusals have been noted
		}
		return target.ErrNotAdmitted
	}})
	if _, err := initiator.Attach(ctx, r.config()); !initiator.NotAdmitted(err) {
		t.Errorf("refused: %v", err)
	}
	in.Store(true)
	d := attach(t, r.config())
	in.Store(false)
	if err := r.tgt.Recheck(t.Context()); err != nil {
		t.Fatal(err)
	}
	wait(t, "it knows that it was cut off", func() bool { return initiator.NotAdmitted(d.State().LastError) })
	in.Store(true)
	if err := blocktest.Flush(d); err != nil {
		t.Error(err)
	}
}

// TestReplaced: after a loss the Device fails for good, and who attaches by the
// old name gets the new node.
func TestReplaced(t *testing.T) {
	const after = nodeName + ":lost-7"
	mem := blocktest.NewMemory(blocktest.Options{})
	defer mem.Close()
	r := newRig(t, mem, target.Config{})
	d := attach(t, r.config())
	if err := blocktest.Write(d, 0, make([]byte, 4096)); err != nil {
		t.Fatal(err)
	}
	r.stop()
	r.start(target.Config{Locate: func(_ context.Context, name string) error {
		if name == nodeName {
			return target.ErrReplaced
		}
		return nil
	}}, after)
	if err := blocktest.Flush(d); !errors.Is(err, ride.ErrReplaced) || !errors.Is(err, block.ErrIO) {
		t.Errorf("flush of the old session: %v", err)
	}
	if s := d.State(); !s.Replaced {
		t.Errorf("state %+v", s)
	}
	e := attach(t, r.config())
	if err := blocktest.Flush(e); err != nil || e.State().Name != after {
		t.Errorf("flush of the new one: %v, by %s", err, e.State().Name)
	}
}

// TestOddTransfer: a largest transfer that is no number of blocks splits
// requests at blocks.
func TestOddTransfer(t *testing.T) {
	mem := blocktest.NewMemory(blocktest.Options{})
	defer mem.Close()
	cfg := newRig(t, mem, target.Config{}).config()
	cfg.MaxTransfer = 5000
	d := attach(t, cfg)
	bs := int(d.Geometry().BlockSize)
	want := bytes.Repeat([]byte{1, 2, 3, 4}, 5000/bs*bs/4)
	got := make([]byte, len(want))
	if err := errors.Join(blocktest.Write(d, 0, want), blocktest.Read(d, 0, got)); err != nil || !bytes.Equal(got, want) {
		t.Errorf("read back: %v", err)
	}
}

// TestDeviceErrors: the classes of errors come through.
func TestDeviceErrors(t *testing.T) {
	mem := blocktest.NewMemory(blocktest.Options{})
	defer mem.Close()
	d := attach(t, newRig(t, mem, target.Config{}).config())
	for _, class := range []error{block.ErrMedium, block.ErrNoSpace, block.ErrReadOnly, block.ErrUnsupported, block.ErrAborted, block.ErrIO} {
		for _, op := range []block.Op{block.OpRead, block.OpWrite, block.OpFlush, block.OpUnmap, block.OpWriteZeroes} {
			mem.Inject(blocktest.Fault{Op: op, Err: class, Times: 1})
			q := &block.Request{Op: op, Extent: block.Extent{Len: 4096}}
			if op == block.OpRead || op == block.OpWrite {
				q.Bufs = [][]byte{make([]byte, 4096)}
			}
			if err := blocktest.Do(d, q); !errors.Is(err, class) {
				t.Errorf("%v with %v: %v", op, class, err)
			}
			mem.ClearFaults()
		}
	}
}
