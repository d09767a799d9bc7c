// Package iscsitest is an iSCSI initiator for tests: Dial logs in; then
// either a test speaks PDUs itself with Send and Recv, or Start runs the
// session and Device makes a block.Device of it, for block/blocktest and for
// load.
//
// A Session on which Start was not called belongs to one goroutine. Start owns
// one goroutine, which reads; Close ends and waits for it.
package iscsitest

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/cask-storage/cask/pkg/iscsi"
)

// Options of a login.
type Options struct {
	Addr string
	Node string // empty is discovery
	Name string // of the initiator; empty is a default
	ISID byte
	TSIH uint16
	LUN  byte // of the Device
	// Keys are offered in the operational stage, instead of the defaults.
	Keys iscsi.Text
	// Security runs the security stage before, when it is set: it gets each
	// answer, nil at first, and returns what to send next; nil ends it. What
	// it returns for the last answer is not sent.
	Security func(answer iscsi.Text) iscsi.Text
	Timeout  time.Duration // of each read; 0 is 10 s
}

// LoginError is a refused login.
type LoginError struct{ Status iscsi.LoginStatus }

func (e *LoginError) Error() string {
	return fmt.Sprintf("login refused with status %04x", uint16(e.Status))
}

// Session is a login.
type Session struct {
	Conn      net.Conn
	Reader    *iscsi.Reader
	Batch     *iscsi.Batch
	Answers   iscsi.Text // of the target
	CmdSN     uint32
	ExpStatSN uint32

	FirstBurst, MaxBurst, Segment uint32 // Segment: what the target takes
	Immediate, InitialR2T         bool
	timeout                       time.Duration
	lun                           byte

	mu      sync.Mutex
	maxSN   uint32
	tags    map[uint32]*task
	nextTag uint32
	broken  error
	room    *sync.Cond
	ended   chan struct{}
}

// Dial connects and logs in.
func Dial(o Options) (*Session, error) {
	nc, err := net.Dial("tcp", o.Addr)
	if err != nil {
		return nil, err
	}
	s, err := Login(nc, o)
	if err != nil {
		return nil, errors.Join(err, nc.Close())
	}
	return s, nil
}

// Login logs in on a connection.
func Login(nc net.Conn, o Options) (*Session, error) {
	s := &Session{Conn: nc, Batch: iscsi.NewBatch(), CmdSN: 1, timeout: o.Timeout, lun: o.LUN,
		Reader:     iscsi.NewReader(nc, iscsi.Options{Role: iscsi.Initiator, MaxData: 1 << 20, Buffer: 64 << 10}),
		FirstBurst: 65536, MaxBurst: 262144, Segment: 8192, Immediate: true, InitialR2T: true,
		tags: map[uint32]*task{}, ended: make(chan struct{})}
	s.room = sync.NewCond(&s.mu)
	if s.timeout == 0 {
		s.timeout = 10 * time.Second
	}
	var first iscsi.Text
	if o.Name == "" {
		o.Name = "iqn.2026-01.storage.cask:test"
	}
	first.Add("InitiatorName", o.Name)
	if o.Node == "" {
		first.Add("SessionType", "Discovery")
	} else {
		first.Add("TargetName", o.Node)
		if _, given := o.Keys.Get("SessionType"); !given {
			first.Add("SessionType", "Normal")
		}
	}
	if err := s.login(o, first); err != nil {
		return nil, err
	}
	return s, s.adopt()
}

// Keys are the operational keys offered by default.
func Keys() iscsi.Text {
	return iscsi.Text{{Key: "HeaderDigest", Value: "None"}, {Key: "DataDigest", Value: "None"},
		{Key: "InitialR2T", Value: "No"}, {Key: "ImmediateData", Value: "Yes"},
		{Key: "MaxRecvDataSegmentLength", Value: "262144"}, {Key: "MaxBurstLength", Value: "1048576"},
		{Key: "FirstBurstLength", Value: "262144"}}
}

func (s *Session) login(o Options, first iscsi.Text) error {
	stage := iscsi.StageOperational
	if o.Security != nil {
		stage = iscsi.StageSecurity
		var answer iscsi.Text
		for out := o.Security(nil); out != nil; out = o.Security(answer) {
			a, transit, err := s.loginStep(o, append(first, out...), 0<<2|1)
			if err != nil {
				return err
			}
			answer, first = a, nil
			if transit {
				o.Security(answer)
				break
			}
		}
		stage = iscsi.StageOperational
	}
	keys := o.Keys
	if keys == nil {
		keys = Keys()
	}
	a, transit, err := s.loginStep(o, append(first, keys...), byte(stage)<<2|3)
	if err == nil && !transit {
		err = errors.New("login: the target stays in the operational stage")
	}
	s.Answers = a
	return err
}

// loginStep sends one request that asks for the transit its stages say.
func (s *Session) loginStep(o Options, text iscsi.Text, stages byte) (iscsi.Text, bool, error) {
	h := s.Batch.Begin(iscsi.OpLogin)
	h[0] |= iscsi.FlagImmediate
	h[1] = iscsi.FlagTransit | stages
	h[8], h[13] = 0x80, o.ISID // a random ISID, as RFC 7143 11.12.5 calls it
	h.SetUint16(14, o.TSIH)
	h.SetITT(1)
	h.SetUint32(iscsi.AtCmdSN, s.CmdSN)
	h.SetUint32(iscsi.AtExpStatSN, s.ExpStatSN)
	s.Batch.End(text.Append(nil))
	if err := s.Batch.Flush(s.Conn); err != nil {
		return nil, false, err
	}
	p, data, err := s.Recv()
	if err != nil {
		return nil, false, err
	}
	if p.Opcode() != iscsi.OpLoginResp {
		return nil, false, fmt.Errorf("login: %v", p.Opcode())
	}
	if st := iscsi.LoginStatus(p.Uint16(iscsi.AtLoginStatus)); st != 0 {
		return nil, false, &LoginError{st}
	}
	s.maxSN = p.Uint32(iscsi.AtMaxCmdSN)
	answer, err := iscsi.ParseText(data)
	return answer, p.Flags()&iscsi.FlagTransit != 0, err
}

// adopt makes the answers effective.
func (s *Session) adopt() error {
	var digests iscsi.Digests
	for _, p := range s.Answers {
		n, _ := strconv.Atoi(p.Value)
		switch p.Key {
		case "HeaderDigest":
			digests.Header = p.Value == "CRC32C"
		case "DataDigest":
			digests.Data = p.Value == "CRC32C"
		case "InitialR2T":
			s.InitialR2T = p.Value == "Yes"
		case "ImmediateData":
			s.Immediate = p.Value == "Yes"
		case "FirstBurstLength":
			s.FirstBurst = uint32(n)
		case "MaxBurstLength":
			s.MaxBurst = uint32(n)
		case "MaxRecvDataSegmentLength":
			s.Segment = uint32(n)
		}
	}
	s.FirstBurst = min(s.FirstBurst, s.MaxBurst)
	s.Batch.Digests = digests
	s.Reader.SetDigests(digests)
	return nil
}

// Recv reads one PDU with its data.
func (s *Session) Recv() (*iscsi.PDU, []byte, error) {
	if err := s.Conn.SetReadDeadline(time.Now().Add(s.timeout)); err != nil {
		return nil, nil, err
	}
	p, err := s.Reader.Next()
	if err != nil {
		return nil, nil, err
	}
	data := make([]byte, p.DataLen())
	if err := s.Reader.ReadData(data); err != nil {
		return nil, nil, err
	}
	if err := s.Reader.EndData(); err != nil {
		return nil, nil, err
	}
	s.mu.Lock()
	s.noteLocked(p)
	s.mu.Unlock()
	return p, data, nil
}

// Room is how many commands the target takes now: a test that sends more than
// a few asks first, for what is outside of the window is ignored, and a gap
// behind it ends the session.
func (s *Session) Room() uint32 { return s.maxSN + 1 - s.CmdSN }

// noteLocked notes the window that a PDU of the target tells.
func (s *Session) noteLocked(p *iscsi.PDU) {
	if m := p.Uint32(iscsi.AtMaxCmdSN); iscsi.Serial(s.maxSN).Before(iscsi.Serial(m)) {
		s.maxSN = m
		s.room.Broadcast()
	}
}

// Command is a SCSI command as a test sends it.
type Command struct {
	CDB   []byte
	LUN   byte
	Flags uint8 // read, write, attribute; the final bit too
	EDTL  uint32
	Data  []byte // immediate
	ITT   uint32
	Hold  bool // do not advance CmdSN: for immediate delivery
}

// Send sends a SCSI command.
func (s *Session) Send(c Command) error {
	h := s.Batch.Begin(iscsi.OpCommand)
	h[1] = c.Flags
	h[9] = c.LUN
	h.SetITT(c.ITT)
	h.SetUint32(iscsi.AtExpectedLen, c.EDTL)
	h.SetUint32(iscsi.AtCmdSN, s.CmdSN)
	h.SetUint32(iscsi.AtExpStatSN, s.ExpStatSN)
	copy(h[iscsi.AtCDB:], c.CDB)
	if c.Hold {
		h[0] |= iscsi.FlagImmediate
	} else {
		s.CmdSN++
	}
	s.Batch.End(c.Data)
	return s.Batch.Flush(s.Conn)
}

// Request begins any other PDU with the next CmdSN; seal it with SendNow.
func (s *Session) Request(o iscsi.Opcode, itt uint32) *iscsi.Header {
	h := s.Batch.Begin(o)
	h[1] = iscsi.FlagFinal
	h.SetITT(itt)
	h.SetUint32(iscsi.AtCmdSN, s.CmdSN)
	h.SetUint32(iscsi.AtExpStatSN, s.ExpStatSN)
	h.SetUint32(iscsi.AtTTT, iscsi.NoTag)
	return h
}

// SendNow seals the PDU begun with Request and sends it.
func (s *Session) SendNow(data []byte) error {
	s.Batch.End(data)
	return s.Batch.Flush(s.Conn)
}
