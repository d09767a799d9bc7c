package target

import (
	"errors"

	"github.com/cask-storage/cask/pkg/block/buffer"
	"github.com/cask-storage/cask/pkg/iscsi"
	"github.com/cask-storage/cask/pkg/scsi"
	"github.com/cask-storage/cask/pkg/scsi/lun"
)

// onCommand takes a SCSI command: gives it a slot, finds out what data goes
// with it, takes the immediate data, and starts it once its data is here and
// there is room.
func (c *conn) onCommand(p *iscsi.PDU) error {
	if c.sess == nil {
		return p.Fault(iscsi.ReasonProtocol, "%v in a discovery session", p.Opcode())
	}
	cmd, err := c.take(p)
	if cmd == nil {
		return err
	}
	cmd.edtl = p.Uint32(iscsi.AtExpectedLen)
	if err := c.checkUnsolicited(p, cmd); err != nil {
		return err
	}
	var ok bool
	cmd.need, ok = cmd.task.Prepare(c.sess.nexus, lun.Command{
		CDB: scsi.CDB(*p.CDB()), LUN: cmd.lun, Attr: attribute(p.Flags()),
	})
	cmd.swallow = !ok || !cmd.lengthsAgree()
	cmd.unsol = cmd.flags&iscsi.FlagWrite != 0 && !p.Final()
	if err := c.immediateData(p, cmd); err != nil {
		return err
	}
	if cmd.unsol {
		c.letGo(cmd)
		return nil
	}
	c.unsolicitedEnd(cmd)
	return nil
}

// letGo ends the reader's hold on a command that waits for more data.
func (c *conn) letGo(cmd *command) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.keepLocked(cmd)
}

func attribute(flags uint8) lun.Attribute {
	switch flags & iscsi.MaskAttribute {
	case 2:
		return lun.Ordered
	case 3:
		return lun.HeadOfQueue
	case 4:
		return lun.ACA
	}
	return lun.Simple
}

// checkUnsolicited holds the data that comes without an R2T against what was
// negotiated.
func (c *conn) checkUnsolicited(p *iscsi.PDU, cmd *command) error {
	n := p.DataLen()
	write := cmd.flags&iscsi.FlagWrite != 0
	switch {
	case n > 0 && (!write || !c.params.immediate):
		return p.Fault(iscsi.ReasonProtocol, "immediate data that was not agreed on")
	case n > c.params.firstBurst || n > cmd.edtl:
		return p.Fault(iscsi.ReasonProtocol, "%d bytes of immediate data, FirstBurstLength %d, expected %d", n, c.params.firstBurst, cmd.edtl)
	case !p.Final() && (!write || c.params.initialR2T):
		return p.Fault(iscsi.ReasonProtocol, "unsolicited data that was not agreed on")
	}
	return nil
}

// lengthsAgree holds the transport's idea of the data against the CDB's. Data
// that is longer or shorter than what the command takes is refused, so that
// nothing is written in part.
func (cmd *command) lengthsAgree() bool {
	both := iscsi.FlagRead | iscsi.FlagWrite
	if cmd.flags&both == both || cmd.need.Out > 0 && (cmd.flags&iscsi.FlagWrite == 0 || cmd.edtl != cmd.need.Out) {
		cmd.task.BadLength()
		return false
	}
	return true
}

// immediateData takes the data of the command's own PDU. Damage there concerns
// the command PDU, so the connection ends (RFC 7143 7.8).
func (c *conn) immediateData(p *iscsi.PDU, cmd *command) error {
	out, n := cmd.need.Out, p.DataLen()
	if cmd.swallow || out == 0 {
		cmd.got = n
		return nil
	}
	size := n
	if cmd.unsol {
		size = min(c.params.firstBurst, out)
	}
	if size > 0 {
		cmd.bufs[0] = buffer.Get(int(size))
	}
	if n == 0 {
		return nil
	}
	if err := c.rd.ReadData(cmd.at(n)); err != nil {
		return err
	}
	cmd.got = n
	if err := c.rd.EndData(); errors.Is(err, iscsi.ErrDataDigest) {
		return p.Fault(iscsi.ReasonDataDigest, "damaged immediate data: %v", err)
	} else if err != nil {
		return err
	}
	return nil
}

// unsolicitedEnd goes on when all data that comes by itself is here.
func (c *conn) unsolicitedEnd(cmd *command) {
	switch {
	case cmd.swallow:
		c.complete(cmd)
		return
	case cmd.damage:
		c.arrived(cmd)
		return
	}
	first := 0
	if b := cmd.bufs[0]; b != nil {
		b.B = b.B[:cmd.got]
		first = len(b.B)
	}
	room := cmd.need.Bytes() - first
	if room <= 0 || c.reserve(cmd, room) {
		c.start(cmd)
	}
}

// start asks for the data that is missing, or runs the command. It is called
// by the reader, or by the writer for a command that had to wait for room.
func (c *conn) start(cmd *command) {
	if cmd.got < cmd.need.Out {
		cmd.bufs[1] = buffer.Get(int(cmd.need.Out - cmd.got))
		c.ask(cmd)
		return
	}
	c.run(cmd)
}

// ask has the writer send an R2T for the next burst.
func (c *conn) ask(cmd *command) {
	cmd.burst = cmd.got + min(c.params.maxBurst, cmd.need.Out-cmd.got)
	cmd.dataSN = 0
	c.mu.Lock()
	if c.keepLocked(cmd) {
		cmd.r2t, cmd.state = true, receiving
		c.out = append(c.out, cmd)
	}
	c.mu.Unlock()
	c.signal()
}

// run hands the command to its task.
func (c *conn) run(cmd *command) {
	c.mu.Lock()
	ok := c.keepLocked(cmd)
	if ok {
		cmd.state = running
	}
	c.mu.Unlock()
	if !ok {
		return
	}
	c.submitted.Add(1)
	cmd.task.Run(cmd.data())
}

// arrived runs a command whose data is complete.
func (c *conn) arrived(cmd *command) {
	if cmd.damage {
		cmd.task.BadData()
		c.complete(cmd)
		return
	}
	c.run(cmd)
}

// onData takes the data of a Data-Out into its command's buffer. Data of a
// command that is not known (any more) is dropped: it was aborted or ignored.
func (c *conn) onData(p *iscsi.PDU) error {
	cmd := c.expecting(p)
	if cmd == nil {
		return nil
	}
	if err := c.takeData(p, cmd); err != nil {
		return err
	}
	c.sequenceEnd(p, cmd)
	return nil
}

// expecting finds the command a Data-Out belongs to.
func (c *conn) expecting(p *iscsi.PDU) *command {
	c.mu.Lock()
	defer c.mu.Unlock()
	cmd := c.byITT[p.ITT()]
	if cmd == nil || cmd.state != receiving || cmd.op != iscsi.OpCommand {
		return nil
	}
	if ttt := p.Uint32(iscsi.AtTTT); cmd.unsol != (ttt == iscsi.NoTag) || !cmd.unsol && (ttt != cmd.tag() || cmd.r2t) {
		return nil
	}
	cmd.held = true
	return cmd
}

// takeData checks a Data-Out and reads its data.
func (c *conn) takeData(p *iscsi.PDU, cmd *command) error {
	n, limit := p.DataLen(), cmd.burst
	if cmd.unsol {
		limit = min(c.params.firstBurst, cmd.edtl)
	}
	end := cmd.got + n
	if cmd.damage || p.Uint32(iscsi.AtDataSN) != cmd.dataSN || p.Uint32(iscsi.AtOffset) != cmd.got {
		// Something is missing: the command fails once the sequence has
		// ended (RFC 7143 7.9).
		cmd.damage = true
		return nil
	}
	switch {
	case n > limit-min(limit, cmd.got):
		return p.Fault(iscsi.ReasonProtocol, "%d bytes of data at %d, expected up to %d", n, cmd.got, limit)
	case end == limit && !p.Final(), !cmd.unsol && end < limit && p.Final():
		return p.Fault(iscsi.ReasonProtocol, "the final bit of data up to %d of %d is wrong", end, limit)
	}
	cmd.dataSN++
	if n == 0 || cmd.swallow || cmd.need.Out == 0 {
		cmd.got = end
		return nil
	}
	if err := c.rd.ReadData(cmd.at(n)); err != nil {
		return err
	}
	cmd.got = end
	err := c.rd.EndData()
	if errors.Is(err, iscsi.ErrDataDigest) {
		c.damaged(p, cmd)
		return nil
	}
	return err
}

// damaged notes a data digest error: the command will fail when all its data
// has come, and the initiator is told at once.
func (c *conn) damaged(p *iscsi.PDU, cmd *command) {
	if cmd.damage {
		return
	}
	cmd.damage = true
	c.mu.Lock()
	c.rejects = append(c.rejects, p.Fault(iscsi.ReasonDataDigest, "damaged data"))
	c.mu.Unlock()
	c.signal()
}

// sequenceEnd goes on when a sequence of Data-Out is complete.
func (c *conn) sequenceEnd(p *iscsi.PDU, cmd *command) {
	switch {
	case !p.Final():
		c.letGo(cmd)
	case cmd.unsol:
		c.mu.Lock()
		cmd.unsol = false
		c.mu.Unlock()
		c.unsolicitedEnd(cmd)
	case cmd.got < cmd.need.Out && !cmd.damage:
		c.ask(cmd)
	default:
		c.arrived(cmd)
	}
}
