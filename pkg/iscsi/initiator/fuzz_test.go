package initiator

import (
	"bytes"
	"io"
	"net"
	"sync/atomic"
	"testing"

	"github.com/cask-storage/cask/pkg/iscsi"
	"github.com/cask-storage/cask/pkg/scsi"
)

// answers is a target that says what it has prepared, whatever it is asked.
type answers struct{ bytes.Buffer }

func (*answers) Write(b []byte) (int, error) { return len(b), nil }

// add appends a PDU.
func (a *answers) add(o iscsi.Opcode, set func(h *iscsi.Header), data []byte) {
	b := iscsi.NewBatch()
	h := b.Begin(o)
	set(h)
	b.End(data)
	_ = b.Flush(&a.Buffer) // a Buffer takes everything
}

// scripted makes the answers of a login: each three bytes of flags, status class
// and length, then text.
func scripted(in []byte) *answers {
	a := new(answers)
	for sn := uint32(0); len(in) >= 3; sn++ {
		flags, status, n := in[0], in[1], min(int(in[2]), len(in)-3)
		a.add(iscsi.OpLoginResp, func(h *iscsi.Header) {
			h[1] = flags
			h[iscsi.AtLoginStatus] = status
			h.SetUint32(iscsi.AtStatSN, sn)
		}, in[3:][:n])
		in = in[3+n:]
	}
	return a
}

// TestStages: an answer must be of the stage that was asked for, and go to no
// other than the next one asked for.
func TestStages(t *testing.T) {
	for name, flags := range map[string]byte{"right": 0x87, "of the stage before": 0x83, "to the stage asked in": 0x85} {
		cfg := Config{Initiator: "iqn.i"}
		cfg.setDefaults()
		err := newLogin(&cfg, scripted([]byte{flags, 0, 0})).run("iqn.x")
		if (err == nil) != (name == "right") {
			t.Errorf("an answer %s: %v", name, err)
		}
	}
}

// FuzzLogin: whatever a target answers, a login ends with usable parameters or
// an error, and a target that has to prove itself is not believed.
func FuzzLogin(f *testing.F) {
	add := func(parts ...string) {
		var b []byte
		for i := 0; i < len(parts); i += 2 {
			b = append(b, parts[i][0], 0, byte(len(parts[i+1])))
			b = append(b, parts[i+1]...)
		}
		for mode := range byte(3) {
			f.Add(b, mode)
		}
	}
	add("\x87", "HeaderDigest=None\x00DataDigest=CRC32C\x00InitialR2T=No\x00FirstBurstLength=512\x00")
	add("\x81", "AuthMethod=CHAP\x00", "\x00", "CHAP_A=7\x00CHAP_I=1\x00CHAP_C=0x0102030405060708\x00",
		"\x81", "CHAP_N=t\x00CHAP_R=0x00\x00", "\x87", "MaxRecvDataSegmentLength=8192\x00")
	add("\x81", "AuthMethod=None\x00", "\x44", "MaxBurst", "\x87", "Length=512\x00")
	f.Fuzz(func(t *testing.T, in []byte, mode byte) {
		cfg := Config{Initiator: "iqn.i", DataDigest: mode&4 != 0}
		switch mode & 3 {
		case 1:
			cfg.Secrets = Secrets{User: "u", Secret: "nobody guesses this secret"}
		case 2:
			cfg.Secrets = Secrets{User: "u", Secret: "nobody guesses this secret", MutualUser: "t", MutualSecret: "nor this one"}
		}
		cfg.setDefaults()
		l := newLogin(&cfg, scripted(in))
		if err := l.run("iqn.x"); err != nil {
			return
		}
		if cfg.Secrets.MutualSecret != "" {
			t.Fatal("the target has proven nothing")
		}
		if l.segment < 512 || l.segment >= 1<<24 || l.firstBurst < 512 || l.firstBurst > burstSize || l.digests.Data && !cfg.DataDigest || l.digests.Header {
			t.Fatalf("negotiated %+v", l.params)
		}
	})
}

// FuzzSession: whatever a target sends while commands are outstanding, the session
// ends when the connection does, and each command ends once or is given back.
func FuzzSession(f *testing.F) {
	add := func(o iscsi.Opcode, set func(h *iscsi.Header), data []byte) {
		var a answers
		a.add(o, set, data)
		f.Add(a.Bytes())
	}
	status := func(h *iscsi.Header) { h[1] = iscsi.FlagFinal }
	add(iscsi.OpResponse, status, nil)
	add(iscsi.OpResponse, func(h *iscsi.Header) { h[1], h[3] = iscsi.FlagFinal, byte(scsi.CheckCondition) },
		append([]byte{0, 18}, scsi.Sense{Key: scsi.UnitAttention}.Append(nil, scsi.FixedSense)...))
	add(iscsi.OpDataIn, func(h *iscsi.Header) { h[1] = iscsi.FlagFinal | iscsi.FlagStatus }, make([]byte, 512))
	add(iscsi.OpR2T, func(h *iscsi.Header) { h.SetITT(1); h.SetUint32(iscsi.AtLength, 4096) }, nil)
	add(iscsi.OpNopIn, func(h *iscsi.Header) { h.SetITT(iscsi.NoTag) }, []byte("ping"))
	add(iscsi.OpAsync, status, nil)
	add(iscsi.OpLogoutResp, status, nil)
	cfg := Config{Addr: "x", Target: "iqn.x", Initiator: "iqn.i", Depth: 2}
	cfg.setDefaults()
	f.Fuzz(func(t *testing.T, in []byte) {
		ours, theirs := net.Pipe()
		l := newLogin(&cfg, ours)
		l.maxCmdSN = 8
		s := start(&cfg, ours, l)
		var ends [2]atomic.Int32
		for i, size := range []uint32{512, 4096} {
			c := &command{size: size, read: i == 0, bufs: [][]byte{make([]byte, size)}, done: func(*command, outcome) { ends[i].Add(1) }}
			if !s.submit(c) {
				t.Fatal("a session that has just begun is dead")
			}
		}
		sent := make([]byte, 2*iscsi.HeaderSize)
		if _, err := io.ReadFull(theirs, sent); err != nil {
			t.Fatal(err)
		}
		go func() { _, _ = io.Copy(io.Discard, theirs) }() // ends with the pipe
		_, _ = theirs.Write(in)
		_ = theirs.Close()
		<-s.broken
		s.Close()
		for i := range ends {
			kept := 0
			for _, c := range append(s.table, s.backlog...) {
				if c != nil && c.size == []uint32{512, 4096}[i] {
					kept++
				}
			}
			if n := int(ends[i].Load()); n+kept != 1 {
				t.Fatalf("command %d has ended %d times and is outstanding %d times", i, n, kept)
			}
		}
	})
}
