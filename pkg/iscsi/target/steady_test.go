package target_test

import (
	"encoding/binary"
	"io"
	"net"
	"runtime"
	"testing"
	"time"

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
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	held := make([]net.Conn, 0, n)
	for i := range n {
		s, err := iscsitest.Dial(iscsitest.Options{Addr: r.addr, Node: nodeName, ISID: byte(i)})
		must(t, err)
		held = append(held, s.Conn)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	per := (int64(after.HeapAlloc+after.StackInuse) - int64(before.HeapAlloc+before.StackInuse)) / n
	t.Logf("%d bytes for an idle session", per)
	if per > 128<<10 {
		t.Errorf("%d bytes for an idle session", per)
	}
	for _, c := range held {
		c.Close()
	}
}
