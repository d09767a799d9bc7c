package target

import (
	"errors"

	"github.com/cask-storage/cask/pkg/block/buffer"
	"github.com/cask-storage/cask/pkg/nvme"
	"github.com/cask-storage/cask/pkg/nvme/tcp"
)

// onCommand takes a command capsule: gives it a slot, finds out what data goes
// with it, and starts it once its data is here and there is room.
func (c *conn) onCommand(p *tcp.PDU) error {
	cmd, err := c.take(p)
	if err != nil {
		return err
	}
	cmd.reset(p.SQE())
	s := c.classify(cmd)
	if s.OK() {
		s = cmd.checkSGL(p.DataLen)
	}
	if cmd.sqe.Flags()&nvme.FlagFuseMask != 0 || c.fusing != nil {
		s = c.fuse(cmd, s)
	}
	if !s.OK() {
		cmd.refuse(s)
		return nil // Next skips the data
	}
	cmd.room = cmd.extra
	if p.DataLen == 0 {
		// What changes the connection is small, and not to be started by
		// the writer.
		if cmd.sqe.Opcode() != nvme.OpFabrics {
			cmd.room += cmd.length
		}
		return c.admitted(cmd)
	}
	cmd.buf = buffer.Get(int(cmd.length))
	if err := c.rd.ReadData(cmd.data()); err != nil {
		return err
	}
	if err := c.endData(cmd); err != nil {
		return err
	}
	return c.admitted(cmd)
}

// admitted starts a command when there is room for it, at once or later.
func (c *conn) admitted(cmd *command) error {
	if cmd.room == 0 || c.admit(cmd) {
		return c.start(cmd)
	}
	return nil
}

// endData checks the digest of the PDU; a mismatch concerns only the command.
func (c *conn) endData(cmd *command) error {
	err := c.rd.EndData()
	if errors.Is(err, tcp.ErrDataDigest) {
		cmd.damage = true
		return nil
	}
	return err
}

// arrived runs a command whose data is complete.
func (c *conn) arrived(cmd *command) error {
	if cmd.damage {
		cmd.refuse(nvme.TransientTransportErr)
		return nil
	}
	return c.dispatch(cmd)
}

// start begins a command for whose data there is room. It is called by the
// reader, or by the writer for a command that had to wait.
func (c *conn) start(cmd *command) error {
	if cmd.extra > 0 {
		cmd.scratch = buffer.Get(int(cmd.extra))
	}
	if cmd.buf != nil || cmd.length == 0 {
		return c.arrived(cmd)
	}
	cmd.buf = buffer.Get(int(cmd.length))
	if cmd.dir == toHost {
		return c.dispatch(cmd)
	}
	cmd.action = sendR2T
	c.mu.Lock()
	cmd.await = true
	c.mu.Unlock()
	c.complete(cmd)
	return nil
}

// onData takes the data of an H2CData into its command's buffer.
func (c *conn) onData(p *tcp.PDU) error {
	t := p.Transfer()
	cmd := c.awaiting(t)
	if cmd == nil {
		return p.Fault(tcp.FESInvalidHeader, 10, "H2CData with tag %d for command %d, which asked for none", t.TTAG, t.CCCID)
	}
	if t.Offset != cmd.got || t.Len > cmd.length-cmd.got {
		return p.Fault(tcp.FESDataRange, 12, "H2CData of %d bytes at %d, expected at %d of %d", t.Len, t.Offset, cmd.got, cmd.length)
	}
	last := cmd.got+t.Len == cmd.length
	if last != (p.Flags&tcp.FlagLast != 0) {
		return p.Fault(tcp.FESInvalidHeader, 1, "H2CData at %d+%d of %d has the wrong LAST_PDU", t.Offset, t.Len, cmd.length)
	}
	if err := c.rd.ReadData(cmd.data()[cmd.got:][:t.Len]); err != nil {
		return err
	}
	cmd.got += t.Len
	if err := c.endData(cmd); err != nil || !last {
		return err
	}
	c.mu.Lock()
	cmd.await, cmd.action = false, respond
	c.mu.Unlock()
	return c.arrived(cmd)
}

// awaiting finds the command an H2CData belongs to.
func (c *conn) awaiting(t tcp.Transfer) *command {
	c.mu.Lock()
	defer c.mu.Unlock()
	if int(t.TTAG) >= len(c.slots) {
		return nil
	}
	cmd := c.slots[t.TTAG]
	if !cmd.await || uint16(cmd.sqe.CID()) != t.CCCID {
		return nil
	}
	return cmd
}

// checkSGL holds the data descriptor against the direction and length that
// the command's fields ask for, and against the data in the capsule.
func (cmd *command) checkSGL(inCapsule uint32) nvme.Status {
	sgl := cmd.sqe.SGL()
	switch {
	case cmd.dir == noData:
		if inCapsule != 0 {
			return nvme.SGLLengthInvalid | nvme.DNR
		}
		return nvme.Success
	case cmd.sqe.Flags()&nvme.FlagPSDTMask != nvme.FlagPSDTSGL:
		return nvme.InvalidField | nvme.DNR
	case sgl.Len != cmd.length:
		return nvme.SGLLengthInvalid | nvme.DNR
	case sgl.Type == nvme.SGLTransport:
		if inCapsule != 0 {
			return nvme.SGLLengthInvalid | nvme.DNR
		}
		return nvme.Success
	case sgl.Type != nvme.SGLInCapsule || cmd.dir == toHost:
		return nvme.SGLTypeInvalid | nvme.DNR
	case sgl.Addr != 0:
		return nvme.SGLOffsetInvalid | nvme.DNR
	case sgl.Len != inCapsule:
		return nvme.SGLLengthInvalid | nvme.DNR
	}
	return nvme.Success
}

// classify decides the direction and the length of a command's data. Its
// status refuses commands that the queue does not take.
func (c *conn) classify(cmd *command) nvme.Status {
	sqe := &cmd.sqe
	if sqe.Opcode() == nvme.OpFabrics {
		return c.classifyFabrics(cmd)
	}
	ctrl := c.ctrl
	switch {
	case ctrl == nil:
		return nvme.CommandSequenceError | nvme.DNR
	case c.login != nil && !c.login.Done():
		return nvme.AuthRequired | nvme.DNR
	}
	if c.qid == 0 {
		return ctrl.classifyAdmin(cmd)
	}
	if !ctrl.ready() {
		return nvme.CommandSequenceError
	}
	return ctrl.classifyIO(cmd)
}

// dispatch runs a command whose data, if it takes any, is in its buffer.
func (c *conn) dispatch(cmd *command) error {
	switch {
	case cmd.sqe.Opcode() == nvme.OpFabrics:
		return c.fabrics(cmd)
	case c.qid == 0:
		c.ctrl.runAdmin(cmd)
	default:
		cmd.runIO()
	}
	return nil
}
