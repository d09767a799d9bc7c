package lun

import (
	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/scsi"
)

// plan decides what data the command needs and validates its CDB.
//
//lint:dispatch one case for each operation code
func (t *Task) plan() bool {
	c := &t.CDB
	switch c.Opcode() {
	case scsi.Inquiry, scsi.ReserveIn:
		t.need.In = min(uint32(c.Uint16(3)), maxParameters)
		if c.Opcode() == scsi.ReserveIn {
			t.need.In = min(uint32(c.Uint16(7)), maxParameters)
		}
	case scsi.RequestSense, scsi.ModeSense6:
		t.need.In = uint32(c[4])
	case scsi.ModeSense10:
		t.need.In = min(uint32(c.Uint16(7)), maxParameters)
	case scsi.ModeSelect6:
		t.need.Out = uint32(c[4])
		return t.planModeSelect()
	case scsi.ModeSelect10:
		t.need.Out = uint32(c.Uint16(7))
		return t.planModeSelect()
	case scsi.ReadCapacity10:
		t.need.In = scsi.Capacity10Size
		if lba := c.Uint32(2); lba != 0 && c[8]&1 == 0 {
			return t.badCDB(2, -1)
		}
	case scsi.ServiceIn16:
		t.need.In = min(c.Uint32(10), maxParameters)
	case scsi.ReportLUNs, scsi.MaintenanceIn:
		t.need.In = min(c.Uint32(6), maxParameters)
	case scsi.ReserveOut:
		t.need.Out = c.Uint32(5)
		if t.need.Out != scsi.ReserveOutSize {
			return t.fail(scsi.Sense{Key: scsi.IllegalRequest, Code: scsi.ParameterListLength})
		}
	case scsi.Unmap:
		t.need.Out = uint32(c.Uint16(7))
		return t.planUnmap()
	case scsi.Read6, scsi.Read10, scsi.Read12, scsi.Read16:
		return t.planBlocks(reading) && t.planTransfer(&t.need.In)
	case scsi.Write6, scsi.Write10, scsi.Write12, scsi.Write16:
		return t.planBlocks(writing) && t.planTransfer(&t.need.Out)
	case scsi.OrWrite:
		return t.planBlocks(exchanging) && t.planTransfer(&t.need.Out) && t.planScratch(t.need.Out)
	case scsi.CompareAndWrite:
		return t.planCompareAndWrite()
	case scsi.WriteSame10, scsi.WriteSame16:
		return t.planWriteSame()
	case scsi.Verify10, scsi.Verify12, scsi.Verify16:
		return t.planVerify(reading)
	case scsi.WriteVerify10, scsi.WriteVerify12, scsi.WriteVerify16:
		return t.planVerify(writing)
	case scsi.Prefetch10, scsi.Prefetch16, scsi.SynchronizeCache10, scsi.SynchronizeCache16:
		return t.planBlocks(reading)
	case scsi.StartStopUnit:
		if c[4]&0x02 != 0 && c[4]>>4 == 0 { // LOEJ: the medium cannot be removed
			return t.badCDB(4, 1)
		}
	case scsi.PreventAllow:
		if c[4]&0x02 != 0 {
			return t.badCDB(4, 1)
		}
	}
	return true
}

// planBlocks finds the byte range and checks it.
func (t *Task) planBlocks(k kind) bool {
	lba, blocks := t.CDB.Range()
	e, ok := t.bytes(scsi.BlockRange{LBA: lba, Blocks: blocks})
	if !ok {
		return false
	}
	if t.desc.Len() > 6 && t.CDB[1]&scsi.MaskProtect != 0 && !hasNoProtect(t.desc.Opcode) {
		return t.badCDB(1, 7)
	}
	t.extent = e
	t.place.kind, t.place.extent = k, e
	return true
}

// hasNoProtect reports an operation code whose byte 1 has no protection field.
func hasNoProtect(o scsi.Opcode) bool {
	switch o {
	case scsi.Prefetch10, scsi.Prefetch16, scsi.SynchronizeCache10, scsi.SynchronizeCache16:
		return true
	}
	return false
}

// bytes converts a range of blocks and holds it against the size.
func (t *Task) bytes(r scsi.BlockRange) (block.Extent, bool) {
	g := t.u.geometry()
	size := g.Size / uint64(g.BlockSize)
	if r.LBA >= size && (r.Blocks > 0 || r.LBA > size) || uint64(r.Blocks) > size-min(r.LBA, size) {
		return block.Extent{}, t.fail(scsi.Sense{Key: scsi.IllegalRequest, Code: scsi.LBAOutOfRange})
	}
	bs := uint64(g.BlockSize)
	return block.Extent{Off: r.LBA * bs, Len: uint64(r.Blocks) * bs}, true
}

// planTransfer moves all blocks one way.
func (t *Task) planTransfer(way *uint32) bool {
	if t.extent.Len > uint64(t.u.dev.Geometry().MaxTransfer) {
		return t.badCDB(t.CDB.LengthField(), -1)
	}
	*way = uint32(t.extent.Len)
	return true
}

func (t *Task) planScratch(n uint32) bool {
	t.need.Scratch = n
	return true
}

func (t *Task) planModeSelect() bool {
	switch {
	case t.CDB[1]&0x01 != 0: // SP: there are no saved pages
		return t.badCDB(1, 0)
	case t.CDB[1]&0x10 == 0: // PF
		return t.badCDB(1, 4)
	case t.need.Out > maxParameters:
		return t.fail(scsi.Sense{Key: scsi.IllegalRequest, Code: scsi.ParameterListLength})
	}
	return true
}

func (t *Task) planUnmap() bool {
	switch {
	case t.CDB[1]&0x01 != 0: // ANCHOR
		return t.badCDB(1, 0)
	case t.need.Out > 0 && t.need.Out < scsi.UnmapHeader:
		return t.fail(scsi.Sense{Key: scsi.IllegalRequest, Code: scsi.ParameterListLength})
	case t.need.Out > maxParameters:
		return t.fail(scsi.Sense{Key: scsi.IllegalRequest, Code: scsi.ParameterListLength})
	}
	t.place.kind = writing
	t.place.extent = block.Extent{Len: t.u.geometry().Size}
	return true
}

func (t *Task) planCompareAndWrite() bool {
	if !t.planBlocks(exchanging) {
		return false
	}
	g := t.u.dev.Geometry()
	n := uint32(t.extent.Len)
	if n/g.BlockSize > t.u.maxCompare(g) {
		return t.badCDB(13, -1)
	}
	t.need.Out = 2 * n
	return t.planScratch(n)
}

func (t *Task) planWriteSame() bool {
	if !t.planBlocks(writing) {
		return false
	}
	bs := t.u.dev.Geometry().BlockSize
	flags := t.CDB[1]
	noData := t.desc.Opcode == scsi.WriteSame16 && flags&scsi.FlagNDOB != 0
	switch {
	case flags&scsi.FlagAnchor != 0:
		return t.badCDB(1, 4)
	case flags&0x06 != 0: // PBDATA, LBDATA: obsolete
		return t.badCDB(1, 2)
	case t.extent.Len == 0 || t.extent.Len > maxWriteSame:
		return t.badCDB(t.CDB.LengthField(), -1)
	case !noData:
		t.need.Out = bs
		t.need.Scratch = uint32(min(t.extent.Len, t.fillBytes()))
	}
	return true
}

// fillBytes is what one write of a WRITE SAME writes at most.
func (t *Task) fillBytes() uint64 {
	return uint64(min(fillBytes, t.u.dev.Geometry().MaxTransfer))
}

func (t *Task) planVerify(k kind) bool {
	if !t.planBlocks(k) {
		return false
	}
	g := t.u.dev.Geometry()
	if t.extent.Len > uint64(g.MaxTransfer) {
		return t.badCDB(t.CDB.LengthField(), -1)
	}
	n := uint32(t.extent.Len)
	switch check := t.CDB[1] & scsi.MaskBytChk >> 1; {
	case check == 2, check == 3 && k == writing:
		return t.badCDB(1, 2)
	case k == writing, check == 1:
		t.need.Out = n
	case check == 3 && n > 0:
		t.need.Out = g.BlockSize
	}
	return t.planScratch(n)
}
