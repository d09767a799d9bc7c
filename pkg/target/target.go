// Package target runs one volume's target: the driver around the pure core of
// pkg/volume, the links to the replicas, and the block.Device that frontends
// serve. It knows no frontend and no Kubernetes.
//
// # Concurrency
//
// Run owns every goroutine and waits for them: one loop that alone touches the
// core; per replica a link (dials, reads) and its writer; one reporter; and
// one per call of the Authority, of which the core has at most one under way.
// Events reach the loop through a queue that is bounded by what may be
// outstanding: requests of the frontends, which bound themselves, and answers
// to what the core has sent.
//
// Lock order: none is held while another is taken.
package target

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/quorum"
	"github.com/cask-storage/cask/pkg/replication"
	"github.com/cask-storage/cask/pkg/volume"
)

// Config is what a target needs.
type Config struct {
	Volume    volume.Config
	Addresses map[quorum.ReplicaID]string // host:port; Configure replaces them
	Authority volume.Authority
	Reporter  Reporter // may be nil
	Logf      func(format string, args ...any)
}

const (
	tick        = 20 * time.Millisecond
	callTimeout = 10 * time.Second // of the Authority and the Reporter
	quiesce     = 3 * time.Second  // what a stop waits for replicas
	maxRequests = 1024             // under way; Submit waits beyond that
)

// Target is a volume being served.
type Target struct {
	cfg   Config
	core  *volume.Core
	start time.Time
	links map[quorum.ReplicaID]*link // of the loop, once Run has begun
	dials sync.WaitGroup             // the links' goroutines
	stats stats

	mu     sync.Mutex
	events []func() // run by the loop
	wake   chan struct{}
	closed bool
	status Status
	// exposed is volume.Status.Exposed, as it is now.
	exposed uint64
	session session

	slots    chan struct{} // one for each request under way
	ended    chan struct{} // closed when the loop ends
	acquired chan struct{} // closed when the first epoch is ours
	once     sync.Once     // closes it

	reports  chan Status // the newest only
	reported Status
	exposure exposure    // by the loop
	stopErr  error       // by the loop
	armed    volume.Time // by the loop
	calls    sync.WaitGroup
	ctx      context.Context // of Run
}

// New makes a target; Run starts it.
func New(cfg Config) *Target {
	if cfg.Logf == nil {
		cfg.Logf = func(string, ...any) {}
	}
	return &Target{cfg: cfg, core: volume.New(cfg.Volume), start: time.Now(), wake: make(chan struct{}, 1),
		links: map[quorum.ReplicaID]*link{}, session: session{changed: make(chan struct{})}, reports: make(chan Status, 1),
		slots: make(chan struct{}, maxRequests), ended: make(chan struct{}), acquired: make(chan struct{})}
}

// Status is the newest status.
func (t *Target) Status() Status {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.status
}

// Acquired is closed when the target has acquired its first epoch: what other
// targets kept beside the record does not change any more.
func (t *Target) Acquired() <-chan struct{} { return t.acquired }

// now is the core's clock; it never reads zero.
func (t *Target) now() volume.Time { return volume.Time(time.Since(t.start)) + 1 }

// post queues an event. It reports whether the loop still runs.
func (t *Target) post(f func()) bool {
	t.mu.Lock()
	ok := !t.closed
	if ok {
		t.events = append(t.events, f)
	}
	t.mu.Unlock()
	if ok {
		select {
		case t.wake <- struct{}{}:
		default:
		}
	}
	return ok
}

// Run serves until ctx ends, then lets the replicas become equal and gives the
// epoch back; or until the target is superseded, and says so.
func (t *Target) Run(ctx context.Context) error {
	inner, cancel := context.WithCancel(context.WithoutCancel(ctx))
	t.ctx = inner
	var wg sync.WaitGroup
	t.connect(t.cfg.Addresses)
	reporting, stopReporting := context.WithCancel(inner)
	wg.Go(func() { t.report(reporting) }) // ends with reporting
	t.post(func() { t.core.Start(t.now()) })
	t.loop(ctx)
	stopReporting()
	wg.Wait()
	t.release(inner)
	t.refuse(inner)
	cancel()
	t.dials.Wait()
	t.calls.Wait()
	return t.stopErr
}

// loop feeds the core until ctx ends or the core stops.
func (t *Target) loop(ctx context.Context) {
	tk := time.NewTicker(tick)
	defer tk.Stop()
	wake := time.NewTimer(tick)
	defer wake.Stop()
	done := ctx.Done()
	var deadline time.Time
	for t.stopErr == nil {
		select {
		case <-t.wake:
		case <-tk.C:
			t.core.Tick(t.now())
			t.perform()
			t.publish()
			if done == nil && (t.core.Idle() || time.Now().After(deadline)) {
				t.close(block.ErrClosed)
				return
			}
		case <-wake.C:
			t.core.Tick(t.now())
			t.perform()
		case <-done:
			done, deadline = nil, time.Now().Add(quiesce)
			continue
		}
		for _, f := range t.take() {
			f()
			t.perform()
		}
		t.arm(wake)
	}
	t.publish()
	t.close(block.ErrFenced)
}

// arm has the core's Tick called when it needs that before the next one.
func (t *Target) arm(timer *time.Timer) {
	if at := t.core.Wake(); at != 0 && at != t.armed {
		t.armed = at
		timer.Reset(time.Duration(at - t.now()))
	}
}

func (t *Target) take() []func() {
	t.mu.Lock()
	defer t.mu.Unlock()
	fs := t.events
	t.events = nil
	return fs
}

// close completes what is left and refuses what comes later.
func (t *Target) close(err error) {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	close(t.ended)
	for _, f := range t.take() {
		f()
	}
	t.core.Close(err)
	t.perform()
}

// release gives the epoch back, so that the next target need not wait for
// this one's lease to run out.
func (t *Target) release(ctx context.Context) {
	rec := t.core.Record()
	if t.stopErr != nil || rec.Holder != t.cfg.Volume.Instance {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	next := rec
	next.Holder = ""
	if err := t.cfg.Authority.CompareAndSwap(ctx, rec, next); err != nil {
		t.cfg.Logf("epoch %d was not given back: %v", rec.Epoch, err)
	}
}

// perform carries out what the core wants.
func (t *Target) perform() {
	for _, a := range t.core.Take() {
		switch a.Kind {
		case volume.ActSend:
			if src := t.links[quorum.ReplicaID(a.Msg.Replica)]; a.Msg.Type == replication.Pull && src != nil {
				a.Msg.Text = src.addr
			}
			if l := t.links[a.To]; l != nil {
				l.send(a.Conn, a.Msg)
			}
		case volume.ActReset:
			if l := t.links[a.To]; l != nil {
				l.reset(a.Conn)
			}
		case volume.ActLoad:
			t.calls.Go(t.load) // ends within callTimeout
		case volume.ActSwap:
			t.calls.Go(func() { t.swap(a.Old, a.Next) }) // likewise
		case volume.ActComplete:
			t.complete(a)
		case volume.ActStop:
			t.stopErr = a.Err
			t.cfg.Logf("stopping: %v", a.Err)
		}
	}
	t.noteSession()
}

func (t *Target) load() {
	ctx, cancel := context.WithTimeout(t.ctx, callTimeout)
	defer cancel()
	rec, err := t.cfg.Authority.Load(ctx)
	if err != nil {
		t.cfg.Logf("read the record of volume %s: %v", t.cfg.Volume.Volume, err)
	}
	t.post(func() { t.core.Loaded(t.now(), rec, err) })
}

func (t *Target) swap(old, next volume.Record) {
	ctx, cancel := context.WithTimeout(t.ctx, callTimeout)
	defer cancel()
	err := t.cfg.Authority.CompareAndSwap(ctx, old, next)
	if err == nil && next.Epoch > old.Epoch {
		t.once.Do(func() { close(t.acquired) })
	}
	if err != nil && !errors.Is(err, volume.ErrConflict) {
		t.cfg.Logf("change the record of volume %s: %v", t.cfg.Volume.Volume, err)
	}
	t.post(func() { t.core.Swapped(t.now(), err) })
}

// publish notes the status and reports it when it changed.
func (t *Target) publish() {
	core := t.core.Status()
	s := statusOf(core)
	s.Verified = t.verification(core.Verified)
	s.Exposed = t.exposure.observe(t.now(), core.Exposed)
	t.mu.Lock()
	t.exposed = core.Exposed
	t.status = s
	t.mu.Unlock()
	if s.same(t.reported) {
		return
	}
	t.reported = s
	t.cfg.Logf("%s", s.line())
	select {
	case <-t.reports:
	default:
	}
	t.reports <- s
}

// report publishes each newest status, repeating until it succeeds.
func (t *Target) report(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case s := <-t.reports:
			t.reportOne(ctx, s)
		}
	}
}

func (t *Target) reportOne(ctx context.Context, s Status) {
	for t.cfg.Reporter != nil && ctx.Err() == nil {
		call, cancel := context.WithTimeout(ctx, callTimeout)
		err := t.cfg.Reporter.Report(call, s)
		cancel()
		if err == nil {
			return
		}
		t.cfg.Logf("report status: %v", err)
		select {
		case <-ctx.Done():
		case s = <-t.reports:
		case <-time.After(time.Second):
		}
	}
}

// received hands a replica's message to the core.
func (t *Target) received(id quorum.ReplicaID, conn uint64, m replication.Message) {
	t.post(func() { t.core.Receive(t.now(), id, conn, m) })
}

func (t *Target) String() string { return fmt.Sprintf("target of volume %s", t.cfg.Volume.Volume) }
