package lun

import (
	"errors"
	"sync/atomic"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/block/buffer"
	"github.com/cask-storage/cask/pkg/scsi"
)

// Attribute is a task attribute.
type Attribute uint8

// The attributes. ACA is not supported.
const (
	Simple Attribute = iota
	Ordered
	HeadOfQueue
	ACA
)

// Command is what an initiator sent.
type Command struct {
	CDB  scsi.CDB
	LUN  scsi.LUN
	Attr Attribute
}

// Need is what a Task moves and holds, bytes.
type Need struct {
	In      uint32 // to the initiator, at most
	Out     uint32 // from the initiator, exactly
	Scratch uint32 // beside that
}

// Bytes is the memory the Task will hold.
func (n Need) Bytes() int { return int(n.In) + int(n.Out) + int(n.Scratch) }

// Task is a slot for one command at a time. A transport reuses it.
type Task struct {
	Command
	// The outcome, valid once done was called or Prepare returned false.
	Status scsi.Status
	Sense  scsi.Sense // with CheckCondition
	In     []byte     // data for the initiator, valid until Release
	// Gone says that the device is not to be used any more: the nexus is to
	// be ended without an answer, so that the initiator goes elsewhere.
	Gone error
	// Preempted are the nexuses whose tasks the transport has to abort on
	// this unit before it answers.
	Preempted []*Nexus

	done    func(*Task)
	n       *Nexus
	u       *Unit // nil for a LUN without a unit
	at      int   // of u
	desc    *scsi.Command
	need    Need
	place   place
	inOrder bool
	aborted atomic.Bool
	after   *Task // the order's

	out     [][]byte
	in      *buffer.Buffer
	scratch *buffer.Buffer
	vec     [1][]byte
	req     block.Request
	next    func(*Task) // step after req
	extent  block.Extent
	pos     uint64 // progress of a step that is repeated
	ranges  []scsi.BlockRange
}

// NewTask makes a slot; done is called once for each Run. It must not block:
// tasks of other nexuses may wait for it to return.
func NewTask(done func(*Task)) *Task {
	t := &Task{done: done}
	t.req.Done = t.completed
	t.place.task = t
	return t
}

// Prepare begins a command: it finds its unit, checks what can be checked
// without data and says what data it needs. When it returns false the command
// is refused, and its outcome is set.
func (t *Task) Prepare(n *Nexus, c Command) (Need, bool) {
	t.reset(n, c)
	if !t.find() {
		return Need{}, false
	}
	if !t.plan() {
		return Need{}, false
	}
	return t.need, true
}

func (t *Task) reset(n *Nexus, c Command) {
	t.Command, t.n, t.u, t.at, t.desc = c, n, nil, 0, nil
	t.Status, t.Sense, t.In, t.Gone, t.Preempted = scsi.Good, scsi.Sense{}, nil, nil, nil
	t.need, t.inOrder, t.out, t.next, t.pos = Need{}, false, nil, nil, 0
	t.place.kind, t.place.extent, t.extent = reading, block.Extent{}, block.Extent{}
	t.aborted.Store(false)
}

// Release frees the data for the initiator, once it was sent.
func (t *Task) Release() {
	t.in.Free()
	t.in, t.In = nil, nil
}

// Abort makes the Task end with TASK ABORTED if it has not begun, and between
// two steps if it has. What is in the device completes; done is called in any
// case.
func (t *Task) Abort() { t.aborted.Store(true) }

// DescriptorSense reports which format the unit's sense data has.
func (t *Task) DescriptorSense() bool { return t.u != nil && t.u.mode.Load().DescriptorSense }

// AppendSense encodes the sense data as the unit is set to.
func (t *Task) AppendSense(b []byte) []byte {
	if t.DescriptorSense() {
		return t.Sense.Append(b, scsi.DescriptorSense)
	}
	return t.Sense.Append(b, scsi.FixedSense)
}

// find looks up the unit and the command, and does what goes before every
// command: unit attention, reservations, access state.
func (t *Task) find() bool {
	t.at = t.n.m.find(t.LUN)
	op := t.CDB.Opcode()
	if t.at >= 0 {
		t.u = t.n.m.units[t.at].Unit
	} else if op != scsi.Inquiry && op != scsi.ReportLUNs {
		return t.fail(scsi.Sense{Key: scsi.IllegalRequest, Code: scsi.LUNotSupported})
	}
	desc, known := scsi.Lookup(&t.CDB)
	switch {
	case !known:
		return t.fail(scsi.Sense{Key: scsi.IllegalRequest, Code: scsi.InvalidOpcode})
	case desc == nil:
		return t.badCDB(1, 4)
	case t.CDB.Control()&scsi.ControlNACA != 0:
		return t.badCDB(uint16(t.CDB.Len()-1), 2)
	case t.Attr == ACA:
		return t.fail(scsi.Sense{Key: scsi.AbortedCommand, Code: scsi.InvalidMessage})
	}
	t.desc = desc
	if t.u == nil || op == scsi.Inquiry || op == scsi.ReportLUNs || op == scsi.RequestSense {
		return true
	}
	if s, ok := t.n.take(t.at); ok {
		return t.fail(s)
	}
	return t.allowed()
}

// allowed checks reservations, the port's access state and write protection:
// when the command comes, and again when its turn has come.
func (t *Task) allowed() bool {
	u := t.u
	if s := t.n.m.Access(); s > scsi.ActiveNonOptimized && !throughInactive(t.desc.Opcode) {
		return t.fail(scsi.Sense{Key: scsi.NotReady, Code: accessCode(s)})
	}
	if u.guarded.Load() && u.conflicts(t) {
		t.Status = scsi.ReservationConflict
		return false
	}
	if u.mode.Load().WriteProtect && writesMedium(t.desc.Opcode) {
		return t.fail(scsi.Sense{Key: scsi.DataProtect, Code: scsi.SoftwareWriteProtect})
	}
	return true
}

func throughInactive(o scsi.Opcode) bool {
	switch o {
	case scsi.MaintenanceIn, scsi.ReserveIn, scsi.ReserveOut, scsi.ModeSense6, scsi.ModeSense10:
		return true
	}
	return false
}

func accessCode(s scsi.AccessState) scsi.Code {
	switch s {
	case scsi.Standby:
		return scsi.AccessStandby
	case scsi.Transitioning:
		return scsi.AccessTransition
	}
	return scsi.AccessUnavailable
}

func writesMedium(o scsi.Opcode) bool {
	switch o {
	case scsi.Write6, scsi.Write10, scsi.Write12, scsi.Write16, scsi.WriteVerify10, scsi.WriteVerify12, scsi.WriteVerify16,
		scsi.WriteSame10, scsi.WriteSame16, scsi.Unmap, scsi.CompareAndWrite, scsi.OrWrite:
		return true
	}
	return false
}

// Run executes the command with the data it needs. done is called once,
// possibly before Run returns; data must stay until then.
func (t *Task) Run(data [][]byte) {
	t.out = data
	if t.u == nil || !t.ordered() {
		t.execute()
		return
	}
	p := &t.place
	if t.Attr == Ordered || runsAlone(t.desc.Opcode) {
		p.kind = alone
	}
	t.inOrder = true
	if t.u.order.enter(p) {
		t.start()
	}
}

// runsAlone reports commands that change what holds for the others.
func runsAlone(o scsi.Opcode) bool {
	return o == scsi.ReserveOut || o == scsi.ModeSelect6 || o == scsi.ModeSelect10
}

// ordered reports whether the command has a place in the unit's order: it
// reaches for the medium or changes who may.
func (t *Task) ordered() bool {
	return t.Attr == Ordered || t.desc.Access != scsi.AccessFree || t.desc.Opcode == scsi.ReserveOut
}

// start is called when the task's turn has come.
func (t *Task) start() {
	switch {
	case t.aborted.Load():
		t.Status = scsi.TaskAborted
	case t.allowed():
		t.execute()
		return
	}
	t.finish()
}

// finish ends the task. t is the transport's again when done is called. Whom it
// kept waiting starts after that, so that answers keep the order.
func (t *Task) finish() {
	t.scratch.Free()
	t.scratch, t.out = nil, nil
	if t.Status != scsi.Good && t.in != nil {
		t.Release()
	}
	var next *Task
	if t.inOrder {
		t.inOrder = false
		next = t.u.order.leave(&t.place)
	}
	t.done(t)
	startAll(next)
}

// fail sets CHECK CONDITION; it returns false.
func (t *Task) fail(s scsi.Sense) bool {
	t.Status, t.Sense = scsi.CheckCondition, s
	return false
}

// badCDB refuses a field of the CDB.
func (t *Task) badCDB(at uint16, bit int8) bool {
	return t.fail(scsi.Sense{Key: scsi.IllegalRequest, Code: scsi.InvalidFieldInCDB, Field: scsi.CDBField(at, bit)})
}

// badList refuses a byte of the parameter list.
func (t *Task) badList(at uint16) bool {
	return t.fail(scsi.Sense{Key: scsi.IllegalRequest, Code: scsi.InvalidFieldInList, Field: scsi.ListField(at)})
}

// BadLength refuses a command whose CDB and transport disagree about its data;
// nothing was executed.
func (t *Task) BadLength() {
	t.fail(scsi.Sense{Key: scsi.IllegalRequest, Code: scsi.InvalidFieldInIU})
}

// BadData refuses a command whose data arrived damaged; nothing was executed.
func (t *Task) BadData() {
	t.fail(scsi.Sense{Key: scsi.AbortedCommand, Code: scsi.ServiceCRC})
}

// submit starts a request; then comes the step.
func (t *Task) submit(op block.Op, e block.Extent, next func(*Task)) {
	t.next = next
	r := &t.req
	r.Op, r.Extent = op, e
	r.FUA = op != block.OpRead && op != block.OpFlush && t.fua()
	t.u.dev.Submit(r)
}

// fua reports whether what the command writes must be stable when it is done.
func (t *Task) fua() bool {
	if !t.u.mode.Load().WriteCache {
		return true
	}
	switch t.desc.Opcode {
	case scsi.Write10, scsi.Write12, scsi.Write16, scsi.OrWrite, scsi.CompareAndWrite:
		return t.CDB[1]&scsi.FlagFUA != 0
	case scsi.WriteVerify10, scsi.WriteVerify12, scsi.WriteVerify16:
		return true
	}
	return false
}

// completed is the Device's answer.
func (t *Task) completed(r *block.Request, err error) {
	r.Bufs = nil
	switch {
	case err == nil && !t.aborted.Load():
		t.next(t)
		return
	case err == nil:
		t.Status = scsi.TaskAborted
	case errors.Is(err, block.ErrFenced), errors.Is(err, block.ErrClosed):
		t.Gone = err
		t.Status = scsi.Busy
	default:
		t.fail(FromError(r.Op, err))
	}
	t.finish()
}

// whole is the data from the initiator in one piece.
func (t *Task) whole() []byte {
	switch len(t.out) {
	case 0:
		return nil
	case 1:
		return t.out[0]
	}
	n := 0
	for _, b := range t.out {
		n += len(b)
	}
	all := make([]byte, 0, n)
	for _, b := range t.out {
		all = append(all, b...)
	}
	return all
}
