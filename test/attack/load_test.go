package attack

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/block/historytest"
	"github.com/cask-storage/cask/pkg/nvme"
	"github.com/cask-storage/cask/pkg/nvme/host"
	"github.com/cask-storage/cask/pkg/volume"
)

// The volume's layout: small blocks that everybody reads and writes, spread out;
// and large ones that one worker each has for itself, so that much data moves.
const (
	smallBlocks = 24
	smallSize   = 4096
	smallStride = 160 << 10 // not a multiple of ZFS's records
	largeBlocks = 8         // of each worker
	largeSize   = 256 << 10
	largeStart  = 8 << 20
	hosts       = 2
	sharers     = 3 // workers of a host on the small blocks
	usedBytes   = largeStart + hosts*largeBlocks*largeSize
)

func extent(b int) block.Extent {
	if b < smallBlocks {
		return block.Extent{Off: uint64(b) * smallStride, Len: smallSize}
	}
	return block.Extent{Off: largeStart + uint64(b-smallBlocks)*largeSize, Len: largeSize}
}

// recorder is the history of all hosts.
type recorder struct {
	start  time.Time
	values atomic.Uint64
	// sessions is how many were ended, and begun anew.
	sessions atomic.Int64
	errs     chan error

	mu sync.Mutex
	h  historytest.History
}

func newRecorder() *recorder { return &recorder{start: time.Now(), errs: make(chan error, 64)} }

func (r *recorder) now() time.Duration { return time.Since(r.start) + 1 }

func (r *recorder) fail(err error) {
	select {
	case r.errs <- err:
	default:
	}
}

// begin notes an access that starts now.
func (r *recorder) begin(a historytest.Access) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	a.Calls = []time.Duration{r.now()}
	r.h.Accesses = append(r.h.Accesses, a)
	return len(r.h.Accesses) - 1
}

// end notes that access i has returned, after being repeated at these times.
func (r *recorder) end(i int, value uint64, again []time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	a := &r.h.Accesses[i]
	a.Ret, a.Value, a.Calls = r.now(), value, append(a.Calls, again...)
}

// initiator is a host of the volume and its connection, which follows the
// target when it is told to. When its session is over it begins another.
type initiator struct {
	c    *cluster
	node *node
	rec  *recorder
	dev  atomic.Pointer[host.Device]
	to   atomic.Int32 // index of its target

	renew sync.Mutex // held while a new session begins

	mu    sync.Mutex
	conns map[net.Conn]bool
	dials []time.Duration
}

func newInitiator(c *cluster, i int, rec *recorder) (*initiator, error) {
	h := &initiator{c: c, node: c.lan.node(fmt.Sprintf("h%d", i)), rec: rec, conns: map[net.Conn]bool{}}
	h.to.Store(int32(c.current()))
	ctx, cancel := context.WithTimeout(c.t.Context(), 30*time.Second)
	defer cancel()
	return h, h.attach(ctx)
}

func (h *initiator) attach(ctx context.Context) error {
	dev, err := host.Attach(ctx, host.Config{Addr: "the newest target", SubsystemNQN: volume.SubsystemNQN(volumeName), NSID: volume.NSID,
		HostNQN: volume.HostNQN("attack", h.node.name), HostID: nvme.UUID{byte(h.node.id + 1)}, KATO: 3 * time.Second, Dial: h.dial})
	if err == nil {
		h.dev.Store(dev)
	}
	return err
}

// over begins a new session if dev's is over, and reports that.
func (h *initiator) over(dev *host.Device, err error) bool {
	if !errors.Is(err, host.ErrReplaced) {
		return false
	}
	h.renew.Lock()
	defer h.renew.Unlock()
	if h.dev.Load() != dev {
		return true // by another worker
	}
	ctx, cancel := context.WithTimeout(h.c.t.Context(), healWithin)
	defer cancel()
	dev.Close()
	if err := h.attach(ctx); err != nil {
		h.rec.fail(fmt.Errorf("new session: %w", err))
	}
	h.rec.sessions.Add(1)
	return true
}

// conn tells the initiator when it is closed.
type conn struct {
	net.Conn
	h *initiator
}

func (c conn) Close() error {
	c.h.mu.Lock()
	delete(c.h.conns, c.Conn)
	c.h.mu.Unlock()
	return c.Conn.Close()
}

func (h *initiator) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	to := h.to.Load()
	began := h.rec.now()
	c, err := h.node.dial(ctx, h.c.targets[to].node.addr(nvmePort))
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.dials = append(h.dials, began)
	if h.to.Load() != to {
		c.Close()
		return nil, fmt.Errorf("target %d is not the newest any more", to)
	}
	h.conns[c] = true
	return conn{c, h}, nil
}

// follow goes over to another target.
func (h *initiator) follow(to int) {
	h.to.Store(int32(to))
	h.mu.Lock()
	defer h.mu.Unlock()
	for c := range h.conns {
		c.Close()
	}
}

// repeated says when, at the earliest, each of n repetitions of a command that
// was first issued at a time was issued.
func (h *initiator) repeated(n uint64, after time.Duration) []time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	i, _ := slices.BinarySearch(h.dials, after)
	return slices.Clone(h.dials[i:min(i+int(n), len(h.dials))])
}

// do carries out one request and waits for it.
func (h *initiator) do(r *block.Request) error { return do(h.dev.Load(), r) }

func do(dev *host.Device, r *block.Request) error {
	done := make(chan error, 1)
	r.Done = func(_ *block.Request, err error) { done <- err }
	dev.Submit(r)
	return <-done
}

// flush reports false when its session is over and another has begun.
func (h *initiator) flush() bool {
	dev := h.dev.Load()
	s := historytest.Flush{Call: h.rec.now(), Session: dev.State().Name}
	err := do(dev, &block.Request{Op: block.OpFlush})
	if h.over(dev, err) {
		return false
	}
	if err != nil {
		h.rec.fail(fmt.Errorf("flush: %w", err))
		return true
	}
	s.Ret = h.rec.now()
	h.rec.mu.Lock()
	h.rec.h.Flushes = append(h.rec.h.Flushes, s)
	h.rec.mu.Unlock()
	return true
}

// access carries out a; a write of value 0 unmaps.
func (h *initiator) access(a historytest.Access, buf []byte) {
	r := &block.Request{Op: block.OpRead, Extent: extent(a.Block), FUA: a.FUA, Bufs: [][]byte{buf}}
	switch {
	case a.Write && a.Value == 0:
		r.Op, r.Bufs = block.OpUnmap, nil
	case a.Write:
		r.Op = block.OpWrite
		fill(buf, a)
	}
	dev := h.dev.Load()
	before := dev.State()
	a.Session = before.Name
	i := h.rec.begin(a)
	call := h.rec.now()
	if err := do(dev, r); h.over(dev, err) {
		return // it may have been done
	} else if err != nil {
		h.rec.fail(fmt.Errorf("%v of block %d: %w", r.Op, a.Block, err))
		return
	}
	value := a.Value
	if !a.Write {
		var err error
		if value, err = content(buf, a.Block); err != nil {
			h.rec.fail(err)
			return
		}
	}
	h.rec.end(i, value, h.repeated(dev.State().Sessions-before.Sessions, call))
}

func fill(buf []byte, a historytest.Access) {
	for i := 0; i < len(buf); i += 16 {
		binary.LittleEndian.PutUint64(buf[i:], uint64(a.Block)<<32|uint64(i))
		binary.LittleEndian.PutUint64(buf[i+8:], a.Value)
	}
}

// content is the value that fills buf.
func content(buf []byte, b int) (uint64, error) {
	value := binary.LittleEndian.Uint64(buf[8:])
	for i := 0; i < len(buf); i += 16 {
		where, v := binary.LittleEndian.Uint64(buf[i:]), binary.LittleEndian.Uint64(buf[i+8:])
		if v != value || (v == 0 && where != 0) || (v != 0 && where != uint64(b)<<32|uint64(i)) {
			return 0, fmt.Errorf("block %d is torn or misplaced: at byte %d it has value %d of %#x, at its beginning %d", b, i, v, where, value)
		}
	}
	return value, nil
}

// share is a worker on the small blocks.
func (h *initiator) share(ctx context.Context, rng *rand.Rand) {
	buf := make([]byte, smallSize)
	for ctx.Err() == nil {
		a := historytest.Access{Block: rng.IntN(smallBlocks)}
		if rng.IntN(2) == 0 {
			a.Block = rng.IntN(3) // contended
		}
		switch x := rng.IntN(100); {
		case x < 4:
			h.flush()
			continue
		case x < 50:
			a.Write, a.Value, a.FUA = true, h.rec.values.Add(1), rng.IntN(10) == 0
		case x < 54:
			a.Write = true
		}
		h.access(a, buf)
		time.Sleep(time.Duration(rng.IntN(12)) * time.Millisecond)
	}
}

// own is a worker on large blocks of its own.
func (h *initiator) own(ctx context.Context, rng *rand.Rand) {
	buf := make([]byte, largeSize)
	first := smallBlocks + h.node.id*largeBlocks
	for ctx.Err() == nil {
		a := historytest.Access{Block: first + rng.IntN(largeBlocks)}
		if rng.IntN(5) > 0 {
			a.Write, a.Value = true, h.rec.values.Add(1)
		}
		h.access(a, buf)
		time.Sleep(time.Duration(rng.IntN(60)) * time.Millisecond)
	}
}

// readAll reads every block.
func (h *initiator) readAll() {
	for b := range smallBlocks + hosts*largeBlocks {
		h.access(historytest.Access{Block: b}, make([]byte, extent(b).Len))
	}
}

// load is all hosts and their workers.
type load struct {
	rec   *recorder
	hosts []*initiator
}

func newLoad(c *cluster) (*load, error) {
	l := &load{rec: newRecorder()}
	for i := range hosts {
		h, err := newInitiator(c, i, l.rec)
		if err != nil {
			l.close()
			return nil, fmt.Errorf("host %d: %w", i, err)
		}
		l.hosts = append(l.hosts, h)
	}
	return l, nil
}

func (l *load) close() {
	for _, h := range l.hosts {
		if dev := h.dev.Load(); dev != nil {
			dev.Close()
		}
	}
}

// run works until ctx ends and everything under way has completed.
func (l *load) run(ctx context.Context, seed uint64) {
	var wg sync.WaitGroup
	for _, h := range l.hosts {
		for i := range sharers {
			wg.Go(func() { h.share(ctx, rand.New(rand.NewPCG(seed, uint64(h.node.id*100+i)))) })
		}
		wg.Go(func() { h.own(ctx, rand.New(rand.NewPCG(seed, uint64(h.node.id*100+99)))) })
	}
	wg.Wait()
}

// take removes the history so far, for judgement; the next one begins with what
// the blocks hold now.
func (l *load) take() historytest.History {
	l.rec.mu.Lock()
	defer l.rec.mu.Unlock()
	h := l.rec.h
	l.rec.h = historytest.History{}
	last := map[int]uint64{}
	for _, a := range h.Accesses {
		if !a.Write && a.Ret != 0 {
			last[a.Block] = a.Value
		}
	}
	for b, v := range last {
		now := l.rec.now()
		l.rec.h.Accesses = append(l.rec.h.Accesses, historytest.Access{Block: b, Write: true, FUA: true, Value: v,
			Calls: []time.Duration{now}, Ret: now + 1})
	}
	return h
}
