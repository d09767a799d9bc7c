package lun

import (
	"bytes"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/block/buffer"
	"github.com/cask-storage/cask/pkg/scsi"
)

// execute runs the command; its turn has come and its data is here.
//
//lint:dispatch one case for each operation code
func (t *Task) execute() {
	switch t.desc.Opcode {
	case scsi.Read6, scsi.Read10, scsi.Read12, scsi.Read16:
		t.read()
	case scsi.Write6, scsi.Write10, scsi.Write12, scsi.Write16:
		t.write()
	case scsi.Verify10, scsi.Verify12, scsi.Verify16:
		t.readBack()
	case scsi.WriteVerify10, scsi.WriteVerify12, scsi.WriteVerify16:
		t.writeVerify()
	case scsi.CompareAndWrite:
		t.readScratch((*Task).compareThenWrite)
	case scsi.OrWrite:
		t.readScratch((*Task).orThenWrite)
	case scsi.WriteSame10, scsi.WriteSame16:
		t.writeSame()
	case scsi.Unmap:
		t.unmap()
	case scsi.SynchronizeCache10, scsi.SynchronizeCache16:
		t.submit(block.OpFlush, block.Extent{}, (*Task).finish)
	case scsi.StartStopUnit:
		t.startStop()
	case scsi.ReserveOut:
		t.reserveOut()
	case scsi.Reserve6:
		t.reserve6()
	case scsi.Release6:
		t.release6()
	case scsi.ModeSelect6, scsi.ModeSelect10:
		t.modeSelect()
	case scsi.TestUnitReady, scsi.Prefetch10, scsi.Prefetch16, scsi.PreventAllow:
		t.finish()
	default:
		t.inform()
		t.finish()
	}
}

// read answers with the blocks. With FUA it first makes what the cache holds
// stable, so that the data is what the medium has.
func (t *Task) read() {
	switch {
	case t.extent.Len == 0:
		t.finish()
	case t.desc.Len() > 6 && t.CDB[1]&scsi.FlagFUA != 0:
		t.submit(block.OpFlush, block.Extent{}, (*Task).readData)
	default:
		t.readData()
	}
}

func (t *Task) readData() {
	t.in = buffer.Get(int(t.need.In))
	t.In = t.in.B
	t.vec[0] = t.in.B
	t.req.Bufs = t.vec[:]
	t.submit(block.OpRead, t.extent, (*Task).finish)
}

func (t *Task) write() {
	if t.extent.Len == 0 {
		t.finish()
		return
	}
	t.req.Bufs = t.out
	t.submit(block.OpWrite, t.extent, (*Task).finish)
}

// readScratch reads the blocks into scratch, then comes the step.
func (t *Task) readScratch(next func(*Task)) {
	if t.extent.Len == 0 {
		t.finish()
		return
	}
	t.scratch = buffer.Get(int(t.extent.Len))
	t.vec[0] = t.scratch.B
	t.req.Bufs = t.vec[:]
	t.submit(block.OpRead, t.extent, next)
}

func (t *Task) compareThenWrite() {
	all := t.whole()
	n := len(all) / 2
	if !t.compare(t.scratch.B, all[:n]) {
		t.finish()
		return
	}
	t.writeOne(all[n:])
}

func (t *Task) orThenWrite() {
	have, add := t.scratch.B, t.whole()
	for i := range have {
		have[i] |= add[i]
	}
	t.writeOne(have)
}

func (t *Task) writeOne(b []byte) {
	t.vec[0] = b
	t.req.Bufs = t.vec[:]
	t.submit(block.OpWrite, t.extent, (*Task).finish)
}

// compare fails the command with the offset of the first difference.
func (t *Task) compare(medium, data []byte) bool {
	if bytes.Equal(medium, data) {
		return true
	}
	i := 0
	for medium[i] == data[i] {
		i++
	}
	return t.fail(scsi.Sense{Key: scsi.Miscompare, Code: scsi.MiscompareDuringCheck,
		Info: scsi.Info{Valid: true, Value: uint64(i)}})
}

func (t *Task) writeVerify() {
	if t.extent.Len == 0 {
		t.finish()
		return
	}
	t.req.Bufs = t.out
	t.submit(block.OpWrite, t.extent, (*Task).readBack)
}

// readBack reads what is to be verified.
func (t *Task) readBack() { t.readScratch((*Task).verify) }

func (t *Task) verify() {
	switch t.CDB[1] & scsi.MaskBytChk >> 1 {
	case 1:
		t.compare(t.scratch.B, t.whole())
	case 3:
		one := t.whole()
		for rest := t.scratch.B; len(rest) > 0 && t.compare(rest[:len(one)], one); {
			rest = rest[len(one):]
		}
	}
	t.finish()
}

// writeSame unmaps or zeroes when the block is all zeroes, else writes it
// again and again.
func (t *Task) writeSame() {
	one := t.whole()
	if isZero(one) {
		op := block.OpWriteZeroes
		if t.CDB[1]&scsi.FlagUnmap != 0 {
			op = block.OpUnmap
		}
		t.submit(op, t.extent, (*Task).finish)
		return
	}
	t.scratch = buffer.Get(int(t.need.Scratch))
	for b := t.scratch.B; len(b) > 0; {
		b = b[copy(b, one):]
	}
	t.fill()
}

// fill writes the next piece of a WRITE SAME.
func (t *Task) fill() {
	left := t.extent.Len - t.pos
	if left == 0 {
		t.finish()
		return
	}
	n := min(left, uint64(len(t.scratch.B)))
	t.vec[0] = t.scratch.B[:n]
	t.req.Bufs = t.vec[:]
	e := block.Extent{Off: t.extent.Off + t.pos, Len: n}
	t.pos += n
	t.submit(block.OpWrite, e, (*Task).fill)
}

func isZero(b []byte) bool {
	for _, v := range b {
		if v != 0 {
			return false
		}
	}
	return true
}

// unmap validates every range before it executes the first.
func (t *Task) unmap() {
	if t.need.Out == 0 {
		t.finish()
		return
	}
	var err error
	if t.ranges, err = scsi.DecodeUnmap(t.ranges[:0], t.whole()); err != nil {
		t.badList(0)
		t.finish()
		return
	}
	var total uint64
	for i, r := range t.ranges {
		if _, ok := t.bytes(r); !ok {
			t.finish()
			return
		}
		total += uint64(r.Blocks)
		if i >= maxUnmapRanges || total > maxUnmapBlocks {
			t.badList(uint16(scsi.UnmapHeader + i*scsi.UnmapRange))
			t.finish()
			return
		}
	}
	t.unmapNext()
}

func (t *Task) unmapNext() {
	for t.pos < uint64(len(t.ranges)) {
		r := t.ranges[t.pos]
		t.pos++
		e, ok := t.bytes(r)
		if !ok {
			break
		}
		if e.Len > 0 {
			t.submit(block.OpUnmap, e, (*Task).unmapNext)
			return
		}
	}
	t.finish()
}

// startStop makes the cache stable before a stop. The unit stays ready: others
// use it too.
func (t *Task) startStop() {
	start, noFlush, power := t.CDB[4]&0x01 != 0, t.CDB[4]&0x04 != 0, t.CDB[4]>>4
	if start || noFlush || power != 0 {
		t.finish()
		return
	}
	t.submit(block.OpFlush, block.Extent{}, (*Task).finish)
}
