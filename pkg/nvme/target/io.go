package target

import (
	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/nvme"
)

// classifyIO decides the data of an I/O command and finds its namespace.
func (ctrl *controller) classifyIO(cmd *command) nvme.Status {
	sqe := &cmd.sqe
	op := sqe.Opcode()
	switch op {
	case nvme.OpFlush, nvme.OpRead, nvme.OpWrite, nvme.OpWriteZeroes, nvme.OpDSM:
	default:
		return nvme.InvalidOpcode | nvme.DNR
	}
	if cmd.ns = ctrl.sub.namespace(sqe.NSID()); cmd.ns == nil {
		return nvme.InvalidNamespace | nvme.DNR
	}
	switch op {
	case nvme.OpDSM:
		cmd.dir = fromHost
		cmd.length = (sqe.DW(10)&0xff + 1) * nvme.RangeSize
	case nvme.OpRead, nvme.OpWrite:
		if sqe.DW(12)&nvme.CDW12PI != 0 {
			return nvme.InvalidField | nvme.DNR
		}
		e, s := cmd.extent()
		if !s.OK() {
			return s
		}
		if e.Len > uint64(ctrl.sub.maxTransfer()) {
			return nvme.InvalidField | nvme.DNR
		}
		cmd.length = uint32(e.Len)
		cmd.dir = fromHost
		if op == nvme.OpRead {
			cmd.dir = toHost
		}
	}
	return nvme.Success
}

// extent is the byte range of a read, write or write zeroes.
func (cmd *command) extent() (block.Extent, nvme.Status) {
	return cmd.ns.bytes(block.LBA(cmd.sqe.SLBA()), cmd.sqe.Blocks())
}

// bytes converts a range of logical blocks.
func (n *Namespace) bytes(lba block.LBA, blocks uint32) (block.Extent, nvme.Status) {
	g := n.Device.Geometry()
	size := g.Size / uint64(g.BlockSize)
	if uint64(lba) > size || uint64(blocks) > size-uint64(lba) {
		return block.Extent{}, nvme.LBAOutOfRange | nvme.DNR
	}
	bs := uint64(g.BlockSize)
	return block.Extent{Off: uint64(lba) * bs, Len: uint64(blocks) * bs}, nvme.Success
}

// runIO submits an I/O command.
func (cmd *command) runIO() {
	c := cmd.conn
	switch cmd.sqe.Opcode() {
	case nvme.OpFlush:
		cmd.submit(block.OpFlush, block.Extent{})
	case nvme.OpRead:
		cmd.submitExtent(block.OpRead)
	case nvme.OpWrite:
		cmd.submitExtent(block.OpWrite)
	case nvme.OpWriteZeroes:
		// With the deallocate bit the content becomes zeroes too.
		if cmd.sqe.DW(12)&nvme.CDW12DEA != 0 {
			cmd.submitExtent(block.OpUnmap)
		} else {
			cmd.submitExtent(block.OpWriteZeroes)
		}
	case nvme.OpDSM:
		cmd.runDSM()
	default:
		c.complete(cmd.fail(nvme.InvalidOpcode | nvme.DNR))
	}
}

func (cmd *command) submitExtent(op block.Op) {
	e, s := cmd.extent()
	if !s.OK() {
		cmd.conn.complete(cmd.fail(s))
		return
	}
	cmd.submit(op, e)
}

// runDSM unmaps the ranges if deallocation is asked for; the other attributes
// are hints.
func (cmd *command) runDSM() {
	c := cmd.conn
	if cmd.sqe.DW(11)&nvme.CDW11AD == 0 {
		c.complete(cmd)
		return
	}
	list := make([]block.Extent, 0, len(cmd.data())/nvme.RangeSize)
	for b := cmd.data(); len(b) > 0; b = b[nvme.RangeSize:] {
		r, err := nvme.DecodeRange(b)
		if err != nil {
			break // the length was checked: a multiple of RangeSize
		}
		if r.Blocks == 0 {
			continue
		}
		e, s := cmd.ns.bytes(block.LBA(r.SLBA), r.Blocks)
		if !s.OK() {
			c.complete(cmd.fail(s))
			return
		}
		list = append(list, e)
	}
	if len(list) == 0 {
		c.complete(cmd)
		return
	}
	cmd.submitRanges(list)
}
