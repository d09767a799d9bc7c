package zvol

import (
	"errors"
	"fmt"
	"maps"
	"math/rand"
	"slices"
	"sync"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/store"
)

// fake is a node with kernel ZFS in memory, and one volume on it. After a crash all
// its datasets are as at one point in the order of the writes, its TXG, and each
// device has beyond that what it was told before its last flush: its intent log.
// What a write changes in pieces of pieceLen is there piece by piece.
type fake struct {
	mu     sync.Mutex
	rng    *rand.Rand
	bs     uint64
	now    [2]*disk
	stable [2]*disk // as of the last TXG that was synced
	order  []piece  // since then
	synced [2]int   // how many of order are in each device's intent log, but for other devices'
	snaps  []fakeSnapshot

	steps int // changes so far
	cut   int // the step at which the machine stops, 0: never
	dead  bool
	inUse bool
	full  bool // vol has no space
}

const (
	volDisk = iota
	logDisk
)

const pieceLen = 4 << 10

// disk is content in pages that are never changed in place.
type disk struct {
	size   uint64
	pages  map[uint64]*[pieceLen]byte
	rotten map[uint64]bool // by block
}

type piece struct {
	disk int
	off  uint64
	data []byte // nil: discarded, n bytes
	n    uint64
}

type fakeSnapshot struct {
	taken
	content *disk
}

var errStopped = errors.New("the machine has stopped")

func newFake(sh shape, rng *rand.Rand) *fake {
	f := &fake{rng: rng, bs: uint64(sh.blockSize)}
	f.now = [2]*disk{newDisk(sh.size), newDisk(logSize(sh.ring))}
	f.sync()
	if err := format(&fakeDevice{f: f, n: logDisk}, sh); err != nil {
		panic(err)
	}
	f.sync()
	return f
}

func newDisk(size uint64) *disk {
	return &disk{size: size, pages: map[uint64]*[pieceLen]byte{}, rotten: map[uint64]bool{}}
}

func (d *disk) clone() *disk {
	return &disk{size: d.size, pages: maps.Clone(d.pages), rotten: maps.Clone(d.rotten)}
}

// sync is a TXG that is synced.
func (f *fake) sync() {
	f.stable = [2]*disk{f.now[0].clone(), f.now[1].clone()}
	f.order, f.synced = nil, [2]int{}
}

// step begins a change, and reports whether the machine stops in it.
func (f *fake) step() (stops bool, err error) {
	if f.dead {
		return false, errStopped
	}
	f.steps++
	f.dead = f.steps == f.cut
	return f.dead, nil
}

// crash is the node as it comes back after a loss of power.
func (f *fake) crash(rng *rand.Rand) *fake {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := &fake{rng: rng, bs: f.bs, snaps: slices.Clone(f.snaps)}
	c.now = [2]*disk{f.stable[0].clone(), f.stable[1].clone()}
	txg := rng.Intn(len(f.order) + 1)
	for i, p := range f.order {
		if i < txg || i < f.synced[p.disk] {
			c.now[p.disk].put(p, c.bs)
		}
	}
	c.sync()
	return c
}

// killed is the node when only the process is gone.
func (f *fake) killed() *fake {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dead, f.inUse = true, false
	c := &fake{rng: f.rng, bs: f.bs, snaps: f.snaps, now: f.now}
	c.sync()
	return c
}

// machine opens the volume.
func (f *fake) machine() (machine, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.inUse {
		return machine{}, store.ErrInUse
	}
	f.inUse = true
	return machine{vol: &fakeDevice{f: f, n: volDisk}, log: &fakeDevice{f: f, n: logDisk}, node: f}, nil
}

func (f *fake) open() (*Store, error) {
	m, err := f.machine()
	if err != nil {
		return nil, err
	}
	return open("fake", m)
}

// put carries out a piece, which lies within a page unless it is discarded.
func (d *disk) put(p piece, bs uint64) {
	for off := p.off; off < p.off+p.n; {
		n := min(pieceLen-off%pieceLen, p.off+p.n-off)
		page := new([pieceLen]byte)
		if old := d.pages[off/pieceLen]; old != nil {
			*page = *old
		}
		if p.data == nil {
			clear(page[off%pieceLen:][:n])
		} else {
			copy(page[off%pieceLen:][:n], p.data[off-p.off:])
		}
		if p.data == nil && n == pieceLen {
			delete(d.pages, off/pieceLen)
		} else {
			d.pages[off/pieceLen] = page
		}
		off += n
	}
	for b := p.off / bs; b*bs < p.off+p.n; b++ {
		delete(d.rotten, b) // see writable
	}
}

func (d *disk) read(p []byte, off, bs uint64) error {
	if off+uint64(len(p)) > d.size {
		return fmt.Errorf("read of %d+%d of a device of %d: %w", off, len(p), d.size, store.ErrIO)
	}
	for b := off / bs; len(d.rotten) > 0 && b*bs < off+uint64(len(p)); b++ {
		if d.rotten[b] {
			return store.ErrCorrupt
		}
	}
	for len(p) > 0 {
		n := min(pieceLen-off%pieceLen, uint64(len(p)))
		if page := d.pages[off/pieceLen]; page != nil {
			copy(p[:n], page[off%pieceLen:])
		} else {
			clear(p[:n])
		}
		p, off = p[n:], off+n
	}
	return nil
}

// writable refuses to change rotten blocks in part.
func (d *disk) writable(e block.Extent, bs uint64) error {
	if e.End() > d.size || e.Off%sector != 0 || e.Len%sector != 0 {
		return fmt.Errorf("write of %v to a device of %d: %w", e, d.size, store.ErrIO)
	}
	for _, x := range edges(e, bs) {
		for off := x.Off; off < x.End(); off += bs {
			if d.rotten[off/bs] {
				return store.ErrIO
			}
		}
	}
	return nil
}

// write carries out pieces in any order; some of them when the machine stops.
func (f *fake) write(e block.Extent, disk int, pieces []piece) error {
	if err := f.now[disk].writable(e, f.bs); err != nil {
		return err
	}
	if f.full && disk == volDisk {
		return store.ErrNoSpace
	}
	stops, err := f.step()
	if err != nil {
		return err
	}
	f.rng.Shuffle(len(pieces), func(i, j int) { pieces[i], pieces[j] = pieces[j], pieces[i] })
	if stops {
		pieces = pieces[:f.rng.Intn(len(pieces)+1)]
	}
	for _, p := range pieces {
		f.now[disk].put(p, f.bs)
	}
	if len(f.order) > 1<<14 {
		f.sync()
	}
	f.order = append(f.order, pieces...)
	if stops {
		return errStopped
	}
	return nil
}

// Snapshot implements node: a TXG is synced. So do the others.
func (f *fake) Snapshot(x taken) error {
	return f.txg(func() error {
		if slices.ContainsFunc(f.snaps, func(s fakeSnapshot) bool { return s.name == x.name }) {
			return fmt.Errorf("snapshot %s exists: %w", x.name, store.ErrIO)
		}
		f.snaps = append(f.snaps, fakeSnapshot{x, f.now[volDisk].clone()})
		return nil
	})
}

func (f *fake) txg(do func() error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	stops, err := f.step()
	if err != nil {
		return err
	}
	if !stops || f.rng.Intn(2) == 0 {
		if err := do(); err != nil {
			return err
		}
		f.sync()
	}
	if stops {
		return errStopped
	}
	return nil
}

func (f *fake) Snapshots() (out []taken, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, x := range f.snaps {
		out = append(out, x.taken)
	}
	return out, nil
}

func (f *fake) find(name string) (int, error) {
	i := slices.IndexFunc(f.snaps, func(s fakeSnapshot) bool { return s.name == name })
	if i < 0 {
		return i, fmt.Errorf("no snapshot %s: %w", name, store.ErrIO)
	}
	return i, nil
}

func (f *fake) Rename(from, to string) error {
	return f.txg(func() error {
		i, err := f.find(from)
		if _, taken := f.find(to); taken == nil {
			return fmt.Errorf("snapshot %s exists: %w", to, store.ErrIO)
		}
		if err == nil {
			f.snaps = slices.Clone(f.snaps)
			f.snaps[i].name = to
		}
		return err
	})
}

func (f *fake) Destroy(name string) error {
	return f.txg(func() error {
		i, err := f.find(name)
		if err == nil {
			f.snaps = slices.Delete(slices.Clone(f.snaps), i, i+1)
		}
		return err
	})
}

func (f *fake) OpenSnapshot(name string) (device, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	i, err := f.find(name)
	if err != nil {
		return nil, err
	}
	return &fakePast{f.snaps[i].content, f.bs}, nil
}

func (f *fake) Resize(size uint64) error {
	return f.txg(func() error {
		d := f.now[volDisk].clone()
		for page := range d.pages {
			if page*pieceLen >= size {
				delete(d.pages, page)
			}
		}
		d.size = size
		f.now[volDisk] = d
		return nil
	})
}

// fakeDevice is vol or log.
type fakeDevice struct {
	f *fake
	n int
}

func (d *fakeDevice) ReadAt(p []byte, off uint64) error {
	d.f.mu.Lock()
	defer d.f.mu.Unlock()
	if d.f.dead {
		return errStopped
	}
	return d.f.now[d.n].read(p, off, d.f.bs)
}

func (d *fakeDevice) WriteAt(p []byte, off uint64) error {
	d.f.mu.Lock()
	defer d.f.mu.Unlock()
	var pieces []piece
	for at := off; at < off+uint64(len(p)); {
		n := min(pieceLen-at%pieceLen, off+uint64(len(p))-at)
		pieces = append(pieces, piece{disk: d.n, off: at, data: slices.Clone(p[at-off:][:n]), n: n})
		at += n
	}
	return d.f.write(block.Extent{Off: off, Len: uint64(len(p))}, d.n, pieces)
}

func (d *fakeDevice) Discard(e block.Extent) error {
	d.f.mu.Lock()
	defer d.f.mu.Unlock()
	if len(edges(e, d.f.bs)) > 0 {
		return fmt.Errorf("discard of %v, which is not of whole blocks: %w", e, store.ErrIO)
	}
	var pieces []piece
	for off := e.Off; off < e.End(); off += 1 << 20 {
		pieces = append(pieces, piece{disk: d.n, off: off, n: min(1<<20, e.End()-off)})
	}
	return d.f.write(e, d.n, pieces)
}

// Flush of a device that stops meanwhile makes some of what came before stable.
func (d *fakeDevice) Flush() error {
	d.f.mu.Lock()
	defer d.f.mu.Unlock()
	stops, err := d.f.step()
	if err != nil {
		return err
	}
	if n := &d.f.synced[d.n]; stops {
		*n += d.f.rng.Intn(len(d.f.order) - *n + 1)
		return errStopped
	}
	d.f.synced[d.n] = len(d.f.order)
	return nil
}

func (d *fakeDevice) Close() error {
	d.f.mu.Lock()
	defer d.f.mu.Unlock()
	if d.n == volDisk {
		d.f.inUse = false
	}
	return nil
}

// fakePast is a snapshot that is open.
type fakePast struct {
	content *disk
	bs      uint64
}

func (d *fakePast) ReadAt(p []byte, off uint64) error { return d.content.read(p, off, d.bs) }
func (*fakePast) WriteAt([]byte, uint64) error        { return store.ErrIO }
func (*fakePast) Discard(block.Extent) error          { return store.ErrIO }
func (*fakePast) Flush() error                        { return nil }
func (*fakePast) Close() error                        { return nil }
