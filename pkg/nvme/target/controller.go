package target

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

// controller is one association of a host with a subsystem.
type controller struct {
	sub       *subsystem
	id        nvme.CNTLID
	seq       uint64 // order of Connects
	hostNQN   string
	hostID    nvme.UUID
	adminConn *conn
	killed    chan struct{} // closed when dead
	drained   chan struct{} // closed when dead and all of its commands have completed
	seen      atomic.Int64  // when the host was last heard of, Target.now

	mu          sync.Mutex
	dead        bool
	why         error
	keepAlive   time.Duration // 0 is none
	cc          uint32
	farewell    *farewell          // of the shutdown that CC asks for, once the I/O queues have ended
	conns       map[nvme.QID]*conn // the admin queue too
	queueLimit  int                // I/O queues granted
	asyncConfig uint32
	aers        []*command // held Asynchronous Event Requests, at most asyncEvents
	due, masked uint32     // events: to be told; told and their page not read yet
	changed     []nvme.NSID
	notices     []nvme.ReservationLog // at most maxNotices
	noticeCount uint64
	noticeMask  map[nvme.NSID]uint32
	errors      []nvme.ErrorEntry // ring of errorEntries, by count
	errorCount  uint64
}

// ready reports CSTS.RDY with CC.EN, and no shutdown.
func (ctrl *controller) ready() bool {
	ctrl.mu.Lock()
	defer ctrl.mu.Unlock()
	return ctrl.awakeLocked() && !ctrl.dead
}

// awakeLocked says that the host uses the controller: only then it takes I/O, and
// the keep-alive timer runs.
func (ctrl *controller) awakeLocked() bool {
	return ctrl.cc&nvme.CCEnable != 0 && ctrl.cc&nvme.CCShutdown == 0
}

// alive reports whether there is an association that was not killed.
func (ctrl *controller) alive() bool {
	if ctrl == nil {
		return false
	}
	ctrl.mu.Lock()
	defer ctrl.mu.Unlock()
	return !ctrl.dead
}

// kill ends the association: its connections are closed, and drained is closed
// when the devices have completed what they had submitted. It does not wait.
func (ctrl *controller) kill(why error) {
	ctrl.mu.Lock()
	defer ctrl.mu.Unlock()
	if ctrl.dead {
		return
	}
	ctrl.dead, ctrl.why = true, why
	close(ctrl.killed)
	if !ctrl.sub.isDiscovery {
		ctrl.sub.t.cfg.Logf("nvme target: host %s: association %d closed: %v", ctrl.hostNQN, ctrl.id, why)
	}
	for _, c := range ctrl.conns {
		c.Abort()
	}
	ctrl.aers = nil
}

// attach adds a queue's connection.
func (ctrl *controller) attach(c *conn, q nvme.QID) nvme.Status {
	ctrl.mu.Lock()
	defer ctrl.mu.Unlock()
	switch {
	case ctrl.dead:
		return nvme.ConnectInvalidParam | nvme.DNR
	case ctrl.conns[q] != nil:
		return nvme.ConnectBusy
	}
	ctrl.conns[q] = c
	return nvme.Success
}

// detach removes a connection that has ended and whose commands have
// completed.
func (ctrl *controller) detach(c *conn) {
	ctrl.mu.Lock()
	if ctrl.conns[c.qid] == c {
		delete(ctrl.conns, c.qid)
	}
	last := ctrl.dead && len(ctrl.conns) == 0
	ctrl.mu.Unlock()
	if last {
		ctrl.sub.remove(ctrl)
		close(ctrl.drained)
	}
}

// enforce kills the association of a host that was silent for too long.
func (ctrl *controller) enforce(now int64) {
	limit := ctrl.sub.t.cfg.Limits.IdleController
	ctrl.mu.Lock()
	idle := !ctrl.awakeLocked() || ctrl.sub.isDiscovery
	if ctrl.keepAlive > 0 && ctrl.awakeLocked() {
		limit, idle = ctrl.keepAlive+2*tickInterval, true
	}
	ctrl.mu.Unlock()
	if silent := time.Duration(now - ctrl.seen.Load()); idle && silent > limit {
		ctrl.kill(fmt.Errorf("nothing heard for %v, keep-alive timeout", silent.Round(time.Millisecond)))
	}
}

func (ctrl *controller) describe() Association {
	ctrl.mu.Lock()
	defer ctrl.mu.Unlock()
	return Association{
		Subsystem: ctrl.sub.NQN, HostNQN: ctrl.hostNQN,
		Remote: ctrl.adminConn.nc.RemoteAddr().String(), Queues: max(0, len(ctrl.conns)-1),
	}
}

// propertyGet reads a controller property.
func (ctrl *controller) propertyGet(p nvme.PropertyParams) (uint64, nvme.Status) {
	ctrl.mu.Lock()
	defer ctrl.mu.Unlock()
	switch {
	case p.Wide && p.Offset == nvme.PropCAP:
		return nvme.Capabilities{QueueDepth: uint32(ctrl.depthLimit()), TimeoutMS: 15000}.Encode(), nvme.Success
	case p.Wide:
	case p.Offset == nvme.PropVS:
		return uint64(nvme.Version), nvme.Success
	case p.Offset == nvme.PropCC:
		return uint64(ctrl.cc), nvme.Success
	case p.Offset == nvme.PropCSTS:
		return uint64(ctrl.cstsLocked()), nvme.Success
	}
	return 0, nvme.InvalidField | nvme.DNR
}

func (ctrl *controller) depthLimit() int { return ctrl.sub.t.cfg.Limits.QueueDepth }

// cstsLocked derives CSTS. After CC.EN was cleared the controller stays ready
// until its I/O queues have drained.
func (ctrl *controller) cstsLocked() uint32 {
	var v uint32
	if ctrl.cc&nvme.CCEnable != 0 || len(ctrl.conns) > 1 {
		v |= nvme.CSTSReady
	}
	switch {
	case ctrl.cc&nvme.CCShutdown == 0:
	case ctrl.farewell != nil && ctrl.farewell.left.Load() == 0:
		v |= nvme.CSTSShutReady
	default:
		v |= nvme.CSTSShutting
	}
	return v
}

// propertySet writes CC, the only writable property.
func (ctrl *controller) propertySet(p nvme.PropertyParams) nvme.Status {
	if p.Wide || p.Offset != nvme.PropCC {
		return nvme.InvalidField | nvme.DNR
	}
	ctrl.mu.Lock()
	defer ctrl.mu.Unlock()
	was := ctrl.cc
	ctrl.cc = uint32(p.Value)
	if was&nvme.CCEnable != 0 && !ctrl.awakeLocked() {
		for q, c := range ctrl.conns {
			if q != 0 {
				c.Abort()
			}
		}
	}
	if ctrl.cc&nvme.CCShutdown == 0 {
		ctrl.farewell = nil
	}
	if was&nvme.CCEnable != 0 && ctrl.cc&nvme.CCEnable == 0 {
		for _, cmd := range ctrl.aers {
			cmd.conn.complete(cmd.fail(nvme.AbortedSQDeletion))
		}
		ctrl.aers, ctrl.asyncConfig, ctrl.due, ctrl.masked, ctrl.noticeMask = nil, 0, 0, 0, nil
	}
	return nvme.Success
}

// farewell flushes the namespaces: after a shutdown nothing of what was written
// may depend on this target.
type farewell struct {
	c    *conn
	left atomic.Int32 // flushes that have not succeeded
}

// settle begins the farewell of a host that shuts the controller down, once its
// I/O queues have ended. The admin connection's reader calls it.
func (ctrl *controller) settle(c *conn) {
	ctrl.mu.Lock()
	if ctrl.cc&nvme.CCShutdown == 0 || ctrl.farewell != nil || len(ctrl.conns) > 1 {
		ctrl.mu.Unlock()
		return
	}
	f := &farewell{c: c}
	var here []*namespace
	for _, n := range ctrl.sub.namespaces {
		if n.anaState().Status().OK() {
			here = append(here, n)
		}
	}
	f.left.Store(int32(len(here)))
	ctrl.farewell = f
	ctrl.mu.Unlock()
	for _, n := range here {
		c.submitted.Add(1)
		n.Device.Submit(&block.Request{Op: block.OpFlush, Done: f.done})
	}
}

// done is the Device's completion of a flush.
func (f *farewell) done(r *block.Request, err error) {
	if err == nil {
		f.left.Add(-1)
	} else if _, gone := blockstatus.FromError(r.Op, err); gone != nil {
		f.c.leave(err)
	} else {
		f.c.t.cfg.Logf("nvme target: %v: flush at its host's shutdown: %v", f.c.nc.RemoteAddr(), err)
	}
	f.c.submitted.Done()
}

// subsystem is a Subsystem being served.
type subsystem struct {
	Subsystem
	t           *Target
	isDiscovery bool
	namespaces  []*namespace // by ID
	byID        map[nvme.NSID]*namespace
	transfer    uint32 // bytes of one command

	reads, writes, bytesRead, bytesWritten, errors, mediaErrors atomic.Uint64

	mu          sync.Mutex
	groups      map[uint32]*anaGroup // the map itself never changes
	anaChanges  uint64
	controllers map[nvme.CNTLID]*controller
	lastID      nvme.CNTLID
	lastSeq     uint64
}

func newSubsystem(t *Target, s Subsystem) (*subsystem, error) {
	x := &subsystem{Subsystem: s, t: t, controllers: map[nvme.CNTLID]*controller{}, isDiscovery: s.NQN == nvme.DiscoveryNQN}
	x.lastID = s.Controllers.First - 1
	return x, x.prepareNamespaces()
}

// maxControllerID leaves out the reserved values.
const maxControllerID nvme.CNTLID = 0xffef

// add makes a controller for c, or returns nil when there are too many.
func (s *subsystem) add(c *conn, d nvme.ConnectData) *controller {
	s.mu.Lock()
	defer s.mu.Unlock()
	// The host's own older ones are about to be displaced, but in discovery; who
	// has yet to authenticate must not keep out who can.
	others := 0
	for _, o := range s.controllers {
		if s.t.cfg.Authenticate != nil && !o.adminConn.connected.Load() {
			continue
		}
		if s.isDiscovery || o.hostNQN != d.HostNQN || o.hostID != d.HostID {
			others++
		}
	}
	ids := s.Controllers
	if others >= s.t.cfg.Limits.Controllers || len(s.controllers) > int(ids.Last-ids.First) {
		return nil
	}
	for {
		if s.lastID++; s.lastID > ids.Last {
			s.lastID = ids.First
		}
		if s.controllers[s.lastID] == nil {
			break
		}
	}
	s.lastSeq++
	ctrl := &controller{
		sub: s, id: s.lastID, seq: s.lastSeq, hostNQN: d.HostNQN, hostID: d.HostID, adminConn: c,
		killed: make(chan struct{}), drained: make(chan struct{}),
		conns: map[nvme.QID]*conn{0: c}, queueLimit: s.t.cfg.Limits.Queues,
	}
	ctrl.seen.Store(s.t.now.Load())
	s.controllers[ctrl.id] = ctrl
	return ctrl
}

func (s *subsystem) remove(ctrl *controller) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.controllers, ctrl.id)
}

func (s *subsystem) controller(id nvme.CNTLID) *controller {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.controllers[id]
}

// controllersMatching lists the controllers that pass the filter; nil passes
// all.
func (s *subsystem) controllersMatching(filter func(*controller) bool) []*controller {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*controller
	for _, c := range s.controllers {
		if filter == nil || filter(c) {
			out = append(out, c)
		}
	}
	return out
}

// displace kills the same host's older associations and waits for them, until
// ctx is done or ctrl itself is killed.
func (s *subsystem) displace(ctx context.Context, ctrl *controller) error {
	older := s.controllersMatching(func(o *controller) bool {
		return o.seq < ctrl.seq && o.hostNQN == ctrl.hostNQN && o.hostID == ctrl.hostID
	})
	for _, o := range older {
		o.kill(fmt.Errorf("displaced by association %d of the same host", ctrl.id))
	}
	for _, o := range older {
		select {
		case <-o.drained:
		case <-ctrl.killed:
			return fmt.Errorf("association %d was displaced while it waited", ctrl.id)
		case <-ctx.Done():
			return fmt.Errorf("association %d of host %s still has commands in the device: %w", o.id, o.hostNQN, ctx.Err())
		}
	}
	return nil
}
