package initiator

import (
	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/block/ride"
	"github.com/cask-storage/cask/pkg/iscsi"
	"github.com/cask-storage/cask/pkg/scsi"
	"github.com/cask-storage/cask/pkg/scsi/lun"
)

// command is one SCSI command, from being prepared to its end.
type command struct {
	task  *ride.Task // nil for commands of the initiator's own
	s     *session   // that has it
	cdb   scsi.CDB
	bufs  [][]byte // data, in either direction
	size  uint32   // bytes of bufs
	read  bool     // data comes from the target
	got   uint32   // of it, so far
	seq   uint64   // of the issue on a session: tells a stale reference
	asked bool     // the target waits for data
	sent  bool     // the writer has taken it
	done  func(*command, outcome)
}

// outcome is how the target says that a command went.
type outcome struct {
	status scsi.Status
	sense  scsi.Sense
	got    uint32
}

// newCommand is the iSCSI part of a ride.Task.
func newCommand(t *ride.Task) any { return &command{task: t, done: taskDone} }

// flags of the direction of its data.
func (c *command) flags() uint8 {
	switch {
	case c.size == 0:
		return 0
	case c.read:
		return iscsi.FlagRead
	}
	return iscsi.FlagWrite
}

// prepare makes c the command for its task.
func (c *command) prepare(blockSize uint64) {
	t := c.task
	c.cdb, c.bufs, c.size, c.read = scsi.CDB{}, nil, 0, false
	switch t.Op {
	case block.OpFlush:
		c.cdb[0] = byte(scsi.SynchronizeCache16)
		return
	case block.OpRead:
		c.cdb[0], c.read = byte(scsi.Read16), true
	case block.OpWrite:
		c.cdb[0] = byte(scsi.Write16)
		if t.FUA {
			c.cdb[1] = scsi.FlagFUA
		}
	case block.OpWriteZeroes:
		c.cdb[0], c.cdb[1] = byte(scsi.WriteSame16), scsi.FlagNDOB
	case block.OpUnmap:
		c.cdb[0], c.cdb[1] = byte(scsi.WriteSame16), scsi.FlagNDOB|scsi.FlagUnmap
	}
	c.cdb.SetRange(t.Extent.Off/blockSize, uint32(t.Extent.Len/blockSize))
	if t.Op == block.OpRead || t.Op == block.OpWrite {
		c.bufs, c.size = t.Bufs, uint32(t.Extent.Len)
	}
}

// taskDone is called by the reader with the outcome of a task's command.
func taskDone(c *command, o outcome) {
	t := c.task
	switch {
	case o.status == scsi.Good && t.FUA && c.cdb.Opcode() == scsi.WriteSame16:
		// WRITE SAME has no FUA: a flush behind it.
		c.cdb = scsi.CDB{byte(scsi.SynchronizeCache16)}
		if !c.s.submit(c) {
			t.Retry() // all of it, on the next session
		}
	case o.status == scsi.Good:
		t.End(nil)
	case transient(o):
		if o.sense.Key == scsi.UnitAttention {
			c.s.lookAgain()
		}
		t.Retry()
	default:
		t.End(lun.ToError(t.Op, o.status, o.sense))
	}
}

// transient reports whether an outcome speaks of a moment or of the way to the
// unit: the command is repeated.
func transient(o outcome) bool {
	switch o.status {
	case scsi.Busy, scsi.TaskSetFull, scsi.TaskAborted:
		return true
	case scsi.CheckCondition:
		return o.sense.Key == scsi.UnitAttention ||
			o.sense.Key == scsi.NotReady && o.sense.Code>>8 == 0x04 || // becoming ready, or another path is
			o.sense.Key == scsi.AbortedCommand && o.sense.Code == scsi.ServiceCRC
	}
	return false
}
