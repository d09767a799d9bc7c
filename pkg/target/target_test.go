package target

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/block/blocktest"
	"github.com/cask-storage/cask/pkg/quorum"
	"github.com/cask-storage/cask/pkg/replica"
	"github.com/cask-storage/cask/pkg/store"
	"github.com/cask-storage/cask/pkg/store/memstore"
	"github.com/cask-storage/cask/pkg/volume"
)

const testSize = 32 << 20

// copyOf is a replica: a store in memory behind a server that can be stopped.
type copyOf struct {
	t      *testing.T
	id     string
	addr   string
	s      atomic.Pointer[memstore.Store]
	slow   atomic.Int64 // each read takes this long, ns
	full   atomic.Bool  // its extent cannot grow
	volume string
	stop   func()
}

// slowly is a store whose reads take their time.
type slowly struct {
	*memstore.Store
	c *copyOf
}

func (s slowly) ReadAt(p []byte, off uint64) error {
	time.Sleep(time.Duration(s.c.slow.Load()))
	return s.Store.ReadAt(p, off)
}

func (c *copyOf) Open() (store.Store, error) {
	s := c.s.Load()
	if s == nil {
		return nil, store.ErrNotFound
	}
	s = s.Clone()
	c.s.Store(s)
	return slowly{s, c}, nil
}

func (c *copyOf) Create(size uint64) (store.Store, error) {
	s := memstore.New(memstore.Options{Size: size})
	c.s.Store(s)
	return slowly{s, c}, nil
}

func (c *copyOf) start() {
	c.t.Helper()
	l, err := net.Listen("tcp", c.addr)
	if err != nil {
		c.t.Fatal(err)
	}
	c.addr = l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	s := replica.NewServer(replica.Config{Identity: replica.Identity{Volume: c.volume, Replica: c.id}, Backing: c, Grow: c.grow})
	go func() { done <- s.Serve(ctx, l) }()
	c.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			c.t.Errorf("replica %s: %v", c.id, err)
		}
	})
	c.t.Cleanup(c.stop)
}

type setup struct {
	replicas []*copyOf
	record   FileAuthority
	addrs    map[quorum.ReplicaID]string
}

func newSetup(t *testing.T, n int) *setup {
	t.Helper()
	s := &setup{record: FileAuthority{Path: filepath.Join(t.TempDir(), "record.json")}, addrs: map[quorum.ReplicaID]string{}}
	var rec volume.Record
	for i := range n {
		c := &copyOf{t: t, id: fmt.Sprintf("r%d", i), addr: "127.0.0.1:0", volume: "vol"}
		c.start()
		s.replicas = append(s.replicas, c)
		s.addrs[quorum.ReplicaID(c.id)] = c.addr
		rec.Voters = append(rec.Voters, quorum.ReplicaID(c.id))
	}
	if err := s.record.CreateRecord(rec); err != nil {
		t.Fatal(err)
	}
	return s
}

// target starts a target and returns it with the way to end it.
func (s *setup) target(t *testing.T, name string) (*Target, func() error) {
	t.Helper()
	rec, err := s.record.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return run(t, Config{Volume: volume.Config{Instance: name, Level: quorum.Quorum, Replicas: rec.Voters, Size: testSize, Volume: "vol",
		Timing: volume.DefaultTiming()}, Addresses: s.addrs, Authority: s.record})
}

// run runs a target until it is told to end, or the test is over.
func run(t *testing.T, cfg Config) (*Target, func() error) {
	t.Helper()
	tg := New(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- tg.Run(ctx) }()
	end := sync.OnceValue(func() error {
		cancel()
		return <-done
	})
	t.Cleanup(func() { _ = end() })
	return tg, end
}

func serving(t *testing.T, tg *Target, inSync int) {
	t.Helper()
	for range 2000 {
		if s := tg.Status(); s.Serving && s.InSync() == inSync {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("not serving with %d in sync: %+v", inSync, tg.Status())
}

func TestConformance(t *testing.T) {
	blocktest.Run(t, func(t *testing.T) block.Device {
		tg, end := newSetup(t, 3).target(t, "t1")
		serving(t, tg, 3)
		return ended{tg.Device(0), end}
	})
}

// ended is a device whose Close ends its target.
type ended struct {
	block.Device
	end func() error
}

func (e ended) Close() error { return e.end() }

// TestReplicasComeAndGo restarts each replica in turn under a load that
// verifies.
func TestReplicasComeAndGo(t *testing.T) {
	s := newSetup(t, 3)
	tg, _ := s.target(t, "t1")
	serving(t, tg, 3)
	var wg sync.WaitGroup
	wg.Go(func() {
		for _, c := range s.replicas {
			time.Sleep(500 * time.Millisecond)
			c.stop()
			time.Sleep(500 * time.Millisecond)
			c.start()
			serving(t, tg, 3)
		}
	})
	blocktest.Verify(t, tg.Device(0), blocktest.Workload{For: 5 * time.Second})
	wg.Wait()
}

// TestTakeover: a second target supersedes the first, whose requests are
// refused for repetition elsewhere; a stop in good order hands over at once.
func TestTakeover(t *testing.T) {
	s := newSetup(t, 3)
	one, _ := s.target(t, "t1")
	serving(t, one, 3)
	if err := blocktest.Write(one.Device(0), 0, make([]byte, 4096)); err != nil {
		t.Fatal(err)
	}
	two, end := s.target(t, "t2")
	serving(t, two, 3)
	if err := blocktest.Write(one.Device(0), 0, make([]byte, 4096)); !errors.Is(err, block.ErrFenced) && !errors.Is(err, block.ErrClosed) {
		t.Errorf("a superseded target answered a write with %v", err)
	}
	if err := end(); err != nil {
		t.Error(err)
	}
	start := time.Now()
	three, _ := s.target(t, "t3")
	serving(t, three, 3)
	if d := time.Since(start); d > time.Second {
		t.Errorf("after a stop in good order the next target took %v", d)
	}
}

// TestNoQuorum: I/O waits, and goes on when replicas are back.
func TestNoQuorum(t *testing.T) {
	s := newSetup(t, 3)
	tg, _ := s.target(t, "t1")
	serving(t, tg, 3)
	s.replicas[0].stop()
	s.replicas[1].stop()
	done := make(chan error, 1)
	go func() { done <- blocktest.Write(tg.Device(0), 0, make([]byte, 4096)) }()
	select {
	case err := <-done:
		t.Fatalf("a write without quorum was answered: %v", err)
	case <-time.After(time.Second):
	}
	if st := tg.Status(); st.Serving || st.Reason != "NoQuorum" {
		t.Errorf("status without quorum: %+v", st)
	}
	s.replicas[0].start()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestKeeper: what is kept outlives the target that kept it, and only the one
// that holds the record changes it.
func TestKeeper(t *testing.T) {
	s := newSetup(t, 1)
	if b, err := s.record.Kept(t.Context()); err != nil || len(b) > 0 {
		t.Errorf("before the first: %q, %v", b, err)
	}
	first, end := s.target(t, "t1")
	<-first.Acquired()
	if err := s.record.Keep(t.Context(), "t1", []byte("one")); err != nil {
		t.Fatal(err)
	}
	second, _ := s.target(t, "t2")
	<-second.Acquired()
	if err := s.record.Keep(t.Context(), "t1", []byte("stale")); !errors.Is(err, volume.ErrSuperseded) {
		t.Errorf("of a target that was superseded: %v", err)
	}
	if b, err := s.record.Kept(t.Context()); err != nil || string(b) != "one" {
		t.Errorf("kept %q, %v", b, err)
	}
	if err := s.record.Keep(t.Context(), "t2", make([]byte, MaxKept+1)); !errors.Is(err, ErrTooLarge) {
		t.Errorf("more than the bound: %v", err)
	}
	if err := s.record.Keep(t.Context(), "t2", nil); err != nil {
		t.Error(err)
	}
	if b, err := s.record.Kept(t.Context()); err != nil || len(b) > 0 {
		t.Errorf("nothing was kept: %q, %v", b, err)
	}
	if err := end(); err != nil && !errors.Is(err, volume.ErrSuperseded) { // nil: it was stopped before it knew
		t.Errorf("the first target ends with %v", err)
	}
}

// TestLoss: all replicas lose their memory under a target that goes on. What
// began before gets no answer but that it is over; what begins then finds what
// was flushed.
func TestLoss(t *testing.T) {
	s := newSetup(t, 3)
	tg, _ := s.target(t, "t1")
	serving(t, tg, 3)
	before, known, changed := tg.Session()
	if !known || before != 0 {
		t.Fatalf("session %d, %v", before, known)
	}
	old := tg.Device(before)
	flushed, not := bytes.Repeat([]byte{1}, 4096), bytes.Repeat([]byte{2}, 4096)
	for _, err := range []error{blocktest.Write(old, 0, flushed), blocktest.Flush(old), blocktest.Write(old, 8192, not)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	rng := rand.New(rand.NewSource(1))
	var after []*memstore.Store
	for _, c := range s.replicas {
		after = append(after, c.s.Load().Crash(rng))
	}
	for i, c := range s.replicas {
		c.stop()
		c.s.Store(after[i])
	}
	waiting := make(chan error, 1)
	old.Submit(&block.Request{Op: block.OpFlush, Done: func(_ *block.Request, err error) { waiting <- err }})
	for _, c := range s.replicas {
		c.start()
	}
	select {
	case err := <-waiting:
		if !errors.Is(err, block.ErrSessionOver) {
			t.Fatalf("a flush that would cover what is lost ended with %v", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatalf("a flush of a session that is over waits: %+v", tg.Status())
	}
	<-changed
	now, known, _ := tg.Session()
	if !known || now == before {
		t.Fatalf("session %d, %v", now, known)
	}
	serving(t, tg, 3)
	if err := blocktest.Flush(old); !errors.Is(err, block.ErrSessionOver) || !errors.Is(err, block.ErrFenced) {
		t.Fatalf("flush of a session that is over: %v", err)
	}
	got := make([]byte, 4096)
	if err := blocktest.Read(tg.Device(now), 0, got); err != nil || !bytes.Equal(got, flushed) {
		t.Fatalf("what was flushed is not there for a new session: %v", err)
	}
	rec, err := s.record.Load(t.Context())
	if err != nil || rec.Lost != now || tg.Status().Unclean == "" {
		t.Fatalf("record %+v, %v, status %+v", rec, err, tg.Status())
	}
}

// TestSlowReplicaReads: the replica that is read from turns slow, and reads go
// on at another.
func TestSlowReplicaReads(t *testing.T) {
	s := newSetup(t, 3)
	tg, _ := s.target(t, "t1")
	serving(t, tg, 3)
	quick := readTimes(t, tg.Device(0), 1000)
	s.replicas[0].slow.Store(int64(500 * time.Millisecond))
	slow := readTimes(t, tg.Device(0), 1000)
	t.Logf("reads: p50 %v, p99 %v; with one replica 500 ms slow: p50 %v, p99 %v, most %v", quick[500], quick[990], slow[500], slow[990], slow[999])
	if slow[990] >= 500*time.Millisecond {
		t.Errorf("p99 is %v: reads waited for the slow replica", slow[990])
	}
}

// readTimes are the latencies of n reads, four at a time, ascending.
func readTimes(t *testing.T, d block.Device, n int) (ls []time.Duration) {
	t.Helper()
	done := make(chan time.Duration, 4)
	ask := func(i int) {
		start := time.Now()
		d.Submit(&block.Request{Op: block.OpRead, Extent: block.Extent{Off: uint64(i%1024) * 4096, Len: 4096}, Bufs: [][]byte{make([]byte, 4096)},
			Done: func(_ *block.Request, err error) {
				if err != nil {
					t.Error(err)
				}
				done <- time.Since(start)
			}})
	}
	for i := range n {
		if i >= 4 {
			ls = append(ls, <-done)
		}
		ask(i)
	}
	for range 4 {
		ls = append(ls, <-done)
	}
	slices.Sort(ls)
	return ls
}
