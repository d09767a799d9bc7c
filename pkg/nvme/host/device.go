// Package host is an NVMe/TCP host: Attach makes a block.Device of a
// namespace of a remote subsystem.
//
//	dev, err := host.Attach(ctx, host.Config{Addr: "10.0.0.7:4420", SubsystemNQN: nqn, HostNQN: me, HostID: id})
//
// # Riding out
//
// A target that restarts, moves or is cut off is a stall, never an error of a
// request. When a connection breaks, or the target does not answer keep-alives,
// the whole association is given up and a new one is tried, for ever, until
// Close; requests in flight are kept and issued again on the new association.
// The target completes or discards what the old association had submitted
// before it answers the new Connect (pkg/nvme/target displaces it), so a write
// cannot be overtaken by its own repetition. Two overlapping writes that are in
// flight at the same time have no order, and their repetitions have none either.
//
// A refusal to connect, such as for a host that is not admitted (yet), is
// retried the same way; State says what is going on. One refusal is final:
// Restart Discovery, by which a target says that another subsystem has taken
// the place of this one. Attach then goes to that one; a Device that was
// connected before fails all requests with ErrReplaced.
//
// # Concurrency
//
// A Device owns one goroutine, which makes, watches and ends associations, and
// which Close waits for; it owns two more per connection, a reader and a
// writer. Requests have none. At most Queues × QueueDepth commands are in
// flight or kept: Submit blocks beyond that. Lock order: Device.mu, qpair.mu;
// neither is held while Done is called.
package host

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/nvme"
	"github.com/cask-storage/cask/pkg/nvme/blockstatus"
)

// Device is a block device over a remote namespace.
type Device struct {
	cfg    Config
	cancel context.CancelFunc
	done   chan struct{} // closed when the goroutine has ended
	first  chan struct{} // closed when the first association is up
	slots  chan *task    // free ones
	closed chan struct{} // closed by Close
	once   sync.Once
	assoc  atomic.Pointer[association] // nil while there is none
	shape  atomic.Pointer[shape]
	retry  chan struct{} // capacity 1: retries is not empty

	mu       sync.Mutex
	state    State
	waiting  []*task // for an association
	retries  []*task // for a moment
	finished error   // no association will come, and why
}

// shape is what is known of the namespace.
type shape struct {
	geo   block.Geometry
	id    identity
	split uint32 // bytes of one read or write command
}

// identity tells one namespace from another.
type identity struct{ NGUID, UUID nvme.UUID }

// State says how a Device is connected.
type State struct {
	Connected    bool
	Subsystem    string    // connected to, first of all: SubsystemNQN, or what had replaced it
	Since        time.Time // of Connected's last change
	Associations uint64    // made so far
	Attempts     uint64    // failed, since the last association
	LastError    error     // of the last association or attempt; nil before any
	// Replaced: no association will come any more; see ErrReplaced.
	Replaced bool
}

// State returns the Device's state.
func (d *Device) State() State {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.state
}

// Attach connects to a namespace, trying until ctx is done. ctx does not bound
// the life of the Device: Close ends it.
func Attach(ctx context.Context, cfg Config) (*Device, error) {
	cfg.setDefaults()
	if err := cfg.check(); err != nil {
		return nil, err
	}
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	n := cfg.Queues * cfg.QueueDepth
	d := &Device{
		cfg: cfg, cancel: cancel, done: make(chan struct{}), first: make(chan struct{}),
		slots: make(chan *task, n), closed: make(chan struct{}), retry: make(chan struct{}, 1),
	}
	d.state.Since = time.Now()
	for range n {
		t := &task{}
		t.done = d.taskDone
		d.slots <- t
	}
	go d.run(run) // owner: Device; Close waits for d.done
	select {
	case <-d.first:
		return d, nil
	case <-ctx.Done():
	}
	last := d.State().LastError
	_ = d.Close()
	if last == nil {
		last = ctx.Err()
	}
	return nil, fmt.Errorf("nvme host: attach namespace %d of %s at %s: %w", cfg.NSID, cfg.SubsystemNQN, cfg.Addr, last)
}

// Geometry of the namespace, as of the last look at it.
func (d *Device) Geometry() block.Geometry { return d.shape.Load().geo }

// Close fails what is in flight with block.ErrClosed, waits for it and ends
// the association.
func (d *Device) Close() error {
	d.once.Do(func() {
		close(d.closed)
		d.cancel()
	})
	<-d.done
	return nil
}

// operation is a Request being worked on by one or more commands.
type operation struct {
	r    *block.Request
	left atomic.Int32
	err  atomic.Pointer[error]
}

var operations = sync.Pool{New: func() any { return new(operation) }}

// part ends one command of the operation; the last one ends the Request.
func (o *operation) part(err error) {
	if err != nil {
		first := err // err itself would be allocated for every command
		o.err.CompareAndSwap(nil, &first)
	}
	if o.left.Add(-1) > 0 {
		return
	}
	r := o.r
	var first error
	if p := o.err.Load(); p != nil {
		first = *p
		o.err.Store(nil)
	}
	o.r = nil
	operations.Put(o)
	r.Done(r, first)
}

// maxZeroes is the most blocks of one Write Zeroes command.
const maxZeroes = 1 << 16

// Submit starts r; it blocks while all commands are in use.
func (d *Device) Submit(r *block.Request) {
	s := d.shape.Load()
	if err := s.geo.Check(r); err != nil {
		r.Done(r, err)
		return
	}
	step := uint64(s.split)
	switch r.Op {
	case block.OpRead, block.OpWrite:
	case block.OpFlush:
		step = 0
	case block.OpUnmap, block.OpWriteZeroes:
		step = maxZeroes * uint64(s.geo.BlockSize)
	default:
		r.Done(r, fmt.Errorf("%v: %w", r.Op, block.ErrUnsupported))
		return
	}
	o := operations.Get().(*operation)
	o.r = r
	if step == 0 {
		o.left.Store(1)
		d.command(o, block.Extent{}, s)
		return
	}
	o.left.Store(int32((r.Extent.Len + step - 1) / step))
	end := r.Extent.End() // r may be done before the loop is
	for off := r.Extent.Off; off < end; off += step {
		d.command(o, block.Extent{Off: off, Len: min(step, end-off)}, s)
	}
}

// command issues one command for a part of an operation.
func (d *Device) command(o *operation, e block.Extent, s *shape) {
	var t *task
	select {
	case t = <-d.slots:
	case <-d.closed:
		o.part(block.ErrClosed)
		return
	}
	t.prepare(o, e, commandFor{nsid: d.cfg.NSID, blockSize: s.geo.BlockSize})
	d.issue(t)
}

// issue gives the task to the association, or keeps it for the next one.
func (d *Device) issue(t *task) {
	for {
		a := d.assoc.Load()
		if a != nil && a.submit(t) {
			return
		}
		d.mu.Lock()
		if err := d.finished; err != nil {
			d.mu.Unlock()
			d.end(t, err)
			return
		}
		if d.assoc.Load() == a {
			d.waiting = append(d.waiting, t)
			d.mu.Unlock()
			return
		}
		d.mu.Unlock()
	}
}

// taskDone is called by a connection's reader with a command's completion.
func (d *Device) taskDone(t *task, cqe *nvme.Completion) {
	s := cqe.Status()
	if !blockstatus.Transient(s) {
		d.end(t, blockstatus.ToError(s))
		return
	}
	d.mu.Lock()
	d.retries = append(d.retries, t)
	d.mu.Unlock()
	select {
	case d.retry <- struct{}{}:
	default:
	}
}

// end frees the task and ends its part of the operation.
func (d *Device) end(t *task, err error) {
	o := t.op
	t.clear()
	d.slots <- t // never blocks: the capacity is the number of tasks
	o.part(err)
}

// reissue issues the commands that were to be tried again.
func (d *Device) reissue() {
	d.mu.Lock()
	again := d.retries
	d.retries = nil
	d.mu.Unlock()
	for _, t := range again {
		d.issue(t)
	}
}
