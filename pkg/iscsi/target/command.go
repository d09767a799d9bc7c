package target

import (
	"sync/atomic"

	"github.com/cask-storage/cask/pkg/block/buffer"
	"github.com/cask-storage/cask/pkg/iscsi"
	"github.com/cask-storage/cask/pkg/scsi"
	"github.com/cask-storage/cask/pkg/scsi/lun"
)

// state is where a command is in its life. It changes with conn.mu held.
type state uint8

const (
	idle      state = iota
	receiving       // data from the initiator is expected
	waiting         // in conn.pending
	running         // its task runs
	answering       // in conn.out, or at the writer
)

// command is one slot of a connection: a request from its PDU until its
// response was written. Slots are reused.
type command struct {
	conn *conn
	slot uint16
	gen  uint16 // distinguishes uses of the slot in target transfer tags
	op   iscsi.Opcode
	itt  uint32
	lun  scsi.LUN
	task *lun.Task

	// With conn.mu held.
	state   state
	counted bool // in the CmdSN window
	aborted bool
	told    bool // aborted by another initiator: it is answered
	held    bool // the reader or the writer works on it: who aborts it must not free it
	room    int  // counted in conn.bytes
	waiters []*waiter

	flags   uint8
	edtl    uint32 // expected data transfer length
	need    lun.Need
	swallow bool // data is read and dropped: the outcome is known
	damage  bool // a data digest did not match
	r2t     bool // the writer is to send an R2T, not the response
	unsol   bool // unsolicited data is still to come
	got     uint32
	burst   uint32 // where the burst under way ends
	dataSN  uint32
	r2tSN   uint32
	bufs    [2]*buffer.Buffer // unsolicited data, the rest
	vec     [2][]byte

	reply uint8    // response code of task management, logout
	text  []byte   // of a text response or a ping
	ttt   uint32   // of a text response
	final bool     // likewise
	sense [32]byte // room for the sense data segment
}

func newCommand(c *conn, slot uint16) *command {
	cmd := &command{conn: c, slot: slot}
	cmd.task = lun.NewTask(cmd.taskDone)
	return cmd
}

// begin prepares the slot for a request.
func (cmd *command) begin(p *iscsi.PDU) {
	cmd.op, cmd.itt, cmd.flags = p.Opcode(), p.ITT(), p.Flags()
	cmd.lun = scsi.DecodeLUN(p.LUN())
	cmd.edtl, cmd.need = 0, lun.Need{}
	cmd.swallow, cmd.damage, cmd.r2t, cmd.unsol = false, false, false, false
	cmd.got, cmd.burst, cmd.dataSN, cmd.r2tSN = 0, 0, 0, 0
	cmd.reply, cmd.text, cmd.ttt, cmd.final = 0, nil, iscsi.NoTag, true
}

// tag is the target transfer tag of the command's R2Ts.
func (cmd *command) tag() uint32 { return uint32(cmd.gen)<<16 | uint32(cmd.slot) }

// data are the pieces of data from the initiator.
func (cmd *command) data() [][]byte {
	n := 0
	for i, b := range cmd.bufs {
		if b != nil {
			cmd.vec[n] = cmd.bufs[i].B
			n++
		}
	}
	return cmd.vec[:n]
}

// freeData gives back the buffers.
func (cmd *command) freeData() {
	for i, b := range cmd.bufs {
		b.Free()
		cmd.bufs[i], cmd.vec[i] = nil, nil
	}
	cmd.task.Release()
}

// at is where the next n bytes of data go. The caller has checked that they
// fit.
func (cmd *command) at(n uint32) []byte {
	first := uint32(0)
	if b := cmd.bufs[0]; b != nil {
		first = uint32(len(b.B))
	}
	if cmd.got < first {
		return cmd.bufs[0].B[cmd.got:][:n]
	}
	return cmd.bufs[1].B[cmd.got-first:][:n]
}

// waiter is called once all it waits for has ended.
type waiter struct {
	left atomic.Int32
	then func()
}

func newWaiter(then func()) *waiter {
	w := &waiter{then: then}
	w.left.Store(1)
	return w
}

func (w *waiter) release() {
	if w.left.Add(-1) == 0 {
		w.then()
	}
}

// take gives a request a slot and counts it in the CmdSN window. It returns
// nil for a request outside of the window, which is ignored (RFC 7143 4.2.2.1).
func (c *conn) take(p *iscsi.PDU) (*command, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	counted := !p.Immediate()
	if sn := iscsi.Serial(p.Uint32(iscsi.AtCmdSN)); counted && sn != c.expCmdSN {
		depth := iscsi.Serial(c.t.cfg.Limits.QueueDepth - c.busy)
		if sn.Before(c.expCmdSN) || !sn.Before(c.expCmdSN+depth) {
			return nil, nil
		}
		return nil, p.Fault(iscsi.ReasonProtocol, "CmdSN %d, expected %d: a command is missing", sn, c.expCmdSN)
	}
	if c.byITT[p.ITT()] != nil {
		return nil, p.Fault(iscsi.ReasonInProgress, "task tag %#x is in use", p.ITT())
	}
	if counted {
		if c.busy >= c.t.cfg.Limits.QueueDepth {
			return nil, nil
		}
		c.expCmdSN++
		c.busy++
	}
	cmd := c.slotLocked()
	if cmd == nil {
		return nil, p.Fault(iscsi.ReasonNoResources, "more than %d immediate requests are outstanding", immediates)
	}
	cmd.state, cmd.counted, cmd.aborted, cmd.told, cmd.held = receiving, counted, false, false, true
	c.byITT[p.ITT()] = cmd
	cmd.begin(p)
	return cmd, nil
}

// slotLocked returns a free slot, nil when there are too many. There are twice
// as many as the window has places, because the initiator may reuse a place
// before the writer has returned from sending the response.
func (c *conn) slotLocked() *command {
	if n := len(c.free); n > 0 {
		cmd := c.free[n-1]
		c.free = c.free[:n-1]
		return cmd
	}
	if len(c.slots) >= 2*c.t.cfg.Limits.QueueDepth+immediates {
		return nil
	}
	cmd := newCommand(c, uint16(len(c.slots)))
	c.slots = append(c.slots, cmd)
	return cmd
}

// forgetLocked takes a command out of the window and the index.
func (c *conn) forgetLocked(cmd *command) {
	if c.byITT[cmd.itt] == cmd {
		delete(c.byITT, cmd.itt)
	}
	if cmd.counted {
		cmd.counted = false
		c.busy--
	}
}

// recycleLocked frees a slot.
func (c *conn) recycleLocked(cmd *command) {
	c.forgetLocked(cmd)
	cmd.freeData()
	c.bytes -= cmd.room
	cmd.room = 0
	cmd.text = nil
	cmd.state, cmd.held = idle, false
	cmd.gen++
	c.free = append(c.free, cmd)
}

// keepLocked ends the hold on a command. One that is not to go on is freed or
// answered, and then it returns false.
func (c *conn) keepLocked(cmd *command) bool {
	cmd.held = false
	if cmd.aborted || c.closing {
		c.dropLocked(cmd)
		c.signal() // there may be room for others now
		return false
	}
	return true
}

// dropLocked ends an aborted command that nobody holds: silently, or by TASK
// ABORTED when its initiator does not know.
func (c *conn) dropLocked(cmd *command) {
	if !cmd.told || c.closing {
		c.recycleLocked(cmd)
		return
	}
	if cmd.state != running && !cmd.swallow { // else it is known how it ended
		cmd.task.Status = scsi.TaskAborted
	}
	cmd.r2t, cmd.state = false, answering
	c.out = append(c.out, cmd)
}

// complete queues a command for the writer.
func (c *conn) complete(cmd *command) {
	c.mu.Lock()
	if c.keepLocked(cmd) {
		cmd.state = answering
		c.out = append(c.out, cmd)
	}
	ws := cmd.waiters
	cmd.waiters = nil
	c.mu.Unlock()
	c.signal()
	for _, w := range ws {
		w.release()
	}
}

// taskDone is called when the task has ended.
func (cmd *command) taskDone(t *lun.Task) {
	c := cmd.conn
	switch {
	case t.Gone != nil:
		c.mu.Lock()
		cmd.aborted = true
		c.mu.Unlock()
		c.leave(t.Gone)
		c.complete(cmd)
	case len(t.Preempted) > 0:
		c.abortPreempted(cmd)
	default:
		c.complete(cmd)
	}
	c.submitted.Done()
}

// reserve takes room for the command's data. It returns false when there is
// none: the writer starts the command when there is.
func (c *conn) reserve(cmd *command, n int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.pending) == 0 && (c.bytes+n <= c.t.cfg.Limits.InflightBytes || c.bytes == 0) {
		cmd.room = n
		c.bytes += n
		return true
	}
	if c.keepLocked(cmd) {
		cmd.room, cmd.state = n, waiting
		c.pending = append(c.pending, cmd)
	}
	return false
}

// admitPending returns the next command of pending for which there is room
// now, nil when there is none.
func (c *conn) admitPending() *command {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.pending) == 0 {
		return nil
	}
	cmd := c.pending[0]
	if c.bytes+cmd.room > c.t.cfg.Limits.InflightBytes && c.bytes > 0 {
		return nil
	}
	c.bytes += cmd.room
	cmd.state, cmd.held = receiving, true
	c.pending[0] = nil
	c.pending = c.pending[1:]
	return cmd
}
