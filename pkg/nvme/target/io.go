package target

import (
	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/nvme"
	"github.com/cask-storage/cask/pkg/nvme/reservation"
)

// maxCopyRanges bounds the source ranges of one Copy.
const maxCopyRanges = 128

// access is what a command's reservation check asks for; 0 is nothing.
func access(o nvme.Opcode) reservation.Access {
	switch o {
	case nvme.OpRead, nvme.OpCompare, nvme.OpVerify:
		return reservation.Read
	case nvme.OpWrite, nvme.OpWriteZeroes, nvme.OpDSM, nvme.OpCopy, nvme.OpFlush:
		return reservation.Write
	}
	return 0
}

// classifyIO decides the data of an I/O command and finds its namespace.
func (ctrl *controller) classifyIO(cmd *command) nvme.Status {
	sqe := &cmd.sqe
	op := sqe.Opcode()
	switch op {
	case nvme.OpFlush, nvme.OpRead, nvme.OpWrite, nvme.OpWriteZeroes, nvme.OpDSM, nvme.OpCompare, nvme.OpVerify, nvme.OpCopy:
	case nvme.OpReservationRegister, nvme.OpReservationAcquire, nvme.OpReservationRelease, nvme.OpReservationReport:
	default:
		return nvme.InvalidOpcode | nvme.DNR
	}
	if cmd.ns = ctrl.sub.namespace(sqe.NSID()); cmd.ns == nil {
		return nvme.InvalidNamespace | nvme.DNR
	}
	if s := cmd.ns.anaState().Status(); !s.OK() && access(op) != 0 {
		return s
	}
	if a := access(op); a != 0 && !cmd.ns.allows(ctrl.hostID, a) {
		return nvme.ReservationConflict | nvme.DNR
	}
	switch op {
	case nvme.OpDSM:
		cmd.dir, cmd.length = fromHost, (sqe.DW(10)&0xff+1)*nvme.RangeSize
		// Linux sends room for the most ranges, whatever their number.
		if n := sqe.SGL().Len; n > cmd.length && n <= nvme.MaxRanges*nvme.RangeSize {
			cmd.length = n
		}
	case nvme.OpCopy:
		return cmd.classifyCopy()
	case nvme.OpRead, nvme.OpWrite, nvme.OpCompare, nvme.OpVerify:
		return cmd.classifyTransfer()
	case nvme.OpReservationRegister, nvme.OpReservationAcquire:
		cmd.dir, cmd.length = fromHost, nvme.ReservationKeysSize
	case nvme.OpReservationRelease:
		cmd.dir, cmd.length = fromHost, nvme.ReservationKeySize
		// Linux sends both keys here too.
		if sqe.SGL().Len == nvme.ReservationKeysSize {
			cmd.length = nvme.ReservationKeysSize
		}
	case nvme.OpReservationReport:
		return cmd.classifyReport()
	}
	return nvme.Success
}

// classifyTransfer is for commands that move a range of blocks, over the wire
// or from the device only.
func (cmd *command) classifyTransfer() nvme.Status {
	sqe := &cmd.sqe
	if sqe.DW(12)&nvme.CDW12PI != 0 {
		return nvme.InvalidField | nvme.DNR
	}
	e, s := cmd.extent()
	if !s.OK() {
		return s
	}
	if e.Len > uint64(cmd.ns.sub.maxTransfer()) {
		return nvme.InvalidField | nvme.DNR
	}
	n := uint32(e.Len)
	switch sqe.Opcode() {
	case nvme.OpRead:
		cmd.dir, cmd.length = toHost, n
	case nvme.OpWrite:
		cmd.dir, cmd.length = fromHost, n
	case nvme.OpCompare:
		cmd.dir, cmd.length, cmd.extra = fromHost, n, n
	case nvme.OpVerify:
		cmd.extra = n
	}
	return nvme.Success
}

func (cmd *command) classifyCopy() nvme.Status {
	p := cmd.sqe.Copy()
	switch {
	case p.Format != 0:
		return nvme.InvalidField | nvme.DNR
	case p.Ranges > maxCopyRanges:
		return nvme.CommandSizeLimit | nvme.DNR
	}
	// How much there is to copy the ranges will tell; at most one transfer.
	cmd.dir, cmd.length, cmd.extra = fromHost, p.Ranges*nvme.CopyRangeSize, cmd.ns.sub.maxTransfer()
	return nvme.Success
}

// extent is the byte range of a command with SLBA and NLB.
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

// runIO runs an I/O command whose data is here.
func (cmd *command) runIO() {
	if cmd.pair != nil {
		cmd.pair.arrive(cmd, nvme.Success)
		return
	}
	switch cmd.sqe.Opcode() {
	case nvme.OpFlush:
		cmd.begin()
		cmd.submit(block.OpFlush, block.Extent{})
	case nvme.OpRead:
		cmd.begin()
		cmd.submitExtent(block.OpRead)
	case nvme.OpVerify:
		cmd.begin()
		cmd.readScratch(only)
	case nvme.OpCompare:
		cmd.begin()
		cmd.readScratch(comparing)
	case nvme.OpWrite, nvme.OpWriteZeroes, nvme.OpCopy:
		cmd.begin()
		cmd.change()
	case nvme.OpDSM:
		cmd.runDSM()
	case nvme.OpReservationReport:
		cmd.refuse(cmd.conn.ctrl.reservationReport(cmd))
	case nvme.OpReservationRegister, nvme.OpReservationAcquire, nvme.OpReservationRelease:
		cmd.begin()
		cmd.alone()
	default:
		cmd.refuse(nvme.InvalidOpcode | nvme.DNR)
	}
}

// granted executes a command that has passed the gate. What may have changed
// while it waited is looked at again.
func (cmd *command) granted() {
	op := cmd.sqe.Opcode()
	if access(op) != 0 {
		if s := cmd.ns.anaState().Status(); !s.OK() {
			cmd.end(s)
			return
		}
		if !cmd.ns.allows(cmd.conn.ctrl.hostID, reservation.Write) {
			cmd.end(nvme.ReservationConflict | nvme.DNR)
			return
		}
	}
	cmd.step = only
	switch op {
	case nvme.OpWrite:
		cmd.submitExtent(block.OpWrite)
	case nvme.OpWriteZeroes:
		// With the deallocate bit the content becomes zeroes too.
		if cmd.sqe.DW(12)&nvme.CDW12DEA != 0 {
			cmd.submitExtent(block.OpUnmap)
		} else {
			cmd.submitExtent(block.OpWriteZeroes)
		}
	case nvme.OpCompare: // the first of a pair
		cmd.readScratch(matching)
	case nvme.OpDSM:
		cmd.unmapRanges()
	case nvme.OpCopy:
		cmd.got = 0
		cmd.copyNext()
	default:
		cmd.changeReservation()
	}
}

func (cmd *command) submitExtent(op block.Op) {
	e, s := cmd.extent()
	if !s.OK() {
		cmd.end(s)
		return
	}
	cmd.submit(op, e)
}

// readScratch reads the command's blocks beside its own data.
func (cmd *command) readScratch(then step) {
	cmd.step = then
	e, s := cmd.extent()
	if !s.OK() {
		cmd.end(s)
		return
	}
	cmd.submitWith(block.OpRead, e, cmd.scratch.B)
}

// runDSM unmaps the ranges if deallocation is asked for; the other attributes
// are hints.
func (cmd *command) runDSM() {
	if cmd.sqe.DW(11)&nvme.CDW11AD == 0 {
		cmd.refuse(nvme.Success)
		return
	}
	cmd.begin()
	cmd.change()
}

func (cmd *command) unmapRanges() {
	n := int(cmd.sqe.DW(10)&0xff + 1)
	list := make([]block.Extent, 0, n)
	for b := cmd.data()[:n*nvme.RangeSize]; len(b) > 0; b = b[nvme.RangeSize:] {
		r, err := nvme.DecodeRange(b)
		if err != nil {
			break // the length was checked: a multiple of RangeSize
		}
		if r.Blocks == 0 {
			continue
		}
		e, s := cmd.ns.bytes(block.LBA(r.SLBA), r.Blocks)
		if !s.OK() {
			cmd.end(s)
			return
		}
		list = append(list, e)
	}
	if len(list) == 0 {
		cmd.end(nvme.Success)
		return
	}
	cmd.submitRanges(list)
}

// copyNext reads the next source range of a Copy into scratch, and writes it
// all when there is none left.
func (cmd *command) copyNext() {
	p := cmd.sqe.Copy()
	bs := cmd.ns.Device.Geometry().BlockSize
	if cmd.turn == p.Ranges {
		e, s := cmd.ns.bytes(block.LBA(p.SDLBA), cmd.got/bs)
		if !s.OK() {
			cmd.end(s)
			return
		}
		cmd.step = only
		cmd.submitWith(block.OpWrite, e, cmd.scratch.B[:cmd.got])
		return
	}
	r, err := nvme.DecodeCopyRange(cmd.data()[cmd.turn*nvme.CopyRangeSize:])
	if err != nil {
		cmd.end(nvme.InvalidField | nvme.DNR) // the length was checked
		return
	}
	e, s := cmd.ns.bytes(block.LBA(r.SLBA), r.Blocks)
	switch {
	case !s.OK():
		cmd.end(s)
	case e.Len > uint64(len(cmd.scratch.B))-uint64(cmd.got):
		cmd.end(nvme.CommandSizeLimit | nvme.DNR)
	case !cmd.ns.allows(cmd.conn.ctrl.hostID, reservation.Read):
		cmd.end(nvme.ReservationConflict | nvme.DNR)
	default:
		b := cmd.scratch.B[cmd.got:][:e.Len]
		cmd.got += uint32(e.Len)
		cmd.turn++
		cmd.step = copying
		cmd.submitWith(block.OpRead, e, b)
	}
}
