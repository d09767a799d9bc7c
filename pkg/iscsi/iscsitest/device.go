package iscsitest

import (
	"fmt"
	"slices"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/iscsi"
	"github.com/cask-storage/cask/pkg/scsi"
)

// task is a request under way.
type task struct {
	req *block.Request
	out []byte // what is written
	got uint32
	in  []byte
}

// Device is a session as a block device.
type Device struct {
	s   *Session
	geo block.Geometry
}

// Start begins to run the session and returns its unit Options.LUN as a Device. Its
// Close ends the session.
func (s *Session) Start() (*Device, error) {
	d := &Device{s: s}
	if err := d.probe(); err != nil {
		return nil, err
	}
	go s.read() // owner: Device; Close waits for s.ended
	return d, nil
}

// probe clears the unit attention and asks for the capacity.
func (d *Device) probe() error {
	s := d.s
	for range 3 {
		c := scsi.CDB{byte(scsi.ServiceIn16), scsi.SAReadCapacity16}
		c[13] = scsi.Capacity16Size
		if err := s.Send(Command{CDB: c[:], LUN: s.lun, Flags: iscsi.FlagFinal | iscsi.FlagRead, EDTL: scsi.Capacity16Size, ITT: 1}); err != nil {
			return err
		}
		var data []byte
		p, in, err := s.Recv()
		for err == nil && p.Opcode() == iscsi.OpDataIn {
			data = append(data, in...)
			if p.Flags()&iscsi.FlagStatus != 0 {
				break
			}
			p, in, err = s.Recv()
		}
		if err != nil {
			return err
		}
		if scsi.Status(p.Header[3]) != scsi.Good {
			continue
		}
		got, err := scsi.DecodeCapacity(data)
		if err != nil {
			return err
		}
		d.geo = block.Geometry{Size: got.Blocks * uint64(got.BlockSize), BlockSize: got.BlockSize,
			PhysicalBlock: got.BlockSize << got.Exponent, MaxTransfer: 1 << 20}
		return s.Conn.SetReadDeadline(noDeadline)
	}
	return fmt.Errorf("READ CAPACITY(16) does not succeed")
}

// Geometry of the unit.
func (d *Device) Geometry() block.Geometry { return d.geo }

// Submit implements block.Device.
func (d *Device) Submit(r *block.Request) {
	if err := d.geo.Check(r); err != nil {
		r.Done(r, err)
		return
	}
	bs := uint64(d.geo.BlockSize)
	lba, blocks := r.Extent.Off/bs, uint32(r.Extent.Len/bs)
	t := &task{req: r}
	var c scsi.CDB
	flags := iscsi.FlagFinal
	var edtl uint32
	switch r.Op {
	case block.OpRead:
		c[0], flags, edtl = byte(scsi.Read16), flags|iscsi.FlagRead, uint32(r.Extent.Len)
		t.in = make([]byte, edtl)
	case block.OpWrite:
		c[0], flags, edtl = byte(scsi.Write16), flags|iscsi.FlagWrite, uint32(r.Extent.Len)
		t.out = slices.Concat(r.Bufs...)
	case block.OpFlush:
		c[0], lba, blocks = byte(scsi.SynchronizeCache16), 0, 0
	case block.OpWriteZeroes:
		c[0], c[1] = byte(scsi.WriteSame16), scsi.FlagNDOB
	case block.OpUnmap:
		c[0], c[1] = byte(scsi.WriteSame16), scsi.FlagNDOB|scsi.FlagUnmap
	}
	if r.FUA && r.Op == block.OpWrite {
		c[1] |= scsi.FlagFUA
	}
	c.SetRange(lba, blocks)
	d.s.start(t, Command{CDB: c[:], LUN: d.s.lun, Flags: flags, EDTL: edtl})
}

// start sends a command, waiting for the window.
func (s *Session) start(t *task, c Command) {
	s.mu.Lock()
	for s.broken == nil && !(iscsi.Serial(s.CmdSN).Before(iscsi.Serial(s.maxSN + 1))) {
		s.room.Wait()
	}
	if s.broken != nil {
		s.mu.Unlock()
		t.req.Done(t.req, block.ErrClosed)
		return
	}
	s.nextTag++
	if s.nextTag == iscsi.NoTag {
		s.nextTag = 1
	}
	c.ITT = s.nextTag
	s.tags[c.ITT] = t
	more := uint32(0)
	if n := min(s.FirstBurst, uint32(len(t.out))); n > 0 {
		imm := uint32(0)
		if s.Immediate {
			imm = min(n, s.Segment)
			c.Data = t.out[:imm]
		}
		if !s.InitialR2T && imm < n {
			more = n
			c.Flags &^= iscsi.FlagFinal
		}
	}
	err := s.Send(c)
	if err == nil && more > 0 {
		err = s.dataOut(t, span{itt: c.ITT, ttt: iscsi.NoTag, from: uint32(len(c.Data)), to: more})
	}
	s.mu.Unlock()
	if err != nil {
		_ = s.Conn.Close()
	}
}

// span is a part of a task's data.
type span struct{ itt, ttt, from, to uint32 }

// dataOut sends a sequence; s.mu is held.
func (s *Session) dataOut(t *task, sp span) error {
	for sn := uint32(0); sp.from < sp.to; sn++ {
		n := min(s.Segment, sp.to-sp.from)
		h := s.Batch.Begin(iscsi.OpDataOut)
		if sp.from+n == sp.to {
			h[1] = iscsi.FlagFinal
		}
		h.SetITT(sp.itt)
		h.SetUint32(iscsi.AtTTT, sp.ttt)
		h.SetUint32(iscsi.AtExpStatSN, s.ExpStatSN)
		h.SetUint32(iscsi.AtDataSN, sn)
		h.SetUint32(iscsi.AtOffset, sp.from)
		s.Batch.End(t.out[sp.from:][:n])
		sp.from += n
		if s.Batch.Full() || sp.from == sp.to {
			if err := s.Batch.Flush(s.Conn); err != nil {
				return err
			}
		}
	}
	return nil
}
