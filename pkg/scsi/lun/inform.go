package lun

import (
	"errors"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/block/buffer"
	"github.com/cask-storage/cask/pkg/scsi"
)

// inform answers the commands that ask about the unit: parameter data, cut to
// the allocation length.
func (t *Task) inform() {
	t.in = buffer.Get(max(int(t.need.In), 1))
	b, ok := t.parameters(t.in.B[:0])
	if !ok {
		return
	}
	t.In = b[:min(len(b), int(t.need.In))]
	if len(t.In) == 0 {
		t.Release()
	}
}

// parameters appends the parameter data of the command to b.
func (t *Task) parameters(b []byte) ([]byte, bool) {
	c := &t.CDB
	switch t.desc.Opcode {
	case scsi.Inquiry:
		return t.inquiry(b)
	case scsi.RequestSense:
		return t.requestSense(b), true
	case scsi.ModeSense6, scsi.ModeSense10:
		return t.modeSense(b)
	case scsi.ReadCapacity10:
		return t.u.capacity().Append10(b), true
	case scsi.ServiceIn16:
		if t.desc.Action == scsi.SAReadCapacity16 {
			return t.u.capacity().Append16(b), true
		}
		return t.lbaStatus(b)
	case scsi.ReportLUNs:
		return t.reportLUNs(b)
	case scsi.MaintenanceIn:
		return t.maintenance(b)
	case scsi.ReserveIn:
		return t.u.reserveIn(b, c.ServiceAction()), true
	}
	return b, t.fail(scsi.Sense{Key: scsi.IllegalRequest, Code: scsi.InvalidOpcode})
}

func (t *Task) inquiry(b []byte) ([]byte, bool) {
	page := scsi.Page(t.CDB[2])
	if t.CDB[1]&1 == 0 {
		if page != 0 {
			return b, t.badCDB(2, -1)
		}
		if t.u == nil {
			return (&scsi.Identity{}).AppendInquiry(b, scsi.PeripheralNone), true
		}
		return t.u.id.AppendInquiry(b, scsi.PeripheralDisk), true
	}
	if t.u == nil {
		return b, t.badCDB(2, -1)
	}
	switch page {
	case scsi.PageSupported:
		return scsi.AppendSupported(b), true
	case scsi.PageSerial:
		return t.u.id.AppendSerial(b), true
	case scsi.PageIdentity:
		return t.u.id.AppendIdentity(b, t.n.m.port), true
	case scsi.PageExtended:
		return scsi.AppendExtended(b), true
	case scsi.PageModePolicy:
		return scsi.AppendModePolicy(b), true
	case scsi.PageBlockLimits:
		l := t.u.limits()
		return l.AppendLimits(b), true
	case scsi.PageBlockDevice:
		return scsi.AppendBlockDevice(b), true
	case scsi.PageProvisioning:
		return scsi.AppendProvisioning(b), true
	}
	return b, t.badCDB(2, -1)
}

// requestSense reports a pending unit attention, or nothing.
func (t *Task) requestSense(b []byte) []byte {
	s, _ := t.n.take(t.at)
	if t.CDB[1]&1 != 0 {
		return s.Append(b, scsi.DescriptorSense)
	}
	return s.Append(b, scsi.FixedSense)
}

func (t *Task) modeSense(b []byte) ([]byte, bool) {
	m := scsi.DecodeModeSense(&t.CDB)
	subpage := t.CDB[3]
	switch {
	case m.Control == scsi.ModeSaved:
		return b, t.fail(scsi.Sense{Key: scsi.IllegalRequest, Code: scsi.SavingNotSupported})
	case m.Page != scsi.ModeAll && !scsi.HasModePage(m.Page):
		return b, t.badCDB(2, 5)
	case subpage != 0 && subpage != scsi.AllSubpages:
		return b, t.badCDB(3, -1)
	}
	return m.Append(b, *t.u.mode.Load(), t.u.capacity()), true
}

// modeSelect runs alone on its unit. What was written with the cache on is made
// stable before it is off (SBC-3, Caching mode page): whoever turned it off sends no flush.
func (t *Task) modeSelect() {
	old := t.u.mode.Load()
	v, err := old.ModeSelect(t.whole(), t.desc.Opcode, t.u.dev.Geometry().BlockSize)
	var bad *scsi.ModeError
	switch {
	case errors.As(err, &bad):
		t.badList(bad.At)
	case err != nil:
		t.fail(scsi.Sense{Key: scsi.IllegalRequest, Code: scsi.ParameterListLength})
	case old.WriteCache && !v.WriteCache:
		t.submit(block.OpFlush, block.Extent{}, func(t *Task) { t.setMode(v) })
		return
	case v != *old:
		t.setMode(v)
		return
	}
	t.finish()
}

func (t *Task) setMode(v scsi.ModeValues) {
	t.u.mode.Store(&v)
	t.u.attention(t.n, attnMode)
	t.finish()
}

// lbaStatus reports the rest of the unit as mapped: a Device cannot be asked.
func (t *Task) lbaStatus(b []byte) ([]byte, bool) {
	lba, _ := t.CDB.Range()
	c := t.u.capacity()
	if lba >= c.Blocks {
		return b, t.fail(scsi.Sense{Key: scsi.IllegalRequest, Code: scsi.LBAOutOfRange})
	}
	r := scsi.BlockRange{LBA: lba, Blocks: uint32(min(c.Blocks-lba, 0xffffffff))}
	return scsi.AppendLBAStatus(b, r, scsi.Mapped), true
}

func (t *Task) reportLUNs(b []byte) ([]byte, bool) {
	switch report := t.CDB[2]; {
	case t.CDB.Uint32(6) < 16:
		return b, t.badCDB(6, -1)
	case report == 0 || report == 2:
		return scsi.AppendLUNs(b, t.n.m.luns), true
	case report == 1: // well known units only: none
		return scsi.AppendLUNs(b, nil), true
	}
	return b, t.badCDB(2, -1)
}

func (t *Task) maintenance(b []byte) ([]byte, bool) {
	c := &t.CDB
	switch t.desc.Action {
	case scsi.SATargetPortGroups:
		p := t.n.m.port
		g := []scsi.PortGroup{{ID: p.Group, State: t.n.m.Access(), Ports: []uint16{p.Relative}}}
		if f := scsi.GroupFormat(c[1] >> 5); f == scsi.GroupsPlain || f == scsi.GroupsExtended {
			return scsi.AppendGroups(b, g, f), true
		}
		return b, t.badCDB(1, 7)
	case scsi.SASupportedTMFs:
		if c[2]&0x80 != 0 { // REPD
			return scsi.AppendExtendedTMFs(b), true
		}
		return scsi.AppendTMFs(b), true
	}
	return t.supportedOpcodes(b)
}

// supportedOpcodes answers REPORT SUPPORTED OPERATION CODES.
func (t *Task) supportedOpcodes(b []byte) ([]byte, bool) {
	c := &t.CDB
	o := scsi.OpcodeOptions{Timeouts: c[2]&0x80 != 0}
	op, action := scsi.Opcode(c[3]), c.Uint16(4)
	cmd, known := scsi.LookupAction(op, uint8(action))
	if action > 0x1f {
		cmd = nil
	}
	first, _ := scsi.LookupAction(op, 0)
	hasActions := known && (first == nil || first.Actions)
	switch options := c[2] & 7; {
	case options == 0:
		return scsi.AppendAllOpcodes(b, o), true
	case options == 1 && hasActions, options == 2 && known && !hasActions:
		return b, t.badCDB(2, 2)
	case options == 1 || options == 2:
		return scsi.AppendOneOpcode(b, cmd, o), true
	case options == 3 && (hasActions || action == 0):
		return scsi.AppendOneOpcode(b, cmd, o), true
	case options == 3:
		return scsi.AppendOneOpcode(b, nil, o), true
	}
	return b, t.badCDB(2, 2)
}
