package volumetest

import (
	"encoding/binary"
	"errors"
	"strconv"
	"time"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/block/historytest"
	"github.com/cask-storage/cask/pkg/history"
	"github.com/cask-storage/cask/pkg/volume"
)

// op is one operation of the history. Its access has no calls if it never
// happened.
type op struct {
	historytest.Access
	size uint64 // of the volume when it was asked for first
}

// client is a host: it keeps some requests in flight, and repeats those of a
// dead target at the next one, as an initiator does. When its session is over
// all of them fail, and it begins another. The last client only reads, and
// stays with an old target for long: what it is told there must be true.
type client struct {
	w      *world
	id     int
	target *target
	open   map[int]*volume.Request // by index into w.ops; flushes are negative
	flush  int
	gen    int
	writes float64             // share of the operations
	stays  float64             // chance to stay with an old target when it could move
	under  [4]int              // requests under way, by kind
	asked  map[int]volume.Time // last attempt of each flush under way
	pinned volume.Time         // it does not leave a living target until then
	inside bool                // of a call of the core: it refuses at once what it does not take

	session history.Epoch // its name
	over    bool          // and there is no new one yet
	quiet   volume.Time   // it asks for nothing until then; then for a flush
}

// The kinds of requests: those of one kind that wait do not keep others from
// being asked for.
const (
	reading = iota
	writing
	flushing
	snapping
)

const contended = 3 // blocks that most accesses go to

var inFlight = [4]int{reading: 4, writing: 5, flushing: 1, snapping: 1}

func newClient(w *world, id int) *client {
	c := &client{w: w, id: id, target: w.targets[0], open: map[int]*volume.Request{}, asked: map[int]volume.Time{}}
	switch {
	case id == 0 || id == 1 && w.chance(0.5):
		c.writes, c.stays = 0.6, 0.9
	case id == 1:
		c.stays = 0.9
	default:
		c.stays = 0.98
	}
	c.follow()
	c.work()
	return c
}

// follow moves to the newest target some time after there is one.
func (c *client) follow() {
	if c.target != c.w.newest() && (!c.target.alive || !c.w.chance(c.stays) && c.w.now > c.pinned) {
		c.move()
	}
	c.begin()
	c.w.after(c.w.between(20*ms, 400*ms), c.follow)
}

func (w *world) newest() *target { return w.targets[len(w.targets)-1] }

// move repeats at the newest target what is open; sometimes it loses its way.
func (c *client) move() {
	to := c.w.newest()
	if t := c.w.targets[c.w.rng.IntN(len(c.w.targets))]; t.alive && c.w.chance(0.15) {
		to = t
	}
	c.goTo(to)
}

// goTo repeats at t what is open.
func (c *client) goTo(t *target) {
	c.target = t
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
	if c.quiet != 0 && w.now > c.quiet && !w.healing && !c.over {
		c.quiet = 0
		c.startFlush()
	}
	for range 3 {
		if !w.healing && w.chance(0.5) && !c.over && c.quiet == 0 {
			c.start()
		}
	}
	w.after(w.between(0, w.pace), c.work)
}

// start asks for something, unless enough of its kind is under way.
func (c *client) start() {
	w := c.w
	kind := reading
	switch {
	case c.writes > 0 && w.chance(0.05):
		kind = flushing
	case c.writes > 0 && w.chance(snapshotShare):
		kind = snapping
	case w.chance(c.writes):
		kind = writing
	}
	if c.under[kind] >= inFlight[kind] || kind != reading && w.now < w.calm {
		return
	}
	if kind == flushing {
		c.startFlush()
		return
	}
	if kind == snapping {
		c.startSnapping()
		return
	}
	b := w.rng.IntN(blocks)
	if w.chance(0.6) {
		b = w.rng.IntN(contended)
	}
	c.access(b, kind)
}

// access reads or writes a block.
func (c *client) access(b, kind int) {
	w := c.w
	o := op{historytest.Access{Block: b, Write: kind == writing}, w.size.grown}
	r := &volume.Request{Op: block.OpRead, Extent: block.Extent{Off: uint64(b) * blockSize, Len: blockSize}} //nolint:gosec // not negative
	if o.Write {
		c.fill(&o, r)
	}
	w.ops = append(w.ops, o)
	c.issue(len(w.ops)-1, r)
}

func (c *client) startFlush() {
	if c.under[flushing] < inFlight[flushing] && !c.over {
		c.ask(&volume.Request{Op: block.OpFlush})
	}
}

// ask issues what is no access.
func (c *client) ask(r *volume.Request) {
	c.flush++
	c.issue(-c.flush, r)
}

// fill makes r a write of a new value, or an unmap.
func (c *client) fill(o *op, r *volume.Request) {
	w := c.w
	w.values++
	o.Value, o.FUA = w.values, w.chance(0.1)
	r.Op, r.FUA = block.OpWrite, o.FUA
	buf := make([]byte, blockSize)
	for i := 0; i < blockSize; i += 8 {
		binary.LittleEndian.PutUint64(buf[i:], o.Value)
	}
	r.Bufs = [][]byte{buf}
	if o.Block >= contended && w.chance(0.1) {
		r.Op, r.Bufs, o.Value = block.OpUnmap, nil, 0
	}
}

func kindOf(r *volume.Request) int {
	switch r.Op {
	case block.OpRead:
		return reading
	case block.OpFlush:
		return flushing
	case volume.OpSnapshot, volume.OpDropSnapshot, volume.OpListSnapshots:
		return snapping
	}
	return writing
}

func (c *client) issue(i int, r *volume.Request) {
	c.open[i] = r
	c.under[kindOf(r)]++
	c.submit(i, r)
}

// submit sends a copy of r: what the target does to its own must not matter.
func (c *client) submit(i int, r *volume.Request) {
	q, gen, t := *r, c.gen, c.target
	q.Session = c.session
	if i >= 0 {
		c.w.ops[i].Calls = append(c.w.ops[i].Calls, time.Duration(c.w.now))
	} else {
		c.asked[i] = c.w.now
	}
	q.Owner = func(q *volume.Request, err error) {
		if c.gen == gen && t.alive {
			c.completed(i, q, err)
		}
	}
	if t.alive {
		c.inside = true
		t.step(func() { t.core.Submit(t.now(), &q) })
		c.inside = false
	}
}

func (c *client) completed(i int, q *volume.Request, err error) {
	if errors.Is(err, block.ErrSessionOver) {
		c.w.sessionsOver++
		c.reboot()
		c.over = true
		return
	}
	if errors.Is(err, block.ErrFenced) {
		if i >= 0 && c.inside {
			if o := &c.w.ops[i]; len(o.Calls) > 1 {
				o.Calls = o.Calls[:len(o.Calls)-1] // as if it had never been asked for
			}
		}
		// Repeated here or at the next target.
		gen := c.gen
		c.w.after(c.w.between(10*ms, 100*ms), func() {
			if r, ok := c.open[i]; ok && c.gen == gen {
				c.submit(i, r)
			}
		})
		return
	}
	if errors.Is(err, block.ErrMedium) && (c.w.layout != nil || c.w.nobodyReads(q.Extent)) {
		// The voters that are left are the rotten ones, or one that rotted was
		// all that another could be rebuilt from.
		delete(c.open, i)
		c.under[kindOf(q)]--
		return
	}
	if errors.Is(err, block.ErrRange) && c.refused(i, q) {
		return
	}
	if _, ok := c.open[i]; !ok || err != nil || i >= 0 && c.w.beyond(q.Extent) {
		c.w.fail(Protocol, "client %d: %v %v completed with %v", c.id, q.Op, q.Extent, err)
		return
	}
	delete(c.open, i)
	c.under[kindOf(q)]--
	if kindOf(q) == snapping {
		c.snapped(q, c.asked[i])
		delete(c.asked, i)
		return
	}
	if i < 0 {
		c.w.flushed = append(c.w.flushed, historytest.Flush{Call: time.Duration(c.asked[i]), Ret: time.Duration(c.w.now), Session: c.sessionName()})
		delete(c.asked, i)
		c.w.trace("client %d flushed", c.id)
		c.w.afterFlush()
		return
	}
	o := &c.w.ops[i]
	o.Ret, o.Session = time.Duration(c.w.now), c.sessionName()
	if !o.Write {
		c.checkTorn(o, q.Bufs[0])
	}
	if o.FUA {
		c.w.afterFlush()
	}
	c.w.trace("client %d at %s done %+v", c.id, c.target.name, *o)
}

func (c *client) checkTorn(o *op, buf []byte) {
	o.Value = binary.LittleEndian.Uint64(buf)
	for k := 0; k < blockSize; k += 8 {
		if binary.LittleEndian.Uint64(buf[k:]) != o.Value {
			c.w.fail(Linearizable, "block %d is torn", o.Block)
		}
	}
}

func (c *client) sessionName() string { return strconv.FormatUint(uint64(c.session), 10) }

// begin gives a client whose session is over another.
func (c *client) begin() {
	if !c.over || !c.target.alive {
		return
	}
	if s, known := c.target.core.Session(); known {
		c.session, c.over = s, false
		c.w.trace("client %d begins session %d at %s", c.id, s, c.target.name)
	}
}

// reboot forgets everything under way: it may have been done, or be done yet.
func (c *client) reboot() {
	c.w.trace("client %d reboots", c.id)
	c.gen++
	c.under = [4]int{}
	clear(c.open)
	clear(c.asked)
}
