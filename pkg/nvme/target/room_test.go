package target

import (
	"testing"
	"time"
	"unsafe"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/block/blocktest"
	"github.com/cask-storage/cask/pkg/nvme"
	"github.com/cask-storage/cask/pkg/nvme/tcp"
)

// TestTotalBytes: beyond the bound for all, each connection holds the data of
// one command, and everything is answered in the end.
func TestTotalBytes(t *testing.T) {
	const transfer, hosts, commands = 64 << 10, 3, 8
	mem := blocktest.NewMemory(blocktest.Options{Geometry: block.Geometry{Size: 1 << 20}, Workers: 1})
	defer mem.Close()
	tgt, p := servePipes(t, mem, Config{Limits: Limits{MaxTransfer: transfer, InflightBytes: 4 * transfer, TotalBytes: transfer}})
	mem.Stall()
	var all []*client
	for h := range hosts {
		d := nvme.ConnectData{HostID: nvme.UUID{1, byte(h)}, CNTLID: nvme.CNTLIDDynamic, SubNQN: fuzzNQN, HostNQN: "nqn.room"}
		a, b := &client{nc: p.dial(), b: tcp.NewBatch()}, &client{nc: p.dial(), b: tcp.NewBatch()}
		defer a.nc.Close()
		defer b.nc.Close()
		id, err := a.connect(0, nvme.ConnectParams{QueueDepth: 16}, d)
		if err != nil {
			t.Fatal(err)
		}
		d.CNTLID = nvme.CNTLID(id)
		if _, err := b.connect(0, nvme.ConnectParams{QID: 1, QueueDepth: 16}, d); err != nil {
			t.Fatal(err)
		}
		for i := range commands {
			var c nvme.Command
			c.SetOpcode(nvme.OpRead)
			c.SetCID(nvme.CID(i))
			c.SetNSID(1)
			c.SetRange(0, transfer/512)
			c.SetSGL(nvme.SGL{Type: nvme.SGLTransport, Len: transfer})
			b.b.Command((*[64]byte)(&c), nil)
		}
		if err := b.b.Flush(b.nc); err != nil {
			t.Fatal(err)
		}
		all = append(all, b)
	}
	for start := time.Now(); tgt.held.Load() < hosts*transfer && time.Since(start) < 5*time.Second; time.Sleep(time.Millisecond) {
	}
	time.Sleep(50 * time.Millisecond)
	if n := tgt.held.Load(); n != hosts*transfer {
		t.Errorf("%d bytes are held, want %d", n, hosts*transfer)
	}
	mem.Resume()
	for _, c := range all {
		_ = c.nc.SetDeadline(time.Now().Add(10 * time.Second))
		rd := tcp.NewReader(c.nc, tcp.Options{Role: tcp.Host, MaxData: transfer})
		for done := 0; done < commands; {
			pdu, err := rd.Next()
			if err != nil {
				t.Fatal(err)
			}
			if pdu.Type == tcp.TypeCapsuleResp {
				done++
			}
		}
	}
	for start := time.Now(); tgt.held.Load() != 0; time.Sleep(time.Millisecond) {
		if time.Since(start) > 5*time.Second {
			t.Fatalf("%d bytes are held in the end", tgt.held.Load())
		}
	}
}

// TestClockStep: a clock that is set ends no association, and keeps none.
func TestClockStep(t *testing.T) {
	mem := blocktest.NewMemory(blocktest.Options{})
	defer mem.Close()
	tgt, p := servePipes(t, mem, Config{})
	a := &client{nc: p.dial(), b: tcp.NewBatch()}
	defer a.nc.Close()
	d := nvme.ConnectData{HostID: nvme.UUID{1}, CNTLID: nvme.CNTLIDDynamic, SubNQN: fuzzNQN, HostNQN: "nqn.clock"}
	if _, err := a.connect(0, nvme.ConnectParams{QueueDepth: 16, KATO: 5000}, d); err != nil {
		t.Fatal(err)
	}
	ctrl := tgt.lookup(fuzzNQN).controllersMatching(nil)[0]
	ctrl.mu.Lock()
	ctrl.cc = nvme.CCEnable
	ctrl.mu.Unlock()
	begin := time.Now()
	set := begin
	*(*uint64)(unsafe.Pointer(&set)) += 3600 << 30 // the wall clock's seconds
	if set.Unix()-begin.Unix() != 3600 || set.Sub(begin) != 0 {
		t.Skip("a time.Time is laid out otherwise")
	}
	tgt.enforce(set, []*conn{ctrl.adminConn})
	if !ctrl.alive() {
		t.Error("ended by a clock that was set")
	}
	tgt.enforce(begin.Add(6*time.Second), []*conn{ctrl.adminConn})
	if ctrl.alive() {
		t.Error("silent beyond the keep-alive timeout, and lives")
	}
}
