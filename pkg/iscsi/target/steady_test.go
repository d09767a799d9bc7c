package target_test

import (
	"encoding/binary"
	"io"
	"net"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/cask-storage/cask/pkg/accept/accepttest"
	"github.com/cask-storage/cask/pkg/block/blocktest"
	"github.com/cask-storage/cask/pkg/iscsi"
	"github.com/cask-storage/cask/pkg/iscsi/iscsitest"
	"github.com/cask-storage/cask/pkg/iscsi/target"
	"github.com/cask-storage/cask/pkg/scsi"
)

// TestSteadyState: a read and a write allocate nothing.
func TestSteadyState(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector makes pools lose buffers")
	}
	for name, c := range map[string]struct {
		cdb    []byte
		flags  uint8
		out    int
		answer int // bytes
	}{
		"read 4k":  {blocks(scsi.Read16, 0, 8), iscsi.FlagRead, 0, iscsi.HeaderSize + 4096},
		"write 4k": {blocks(scsi.Write16, 0, 8), iscsi.FlagWrite, 4096, iscsi.HeaderSize},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, target.Config{}, blocktest.Options{})
			s := r.dial(t, iscsitest.Options{})
			h := s.Batch.Begin(iscsi.OpCommand)
			h[1] = iscsi.FlagFinal | c.flags
			h.SetUint32(iscsi.AtExpectedLen, 4096)
			copy(h[iscsi.AtCDB:], c.cdb)
			s.Batch.End(make([]byte, c.out))
			var wire sink
			must(t, s.Batch.Flush(&wire))
			answer := make([]byte, c.answer)
			sn := s.CmdSN
			loop := func(n int) {
				for range n {
					binary.BigEndian.PutUint32(wire.b[16:], sn)
					binary.BigEndian.PutUint32(wire.b[iscsi.AtCmdSN:], sn)
					sn++
					if _, err := s.Conn.Write(wire.b); err != nil {
						t.Fatal(err)
					}
					if _, err := io.ReadFull(s.Conn, answer); err != nil {
						t.Fatal(err)
					}
				}
			}
			must(t, s.Conn.SetDeadline(time.Now().Add(time.Minute)))
			loop(200)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			const n = 2000
			loop(n)
			runtime.ReadMemStats(&after)
			// The watch over all connections allocates a little, four times
			// a second; a pool loses buffers to the garbage collector.
			if per := float64(after.Mallocs-before.Mallocs) / n; per > 0.1 {
				t.Errorf("%.2f allocations for each command", per)
			}
		})
	}
}

// sink keeps what is written to it.
type sink struct{ b []byte }

func (s *sink) Write(b []byte) (int, error) {
	s.b = append(s.b, b...)
	return len(b), nil
}

// TestIdleMemory: what a session that does nothing costs.
func TestIdleMemory(t *testing.T) {
	const n = 100
	r := newRig(t, target.Config{Limits: target.Limits{Connections: n, Sessions: n}}, blocktest.Options{})
	accepttest.Idle(t, n, 128<<10, func(i int) net.Conn {
		s, err := iscsitest.Dial(iscsitest.Options{Addr: r.addr, Node: nodeName, ISID: byte(i)})
		must(t, err)
		return s.Conn
	})
}

// TestStrangers: ten thousand connections that say nothing, half of something,
// or lie about a length cost bounded memory, and an initiator still gets in.
func TestStrangers(t *testing.T) {
	const most = 128
	r := newRig(t, target.Config{Limits: target.Limits{Connections: most}}, blocktest.Options{})
	login := make([]byte, iscsi.HeaderSize)
	login[0], login[1] = byte(iscsi.OpLogin)|iscsi.FlagImmediate, 0x87
	long := slices.Clone(login)
	long[5], long[6], long[7] = 0xff, 0xff, 0xff // 16 MiB of text
	some := slices.Clone(login)
	some[6] = 0x20 // 8 KiB of text, of which nothing comes
	accepttest.Flood{Addr: r.addr, Openings: [][]byte{nil, login[:20], long, some, []byte("GET / HTTP/1.1\r\n\r\n")},
		PerConn: 64 << 10, Most: most + most/4 + 1}.Run(t)
	eventually(t, "an initiator gets in", func() bool {
		s, err := iscsitest.Dial(iscsitest.Options{Addr: r.addr, Node: nodeName})
		if err != nil {
			return false
		}
		return s.Conn.Close() == nil
	})
}

// TestDiscoveriesGiveWay: discovery asks nobody who he is, so sessions of it do
// not keep initiators out, however long they stay.
func TestDiscoveriesGiveWay(t *testing.T) {
	const most = 4
	r := newRig(t, target.Config{Limits: target.Limits{Connections: most}}, blocktest.Options{})
	for range most {
		s, err := iscsitest.Dial(iscsitest.Options{Addr: r.addr})
		must(t, err)
		defer s.Conn.Close()
	}
	for i := range most {
		r.dial(t, iscsitest.Options{ISID: byte(i)})
	}
	if s, err := iscsitest.Dial(iscsitest.Options{Addr: r.addr}); err == nil {
		s.Conn.Close()
		t.Error("a session gave way to a discovery")
	}
}
