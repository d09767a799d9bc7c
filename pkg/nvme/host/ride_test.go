package host_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
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

func TestConformance(t *testing.T) {
	for _, c := range []struct {
		name   string
		mem    blocktest.Options
		limits target.Limits
		host   func(*host.Config)
	}{
		{name: "plain"},
		{name: "digests", host: func(c *host.Config) { c.HeaderDigest, c.DataDigest = true, true }},
		{name: "header digest", host: func(c *host.Config) { c.HeaderDigest = true }},
		{name: "split transfers", limits: target.Limits{MaxTransfer: 16 << 10}},
		{name: "small budget", limits: target.Limits{MaxTransfer: 64 << 10, InflightBytes: 64 << 10}},
		{name: "shallow queues", limits: target.Limits{QueueDepth: 2, Queues: 1}, host: func(c *host.Config) { c.Queues = 4 }},
		{name: "many queues", mem: blocktest.Options{Workers: 4, Queue: 8}, host: func(c *host.Config) { c.Queues = 3; c.QueueDepth = 16 }},
		{name: "4k blocks", mem: blocktest.Options{Workers: 2, Geometry: block.Geometry{BlockSize: 4096}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			blocktest.Run(t, func(t *testing.T) block.Device {
				mem := blocktest.NewMemory(c.mem)
				t.Cleanup(func() { _ = mem.Close() })
				r := newRig(t, mem, target.Config{Limits: c.limits})
				cfg := r.config()
				if c.host != nil {
					c.host(&cfg)
				}
				return attach(t, cfg)
			})
		})
	}
}

// TestRideOut writes and verifies while the connections are killed, silenced
// and delayed at random.
func TestRideOut(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	var delays atomic.Uint64
	mem := blocktest.NewMemory(blocktest.Options{Workers: 6, Queue: 8, Delay: func() time.Duration {
		if delays.Add(1)%7 == 0 {
			return 3 * time.Millisecond
		}
		return 0
	}})
	defer mem.Close()
	r := newRig(t, mem, target.Config{})
	p := newProxy(t, r.addr)
	cfg := r.config()
	cfg.Addr, cfg.KATO, cfg.Queues = p.addr(), 300*time.Millisecond, 2
	cfg.Logf = func(string, ...any) {}
	d := attach(t, cfg)
	length := 8 * time.Second
	if testing.Short() {
		length = 2 * time.Second
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Add(1)
	go func() {
		defer wg.Done()
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Duration(20+rng.IntN(150)) * time.Millisecond):
				p.torment(rng)
			}
		}
	}()
	blocktest.Verify(t, d, blocktest.Workload{Seed: seed, Workers: 24, Region: 64 << 10, For: length})
	close(stop)
	wg.Wait()
	s := d.State()
	t.Logf("%d associations", s.Sessions)
	if s.Sessions < 3 {
		t.Errorf("only %d associations: nothing was tested", s.Sessions)
	}
}

// TestTargetRestart replaces the target under load; the address stays.
func TestTargetRestart(t *testing.T) {
	mem := blocktest.NewMemory(blocktest.Options{})
	defer mem.Close()
	tgt, addr, stop := startTarget(t, mem, "127.0.0.1:0")
	_ = tgt
	cfg := host.Config{Addr: addr, SubsystemNQN: subNQN, HostNQN: hostNQN, HostID: nvme.UUID{9}}
	d := attach(t, cfg)
	done := make(chan struct{})
	go func() {
		defer close(done)
		blocktest.Verify(t, d, blocktest.Workload{For: 3 * time.Second})
	}()
	for range 5 {
		time.Sleep(300 * time.Millisecond)
		stop()
		time.Sleep(50 * time.Millisecond)
		_, _, stop = startTarget(t, mem, addr)
	}
	<-done
	stop()
}

func startTarget(t *testing.T, dev block.Device, addr string) (*target.Target, string, func()) {
	t.Helper()
	tgt, err := target.New(target.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if err := tgt.AddSubsystem(target.Subsystem{NQN: subNQN, Namespaces: []target.Namespace{{ID: 1, Device: dev, UUID: nvme.UUID{1, 2, 3}}}}); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- tgt.Serve(context.Background(), ln) }()
	return tgt, ln.Addr().String(), func() {
		_ = tgt.Close()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	}
}

// TestSilentPeer: a target whose packets vanish is given up within 5 s.
func TestSilentPeer(t *testing.T) {
	mem := blocktest.NewMemory(blocktest.Options{})
	defer mem.Close()
	r := newRig(t, mem, target.Config{})
	p := newProxy(t, r.addr)
	cfg := r.config()
	cfg.Addr = p.addr()
	cfg.KATO = 2 * time.Second // the default, 5 s, scales with it
	d := attach(t, cfg)
	if err := blocktest.Write(d, 0, make([]byte, 4096)); err != nil {
		t.Fatal(err)
	}
	p.silence(true)
	start := time.Now()
	for d.State().Connected {
		time.Sleep(5 * time.Millisecond)
		if time.Since(start) > cfg.KATO {
			t.Fatalf("still connected after %v of silence", time.Since(start))
		}
	}
	t.Logf("noticed after %v", time.Since(start))
	res := make(chan error, 1)
	go func() { res <- blocktest.Write(d, 0, make([]byte, 4096)) }()
	time.Sleep(100 * time.Millisecond)
	p.heal()
	if err := <-res; err != nil {
		t.Fatal(err)
	}
}

// TestNotAdmitted: a host that is refused keeps trying, says so, and gets in
// when it is admitted; when it no longer is, its requests wait.
func TestNotAdmitted(t *testing.T) {
	mem := blocktest.NewMemory(blocktest.Options{})
	defer mem.Close()
	var admitted atomic.Bool
	r := newRig(t, mem, target.Config{Admit: func(context.Context, string) error {
		if admitted.Load() {
			return nil
		}
		return fmt.Errorf("volume test is attached to node2: %w", target.ErrNotAdmitted)
	}})
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	_, err := host.Attach(ctx, r.config())
	if err == nil {
		t.Fatal("attached without being admitted")
	}
	if !host.NotAdmitted(err) {
		t.Errorf("not recognized as a refusal: %v", err)
	}
	t.Log(err)
	admitted.Store(true)
	d := attach(t, r.config())
	if err := blocktest.Flush(d); err != nil {
		t.Fatal(err)
	}
	if as := r.tgt.Associations(); len(as) != 1 || as[0].HostNQN != hostNQN || as[0].Queues != 1 {
		t.Errorf("associations %+v", as)
	}
	admitted.Store(false)
	if err := r.tgt.Recheck(context.Background()); err != nil {
		t.Fatal(err)
	}
	if as := r.tgt.Associations(); len(as) != 0 {
		t.Errorf("associations after Recheck: %+v", as)
	}
	res := make(chan error, 1)
	go func() { res <- blocktest.Write(d, 0, make([]byte, 512)) }()
	for d.State().Attempts == 0 {
		time.Sleep(time.Millisecond)
	}
	t.Log(d.State().LastError)
	select {
	case err := <-res:
		t.Fatalf("write of a host not admitted: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	admitted.Store(true)
	if err := <-res; err != nil {
		t.Fatal(err)
	}
}

// TestErrors: error classes survive the way through a status.
func TestErrors(t *testing.T) {
	mem := blocktest.NewMemory(blocktest.Options{})
	defer mem.Close()
	d := attach(t, newRig(t, mem, target.Config{}).config())
	for _, want := range []error{block.ErrMedium, block.ErrNoSpace, block.ErrReadOnly, block.ErrUnsupported, block.ErrAborted, block.ErrIO, block.ErrRange} {
		mem.Inject(blocktest.Fault{Op: block.OpWrite, Err: want, Times: 1})
		if err := blocktest.Write(d, 0, make([]byte, 512)); !errors.Is(err, want) {
			t.Errorf("write: %v, want %v", err, want)
		}
		mem.Inject(blocktest.Fault{Op: block.OpRead, Err: want, Times: 1})
		if err := blocktest.Read(d, 0, make([]byte, 4096)); !errors.Is(err, want) {
			t.Errorf("read: %v, want %v", err, want)
		}
	}
	if n := d.State().Sessions; n != 1 {
		t.Errorf("%d associations, want 1", n)
	}
}

// TestFenced: a fenced or closed device is no answer; the command is repeated
// on a new association.
func TestFenced(t *testing.T) {
	mem := blocktest.NewMemory(blocktest.Options{})
	defer mem.Close()
	d := attach(t, newRig(t, mem, target.Config{}).config())
	for i, class := range []error{block.ErrFenced, block.ErrClosed} {
		mem.Inject(blocktest.Fault{Err: class, Times: 1})
		if err := blocktest.Write(d, 0, make([]byte, 512)); err != nil {
			t.Errorf("write: %v", err)
		}
		if n := d.State().Sessions; n != uint64(i)+2 {
			t.Errorf("%d associations, want %d", n, i+2)
		}
	}
}

// TestResize: the host learns a new size by a notice.
func TestResize(t *testing.T) {
	mem := blocktest.NewMemory(blocktest.Options{})
	defer mem.Close()
	r := newRig(t, mem, target.Config{})
	d := attach(t, r.config())
	for i := range 3 {
		size := mem.Geometry().Size + 1<<20
		mem.Resize(size)
		r.tgt.NamespaceChanged(subNQN, 1)
		for start := time.Now(); d.Geometry().Size != size; time.Sleep(time.Millisecond) {
			if time.Since(start) > 5*time.Second {
				t.Fatalf("round %d: size %d, want %d", i, d.Geometry().Size, size)
			}
		}
	}
	if n := d.State().Sessions; n != 1 {
		t.Errorf("%d associations, want 1", n)
	}
}

// TestDisplaced: a stalled command of an old association holds back the answer
// to the new Connect, so that its repetition comes after it.
func TestDisplaced(t *testing.T) {
	mem := blocktest.NewMemory(blocktest.Options{Workers: 4})
	defer mem.Close()
	r := newRig(t, mem, target.Config{Limits: target.Limits{Displace: 300 * time.Millisecond}})
	p := newProxy(t, r.addr)
	cfg := r.config()
	cfg.Addr = p.addr()
	d := attach(t, cfg)
	mem.Stall()
	res := make(chan error, 1)
	go func() { res <- blocktest.Write(d, 0, make([]byte, 512)) }()
	time.Sleep(50 * time.Millisecond)
	p.cut()
	// Long enough for several attempts, each displacing the one before.
	time.Sleep(time.Second)
	if s := d.State(); s.Connected || s.Sessions != 1 {
		t.Errorf("connected while a command of the old association is in the device: %+v", s)
	}
	if n := mem.Counts().Writes; n != 0 {
		t.Fatalf("%d writes while stalled", n)
	}
	mem.Resume()
	if err := <-res; err != nil {
		t.Fatal(err)
	}
	if n := mem.Counts().Writes; n != 2 {
		t.Errorf("%d writes, want the first and its repetition", n)
	}
}

// TestAnotherNamespace: behind the address is another volume now. Nothing is
// sent to it.
func TestAnotherNamespace(t *testing.T) {
	a, b := blocktest.NewMemory(blocktest.Options{}), blocktest.NewMemory(blocktest.Options{})
	defer a.Close()
	defer b.Close()
	_, addr, stop := startTarget(t, a, "127.0.0.1:0")
	d := attach(t, host.Config{Addr: addr, SubsystemNQN: subNQN, HostNQN: hostNQN, HostID: nvme.UUID{9}})
	stop()
	tgt, err := target.New(target.Config{})
	if err != nil {
		t.Fatal(err)
	}
	if err := tgt.AddSubsystem(target.Subsystem{NQN: subNQN, Namespaces: []target.Namespace{{ID: 1, Device: b, UUID: nvme.UUID{7}}}}); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- tgt.Serve(context.Background(), ln) }()
	res := make(chan error, 1)
	go func() { res <- blocktest.Write(d, 0, make([]byte, 512)) }()
	for d.State().Attempts < 2 {
		time.Sleep(time.Millisecond)
	}
	t.Log(d.State().LastError)
	if n := b.Counts().Writes; n != 0 {
		t.Errorf("%d writes went to another volume", n)
	}
	_ = d.Close()
	if err := <-res; !errors.Is(err, block.ErrClosed) {
		t.Errorf("write when closed: %v", err)
	}
	_ = tgt.Close()
	<-served
}

func TestConfig(t *testing.T) {
	ok := host.Config{Addr: "127.0.0.1:1", SubsystemNQN: subNQN, HostNQN: hostNQN, HostID: nvme.UUID{1}}
	for name, change := range map[string]func(*host.Config){
		"no address": func(c *host.Config) { c.Addr = "" },
		"subsystem":  func(c *host.Config) { c.SubsystemNQN = "x" },
		"host":       func(c *host.Config) { c.HostNQN = fmt.Sprintf("nqn.%300d", 1) },
		"host id":    func(c *host.Config) { c.HostID = nvme.UUID{} },
		"queues":     func(c *host.Config) { c.Queues = 65 },
		"depth":      func(c *host.Config) { c.QueueDepth = 1 },
		"kato":       func(c *host.Config) { c.KATO = time.Millisecond },
		"transfer":   func(c *host.Config) { c.MaxTransfer = 512 },
	} {
		cfg := ok
		change(&cfg)
		if _, err := host.Attach(context.Background(), cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// TestRecheckWaits: Recheck does not return while a refused host's command is
// in the device.
func TestRecheckWaits(t *testing.T) {
	mem := blocktest.NewMemory(blocktest.Options{Workers: 2})
	defer mem.Close()
	var refuse atomic.Bool
	r := newRig(t, mem, target.Config{Admit: func(context.Context, string) error {
		if refuse.Load() {
			return fmt.Errorf("attached elsewhere: %w", target.ErrNotAdmitted)
		}
		return nil
	}})
	d := attach(t, r.config())
	mem.Stall()
	res := make(chan error, 1)
	go func() { res <- blocktest.Write(d, 0, make([]byte, 512)) }()
	time.Sleep(50 * time.Millisecond)
	refuse.Store(true)
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if err := r.tgt.Recheck(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Recheck with a command in the device: %v", err)
	}
	go func() {
		time.Sleep(100 * time.Millisecond)
		mem.Resume()
	}()
	if err := r.tgt.Recheck(context.Background()); err != nil {
		t.Error(err)
	}
	if n := mem.Counts().Writes; n != 1 {
		t.Errorf("%d writes, want 1", n)
	}
	_ = d.Close()
	if err := <-res; !errors.Is(err, block.ErrClosed) {
		t.Errorf("write of a host no longer admitted: %v", err)
	}
	if n := mem.Counts().Writes; n != 1 {
		t.Errorf("%d writes after Recheck, want 1", n)
	}
}
