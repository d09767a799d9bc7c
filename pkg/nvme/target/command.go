package target

import (
	"bytes"
	"sync/atomic"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/block/buffer"
	"github.com/cask-storage/cask/pkg/nvme"
	"github.com/cask-storage/cask/pkg/nvme/blockstatus"
)

// direction of a command's data.
type direction uint8

const (
	noData direction = iota
	fromHost
	toHost
)

// action is what the writer is to send for a command.
type action uint8

const (
	respond action = iota
	sendR2T
)

// step is how far a command is that takes several.
type step uint8

const (
	only      step = iota // the request under way is the last
	entering              // waits at the gate, nothing is under way
	comparing             // the device's data is being read into scratch
	copying               // so is a source range
	matching              // fused: so is what the Compare expects
)

// command is one slot of a connection: a command from its capsule until its
// response was written. Slots are reused; tag is the slot's number and serves
// as TTAG.
type command struct {
	conn   *conn
	tag    uint16
	sqe    nvme.Command
	ns     *namespace
	dir    direction
	action action
	step   step
	await  bool // an R2T was sent, H2CData is expected
	damage bool // the data's digest did not match
	counts bool // room is in conn.bytes
	gated  bool // at the namespace's gate or past it
	length uint32
	extra  uint32 // bytes of scratch
	room   uint32 // bytes that are held for it beyond its capsule
	got    uint32 // of the H2CData; of a copy's source
	turn   uint32 // of a copy: source ranges read
	buf    *buffer.Buffer
	// scratch is memory for the device's side of a compare or copy.
	scratch *buffer.Buffer
	pair    *pair
	vec     [1][]byte
	status  nvme.Status
	result  uint64
	req     block.Request
}

func newCommand(c *conn, tag uint16) *command {
	cmd := &command{conn: c, tag: tag}
	cmd.req.Done = cmd.done
	return cmd
}

// reset prepares the slot for the next command.
func (cmd *command) reset(sqe *[nvme.CommandSize]byte) {
	cmd.sqe = nvme.Command(*sqe)
	cmd.ns, cmd.dir, cmd.action, cmd.step = nil, noData, respond, only
	cmd.await, cmd.damage, cmd.counts, cmd.gated = false, false, false, false
	cmd.length, cmd.extra, cmd.room, cmd.got, cmd.turn = 0, 0, 0, 0, 0
	cmd.pair = nil
	cmd.status, cmd.result = nvme.Success, 0
}

// data is the command's buffer.
func (cmd *command) data() []byte { return cmd.buf.B }

// fail sets the status, to be sent with complete.
func (cmd *command) fail(s nvme.Status) *command {
	cmd.status = s
	return cmd
}

// refuse answers a command that was not begun.
func (cmd *command) refuse(s nvme.Status) {
	if cmd.pair != nil {
		cmd.pair.arrive(cmd, s)
		return
	}
	cmd.conn.complete(cmd.fail(s))
}

// begin counts a command that the device, or the gate before it, is to
// complete: end or drop must follow.
func (cmd *command) begin() { cmd.conn.submitted.Add(1) }

// end answers a command that was begun.
func (cmd *command) end(s nvme.Status) {
	c := cmd.conn
	if cmd.pair != nil {
		cmd.pair.end(s)
	} else {
		cmd.leaveGate()
		c.complete(cmd.fail(s))
	}
	c.submitted.Done()
}

// drop ends a command that was begun without an answer: its connection goes.
func (cmd *command) drop() {
	c := cmd.conn
	cmd.leaveGate()
	c.submitted.Done()
}

func (cmd *command) leaveGate() {
	if cmd.gated {
		cmd.gated = false
		cmd.ns.gate.Leave()
	}
}

// change has the command pass the gate with others that write, and goes on with
// granted.
func (cmd *command) change() {
	cmd.step, cmd.gated = entering, true
	if cmd.ns.gate.Shared(cmd) {
		cmd.granted()
	}
}

// alone is change for a command beside which nothing may write.
func (cmd *command) alone() {
	cmd.step, cmd.gated = entering, true
	if cmd.ns.gate.Exclusive(cmd) {
		cmd.granted()
	}
}

// Enter is the gate's: it is this command's turn.
func (cmd *command) Enter() { cmd.conn.server.again(cmd) }

// submit hands a request to the device; done follows.
func (cmd *command) submit(op block.Op, e block.Extent) {
	var b []byte
	if cmd.buf != nil {
		b = cmd.buf.B
	}
	cmd.submitWith(op, e, b)
}

func (cmd *command) submitWith(op block.Op, e block.Extent, b []byte) {
	r := &cmd.req
	r.Op, r.Extent = op, e
	r.FUA = cmd.sqe.DW(12)&nvme.CDW12FUA != 0 && op != block.OpFlush && op != block.OpRead
	r.Bufs = nil
	if op == block.OpRead || op == block.OpWrite {
		cmd.vec[0] = b
		r.Bufs = cmd.vec[:]
	}
	cmd.ns.Device.Submit(r)
}

// done is the Device's completion.
func (cmd *command) done(r *block.Request, err error) {
	s, noStatus := blockstatus.FromError(r.Op, err)
	switch {
	case noStatus != nil:
		cmd.conn.leave(err)
		cmd.drop()
	case !s.OK():
		cmd.end(s)
	case cmd.step == only:
		cmd.count(r)
		cmd.end(nvme.Success)
	case cmd.step == comparing:
		cmd.end(cmd.compare())
	default:
		cmd.conn.server.again(cmd)
	}
}

// compare holds the device's data against the host's.
func (cmd *command) compare() nvme.Status {
	if !bytes.Equal(cmd.buf.B, cmd.scratch.B) {
		return nvme.CompareFailure | nvme.DNR
	}
	return nvme.Success
}

// next does what follows a step that ended, in the stepper.
func (cmd *command) next() {
	switch cmd.step {
	case entering:
		cmd.granted()
	case copying:
		cmd.copyNext()
	case matching:
		cmd.pair.write()
	}
}

// ranges are the requests of one Dataset Management command.
type ranges struct {
	cmd  *command
	reqs []block.Request
	left atomic.Int32
	err  atomic.Pointer[error]
}

// submitRanges unmaps every range of the list; it answers when all are done.
func (cmd *command) submitRanges(list []block.Extent) {
	cmd.step = only
	rs := &ranges{cmd: cmd, reqs: make([]block.Request, len(list))}
	rs.left.Store(int32(len(list)))
	for i, e := range list {
		rs.reqs[i] = block.Request{Op: block.OpUnmap, Extent: e, Done: rs.done}
		cmd.ns.Device.Submit(&rs.reqs[i])
	}
}

func (rs *ranges) done(_ *block.Request, err error) {
	if err != nil {
		rs.err.CompareAndSwap(nil, &err)
	}
	if rs.left.Add(-1) > 0 {
		return
	}
	var first error
	if p := rs.err.Load(); p != nil {
		first = *p
	}
	r := block.Request{Op: block.OpUnmap}
	rs.cmd.done(&r, first)
}
