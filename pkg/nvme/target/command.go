package target

import (
	"sync/atomic"

	"github.com/cask-storage/cask/pkg/block"
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

// command is one slot of a connection: a command from its capsule until its
// response was written. Slots are reused; tag is the slot's number and serves
// as TTAG.
type command struct {
	conn   *conn
	tag    uint16
	sqe    nvme.Command
	ns     *Namespace
	dir    direction
	action action
	await  bool // an R2T was sent, H2CData is expected
	damage bool // the data's digest did not match
	counts bool // in conn.bytes
	length uint32
	got    uint32 // of the H2CData
	buf    *buffer
	vec    [1][]byte
	status nvme.Status
	result uint64
	req    block.Request
}

func newCommand(c *conn, tag uint16) *command {
	cmd := &command{conn: c, tag: tag}
	cmd.req.Done = cmd.done
	return cmd
}

// reset prepares the slot for the next command.
func (cmd *command) reset(sqe *[nvme.CommandSize]byte) {
	cmd.sqe = nvme.Command(*sqe)
	cmd.ns, cmd.dir, cmd.action = nil, noData, respond
	cmd.await, cmd.damage, cmd.counts = false, false, false
	cmd.length, cmd.got = 0, 0
	cmd.status, cmd.result = nvme.Success, 0
}

// data is the command's buffer.
func (cmd *command) data() []byte { return cmd.buf.b }

// fail sets the status, to be sent with complete.
func (cmd *command) fail(s nvme.Status) *command {
	cmd.status = s
	return cmd
}

// submit hands the request to the device; the writer answers when it is done.
func (cmd *command) submit(op block.Op, e block.Extent) {
	r := &cmd.req
	r.Op, r.Extent = op, e
	r.FUA = cmd.sqe.DW(12)&nvme.CDW12FUA != 0 && op != block.OpFlush && op != block.OpRead
	r.Bufs = nil
	if cmd.buf != nil {
		cmd.vec[0] = cmd.buf.b
		r.Bufs = cmd.vec[:]
	}
	cmd.conn.submitted.Add(1)
	cmd.ns.Device.Submit(r)
}

// done is the Device's completion.
func (cmd *command) done(r *block.Request, err error) {
	c := cmd.conn
	if s, noStatus := blockstatus.FromError(r.Op, err); noStatus == nil {
		c.complete(cmd.fail(s))
	} else {
		c.leave(err)
	}
	c.submitted.Done()
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
	rs := &ranges{cmd: cmd, reqs: make([]block.Request, len(list))}
	rs.left.Store(int32(len(list)))
	cmd.conn.submitted.Add(1)
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
