package initiator

import (
	"errors"
	"fmt"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/block/ride"
	"github.com/cask-storage/cask/pkg/iscsi"
	"github.com/cask-storage/cask/pkg/scsi"
)

// read takes PDUs until the connection ends, and returns why.
func (s *session) read() error {
	for {
		p, err := s.rd.Next()
		if err != nil {
			return err
		}
		s.note(p)
		if err := s.onPDU(p); err != nil {
			return err
		}
	}
}

func (s *session) onPDU(p *iscsi.PDU) error {
	switch p.Opcode() {
	case iscsi.OpDataIn:
		return s.onData(p)
	case iscsi.OpR2T:
		return s.onR2T(p)
	case iscsi.OpResponse:
		return s.onResponse(p)
	case iscsi.OpNopIn:
		return s.onPing(p)
	case iscsi.OpAsync:
		if e := iscsi.AsyncEvent(p.Header[iscsi.AtAsyncEvent]); e != iscsi.AsyncSCSI {
			return fmt.Errorf("the target ends the session: asynchronous event %d", e)
		}
		s.lookAgain()
		return nil
	case iscsi.OpLogoutResp:
		return errLoggedOut
	}
	return fmt.Errorf("%v, reason %#02x", p.Opcode(), p.Header[2])
}

var errLoggedOut = errors.New("logged out")

// note keeps the numbers that a PDU tells.
func (s *session) note(p *iscsi.PDU) {
	s.heard.Add(1)
	o := p.Opcode()
	counts := o != iscsi.OpR2T && (o != iscsi.OpDataIn || p.Flags()&iscsi.FlagStatus != 0) && (o != iscsi.OpNopIn || p.ITT() != iscsi.NoTag)
	if counts {
		s.expStatSN.Store(p.Uint32(iscsi.AtStatSN) + 1)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if m := p.Uint32(iscsi.AtMaxCmdSN); iscsi.Serial(s.maxSN).Before(iscsi.Serial(m)) {
		s.maxSN = m
		if len(s.backlog) > 0 {
			s.wakeLocked()
		}
	}
}

// find returns the command that was sent with a tag.
func (s *session) find(p *iscsi.PDU) (*command, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if itt := p.ITT(); uint64(itt) < uint64(len(s.table)) && s.table[itt] != nil && s.table[itt].sent {
		return s.table[itt], nil
	}
	return nil, fmt.Errorf("%v for command %#x, which is not outstanding", p.Opcode(), p.ITT())
}

// finish takes a command out of the table and ends it.
func (s *session) finish(c *command, itt uint32, o outcome) {
	s.mu.Lock()
	s.table[itt] = nil
	s.free = append(s.free, itt)
	if len(s.backlog) > 0 {
		s.wakeLocked()
	}
	s.mu.Unlock()
	c.done(c, o)
}

func (s *session) onData(p *iscsi.PDU) error {
	c, err := s.find(p)
	if err != nil {
		return err
	}
	off, n := p.Uint32(iscsi.AtOffset), p.DataLen()
	if !c.read || off != c.got || n > c.size-c.got {
		return fmt.Errorf("data of %d bytes at %d of a command for %d, expected at %d", n, off, c.size, c.got)
	}
	s.scratch = ride.Slice(s.scratch[:0], c.bufs, block.Extent{Off: uint64(off), Len: uint64(n)})
	for _, b := range s.scratch {
		if err := s.rd.ReadData(b); err != nil {
			return err
		}
	}
	c.got += n
	flags, status, itt := p.Flags(), scsi.Status(p.Header[3]), p.ITT()
	if err := s.rd.EndData(); err != nil {
		return err // with error recovery level 0 the session ends
	}
	if flags&iscsi.FlagStatus == 0 {
		return nil
	}
	return s.end(c, itt, outcome{status: status})
}

// end finishes a command, if what it says is possible.
func (s *session) end(c *command, itt uint32, o outcome) error {
	if o.status == scsi.Good && c.read && c.task != nil && c.got != c.size {
		return fmt.Errorf("a read ended well with %d of %d bytes", c.got, c.size)
	}
	s.finish(c, itt, o)
	return nil
}

func (s *session) onR2T(p *iscsi.PDU) error {
	c, err := s.find(p)
	if err != nil {
		return err
	}
	off, n := p.Uint32(iscsi.AtOffset), p.Uint32(iscsi.AtLength)
	if c.read || n == 0 || off > c.size || n > c.size-off {
		return fmt.Errorf("R2T of %d bytes at %d for a command of %d", n, off, c.size)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.asked {
		return fmt.Errorf("a second R2T for command %#x, one was agreed on", p.ITT())
	}
	c.asked = true
	s.out = append(s.out, item{kind: kindData, c: c, itt: p.ITT(), seq: c.seq, ttt: p.Uint32(iscsi.AtTTT),
		data: block.Extent{Off: uint64(off), Len: uint64(n)}})
	s.wakeLocked()
	return nil
}

// maxSenseData is the most data of a response, bytes.
const maxSenseData = 2 + 252

func (s *session) onResponse(p *iscsi.PDU) error {
	c, err := s.find(p)
	if err != nil {
		return err
	}
	if p.DataLen() > maxSenseData {
		return fmt.Errorf("a response with %d bytes of data", p.DataLen())
	}
	failed, short := p.Header[2] != 0, p.Flags()&(iscsi.FlagUnderflow|iscsi.FlagOverflow) != 0
	o, itt := outcome{status: scsi.Status(p.Header[3])}, p.ITT()
	data := s.sense[:p.DataLen()]
	if err := errors.Join(s.rd.ReadData(data), s.rd.EndData()); err != nil {
		return err
	}
	if len(data) > 2 {
		o.sense, _ = scsi.DecodeSense(data[2:]) // what cannot be read is no sense: an I/O error
	}
	switch {
	case failed:
		o.status = scsi.CheckCondition
	case o.status == scsi.Good && short && c.task != nil:
		return fmt.Errorf("a command ended well with less or more data than its %d bytes", c.size)
	}
	return s.end(c, itt, o)
}

// onPing answers a ping of the target.
func (s *session) onPing(p *iscsi.PDU) error {
	ttt := p.Uint32(iscsi.AtTTT)
	if ttt == iscsi.NoTag {
		return nil // it answers ours
	}
	s.mu.Lock()
	waiting := 0
	for _, i := range s.out {
		if i.kind == kindPong {
			waiting++
		}
	}
	s.mu.Unlock()
	if waiting >= maxPongs {
		return fmt.Errorf("%d pings that were not answered yet", waiting)
	}
	s.put(item{kind: kindPong, ttt: ttt})
	return nil
}

// lookAgain has the unit looked at.
func (s *session) lookAgain() {
	select {
	case s.look <- struct{}{}:
	default:
	}
}
