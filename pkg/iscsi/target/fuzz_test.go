package target

import (
	"bytes"
	"context"
	"io"
	"net"
	"testing"
	"time"

	"github.com/cask-storage/cask/pkg/block/blocktest"
	"github.com/cask-storage/cask/pkg/iscsi"
)

// outsider is the world of a fuzzed login.
type outsider struct{ auth *Auth }

func (outsider) admit(_, node string) iscsi.LoginStatus {
	if node == "iqn.x" {
		return iscsi.LoginSuccess
	}
	return iscsi.LoginNotFound
}
func (o outsider) credentials(string, string) (*Auth, error) { return o.auth, nil }
func (outsider) random(b []byte)                             { clear(b) }
func (outsider) alias(string) string                         { return "" }
func (outsider) tsih(uint16) iscsi.LoginStatus               { return iscsi.LoginNoSession }

// FuzzLogin drives the login state machine with any sequence of requests, each
// two bytes of flags and length, then text. Nobody gets in without proof.
func FuzzLogin(f *testing.F) {
	text := "InitiatorName=iqn.i\x00TargetName=iqn.x\x00"
	add := func(parts ...string) {
		var b []byte
		for i := 0; i < len(parts); i += 2 {
			b = append(b, parts[i][0], byte(len(parts[i+1])))
			b = append(b, parts[i+1]...)
		}
		f.Add(b, true)
		f.Add(b, false)
	}
	add("\x87", text+"HeaderDigest=CRC32C\x00")
	add("\x81", text+"AuthMethod=CHAP\x00", "\x81", "CHAP_A=5\x00", "\x81", "CHAP_N=u\x00CHAP_R=0x00\x00", "\x87", "MaxBurstLength=512\x00")
	add("\x44", text, "\x87", "InitialR2T=No\x00")
	f.Fuzz(func(t *testing.T, in []byte, secured bool) {
		lim := Limits{}
		lim.setDefaults()
		var auth *Auth
		if secured {
			auth = &Auth{User: "u", Secret: "nobody guesses this secret", MutualUser: "t", MutualSecret: "nor this one"}
		}
		l := newLogin(outsider{auth}, lim)
		for len(in) >= 2 {
			var h iscsi.Header
			h.SetOpcode(iscsi.OpLogin)
			h[1] = in[0]
			n := min(int(in[1]), len(in)-2)
			data := in[2:][:n]
			in = in[2+n:]
			a, err := l.step(&h, data)
			if err != nil {
				if a.status == iscsi.LoginSuccess {
					t.Fatalf("refused with status 0: %v", err)
				}
				return
			}
			if len(l.text) > maxText || len(l.seen) > 128*maxLoginSteps {
				t.Fatal("the login holds too much")
			}
			if a.done {
				if secured {
					t.Fatal("logged in without proof")
				}
				p := l.neg.params
				if p.segment < 512 || p.maxBurst < 512 || p.firstBurst > p.maxBurst || int(p.maxBurst) > lim.MaxBurst || int(p.firstBurst) > lim.FirstBurst {
					t.Fatalf("negotiated %+v", p)
				}
				return
			}
		}
	})
}

// FuzzConnection feeds bytes to a session in the full feature phase, in the
// middle of a write: whatever comes, the connection ends when the peer's does,
// and all memory is given back.
func FuzzConnection(f *testing.F) {
	add := func(build func(b *iscsi.Batch)) {
		b := iscsi.NewBatch()
		build(b)
		var wire bytes.Buffer
		_ = b.Flush(&wire) // a Buffer takes everything
		f.Add(wire.Bytes())
	}
	for _, o := range []iscsi.Opcode{iscsi.OpNopOut, iscsi.OpText, iscsi.OpLogout, iscsi.OpTask, iscsi.OpDataOut, iscsi.OpSNACK, iscsi.OpLogin} {
		add(func(b *iscsi.Batch) {
			h := b.Begin(o)
			h[1] = iscsi.FlagFinal | 1
			h.SetUint32(iscsi.AtCmdSN, 2)
			h.SetUint32(iscsi.AtReferenced, 1)
			b.End([]byte("SendTargets=All\x00"))
		})
	}
	add(func(b *iscsi.Batch) {
		for sn, c := range [][]byte{{0x2a, 0, 0, 0, 0, 0, 0, 0, 1}, {0x28, 0, 0, 0, 0, 0, 0, 0, 1}, {0x12, 1, 0x83, 0, 255}, {0x5f, 6, 0, 0, 0, 0, 0, 0, 24}} {
			h := b.Begin(iscsi.OpCommand)
			h[1] = iscsi.FlagFinal | iscsi.FlagWrite
			h.SetITT(uint32(sn + 2))
			h.SetUint32(iscsi.AtExpectedLen, 512)
			h.SetUint32(iscsi.AtCmdSN, uint32(sn+2))
			copy(h[iscsi.AtCDB:], c)
			b.End(make([]byte, 512))
		}
	})
	tg, err := New(Config{})
	if err != nil {
		f.Fatal(err)
	}
	dev := blocktest.NewMemory(blocktest.Options{})
	if err := tg.AddNode(Node{Name: "iqn.x", Units: []Unit{{Device: dev, UUID: [16]byte{1}}}}); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, in []byte) { attack(t, tg, in) })
}

// attack logs in, sends a write that waits for its data, then in.
func attack(t *testing.T, tg *Target, in []byte) {
	client, server := net.Pipe()
	c := newConn(tg, server)
	ended := make(chan struct{})
	go func() { // ends when both ends of the pipe are closed
		defer close(ended)
		c.serve(context.Background())
	}()
	drained := make(chan struct{})
	go func() { // likewise
		defer close(drained)
		_, _ = io.Copy(io.Discard, client)
	}()
	b := iscsi.NewBatch()
	h := b.Begin(iscsi.OpLogin)
	h[0] |= iscsi.FlagImmediate
	h[1] = 0x87
	h.SetUint32(iscsi.AtCmdSN, 1)
	b.End([]byte("InitiatorName=iqn.i\x00TargetName=iqn.x\x00"))
	h = b.Begin(iscsi.OpCommand)
	h[1] = iscsi.FlagFinal | iscsi.FlagWrite
	h.SetITT(1)
	h.SetUint32(iscsi.AtExpectedLen, 4096)
	h.SetUint32(iscsi.AtCmdSN, 1)
	h[iscsi.AtCDB], h[iscsi.AtCDB+8] = 0x2a, 8
	b.End(nil)
	_ = b.Flush(client)
	_, _ = client.Write(in)
	_ = client.Close()
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		t.Fatal("the connection does not end")
	}
	<-drained
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, cmd := range c.slots {
		if cmd.state == running || cmd.task.In != nil && cmd.state == idle {
			t.Fatalf("slot %d is in state %d", cmd.slot, cmd.state)
		}
	}
	if c.bytes < 0 || c.busy < 0 {
		t.Fatalf("%d bytes, %d busy", c.bytes, c.busy)
	}
}
