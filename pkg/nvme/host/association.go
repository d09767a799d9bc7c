package host

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/block/ride"
	"github.com/cask-storage/cask/pkg/nvme"
)

// association is an admin queue and its I/O queues.
type association struct {
	cfg       *Config
	admin     *qpair
	io        []*qpair
	next      atomic.Uint32
	cntlid    nvme.CNTLID
	blockSize uint32
	ctrl      nvme.IdentifyController
	events    chan uint64 // results of Asynchronous Event Requests
	failed    chan struct{}
	once      sync.Once
	err       error // why, once failed is closed
}

func (a *association) fail(err error) {
	a.once.Do(func() {
		a.err = err
		close(a.failed)
	})
}

// adminCommand is a command to run on the admin queue, and its data.
type adminCommand struct {
	sqe     nvme.Command
	data    []byte
	read    bool
	timeout time.Duration // 0 is adminTimeout
}

// statusError is a command's failure.
type statusError struct {
	what   string
	status nvme.Status
	result uint64
}

func (e *statusError) Error() string {
	return fmt.Sprintf("%s: %v, result %#x", e.what, e.status, e.result)
}

// exec runs a command on a queue and waits for it. When it does not answer,
// the connection is given up.
func (a *association) exec(ctx context.Context, q *qpair, c adminCommand) (uint64, nvme.Status, error) {
	if c.timeout == 0 {
		c.timeout = adminTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	ch := make(chan nvme.Completion, 1)
	t := &task{sqe: c.sqe, size: uint32(len(c.data)), read: c.read}
	if len(c.data) > 0 {
		t.bufs = [][]byte{c.data}
	}
	t.done = func(_ *task, cqe *nvme.Completion) { ch <- *cqe }
	if !q.submit(t) {
		return 0, 0, q.err
	}
	select {
	case cqe := <-ch:
		return cqe.Result(), cqe.Status(), nil
	case <-q.broken:
		return 0, 0, q.err
	case <-ctx.Done():
		err := fmt.Errorf("no answer to a command for %v: %w", c.timeout, ctx.Err())
		q.breakOff(err)
		return 0, 0, err
	}
}

// do is exec on the admin queue, with a failed status as an error.
func (a *association) do(ctx context.Context, what string, c adminCommand) (uint64, error) {
	result, s, err := a.exec(ctx, a.admin, c)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", what, err)
	}
	if !s.OK() {
		return 0, &statusError{what: what, status: s, result: result}
	}
	return result, nil
}

// adminInCapsule is what every admin queue takes in a capsule.
const adminInCapsule = 8 << 10

// connect makes an association with the subsystem of this name: admin queue,
// controller, namespace, I/O queues.
func (c Config) connect(ctx context.Context, nqn string) (ride.Session, ride.Shape, error) {
	c.SubsystemNQN = nqn
	a := &association{cfg: &c, events: make(chan uint64, 1), failed: make(chan struct{})}
	s, err := a.establish(ctx)
	if err == nil {
		return a, s, nil
	}
	a.Close()
	if replaced(err) {
		err = fmt.Errorf("%w (%w)", ErrReplaced, err)
	}
	return nil, ride.Shape{}, err
}

func (a *association) establish(ctx context.Context) (ride.Shape, error) {
	var err error
	a.admin, err = openQpair(ctx, a.cfg, options{depth: adminDepth, inCapsule: adminInCapsule, fail: a.fail})
	if err != nil {
		return ride.Shape{}, err
	}
	if a.cntlid, err = a.connectQueue(ctx, a.admin, 0); err != nil {
		return ride.Shape{}, err
	}
	depth, err := a.enable(ctx)
	if err != nil {
		return ride.Shape{}, err
	}
	if err := a.identifyController(ctx); err != nil {
		return ride.Shape{}, err
	}
	s, err := a.identifyNamespace(ctx)
	if err != nil {
		return ride.Shape{}, err
	}
	a.blockSize = s.Geometry.BlockSize
	if err := a.watchEvents(ctx); err != nil {
		return ride.Shape{}, err
	}
	return s, a.openQueues(ctx, depth)
}

// connectQueue sends a Connect on a new queue; the result is the controller.
func (a *association) connectQueue(ctx context.Context, q *qpair, id nvme.QID) (nvme.CNTLID, error) {
	d := nvme.ConnectData{
		HostID: a.cfg.HostID, CNTLID: nvme.CNTLIDDynamic,
		SubNQN: a.cfg.SubsystemNQN, HostNQN: a.cfg.HostNQN,
	}
	p := nvme.ConnectParams{QID: id, QueueDepth: uint32(len(q.table)), NoSQFlow: true}
	if id == 0 {
		p.KATO = uint32(a.cfg.KATO / time.Millisecond)
	} else {
		d.CNTLID = a.cntlid
	}
	c := adminCommand{data: d.Append(nil), timeout: a.cfg.ConnectTimeout}
	c.sqe.SetConnect(p)
	result, s, err := a.exec(ctx, q, c)
	switch {
	case err != nil:
		return 0, fmt.Errorf("connect queue %d: %w", id, err)
	case s.Code() == nvme.ConnectInvalidHost:
		return 0, fmt.Errorf("host %s is not admitted to %s now: %w", a.cfg.HostNQN, a.cfg.SubsystemNQN,
			&statusError{what: "connect", status: s})
	case !s.OK():
		return 0, &statusError{what: fmt.Sprintf("connect queue %d to %s", id, a.cfg.SubsystemNQN), status: s, result: result}
	}
	return nvme.CNTLID(result), a.login(ctx, q, result)
}

// enable sets CC.EN, waits for CSTS.RDY and returns the largest queue depth.
func (a *association) enable(ctx context.Context) (uint32, error) {
	var get adminCommand
	get.sqe.SetPropertyGet(nvme.PropertyParams{Wide: true, Offset: nvme.PropCAP})
	v, err := a.do(ctx, "read CAP", get)
	if err != nil {
		return 0, err
	}
	limits := nvme.DecodeCapabilities(v)
	var set adminCommand
	cc := nvme.CCEnable | nvme.CCIOSQES | nvme.CCIOCQES
	set.sqe.SetPropertySet(nvme.PropertyParams{Offset: nvme.PropCC, Value: uint64(cc)})
	if _, err := a.do(ctx, "enable the controller", set); err != nil {
		return 0, err
	}
	wait := time.Duration(max(limits.TimeoutMS, 500)) * time.Millisecond
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	for {
		var csts adminCommand
		csts.sqe.SetPropertyGet(nvme.PropertyParams{Offset: nvme.PropCSTS})
		v, err := a.do(ctx, "read CSTS", csts)
		if err != nil {
			return 0, err
		}
		if v&uint64(nvme.CSTSReady) != 0 {
			return limits.QueueDepth, nil
		}
		select {
		case <-time.After(readyPoll):
		case <-ctx.Done():
			return 0, fmt.Errorf("the controller is not ready after %v: %w", wait, ctx.Err())
		}
	}
}

func (a *association) identifyController(ctx context.Context) error {
	c := adminCommand{data: make([]byte, nvme.IdentifySize), read: true}
	c.sqe.SetIdentify(nvme.IdentifyParams{CNS: nvme.CNSController})
	if _, err := a.do(ctx, "identify the controller", c); err != nil {
		return err
	}
	if err := a.ctrl.Decode(c.data); err != nil {
		return err
	}
	if a.ctrl.SGLS&3 == 0 || a.ctrl.IOCCSZ < nvme.CommandSize/16 {
		return fmt.Errorf("controller of %s: SGLS %#x, IOCCSZ %d: not a Fabrics I/O controller", a.ctrl.SubNQN, a.ctrl.SGLS, a.ctrl.IOCCSZ)
	}
	return nil
}

// identifyNamespace reads the namespace's shape and identity.
func (a *association) identifyNamespace(ctx context.Context) (ride.Shape, error) {
	c := adminCommand{data: make([]byte, nvme.IdentifySize), read: true}
	c.sqe.SetIdentify(nvme.IdentifyParams{CNS: nvme.CNSNamespace})
	c.sqe.SetNSID(a.cfg.NSID)
	if _, err := a.do(ctx, fmt.Sprintf("identify namespace %d", a.cfg.NSID), c); err != nil {
		return ride.Shape{}, err
	}
	var n nvme.IdentifyNamespace
	if err := n.Decode(c.data); err != nil {
		return ride.Shape{}, err
	}
	if n.LBADS < 9 || n.LBADS > 16 || n.Size == 0 || n.Size > 1<<(62-n.LBADS) {
		return ride.Shape{}, fmt.Errorf("namespace %d: %d blocks of 2^%d bytes: not a usable namespace", a.cfg.NSID, n.Size, n.LBADS)
	}
	uuid, err := a.namespaceUUID(ctx)
	if err != nil {
		return ride.Shape{}, err
	}
	bs := uint32(1) << n.LBADS
	s := ride.Shape{
		Name: a.cfg.SubsystemNQN, Identity: fmt.Sprintf("UUID %x, NGUID %x", uuid, n.NGUID), Split: a.cfg.MaxTransfer, SplitZeroes: maxZeroes * uint64(bs),
		Geometry: block.Geometry{Size: n.Size << n.LBADS, BlockSize: bs, PhysicalBlock: bs * (uint32(n.NPWG) + 1), MaxTransfer: a.cfg.MaxTransfer},
	}
	if m := a.ctrl.MaxTransfer(); m != 0 {
		s.Split = min(s.Split, m)
	}
	return s, nil
}

func (a *association) namespaceUUID(ctx context.Context) (nvme.UUID, error) {
	c := adminCommand{data: make([]byte, nvme.IdentifySize), read: true}
	c.sqe.SetIdentify(nvme.IdentifyParams{CNS: nvme.CNSDescriptors})
	c.sqe.SetNSID(a.cfg.NSID)
	if _, err := a.do(ctx, fmt.Sprintf("list identifiers of namespace %d", a.cfg.NSID), c); err != nil {
		return nvme.UUID{}, err
	}
	list, err := nvme.DecodeDescriptors(c.data)
	if err != nil {
		return nvme.UUID{}, err
	}
	for _, d := range list {
		if d.Type == nvme.NIDTUUID && len(d.ID) == nvme.UUIDSize {
			return nvme.UUID(d.ID), nil
		}
	}
	return nvme.UUID{}, nil
}

// watchEvents asks for namespace notices.
func (a *association) watchEvents(ctx context.Context) error {
	if a.ctrl.OAES&nvme.OAESNamespace == 0 {
		return nil
	}
	var c adminCommand
	c.sqe.SetFeature(nvme.FeatureParams{FID: nvme.FeatAsyncEvents, Value: nvme.AsyncConfigNamespace})
	if _, err := a.do(ctx, "configure asynchronous events", c); err != nil {
		return err
	}
	a.requestEvent()
	return nil
}

// requestEvent leaves an Asynchronous Event Request with the controller.
func (a *association) requestEvent() {
	t := &task{}
	t.sqe.SetOpcode(nvme.OpAsyncEvent)
	t.done = func(_ *task, cqe *nvme.Completion) {
		if cqe.Status().OK() {
			select {
			case a.events <- cqe.Result():
			default:
			}
		}
	}
	a.admin.submit(t)
}

// clearEvent reads the log page of a namespace notice, which lets the next one
// through.
func (a *association) clearEvent(ctx context.Context, result uint64) error {
	e := nvme.DecodeAsyncEvent(result)
	if e.Type != nvme.EventNotice || e.Log != nvme.LogChangedNS {
		return nil
	}
	c := adminCommand{data: make([]byte, nvme.LogChangedNSSize), read: true}
	c.sqe.SetLog(nvme.LogParams{LID: nvme.LogChangedNS, Len: nvme.LogChangedNSSize})
	c.sqe.SetNSID(nvme.NSIDAll)
	_, err := a.do(ctx, "read the changed namespace list", c)
	return err
}

// openQueues makes the I/O queues.
func (a *association) openQueues(ctx context.Context, maxDepth uint32) error {
	var c adminCommand
	n := uint32(a.cfg.Queues)
	c.sqe.SetFeature(nvme.FeatureParams{FID: nvme.FeatNumberOfQueues, Value: nvme.QueueCounts{Submission: n, Completion: n}.Encode()})
	v, err := a.do(ctx, "set the number of queues", c)
	if err != nil {
		return err
	}
	granted := nvme.DecodeQueueCounts(uint32(v))
	n = min(n, granted.Submission, granted.Completion)
	depth := min(a.cfg.QueueDepth+1, int(maxDepth))
	inCapsule := min(a.ctrl.IOCCSZ*16-nvme.CommandSize, maxCapsule)
	for i := range n {
		q, err := openQpair(ctx, a.cfg, options{depth: depth, inCapsule: inCapsule, fail: a.fail})
		if err != nil {
			return fmt.Errorf("I/O queue %d: %w", i+1, err)
		}
		a.io = append(a.io, q)
		if _, err := a.connectQueue(ctx, q, nvme.QID(i+1)); err != nil {
			return err
		}
	}
	return nil
}

// shutdown tells the controller that the host leaves, and does not insist.
func (a *association) shutdown(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTime)
	defer cancel()
	var set adminCommand
	cc := nvme.CCEnable | nvme.CCShutNormal | nvme.CCIOSQES | nvme.CCIOCQES
	set.sqe.SetPropertySet(nvme.PropertyParams{Offset: nvme.PropCC, Value: uint64(cc)})
	if _, err := a.do(ctx, "shut the controller down", set); err != nil && !errors.Is(err, ctx.Err()) {
		a.cfg.Logf("nvme host: %s: %v", a.cfg.SubsystemNQN, err)
	}
}
