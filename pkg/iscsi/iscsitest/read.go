package iscsitest

import (
	"fmt"
	"time"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/iscsi"
	"github.com/cask-storage/cask/pkg/scsi"
)

var noDeadline time.Time

// read takes what the target sends until the connection ends.
func (s *Session) read() {
	defer close(s.ended)
	var err error
	for err == nil {
		var p *iscsi.PDU
		if p, err = s.Reader.Next(); err == nil {
			err = s.take(p)
		}
	}
	s.mu.Lock()
	s.broken = err
	left := s.tags
	s.tags = map[uint32]*task{}
	s.room.Broadcast()
	s.mu.Unlock()
	for _, t := range left {
		t.req.Done(t.req, fmt.Errorf("%w: %w", block.ErrClosed, err))
	}
}

func (s *Session) take(p *iscsi.PDU) error {
	s.mu.Lock()
	t := s.tags[p.ITT()]
	s.noteLocked(p)
	s.mu.Unlock()
	switch p.Opcode() {
	case iscsi.OpDataIn:
		if t == nil {
			return fmt.Errorf("data for task %#x, which is not known", p.ITT())
		}
		return s.takeData(p, t)
	case iscsi.OpR2T:
		if t == nil {
			return fmt.Errorf("R2T for task %#x, which is not known", p.ITT())
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		from := p.Uint32(iscsi.AtOffset)
		return s.dataOut(t, span{itt: p.ITT(), ttt: p.Uint32(iscsi.AtTTT), from: from, to: from + p.Uint32(iscsi.AtLength)})
	case iscsi.OpResponse:
		return s.takeResponse(p)
	case iscsi.OpNopIn:
		return s.pong(p)
	}
	return fmt.Errorf("%v", p.Opcode())
}

func (s *Session) takeData(p *iscsi.PDU, t *task) error {
	off, n := p.Uint32(iscsi.AtOffset), p.DataLen()
	if off != t.got || uint64(off)+uint64(n) > uint64(len(t.in)) {
		return fmt.Errorf("data at %d+%d, expected at %d of %d", off, n, t.got, len(t.in))
	}
	if err := s.Reader.ReadData(t.in[off:][:n]); err != nil {
		return err
	}
	if err := s.Reader.EndData(); err != nil {
		return err
	}
	t.got += n
	if p.Flags()&iscsi.FlagStatus == 0 {
		return nil
	}
	s.finish(p, nil)
	return nil
}

func (s *Session) takeResponse(p *iscsi.PDU) error {
	data := make([]byte, p.DataLen())
	if err := s.Reader.ReadData(data); err != nil {
		return err
	}
	if err := s.Reader.EndData(); err != nil {
		return err
	}
	var err error
	if st := scsi.Status(p.Header[3]); st != scsi.Good {
		err = Failure{Status: st}
		if len(data) > 2 {
			if sense, bad := scsi.DecodeSense(data[2:]); bad == nil {
				err = Failure{Status: st, Sense: sense}
			}
		}
	}
	s.finish(p, err)
	return nil
}

// Failure is a status that is not GOOD.
type Failure struct {
	Status scsi.Status
	Sense  scsi.Sense
}

func (f Failure) Error() string { return fmt.Sprintf("%v, %v", f.Status, f.Sense) }

// finish completes the task of a PDU with a status.
func (s *Session) finish(p *iscsi.PDU, err error) {
	s.mu.Lock()
	t := s.tags[p.ITT()]
	delete(s.tags, p.ITT())
	s.ExpStatSN = p.Uint32(iscsi.AtStatSN) + 1
	s.mu.Unlock()
	if t == nil {
		return
	}
	if in := t.in; err == nil {
		for _, b := range t.req.Bufs {
			if t.req.Op == block.OpRead {
				in = in[copy(b, in):]
			}
		}
	}
	t.req.Done(t.req, err)
}

// pong answers a ping.
func (s *Session) pong(p *iscsi.PDU) error {
	ttt := p.Uint32(iscsi.AtTTT)
	if ttt == iscsi.NoTag {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.Request(iscsi.OpNopOut, iscsi.NoTag)
	h[0] |= iscsi.FlagImmediate
	h.SetUint32(iscsi.AtTTT, ttt)
	return s.SendNow(nil)
}

// Close ends the session.
func (d *Device) Close() error {
	err := d.s.Conn.Close()
	<-d.s.ended
	return err
}
