package target_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/block/blocktest"
	"github.com/cask-storage/cask/pkg/iscsi"
	"github.com/cask-storage/cask/pkg/iscsi/iscsitest"
	"github.com/cask-storage/cask/pkg/iscsi/target"
	"github.com/cask-storage/cask/pkg/scsi"
)

// TestErrorClasses: each class of the device reaches the initiator as the
// sense data that says it.
func TestErrorClasses(t *testing.T) {
	r := newRig(t, target.Config{}, blocktest.Options{})
	s := r.dial(t, iscsitest.Options{})
	for _, c := range []struct {
		op   block.Op
		err  error
		key  scsi.Key
		code scsi.Code
	}{
		{block.OpRead, block.ErrMedium, scsi.MediumError, scsi.UnrecoveredRead},
		{block.OpWrite, block.ErrMedium, scsi.MediumError, scsi.WriteError},
		{block.OpWrite, block.ErrNoSpace, scsi.DataProtect, scsi.SpaceAllocation},
		{block.OpWrite, block.ErrReadOnly, scsi.DataProtect, scsi.WriteProtected},
		{block.OpWrite, block.ErrUnsupported, scsi.IllegalRequest, scsi.InvalidFieldInCDB},
		{block.OpRead, block.ErrAborted, scsi.AbortedCommand, scsi.NoAdditional},
		{block.OpRead, block.ErrRange, scsi.IllegalRequest, scsi.LBAOutOfRange},
		{block.OpRead, block.ErrIO, scsi.HardwareError, scsi.InternalFailure},
		{block.OpFlush, block.ErrIO, scsi.HardwareError, scsi.InternalFailure},
		{block.OpRead, errors.New("of no class"), scsi.HardwareError, scsi.InternalFailure},
	} {
		r.dev.Inject(blocktest.Fault{Op: c.op, Err: c.err, Times: 1})
		cmd := iscsitest.Command{CDB: blocks(scsi.Read10, 8, 1), Flags: iscsi.FlagRead, EDTL: 512}
		switch c.op {
		case block.OpWrite:
			cmd = iscsitest.Command{CDB: blocks(scsi.Write10, 8, 1), Flags: iscsi.FlagWrite, EDTL: 512, Data: pattern(512, 1)}
		case block.OpFlush:
			cmd = iscsitest.Command{CDB: blocks(scsi.SynchronizeCache10, 0, 0)}
		}
		if st, sense := run(t, s, cmd); st != scsi.CheckCondition || sense.Key != c.key || sense.Code != c.code {
			t.Errorf("%v: %v is told as %v, %v", c.op, c.err, st, sense)
		}
	}
	for _, err := range []error{block.ErrFenced, block.ErrClosed} {
		r.dev.Inject(blocktest.Fault{Op: block.OpRead, Err: err, Times: 1})
		s := r.dial(t, iscsitest.Options{ISID: 1})
		must(t, s.Send(iscsitest.Command{CDB: blocks(scsi.Read10, 8, 1), Flags: iscsi.FlagFinal | iscsi.FlagRead, EDTL: 512, ITT: 9}))
		for {
			p, _, got := s.Recv()
			if got != nil {
				break // no answer, the session is gone
			}
			if p.Opcode() != iscsi.OpAsync {
				t.Fatalf("%v was answered with %v", err, p.Opcode())
			}
		}
	}
}

// TestResidualsAndLengths: what the transport and the CDB disagree about is
// reported, and never written in part.
func TestResidualsAndLengths(t *testing.T) {
	r := newRig(t, target.Config{}, blocktest.Options{})
	s := r.dial(t, iscsitest.Options{})
	for _, edtl := range []uint32{0, 200, 512, 2048} {
		data := pattern(int(edtl), 9)
		st, sense := run(t, s, iscsitest.Command{CDB: blocks(scsi.Write10, 0, 2), Flags: iscsi.FlagWrite, EDTL: edtl, Data: data})
		if st != scsi.CheckCondition || sense.Code != scsi.InvalidFieldInIU {
			t.Errorf("write of 2 blocks with %d bytes: %v, %v", edtl, st, sense)
		}
	}
	got := make([]byte, 2048)
	must(t, blocktest.Read(r.dev, 0, got))
	if !bytes.Equal(got, make([]byte, 2048)) {
		t.Error("a refused write wrote")
	}
	must(t, s.Send(iscsitest.Command{CDB: blocks(scsi.Read10, 0, 2), Flags: iscsi.FlagFinal | iscsi.FlagRead, EDTL: 600, ITT: 7}))
	p, data, err := s.Recv()
	must(t, err)
	if len(data) != 600 || p.Flags()&iscsi.FlagOverflow == 0 || p.Uint32(iscsi.AtResidual) != 424 {
		t.Errorf("read of 1024 bytes into 600: %d bytes, flags %#x, residual %d", len(data), p.Flags(), p.Uint32(iscsi.AtResidual))
	}
}

// TestDamage: a digest that does not match is noticed, and nothing damaged is
// written.
func TestDamage(t *testing.T) {
	digests := iscsi.Text{{Key: "HeaderDigest", Value: "CRC32C"}, {Key: "DataDigest", Value: "CRC32C"}, {Key: "ImmediateData", Value: "No"}}
	r := newRig(t, target.Config{}, blocktest.Options{})
	writes := r.dev.Counts().Writes
	s := r.dial(t, iscsitest.Options{Keys: digests})
	must(t, s.Send(iscsitest.Command{CDB: blocks(scsi.Write10, 0, 1), Flags: iscsi.FlagFinal | iscsi.FlagWrite, EDTL: 512, ITT: 5}))
	p, _, err := s.Recv()
	must(t, err)
	if p.Opcode() != iscsi.OpR2T {
		t.Fatal(p.Opcode())
	}
	damaged := pdu(s, p.Uint32(iscsi.AtTTT), pattern(512, 3))
	damaged[len(damaged)-100] ^= 1
	_, err = s.Conn.Write(damaged)
	must(t, err)
	if p, _, err = s.Recv(); err != nil || p.Opcode() != iscsi.OpReject || iscsi.Reason(p.Header[2]) != iscsi.ReasonDataDigest {
		t.Errorf("damaged data: %v, %v", p, err)
	}
	if st, sense, _ := outcome(t, s); st != scsi.CheckCondition || sense.Code != scsi.ServiceCRC {
		t.Errorf("damaged data: %v, %v", st, sense)
	}
	if n := r.dev.Counts().Writes; n != writes {
		t.Error("damaged data was written")
	}
	header := pdu(s, iscsi.NoTag, nil)
	header[30] ^= 1
	_, err = s.Conn.Write(header)
	must(t, err)
	if _, _, err = s.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("a damaged header: %v, want the connection closed", err)
	}
}

// pdu is a Data-Out of the command with tag 5.
func pdu(s *iscsitest.Session, ttt uint32, data []byte) []byte {
	h := s.Batch.Begin(iscsi.OpDataOut)
	h[1] = iscsi.FlagFinal
	h.SetITT(5)
	h.SetUint32(iscsi.AtTTT, ttt)
	s.Batch.End(data)
	var b bytes.Buffer
	_ = s.Batch.Flush(&b) // a Buffer takes everything
	return b.Bytes()
}

// manage sends a task management function and returns its response.
func manage(t *testing.T, s *iscsitest.Session, f iscsi.TaskFunction, ref uint32) {
	t.Helper()
	h := s.Request(iscsi.OpTask, 900)
	h[0] |= iscsi.FlagImmediate
	h[1] |= byte(f)
	h.SetUint32(iscsi.AtReferenced, ref)
	h.SetUint32(iscsi.AtRefCmdSN, s.CmdSN-1)
	must(t, s.SendNow(nil))
}

func managed(t *testing.T, s *iscsitest.Session) iscsi.TaskResponse {
	t.Helper()
	p, _, err := s.Recv()
	must(t, err)
	if p.Opcode() != iscsi.OpTaskResponse {
		t.Fatalf("%v, want the response of a task management function", p.Opcode())
	}
	return iscsi.TaskResponse(p.Header[2])
}

// TestAbort: the response comes when the task has ended in the device. The task
// is not answered to who aborts it; to another it is, as aborted (TAS).
func TestAbort(t *testing.T) {
	for _, f := range []iscsi.TaskFunction{iscsi.AbortTask, iscsi.AbortTaskSet, iscsi.ClearTaskSet, iscsi.LUNReset, iscsi.TargetWarmReset} {
		r := newRig(t, target.Config{}, blocktest.Options{Workers: 1})
		s, other := r.dial(t, iscsitest.Options{}), r.dial(t, iscsitest.Options{ISID: 1})
		r.dev.Stall()
		write := iscsitest.Command{CDB: blocks(scsi.Write10, 0, 1), Flags: iscsi.FlagFinal | iscsi.FlagWrite, EDTL: 512, Data: pattern(512, 1)}
		write.ITT = 70
		must(t, s.Send(write))
		must(t, other.Send(write))
		time.Sleep(50 * time.Millisecond)
		manage(t, s, f, 70)
		must(t, s.Conn.SetReadDeadline(time.Now().Add(100*time.Millisecond)))
		if b := make([]byte, 1); ignore(s.Conn.Read(b)) == nil {
			t.Fatalf("function %d was answered while the task was in the device", f)
		}
		r.dev.Resume()
		if got := managed(t, s); got != iscsi.TaskComplete {
			t.Errorf("function %d: response %d", f, got)
		}
		want, told := scsi.Good, scsi.Code(0)
		switch f {
		case iscsi.ClearTaskSet:
			want = scsi.TaskAborted
		case iscsi.LUNReset, iscsi.TargetWarmReset:
			want, told = scsi.TaskAborted, scsi.BusDeviceReset
		}
		if st, _, _ := outcome(t, other); st != want {
			t.Errorf("function %d: the other initiator's write: %v, want %v", f, st, want)
		}
		if _, sense := run(t, other, iscsitest.Command{CDB: cdb(scsi.TestUnitReady)}); sense.Code != told {
			t.Errorf("function %d: the other initiator is told %v, want %#04x", f, sense, told)
		}
	}
}

func ignore(_ int, err error) error { return err }

// TestAbortWaiting: a command whose data has not come is aborted at once, and
// data that comes for it later is dropped.
func TestAbortWaiting(t *testing.T) {
	r := newRig(t, target.Config{}, blocktest.Options{})
	s := r.dial(t, iscsitest.Options{Keys: iscsi.Text{{Key: "ImmediateData", Value: "No"}}})
	must(t, s.Send(iscsitest.Command{CDB: blocks(scsi.Write10, 0, 1), Flags: iscsi.FlagFinal | iscsi.FlagWrite, EDTL: 512, ITT: 5}))
	p, _, err := s.Recv()
	must(t, err)
	ttt := p.Uint32(iscsi.AtTTT)
	manage(t, s, iscsi.AbortTask, 5)
	if got := managed(t, s); got != iscsi.TaskComplete {
		t.Errorf("response %d", got)
	}
	_, err = s.Conn.Write(pdu(s, ttt, pattern(512, 1)))
	must(t, err)
	if st, _ := run(t, s, iscsitest.Command{CDB: cdb(scsi.TestUnitReady)}); st != scsi.Good {
		t.Errorf("after that: %v", st)
	}
	if n := r.dev.Counts().Writes; n != 0 {
		t.Error("the data of an aborted command was written")
	}
	manage(t, s, iscsi.AbortTask, 1234)
	if got := managed(t, s); got != iscsi.TaskUnknown {
		t.Errorf("a task that does not exist: response %d", got)
	}
}

// TestAbortedByAnother: whatever state a command is in when another initiator
// aborts it, it is answered, once, and nothing of it is written: an initiator
// without a timeout would wait for ever.
func TestAbortedByAnother(t *testing.T) {
	r := newRig(t, target.Config{Limits: target.Limits{InflightBytes: 1}}, blocktest.Options{Workers: 1})
	s := r.dial(t, iscsitest.Options{Keys: iscsi.Text{{Key: "InitialR2T", Value: "No"}}})
	other := r.dial(t, iscsitest.Options{ISID: 1})
	write := iscsitest.Command{CDB: blocks(scsi.Write10, 0, 1), Flags: iscsi.FlagFinal | iscsi.FlagWrite, EDTL: 512, ITT: 4}
	write.Flags = iscsi.FlagWrite // its data comes unsolicited
	must(t, s.Send(write))
	write.ITT, write.Flags = 5, iscsi.FlagFinal|iscsi.FlagWrite // asked for by R2T
	must(t, s.Send(write))
	p, _, err := s.Recv()
	must(t, err)
	write.ITT = 6 // waits for room
	must(t, s.Send(write))
	must(t, s.Send(iscsitest.Command{CDB: cdb(scsi.TestUnitReady), Flags: iscsi.FlagFinal, ITT: 7}))
	if st, _, _ := outcome(t, s); st != scsi.Good {
		t.Fatal(st)
	}
	data := pdu(s, p.Uint32(iscsi.AtTTT), pattern(512, 3))
	_, err = s.Conn.Write(data[:300])
	must(t, err)
	time.Sleep(100 * time.Millisecond) // the reader has the header, and waits for the rest
	manage(t, other, iscsi.LUNReset, 0)
	if got := managed(t, other); got != iscsi.TaskComplete {
		t.Errorf("response %d", got)
	}
	_, err = s.Conn.Write(data[300:])
	must(t, err)
	left := map[uint32]bool{4: true, 5: true, 6: true}
	for len(left) > 0 {
		p, _, err := s.Recv()
		must(t, err)
		if p.Opcode() != iscsi.OpResponse || scsi.Status(p.Header[3]) != scsi.TaskAborted || !left[p.ITT()] {
			t.Fatalf("%v of command %d, status %v", p.Opcode(), p.ITT(), scsi.Status(p.Header[3]))
		}
		delete(left, p.ITT())
	}
	if _, sense := run(t, s, iscsitest.Command{CDB: cdb(scsi.TestUnitReady)}); sense.Code != scsi.BusDeviceReset {
		t.Errorf("then told %v", sense)
	}
	if st, _ := run(t, s, iscsitest.Command{CDB: blocks(scsi.Write10, 0, 1), Flags: iscsi.FlagWrite, EDTL: 512, Data: pattern(512, 1)}); st != scsi.Good {
		t.Errorf("a write after that: %v", st)
	}
	if n := r.dev.Counts().Writes; n != 1 {
		t.Errorf("%d writes, want the last", n)
	}
}

// TestPreempted: a command that PREEMPT AND ABORT ends is answered, and a unit
// attention that it was to be told of is not lost by that.
func TestPreempted(t *testing.T) {
	r := newRig(t, target.Config{}, blocktest.Options{})
	keys := iscsi.Text{{Key: "InitialR2T", Value: "No"}}
	s, loser := r.dial(t, iscsitest.Options{Keys: keys}), r.dial(t, iscsitest.Options{ISID: 1, Keys: keys})
	reserve := func(s *iscsitest.Session, action uint8, l scsi.ReserveOutList) {
		t.Helper()
		c := cdb(scsi.ReserveOut, action, byte(scsi.WriteExclusive), 0, 0, 0, 0, 0, scsi.ReserveOutSize)
		if st, sense := run(t, s, iscsitest.Command{CDB: c, Flags: iscsi.FlagWrite, EDTL: scsi.ReserveOutSize, Data: l.Append(nil)}); st != scsi.Good {
			t.Fatalf("action %d: %v, %v", action, st, sense)
		}
	}
	reserve(s, scsi.PRRegister, scsi.ReserveOutList{ActionKey: 1})
	reserve(loser, scsi.PRRegister, scsi.ReserveOutList{ActionKey: 2})
	write := iscsitest.Command{CDB: blocks(scsi.Write10, 0, 1), Flags: iscsi.FlagWrite, EDTL: 512, ITT: 70} // its data is to come
	take := func() {
		t.Helper()
		must(t, loser.Send(write))
		manage(t, loser, iscsi.AbortTask, 1234) // comes after it
		if got := managed(t, loser); got != iscsi.TaskUnknown {
			t.Errorf("response %d", got)
		}
	}
	take()
	r.dev.Resize(32 << 20)
	r.Resized(nodeName)
	write.ITT = 71 // its data, too, and then it tells of the new size
	take()
	if st, sense := run(t, s, iscsitest.Command{CDB: cdb(scsi.TestUnitReady)}); sense.Code != scsi.CapacityChanged {
		t.Errorf("%v, %v", st, sense)
	}
	reserve(s, scsi.PRPreemptAndAbort, scsi.ReserveOutList{Key: 1, ActionKey: 2})
	for range 2 {
		p, data, err := loser.Recv()
		must(t, err)
		var sense scsi.Sense
		if len(data) > 2 {
			sense, err = scsi.DecodeSense(data[2:])
			must(t, err)
		}
		st := scsi.Status(p.Header[3])
		if p.ITT() == 70 && st != scsi.TaskAborted || p.ITT() == 71 && sense.Code != scsi.CapacityChanged {
			t.Errorf("command %d: %v, %v", p.ITT(), st, sense)
		}
	}
	if st, sense := run(t, loser, iscsitest.Command{CDB: cdb(scsi.TestUnitReady)}); sense.Code != scsi.RegistrationsPreempt {
		t.Errorf("then %v, %v", st, sense)
	}
}

func TestPings(t *testing.T) {
	r := newRig(t, target.Config{Limits: target.Limits{Ping: 300 * time.Millisecond, PingAnswer: 500 * time.Millisecond}}, blocktest.Options{})
	s := r.dial(t, iscsitest.Options{})
	for range 2 {
		p, _, err := s.Recv()
		must(t, err)
		if p.Opcode() != iscsi.OpNopIn || p.ITT() != iscsi.NoTag {
			t.Fatalf("%v, want a ping", p.Opcode())
		}
		h := s.Request(iscsi.OpNopOut, iscsi.NoTag)
		h[0] |= iscsi.FlagImmediate
		h.SetUint32(iscsi.AtTTT, p.Uint32(iscsi.AtTTT))
		must(t, s.SendNow(nil))
	}
	h := s.Request(iscsi.OpNopOut, 33)
	_ = h
	must(t, s.SendNow([]byte("ping data")))
	s.CmdSN++
	p, data, err := s.Recv()
	must(t, err)
	if p.Opcode() != iscsi.OpNopIn || p.ITT() != 33 || string(data) != "ping data" {
		t.Errorf("%v, tag %d, data %q", p.Opcode(), p.ITT(), data)
	}
	if p, _, err = s.Recv(); err != nil || p.Opcode() != iscsi.OpNopIn {
		t.Fatalf("%v, %v", p, err)
	}
	if _, _, err = s.Recv(); err == nil {
		t.Error("a silent initiator stays connected")
	}
}

func TestLogout(t *testing.T) {
	r := newRig(t, target.Config{}, blocktest.Options{})
	s := r.dial(t, iscsitest.Options{})
	s.Request(iscsi.OpLogout, 3)
	must(t, s.SendNow(nil))
	p, _, err := s.Recv()
	if err != nil || p.Opcode() != iscsi.OpLogoutResp || p.Header[2] != 0 {
		t.Errorf("logout: %v, %v", p, err)
	}
	if _, _, err := s.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("after the logout: %v", err)
	}
	eventually(t, "the session ends", func() bool { return len(r.Sessions()) == 0 })
}

// TestLies: what breaks the protocol ends the connection, whatever it claims,
// and says why where there is a way to.
func TestLies(t *testing.T) {
	r := newRig(t, target.Config{}, blocktest.Options{})
	write := func(s *iscsitest.Session, edtl uint32, data []byte) error {
		return s.Send(iscsitest.Command{CDB: blocks(scsi.Write10, 0, 2048), Flags: iscsi.FlagFinal | iscsi.FlagWrite, EDTL: edtl, Data: data, ITT: 5})
	}
	for name, lie := range map[string]func(*iscsitest.Session) error{
		"16 MiB of data": func(s *iscsitest.Session) error {
			_, err := s.Conn.Write(append([]byte{0x01, 0x80, 0, 0, 0, 0xff, 0xff, 0xff}, make([]byte, 40)...))
			return err
		},
		"an opcode of ours": func(s *iscsitest.Session) error {
			_, err := s.Conn.Write(append([]byte{0x21, 0x80}, make([]byte, 46)...))
			return err
		},
		"more data than expected": func(s *iscsitest.Session) error { return write(s, 100, pattern(512, 1)) },
		"more data than the first burst": func(s *iscsitest.Session) error {
			return write(s, 1<<20, pattern(128<<10, 1))
		},
		"data without a write": func(s *iscsitest.Session) error {
			return s.Send(iscsitest.Command{CDB: cdb(scsi.TestUnitReady), Flags: iscsi.FlagFinal, EDTL: 512, Data: pattern(512, 1), ITT: 5})
		},
		"a command is missing": func(s *iscsitest.Session) error {
			s.CmdSN += 3
			return s.Send(iscsitest.Command{CDB: cdb(scsi.TestUnitReady), Flags: iscsi.FlagFinal, ITT: 5})
		},
		"a login in the session": func(s *iscsitest.Session) error { s.Request(iscsi.OpLogin, 5); return s.SendNow(nil) },
		"a SNACK":                func(s *iscsitest.Session) error { s.Request(iscsi.OpSNACK, 5); return s.SendNow(nil) },
		"text of no form":        func(s *iscsitest.Session) error { s.Request(iscsi.OpText, 5); return s.SendNow([]byte("nonsense")) },
	} {
		t.Run(name, func(t *testing.T) {
			s := r.dial(t, iscsitest.Options{})
			must(t, lie(s))
			for n := 0; ; n++ {
				p, _, err := s.Recv()
				if err != nil {
					return
				}
				if p.Opcode() != iscsi.OpReject || n > 0 {
					t.Fatalf("%v, want a reject and the end of the connection", p.Opcode())
				}
			}
		})
	}
}

// TestOutsideOfTheWindow: such commands are ignored, and the session goes on.
func TestOutsideOfTheWindow(t *testing.T) {
	r := newRig(t, target.Config{Limits: target.Limits{QueueDepth: 4}}, blocktest.Options{})
	s := r.dial(t, iscsitest.Options{})
	good := s.CmdSN
	for _, sn := range []uint32{good - 1, good + 4, good + 1<<31} {
		s.CmdSN = sn
		must(t, s.Send(iscsitest.Command{CDB: blocks(scsi.Write10, 0, 1), Flags: iscsi.FlagFinal | iscsi.FlagWrite, EDTL: 512, Data: pattern(512, 1), ITT: 5}))
	}
	s.CmdSN = good
	if st, _ := run(t, s, iscsitest.Command{CDB: cdb(scsi.TestUnitReady)}); st != scsi.Good {
		t.Error(st)
	}
	if n := r.dev.Counts().Writes; n != 0 {
		t.Errorf("%d writes from outside of the window were executed", n)
	}
}

// TestFlood: an initiator that fills the window with large writes and sends no
// data, or with large reads and reads nothing, costs bounded memory.
func TestFlood(t *testing.T) {
	lim := target.Limits{InflightBytes: 2 << 20, WriteStall: time.Second, QueueDepth: 64}
	r := newRig(t, target.Config{Limits: lim}, blocktest.Options{})
	s := r.dial(t, iscsitest.Options{Keys: iscsi.Text{{Key: "ImmediateData", Value: "No"}}})
	for i := range uint32(64) {
		must(t, s.Send(iscsitest.Command{CDB: blocks(scsi.Write10, 0, 2048), Flags: iscsi.FlagFinal | iscsi.FlagWrite, EDTL: 1 << 20, ITT: 1000 + i}))
	}
	for range 2 {
		p, _, err := s.Recv()
		must(t, err)
		if p.Opcode() != iscsi.OpR2T {
			t.Fatal(p.Opcode())
		}
	}
	must(t, s.Conn.SetReadDeadline(time.Now().Add(200*time.Millisecond)))
	if ignore(s.Conn.Read(make([]byte, 1))) == nil {
		t.Error("more data was asked for than there is room")
	}
	s = r.dial(t, iscsitest.Options{ISID: 1})
	for i := range uint32(64) {
		must(t, s.Send(iscsitest.Command{CDB: blocks(scsi.Read10, 0, 2048), Flags: iscsi.FlagFinal | iscsi.FlagRead, EDTL: 1 << 20, ITT: 1000 + i}))
	}
	eventually(t, "who reads nothing is dropped", func() bool { return len(r.Sessions()) == 1 })
	if n := r.dev.Counts().Reads; n > 8 {
		t.Errorf("%d MiB were read for an initiator that reads nothing", n)
	}
}

// TestImmediateRequestsAreBounded: commands for immediate delivery do not wait
// for the window, so there is a bound of their own.
func TestImmediateRequestsAreBounded(t *testing.T) {
	r := newRig(t, target.Config{Limits: target.Limits{QueueDepth: 4}}, blocktest.Options{Workers: 1})
	s := r.dial(t, iscsitest.Options{})
	r.dev.Stall()
	var sent int
	for sent = 0; sent < 100; sent++ {
		if err := s.Send(iscsitest.Command{CDB: blocks(scsi.Read10, 0, 1), Flags: iscsi.FlagFinal | iscsi.FlagRead, EDTL: 512, ITT: uint32(sent), Hold: true}); err != nil {
			break
		}
	}
	p, _, err := s.Recv()
	if err != nil || p.Opcode() != iscsi.OpReject || iscsi.Reason(p.Header[2]) != iscsi.ReasonNoResources {
		t.Errorf("%d immediate commands: %v, %v", sent, p, err)
	}
	r.dev.Resume()
}

// TestResize: the next command learns of a new size.
func TestResize(t *testing.T) {
	r := newRig(t, target.Config{}, blocktest.Options{})
	s := r.dial(t, iscsitest.Options{})
	r.dev.Resize(32 << 20)
	r.Resized(nodeName)
	if st, sense := run(t, s, iscsitest.Command{CDB: cdb(scsi.TestUnitReady)}); st != scsi.CheckCondition || sense.Code != scsi.CapacityChanged {
		t.Errorf("%v, %v", st, sense)
	}
	must(t, s.Send(iscsitest.Command{CDB: cdb(scsi.ReadCapacity10), Flags: iscsi.FlagFinal | iscsi.FlagRead, EDTL: 8, ITT: 3}))
	_, _, in := outcome(t, s)
	if last := binary.BigEndian.Uint32(in); last != 32<<20/512-1 {
		t.Errorf("last LBA %d", last)
	}
}

// TestRoomOfTheAborted: the room of a command that is aborted while its data
// comes goes to those that wait for it, without anything else having to happen.
func TestRoomOfTheAborted(t *testing.T) {
	dev := blocktest.NewMemory(blocktest.Options{})
	defer dev.Close()
	r := newRig(t, target.Config{Limits: target.Limits{InflightBytes: 1}}, blocktest.Options{})
	const twoUnits = nodeName + ":two"
	must(t, r.AddNode(target.Node{Name: twoUnits, Units: []target.Unit{{Device: r.dev, UUID: [16]byte{8}}, {LUN: 1, Device: dev, UUID: [16]byte{9}}}}))
	s := r.dial(t, iscsitest.Options{Node: twoUnits, Keys: iscsi.Text{{Key: "ImmediateData", Value: "No"}}})
	if st, _ := run(t, s, iscsitest.Command{CDB: cdb(scsi.TestUnitReady), LUN: 1}); st != scsi.CheckCondition {
		t.Fatalf("first command of LUN 1: %v", st)
	}
	other := r.dial(t, iscsitest.Options{Node: twoUnits, ISID: 1})
	must(t, s.Send(iscsitest.Command{CDB: blocks(scsi.Write10, 0, 1), Flags: iscsi.FlagFinal | iscsi.FlagWrite, EDTL: 512, ITT: 5}))
	p, _, err := s.Recv()
	must(t, err)
	data := pdu(s, p.Uint32(iscsi.AtTTT), pattern(512, 3))
	must(t, s.Send(iscsitest.Command{CDB: blocks(scsi.Read10, 0, 1), LUN: 1, Flags: iscsi.FlagFinal | iscsi.FlagRead, EDTL: 512, ITT: 6}))
	_, err = s.Conn.Write(data[:300])
	must(t, err)
	time.Sleep(100 * time.Millisecond) // the reader has the header, and waits for the rest
	manage(t, other, iscsi.ClearTaskSet, 0)
	if got := managed(t, other); got != iscsi.TaskComplete {
		t.Errorf("response %d", got)
	}
	time.Sleep(100 * time.Millisecond)
	_, err = s.Conn.Write(data[300:])
	must(t, err)
	if st, _, _ := outcome(t, s); st != scsi.TaskAborted {
		t.Errorf("the write that was aborted: %v", st)
	}
	if st, sense, in := outcome(t, s); st != scsi.Good || len(in) != 512 {
		t.Errorf("the read that waited: %v, %v", st, sense)
	}
}
