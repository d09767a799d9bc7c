package volumetest

import (
	"encoding/binary"
	"errors"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/volume"
)

// op is one operation of the history: a write of a value to a block, or a read
// that found one.
type op struct {
	client int
	block  int
	write  bool
	value  uint64
	fua    bool
	calls  []volume.Time // each attempt's
	ret    volume.Time   // 0 while it is under way
}

// client is a host: it keeps some requests in flight, and repeats those of a
// dead target at the next one, as an initiator does.
type client struct {
	w      *world
	id     int
	target *target
	open   map[int]*volume.Request // by index into w.ops; flushes are negative
	flush  int
	gen    int
	writes bool
	asked  map[int]volume.Time // last attempt of each flush under way
}

const inFlight = 6

func newClient(w *world, id int) *client {
	c := &client{w: w, id: id, target: w.targets[0], open: map[int]*volume.Request{}, asked: map[int]volume.Time{}, writes: id == 0 || w.chance(0.5)}
	c.follow()
	c.work()
	return c
}

// follow moves to the newest target some time after there is one.
func (c *client) follow() {
	if c.target != c.w.targets[len(c.w.targets)-1] && (!c.target.alive || c.w.chance(0.1)) {
		c.move()
	}
	c.w.after(c.w.between(20*ms, 400*ms), c.follow)
}

// move repeats at the newest target what is open.
func (c *client) move() {
	c.target = c.w.targets[len(c.w.targets)-1]
	c.gen++
	for i := range len(c.w.ops) {
		if r, ok := c.open[i]; ok {
			c.submit(i, r)
		}
	}
	for i := 1; i <= c.flush; i++ {
		if r, ok := c.open[-i]; ok {
			c.submit(-i, r)
		}
	}
}

func (c *client) work() {
	w := c.w
	if !w.healing {
		for len(c.open) < inFlight && w.chance(0.7) {
			c.start()
		}
	}
	w.after(w.between(0, w.pace), c.work)
}

func (c *client) start() {
	w := c.w
	if w.chance(0.05) {
		c.flush++
		c.issue(-c.flush, &volume.Request{Op: block.OpFlush})
		return
	}
	o := op{client: c.id, block: w.rng.IntN(blocks), write: c.writes && w.chance(0.6)}
	if w.chance(0.5) {
		o.block = w.rng.IntN(3) // contended
	}
	r := &volume.Request{Op: block.OpRead, Extent: block.Extent{Off: uint64(o.block) * blockSize, Len: blockSize}}
	if o.write {
		w.values++
		o.value = w.values
		o.fua = w.chance(0.1)
		r.Op, r.FUA = block.OpWrite, o.fua
		buf := make([]byte, blockSize)
		for i := 0; i < blockSize; i += 8 {
			binary.LittleEndian.PutUint64(buf[i:], o.value)
		}
		r.Bufs = [][]byte{buf}
		if w.chance(0.1) {
			r.Op, r.Bufs, o.value = block.OpUnmap, nil, 0
		}
	}
	w.ops = append(w.ops, o)
	c.issue(len(w.ops)-1, r)
}

func (c *client) issue(i int, r *volume.Request) {
	c.open[i] = r
	c.submit(i, r)
}

// submit sends a copy of r: what the target does to its own must not matter.
func (c *client) submit(i int, r *volume.Request) {
	q, gen, t := *r, c.gen, c.target
	if i >= 0 {
		c.w.ops[i].calls = append(c.w.ops[i].calls, c.w.now)
	} else {
		c.asked[i] = c.w.now
	}
	q.Owner = func(q *volume.Request, err error) {
		if c.gen == gen && t.alive {
			c.completed(i, q, err)
		}
	}
	if t.alive {
		t.step(func() { t.core.Submit(c.w.now, &q) })
	}
}

func (c *client) completed(i int, q *volume.Request, err error) {
	if errors.Is(err, block.ErrFenced) {
		// Repeated here or at the next target.
		gen := c.gen
		c.w.after(c.w.between(10*ms, 100*ms), func() {
			if r, ok := c.open[i]; ok && c.gen == gen {
				c.submit(i, r)
			}
		})
		return
	}
	if _, ok := c.open[i]; !ok || err != nil {
		c.w.fail("client %d: %v %v completed with %v", c.id, q.Op, q.Extent, err)
		return
	}
	delete(c.open, i)
	if i < 0 {
		c.w.flushed = append(c.w.flushed, span{c.asked[i], c.w.now})
		delete(c.asked, i)
		return
	}
	o := &c.w.ops[i]
	o.ret = c.w.now
	if !o.write {
		o.value = binary.LittleEndian.Uint64(q.Bufs[0])
		for k := 0; k < blockSize; k += 8 {
			if binary.LittleEndian.Uint64(q.Bufs[0][k:]) != o.value {
				c.w.fail("block %d is torn", o.block)
			}
		}
	}
	c.w.trace("client %d done %+v", c.id, *o)
}

// reboot forgets everything under way: it may have been done, or be done yet.
func (c *client) reboot() {
	c.w.trace("client %d reboots", c.id)
	c.gen++
	clear(c.open)
	clear(c.asked)
}
