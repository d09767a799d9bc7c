package target_test

import (
	"bytes"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cask-storage/cask/pkg/block/blocktest"
	"github.com/cask-storage/cask/pkg/iscsi"
	"github.com/cask-storage/cask/pkg/iscsi/iscsitest"
	"github.com/cask-storage/cask/pkg/iscsi/target"
	"github.com/cask-storage/cask/pkg/scsi"
)

// TestResetUnderLoad clears the task set of one initiator from another, at any
// moment of its writes: while their data comes, waits for room or is in the
// device. The slots and buffers of those writes serve the next ones, so one
// given back twice, or while it is filled, would show in what is on the disk;
// one not given back, in the window. Each write is answered once.
func TestResetUnderLoad(t *testing.T) {
	const size, depth = 96 << 10, 16 // more than a first burst
	r := newRig(t, target.Config{Logf: t.Logf, Limits: target.Limits{InflightBytes: 128 << 10, QueueDepth: depth}}, blocktest.Options{Workers: 2})
	keys := iscsi.Text{{Key: "InitialR2T", Value: "No"}, {Key: "FirstBurstLength", Value: "16384"}}
	w, other := writer{r.dial(t, iscsitest.Options{Keys: keys}), map[uint32]int{}}, r.dial(t, iscsitest.Options{ISID: 1})
	var done atomic.Bool
	ended := make(chan struct{})
	go func() { // ends when done; the test waits for ended
		defer close(ended)
		for !done.Load() {
			h := other.Request(iscsi.OpTask, 900)
			h[0] |= iscsi.FlagImmediate
			h[1] |= byte(iscsi.ClearTaskSet)
			if err := other.SendNow(nil); err != nil {
				t.Error(err)
				return
			}
			if p, _, err := other.Recv(); err != nil || p.Opcode() != iscsi.OpTaskResponse {
				t.Errorf("CLEAR TASK SET: %v, %v", p, err)
				return
			}
		}
	}()
	t.Cleanup(func() { done.Store(true); <-ended })
	for i := range uint32(480) {
		w.serve(t, func() bool { return w.Room() > 0 })
		must(t, w.Send(iscsitest.Command{CDB: blocks(scsi.Write16, uint64(i%8)*size/512, size/512),
			Flags: iscsi.FlagFinal | iscsi.FlagWrite, EDTL: size, ITT: i, Data: bytes.Repeat([]byte{seed(i)}, 8192)}))
	}
	done.Store(true)
	<-ended
	end := time.Now().Add(10 * time.Second)
	w.serve(t, func() bool { return w.Room() == depth && len(w.answers) == 480 || time.Now().After(end) })
	for i := range uint32(480) {
		if n := w.answers[i]; n != 1 {
			t.Errorf("write %d was answered %d times", i, n)
		}
	}
	got := make([]byte, size)
	for i := range uint32(8) {
		for off := uint64(0); off < size; off += 512 {
			b := got[off:][:512]
			must(t, blocktest.Read(r.dev, uint64(i)*size+off, b))
			if !bytes.Equal(b, bytes.Repeat(b[:1], 512)) || b[0] != 0 && uint32(b[0]-1)/31 != i {
				t.Fatalf("the block at %d of extent %d is of two writes or of another extent: %x and %x", off, i, b[0], b[511])
			}
		}
	}
	for range depth { // what cleared means comes first, once
		if st, _ := run(t, w.Session, iscsitest.Command{CDB: cdb(scsi.TestUnitReady)}); st == scsi.Good {
			return
		}
	}
	t.Error("at the end, the unit is not ready")
}

// seed is what a write with this tag fills its blocks with: it tells the
// extent, too.
func seed(itt uint32) byte { return byte(itt%8*31+itt/8%31) + 1 }

// writer sends writes and their data, ping by ping.
type writer struct {
	*iscsitest.Session
	answers map[uint32]int // by tag
}

// serve answers R2Ts until ok says so. Its pings are how it is told of places
// in the window that commands had which are not answered.
func (w writer) serve(t *testing.T, ok func() bool) {
	t.Helper()
	const ping = 1 << 30
	for first := true; first || !ok(); first = false {
		h := w.Request(iscsi.OpNopOut, ping)
		h[0] |= iscsi.FlagImmediate
		must(t, w.SendNow(nil))
		for pong := false; !pong; {
			p, _, err := w.Recv()
			must(t, err)
			switch p.Opcode() {
			case iscsi.OpNopIn:
				pong = true
			case iscsi.OpR2T:
				w.data(t, p)
			case iscsi.OpResponse:
				w.answers[p.ITT()]++
			default:
				t.Fatalf("%v while writing", p.Opcode())
			}
		}
	}
}

// data answers an R2T.
func (w writer) data(t *testing.T, p *iscsi.PDU) {
	t.Helper()
	itt, n := p.ITT(), p.Uint32(iscsi.AtLength)
	h := w.Batch.Begin(iscsi.OpDataOut)
	h[1] = iscsi.FlagFinal
	h.SetITT(itt)
	h.SetUint32(iscsi.AtTTT, p.Uint32(iscsi.AtTTT))
	h.SetUint32(iscsi.AtOffset, p.Uint32(iscsi.AtOffset))
	w.Batch.End(bytes.Repeat([]byte{seed(itt)}, int(n)))
	must(t, w.Batch.Flush(w.Conn))
}
