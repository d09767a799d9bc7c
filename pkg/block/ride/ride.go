// Package ride makes a block.Device of sessions with a target that break and
// are made anew: an initiator rides out what happens to its target.
//
// A target that restarts, moves or is cut off is a stall, never an error of a
// request. When a session ends another is tried, for ever, until Close;
// requests in flight are kept and issued again on the new one. A protocol must
// see to it that what the old session had submitted has ended before the new
// one takes commands, so that a write cannot be overtaken by its own
// repetition. Two overlapping writes that are in flight at the same time have no
// order, and their repetitions have none either.
//
// A refusal, such as of a host that is not admitted (yet), is retried the same
// way; State says what is going on. One refusal is final: ErrReplaced, after
// which all requests fail with it. A Device that was never connected has lost
// nothing: it connects to the one that has taken its target's place.
//
// # Concurrency
//
// A Device owns one goroutine, which makes, watches and ends sessions, and
// timers for retries; Close waits for both. At most Config.Tasks tasks are in
// flight or kept: Submit blocks beyond that. Lock order: Device.mu, then a
// session's own; neither is held while Done is called.
package ride

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cask-storage/cask/pkg/block"
)

// ErrReplaced is what a Device's requests fail with, and what State reports,
// once the target has said that another volume has taken the place of this
// one: what was written here may have been lost, and nothing goes on by itself.
// Close the Device and attach anew.
var ErrReplaced = fmt.Errorf("what was attached was replaced, written data may have been lost; attach anew: %w", block.ErrIO)

const (
	minBackoff = 50 * time.Millisecond
	maxBackoff = time.Second
	retryDelay = 100 * time.Millisecond // of a task that failed for a moment
)

// Session is a login, association or whatever a protocol calls it.
type Session interface {
	// Submit takes a task, unless the session has ended.
	Submit(t *Task) bool
	// Watch returns why the session ended; it ends it when ctx is done. What
	// it learns about the device it tells by adopt, and ends by its error.
	Watch(ctx context.Context, adopt func(Shape) error) error
	// Close ends the session and returns the tasks that did not end. After it
	// nothing refers to their buffers.
	Close() []*Task
}

// Shape is what is known of the device behind a session.
type Shape struct {
	Geometry block.Geometry
	// Name by which the target serves it, and Identity, which tells one device
	// from another.
	Name, Identity string
	Split          uint32 // bytes of one task that reads or writes
	SplitZeroes    uint64 // bytes of one task that unmaps or zeroes
}

// Config of a Device.
type Config struct {
	Name  string // of the other side, in messages
	Tasks int
	// NewWire makes the protocol's part of a Task.
	NewWire func(*Task) any
	// Target is the name by which the other side serves the device.
	Target string
	// Connect makes a session with the target of this name; one after the
	// other. ErrReplaced says that another has taken its place.
	Connect func(ctx context.Context, target string) (Session, Shape, error)
	// Resolve asks for the name of the one that has, if that happened before
	// the first session. Afterwards it is final.
	Resolve func(ctx context.Context) (string, error)
	Logf    func(format string, args ...any)
}

// Task is one command for a part of a Request, from being prepared to its end,
// over as many sessions as that takes.
type Task struct {
	Op     block.Op
	FUA    bool
	Extent block.Extent
	Bufs   [][]byte // of Extent, when Op reads or writes
	Wire   any      // the protocol's

	dev *Device
	op  *operation
}

// Device is a block device over sessions.
type Device struct {
	cfg    Config
	cancel context.CancelFunc
	done   chan struct{} // closed when the goroutine has ended
	first  chan struct{} // closed when the first session is up
	slots  chan *Task    // free ones
	closed chan struct{} // closed by Close
	once   sync.Once
	timers sync.WaitGroup
	target string                  // by which to connect: the goroutine's
	now    atomic.Pointer[current] // nil while there is none
	shape  atomic.Pointer[Shape]

	mu       sync.Mutex
	state    State
	waiting  []*Task // for a session
	retries  []*Task // for a moment
	finished error   // no session will come, and why
}

type current struct{ Session }

// State says how a Device is connected.
type State struct {
	Connected bool
	Name      string    // of the last Shape
	Since     time.Time // of Connected's last change
	Sessions  uint64    // made so far
	Attempts  uint64    // failed, since the last session
	LastError error     // of the last session or attempt; nil before any
	// Replaced: no session will come any more; see ErrReplaced.
	Replaced bool
}

// State returns the Device's state.
func (d *Device) State() State {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.state
}

// Attach connects, trying until ctx is done. ctx does not bound the life of the
// Device: Close ends it.
func Attach(ctx context.Context, cfg Config) (*Device, error) {
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	d := &Device{
		cfg: cfg, target: cfg.Target, cancel: cancel, done: make(chan struct{}), first: make(chan struct{}),
		slots: make(chan *Task, cfg.Tasks), closed: make(chan struct{}),
	}
	d.state.Since = time.Now()
	for range cfg.Tasks {
		t := &Task{dev: d}
		t.Wire = cfg.NewWire(t)
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
	return nil, fmt.Errorf("attach %s: %w", cfg.Name, last)
}

// Geometry of the device, as of the last look at it.
func (d *Device) Geometry() block.Geometry { return d.shape.Load().Geometry }

// Close fails what is in flight with block.ErrClosed, waits for it and ends
// the session.
func (d *Device) Close() error {
	d.once.Do(func() {
		close(d.closed)
		d.cancel()
	})
	<-d.done
	d.timers.Wait()
	return nil
}

// operation is a Request being worked on by one or more tasks.
type operation struct {
	r    *block.Request
	left atomic.Int32
	err  atomic.Pointer[error]
}

var operations = sync.Pool{New: func() any { return new(operation) }}

// part ends one task of the operation; the last one ends the Request.
func (o *operation) part(err error) {
	if err != nil {
		first := err // err itself would be allocated for every task
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

// Submit starts r; it blocks while all tasks are in use.
func (d *Device) Submit(r *block.Request) {
	s := d.shape.Load()
	if err := s.Geometry.Check(r); err != nil {
		r.Done(r, err)
		return
	}
	var step uint64
	switch r.Op {
	case block.OpRead, block.OpWrite:
		step = uint64(s.Split)
	case block.OpUnmap, block.OpWriteZeroes:
		step = s.SplitZeroes
	}
	o := operations.Get().(*operation)
	o.r = r
	if step == 0 { // a flush
		o.left.Store(1)
		d.start(o, block.Extent{})
		return
	}
	o.left.Store(int32((r.Extent.Len + step - 1) / step))
	end := r.Extent.End() // r may be done before the loop is
	for off := r.Extent.Off; off < end; off += step {
		d.start(o, block.Extent{Off: off, Len: min(step, end-off)})
	}
}

// start issues one task for a part of an operation.
func (d *Device) start(o *operation, e block.Extent) {
	var t *Task
	select {
	case t = <-d.slots:
	case <-d.closed:
		o.part(block.ErrClosed)
		return
	}
	r := o.r
	t.op, t.Op, t.FUA, t.Extent = o, r.Op, r.FUA, e
	if r.Op == block.OpRead || r.Op == block.OpWrite {
		t.Bufs = Slice(t.Bufs[:0], r.Bufs, block.Extent{Off: e.Off - r.Extent.Off, Len: e.Len})
	}
	d.issue(t)
}

// issue gives the task to the session, or keeps it for the next one.
func (d *Device) issue(t *Task) {
	for {
		s := d.now.Load()
		if s != nil && s.Submit(t) {
			return
		}
		d.mu.Lock()
		if err := d.finished; err != nil {
			d.mu.Unlock()
			t.End(err)
			return
		}
		if d.now.Load() == s {
			d.waiting = append(d.waiting, t)
			d.mu.Unlock()
			return
		}
		d.mu.Unlock()
	}
}

// End frees the task and ends its part of the Request.
func (t *Task) End(err error) {
	o := t.op
	t.op = nil
	clear(t.Bufs)
	t.Bufs = t.Bufs[:0]
	t.dev.slots <- t // never blocks: the capacity is the number of tasks
	o.part(err)
}

// Retry issues the task again in a moment: what it failed for may be over then.
func (t *Task) Retry() {
	d := t.dev
	d.mu.Lock()
	if err := d.finished; err != nil {
		d.mu.Unlock()
		t.End(err)
		return
	}
	defer d.mu.Unlock()
	d.retries = append(d.retries, t)
	if len(d.retries) == 1 {
		d.timers.Add(1)
		time.AfterFunc(retryDelay, d.reissue) // owner: Device; Close waits for timers
	}
}

// reissue issues the tasks that were to be tried again.
func (d *Device) reissue() {
	defer d.timers.Done()
	d.mu.Lock()
	again := d.retries
	d.retries = nil
	d.mu.Unlock()
	for _, t := range again {
		d.issue(t)
	}
}

// Successor is which of the names that are offered leads to the target: its own,
// or that of the one that has taken its place, which begins with it and a colon.
func Successor(target string, offered []string) (string, error) {
	for _, name := range offered {
		if name == target || strings.HasPrefix(name, target+":") {
			return name, nil
		}
	}
	return "", fmt.Errorf("%q are offered and not %s", offered, target)
}

// Slice appends to dst the range e of the bytes in src.
func Slice(dst, src [][]byte, e block.Extent) [][]byte {
	for _, b := range src {
		n := uint64(len(b))
		if e.Off >= n {
			e.Off -= n
			continue
		}
		b = b[e.Off:min(n, e.End())]
		if len(b) == 0 {
			break
		}
		dst = append(dst, b)
		e.Off, e.Len = 0, e.Len-uint64(len(b))
	}
	return dst
}
