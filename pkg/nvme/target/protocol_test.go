package target_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cask-storage/cask/pkg/block/blocktest"
	"github.com/cask-storage/cask/pkg/nvme"
	"github.com/cask-storage/cask/pkg/nvme/dhchap"
	"github.com/cask-storage/cask/pkg/nvme/target"
	"github.com/cask-storage/cask/pkg/nvme/tcp"
)

// header builds a common header and pads it to n bytes.
func header(n int, b ...byte) []byte {
	out := make([]byte, n)
	copy(out, b)
	return out
}

func common(t tcp.Type, flags, hlen, pdo byte, plen uint32) []byte {
	return binary.LittleEndian.AppendUint32([]byte{byte(t), flags, hlen, pdo}, plen)
}

// TestMalformed: what breaks the transport's rules is answered with a TermReq
// that says what, and the end.
func TestMalformed(t *testing.T) {
	mem := blocktest.NewMemory(blocktest.Options{})
	defer mem.Close()
	_, addr := serve(t, mem, target.Config{})
	for _, c := range []struct {
		name  string
		ic    bool // after ICReq and ICResp
		bytes []byte
		fes   tcp.FES
		fei   uint32
	}{
		{"a type that is none", false, header(8, 0x42, 0, 8, 0, 8), tcp.FESInvalidHeader, 0},
		{"a type for hosts", false, header(8, byte(tcp.TypeICResp), 0, 128, 0, 128), tcp.FESInvalidHeader, 0},
		{"HTTP", false, []byte("GET / HTTP/1.1\r\n\r\n"), tcp.FESInvalidHeader, 0},
		{"command before ICReq", false, header(72, common(tcp.TypeCapsuleCmd, 0, 72, 0, 72)...), tcp.FESSequence, 0},
		{"ICReq with HLEN", false, common(tcp.TypeICReq, 0, 127, 0, 128), tcp.FESInvalidHeader, 2},
		{"ICReq with PLEN", false, common(tcp.TypeICReq, 0, 128, 0, 1<<31), tcp.FESInvalidHeader, 4},
		{"ICReq with flags", false, common(tcp.TypeICReq, 1, 128, 0, 128), tcp.FESInvalidHeader, 1},
		{"ICReq with PFV", false, tcp.IC{PFV: 1}.Append(nil, tcp.TypeICReq), tcp.FESUnsupported, 8},
		{"ICReq with HPDA", false, tcp.IC{Align: 32}.Append(nil, tcp.TypeICReq), tcp.FESInvalidHeader, 10},
		{"a second ICReq", true, tcp.IC{}.Append(nil, tcp.TypeICReq), tcp.FESSequence, 0},
		{"HLEN", true, common(tcp.TypeCapsuleCmd, 0, 64, 0, 72), tcp.FESInvalidHeader, 2},
		{"PLEN too short", true, common(tcp.TypeCapsuleCmd, 0, 72, 0, 71), tcp.FESInvalidHeader, 4},
		{"PLEN too long", true, common(tcp.TypeCapsuleCmd, 0, 72, 72, 0xfffffff0), tcp.FESInvalidHeader, 4},
		{"in-capsule data too long", true, common(tcp.TypeCapsuleCmd, 0, 72, 72, 72+8192+4), tcp.FESInvalidHeader, 4},
		{"PDO within the header", true, common(tcp.TypeCapsuleCmd, 0, 72, 8, 72+512), tcp.FESInvalidHeader, 3},
		{"PDO missing", true, common(tcp.TypeCapsuleCmd, 0, 72, 0, 72+512), tcp.FESInvalidHeader, 3},
		{"PDO not aligned", true, common(tcp.TypeCapsuleCmd, 0, 72, 74, 74+512), tcp.FESInvalidHeader, 3},
		{"PDO beyond the end", true, common(tcp.TypeCapsuleCmd, 0, 72, 200, 100), tcp.FESInvalidHeader, 4},
		{"a digest not negotiated", true, common(tcp.TypeCapsuleCmd, 1, 72, 0, 76), tcp.FESInvalidHeader, 1},
		{"a data digest not negotiated", true, common(tcp.TypeCapsuleCmd, 2, 72, 72, 76+512), tcp.FESInvalidHeader, 1},
		{"LAST_PDU on a command", true, common(tcp.TypeCapsuleCmd, 4, 72, 0, 72), tcp.FESInvalidHeader, 1},
		{"H2CData without data", true, header(24, common(tcp.TypeH2CData, 4, 24, 0, 24)...), tcp.FESInvalidHeader, 16},
		{"H2CData too long", true, common(tcp.TypeH2CData, 4, 24, 24, 24+1<<20+4), tcp.FESLimit, 0},
		{"a TermReq too long", true, common(tcp.TypeH2CTermReq, 0, 24, 0, 24+129), tcp.FESInvalidHeader, 4},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := dial(t, addr)
			if c.ic {
				w.init(tcp.IC{})
			}
			w.send(c.bytes)
			w.expectTerm(c.fes, c.fei)
		})
	}
}

// TestSilence: a connection that says nothing, or stops, is closed.
func TestSilence(t *testing.T) {
	mem := blocktest.NewMemory(blocktest.Options{})
	defer mem.Close()
	_, addr := serve(t, mem, target.Config{Limits: target.Limits{Handshake: 150 * time.Millisecond}})
	for name, say := range map[string]func(w *wire){
		"nothing":        func(*wire) {},
		"half a header":  func(w *wire) { w.send([]byte{0, 0, 128}) },
		"ICReq":          func(w *wire) { w.init(tcp.IC{}) },
		"half a Connect": func(w *wire) { w.init(tcp.IC{}); w.send(common(tcp.TypeCapsuleCmd, 0, 72, 72, 72+1024)) },
		"a Connect refused": func(w *wire) {
			w.init(tcp.IC{})
			w.do(connectCommand(nvme.ConnectParams{QueueDepth: 32}), make([]byte, 1024))
		},
		"an unknown command":  func(w *wire) { w.init(tcp.IC{}); w.do(nvme.Command{0x18}, nil) },
		"a TermReq":           func(w *wire) { w.init(tcp.IC{}); w.send(tcp.Term{FES: 1}.Append(nil, tcp.TypeH2CTermReq)) },
		"a truncated capsule": func(w *wire) { w.init(tcp.IC{}); w.send(header(40, common(tcp.TypeCapsuleCmd, 0, 72, 0, 72)...)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := dial(t, addr)
			say(w)
			start := time.Now()
			w.expectEnd()
			if d := time.Since(start); d > 3*time.Second {
				t.Errorf("closed after %v", d)
			}
		})
	}
}

// TestConnectionLimit: beyond it the oldest connection that is no queue yet gives
// way; queues do not, and there is room again when one ends.
func TestConnectionLimit(t *testing.T) {
	mem := blocktest.NewMemory(blocktest.Options{})
	defer mem.Close()
	_, addr := serve(t, mem, target.Config{Limits: target.Limits{Connections: 2}})
	idle := dial(t, addr)
	idle.init(tcp.IC{})
	a, _ := queue(t, addr, 8, tcp.IC{})
	idle.expectEnd()
	dial(t, addr).expectEnd()
	_ = a.nc.Close()
	for start := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		w := dial(t, addr)
		if _, err := w.nc.Write(tcp.IC{}.Append(nil, tcp.TypeICReq)); err == nil {
			if _, err := w.rd.Next(); err == nil {
				return
			}
		}
		if time.Since(start) > 5*time.Second {
			t.Fatal("no room after a connection was closed")
		}
	}
}

func TestConnectRefused(t *testing.T) {
	mem := blocktest.NewMemory(blocktest.Options{})
	defer mem.Close()
	_, addr := serve(t, mem, target.Config{
		Limits: target.Limits{Controllers: 1, QueueDepth: 64, Queues: 2},
		Admit: func(_ context.Context, nqn string) error {
			if nqn != hostNQN {
				return fmt.Errorf("not this one: %w", target.ErrNotAdmitted)
			}
			return nil
		},
	})
	good := nvme.ConnectParams{QueueDepth: 32}
	for name, c := range map[string]struct {
		change func(*nvme.ConnectParams, *nvme.ConnectData)
		status nvme.Status
		result uint64
	}{
		"format":         {func(p *nvme.ConnectParams, _ *nvme.ConnectData) { p.Format = 1 }, nvme.ConnectIncompatible, 0},
		"subsystem":      {func(_ *nvme.ConnectParams, d *nvme.ConnectData) { d.SubNQN = "nqn.x" }, nvme.ConnectInvalidParam, 1<<16 | 256},
		"host NQN":       {func(_ *nvme.ConnectParams, d *nvme.ConnectData) { d.HostNQN = "x" }, nvme.ConnectInvalidParam, 1<<16 | 512},
		"host NQN's end": {func(_ *nvme.ConnectParams, d *nvme.ConnectData) { d.HostNQN += "\nnvme target:" }, nvme.ConnectInvalidParam, 1<<16 | 512},
		"host NQN bytes": {func(_ *nvme.ConnectParams, d *nvme.ConnectData) { d.HostNQN += "\xff" }, nvme.ConnectInvalidParam, 1<<16 | 512},
		"host ID":        {func(_ *nvme.ConnectParams, d *nvme.ConnectData) { d.HostID = nvme.UUID{} }, nvme.ConnectInvalidParam, 1 << 16},
		"static ID":      {func(_ *nvme.ConnectParams, d *nvme.ConnectData) { d.CNTLID = 1 }, nvme.ConnectInvalidParam, 1<<16 | 16},
		"depth 1":        {func(p *nvme.ConnectParams, _ *nvme.ConnectData) { p.QueueDepth = 1 }, nvme.ConnectInvalidParam, 44},
		"too deep":       {func(p *nvme.ConnectParams, _ *nvme.ConnectData) { p.QueueDepth = 33 }, nvme.ConnectInvalidParam, 44},
		"no association": {func(p *nvme.ConnectParams, d *nvme.ConnectData) { p.QID, d.CNTLID = 1, 999 }, nvme.ConnectInvalidParam, 1<<16 | 16},
	} {
		p, d := good, connectData(nvme.CNTLIDDynamic)
		c.change(&p, &d)
		w := dial(t, addr)
		w.init(tcp.IC{})
		cqe, _ := w.do(connectCommand(p), d.Append(nil))
		if cqe.Status().Code() != c.status || cqe.Result() != c.result {
			t.Errorf("%s: %v, result %#x, want %v, %#x", name, cqe.Status(), cqe.Result(), c.status, c.result)
		}
	}
	// A connection that was refused may try again.
	a := dial(t, addr)
	a.init(tcp.IC{})
	d := connectData(nvme.CNTLIDDynamic)
	d.HostNQN += "x"
	cqe, _ := a.do(connectCommand(good), d.Append(nil))
	a.fails(cqe, nvme.ConnectInvalidHost)
	id := a.enable(good)
	// The one association is taken, by another host.
	w := dial(t, addr)
	w.init(tcp.IC{})
	d = connectData(nvme.CNTLIDDynamic)
	d.HostID = nvme.UUID{6}
	cqe, _ = w.do(connectCommand(good), d.Append(nil))
	w.fails(cqe, nvme.ConnectBusy)
	for name, c := range map[string]struct {
		p      nvme.ConnectParams
		host   nvme.UUID
		status nvme.Status
		result uint64
	}{
		"queue ID":     {nvme.ConnectParams{QID: 3, QueueDepth: 8}, nvme.UUID{5}, nvme.ConnectInvalidParam, 42},
		"queue depth":  {nvme.ConnectParams{QID: 1, QueueDepth: 65}, nvme.UUID{5}, nvme.ConnectInvalidParam, 44},
		"another host": {nvme.ConnectParams{QID: 1, QueueDepth: 8}, nvme.UUID{6}, nvme.ConnectInvalidParam, 1 << 16},
	} {
		d := connectData(id)
		d.HostID = c.host
		cqe, _ := w.do(connectCommand(c.p), d.Append(nil))
		if cqe.Status().Code() != c.status || cqe.Result() != c.result {
			t.Errorf("%s: %v, result %#x", name, cqe.Status(), cqe.Result())
		}
	}
	cqe, _ = w.do(connectCommand(nvme.ConnectParams{QID: 1, QueueDepth: 8}), connectData(id).Append(nil))
	w.ok(cqe)
	x := dial(t, addr)
	x.init(tcp.IC{})
	cqe, _ = x.do(connectCommand(nvme.ConnectParams{QID: 1, QueueDepth: 8}), connectData(id).Append(nil))
	x.fails(cqe, nvme.ConnectBusy)
	cqe, _ = w.do(connectCommand(nvme.ConnectParams{QID: 2, QueueDepth: 8}), connectData(id).Append(nil))
	w.fails(cqe, nvme.CommandSequenceError)
	// The admin connection takes the I/O queues down with it.
	_ = a.nc.Close()
	w.expectEnd()
}

// TestAdmitUnknown: when nobody knows whether a host is admitted, it is asked to
// try again, and one that is connected stays.
func TestAdmitUnknown(t *testing.T) {
	mem := blocktest.NewMemory(blocktest.Options{})
	defer mem.Close()
	var away atomic.Bool
	gone := errors.New("the API server is away")
	tgt, addr := serve(t, mem, target.Config{Admit: func(context.Context, string) error {
		if away.Load() {
			return gone
		}
		return nil
	}})
	_, w := queue(t, addr, 8, tcp.IC{})
	away.Store(true)
	if err := tgt.Recheck(t.Context()); !errors.Is(err, gone) || errors.Is(err, target.ErrNotAdmitted) {
		t.Errorf("Recheck: %v, want %v", err, gone)
	}
	cqe, _ := w.do(io1(nvme.OpFlush, 0, 0), nil)
	w.ok(cqe)
	x := dial(t, addr)
	x.init(tcp.IC{})
	d := connectData(nvme.CNTLIDDynamic)
	d.HostID = nvme.UUID{6}
	cqe, _ = x.do(connectCommand(nvme.ConnectParams{QueueDepth: 32}), d.Append(nil))
	if s := cqe.Status(); s.Code() != nvme.ConnectBusy || !s.Retry() {
		t.Errorf("connect while nobody knows: %v, want one to try again", s)
	}
	away.Store(false)
	cqe, _ = x.do(connectCommand(nvme.ConnectParams{QueueDepth: 32}), d.Append(nil))
	x.ok(cqe)
}

// TestUnproven: hosts that have not proved themselves yet take no association
// from one that can, and their messages wait for nobody's memory.
func TestUnproven(t *testing.T) {
	mem := blocktest.NewMemory(blocktest.Options{})
	defer mem.Close()
	secrets, err := dhchap.NewSecrets()
	if err != nil {
		t.Fatal(err)
	}
	_, addr := serve(t, mem, target.Config{
		Limits:       target.Limits{Controllers: 1, TotalBytes: 1},
		Authenticate: func(context.Context, string) (dhchap.Secrets, error) { return secrets, nil },
	})
	var w *wire
	for i := range 3 {
		w = dial(t, addr)
		w.init(tcp.IC{})
		d := connectData(nvme.CNTLIDDynamic)
		d.HostID = nvme.UUID{byte(i + 1)}
		cqe, _ := w.do(connectCommand(nvme.ConnectParams{QueueDepth: 32}), d.Append(nil))
		if w.ok(cqe); cqe.Result()&nvme.ConnectAuthRequired == 0 {
			t.Fatalf("result %#x", cqe.Result())
		}
	}
	auth := func(f nvme.FType) (c nvme.Command) {
		c.SetSecurity(f, nvme.SecurityParams{Protocol: dhchap.SecurityProtocol, Specific0: 1, Specific1: 1, Len: 64})
		c.SetSGL(nvme.SGL{Type: nvme.SGLTransport, Len: 64})
		return c
	}
	w.command(auth(nvme.FAuthSend), nil)
	if p := w.next(); p.Type != tcp.TypeR2T {
		t.Fatalf("%v instead of R2T", p.Type)
	}
	_ = w.nc.SetDeadline(time.Now().Add(5 * time.Second))
	cqe, _ := w.do(auth(nvme.FAuthReceive), nil)
	w.ok(cqe)
}

// TestKeepAlive: an association whose host is silent ends; one that sends
// keep-alives does not, nor does one that is not enabled or was shut down.
func TestKeepAlive(t *testing.T) {
	mem := blocktest.NewMemory(blocktest.Options{})
	t.Cleanup(func() { mem.Close() })
	_, addr := serve(t, mem, target.Config{})
	const on = nvme.CCEnable | nvme.CCIOSQES | nvme.CCIOCQES
	for i, c := range []struct {
		name  string
		beats int
		quiet []uint32 // CC, each followed by silence that nothing is made of
	}{
		{name: "silent"},
		{name: "alive", beats: 15},
		{name: "disabled", quiet: []uint32{0, on | nvme.CCShutNormal, 0}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := dial(t, addr)
			w.init(tcp.IC{})
			d := connectData(nvme.CNTLIDDynamic)
			d.HostID = nvme.UUID{byte(i + 1)}
			cqe, _ := w.do(connectCommand(nvme.ConnectParams{QueueDepth: 32, KATO: 300}), d.Append(nil))
			w.ok(cqe)
			for _, cc := range c.quiet {
				propertySet(w, cc)
				time.Sleep(1200 * time.Millisecond)
			}
			propertySet(w, on)
			for range c.beats {
				time.Sleep(100 * time.Millisecond)
				var c nvme.Command
				c.SetOpcode(nvme.OpKeepAlive)
				cqe, _ := w.do(c, nil)
				w.ok(cqe)
			}
			start := time.Now()
			w.expectEnd()
			if d := time.Since(start); d < 200*time.Millisecond || d > 3*time.Second {
				t.Errorf("ended after %v", d)
			}
		})
	}
}

// TestIOStatus: commands that are wrong get a status; the queue goes on.
func TestIOStatus(t *testing.T) {
	mem := blocktest.NewMemory(blocktest.Options{})
	defer mem.Close()
	_, addr := serve(t, mem, target.Config{})
	_, w := queue(t, addr, 8, tcp.IC{})
	change := func(c nvme.Command, f func(*nvme.Command)) nvme.Command { f(&c); return c }
	last := mem.Geometry().Size / 512
	for name, c := range map[string]struct {
		sqe  nvme.Command
		data int
		want nvme.Status
	}{
		"opcode":             {io1(0x04, 0, 1), 0, nvme.InvalidOpcode},
		"namespace":          {change(io1(nvme.OpRead, 0, 1), func(c *nvme.Command) { c.SetNSID(2) }), 0, nvme.InvalidNamespace},
		"flush of all":       {change(io1(nvme.OpFlush, 0, 0), func(c *nvme.Command) { c.SetNSID(nvme.NSIDAll) }), 0, nvme.InvalidNamespace},
		"range":              {io1(nvme.OpRead, last, 1), 0, nvme.LBAOutOfRange},
		"range across":       {io1(nvme.OpWrite, last-1, 2), 0, nvme.LBAOutOfRange},
		"range wrap":         {io1(nvme.OpRead, ^uint64(0), 8), 0, nvme.LBAOutOfRange},
		"zeroes range":       {io1(nvme.OpWriteZeroes, last, 1), 0, nvme.LBAOutOfRange},
		"beyond MDTS":        {io1(nvme.OpRead, 0, 4096), 0, nvme.InvalidField},
		"fused":              {change(io1(nvme.OpRead, 0, 1), func(c *nvme.Command) { c[1] |= 1 }), 0, nvme.InvalidField},
		"PRP":                {change(io1(nvme.OpRead, 0, 1), func(c *nvme.Command) { c[1] = 0 }), 0, nvme.InvalidField},
		"protection":         {change(io1(nvme.OpRead, 0, 1), func(c *nvme.Command) { c.SetDW(12, c.DW(12)|1<<29) }), 0, nvme.InvalidField},
		"SGL length":         {change(io1(nvme.OpRead, 0, 2), func(c *nvme.Command) { c.SetSGL(nvme.SGL{Type: nvme.SGLTransport, Len: 512}) }), 0, nvme.SGLLengthInvalid},
		"SGL type":           {change(io1(nvme.OpRead, 0, 1), func(c *nvme.Command) { c.SetSGL(nvme.SGL{Type: 0x40, Len: 512}) }), 0, nvme.SGLTypeInvalid},
		"read in capsule":    {change(io1(nvme.OpRead, 0, 1), func(c *nvme.Command) { c.SetSGL(nvme.SGL{Type: nvme.SGLInCapsule, Len: 512}) }), 0, nvme.SGLTypeInvalid},
		"offset":             {change(io1(nvme.OpWrite, 0, 1), func(c *nvme.Command) { c.SetSGL(nvme.SGL{Type: nvme.SGLInCapsule, Len: 512, Addr: 4}) }), 512, nvme.SGLOffsetInvalid},
		"less in capsule":    {change(io1(nvme.OpWrite, 0, 2), func(c *nvme.Command) { c.SetSGL(nvme.SGL{Type: nvme.SGLInCapsule, Len: 1024}) }), 512, nvme.SGLLengthInvalid},
		"data with a read":   {io1(nvme.OpRead, 0, 1), 512, nvme.SGLLengthInvalid},
		"data with a flush":  {io1(nvme.OpFlush, 0, 0), 512, nvme.SGLLengthInvalid},
		"property on I/O":    {change(nvme.Command{}, func(c *nvme.Command) { c.SetPropertyGet(nvme.PropertyParams{}) }), 0, nvme.InvalidOpcode},
		"a disconnect":       {nvme.Command{0: 0x7f, 4: 8}, 0, nvme.InvalidOpcode},
		"good":               {change(io1(nvme.OpWrite, 0, 1), func(c *nvme.Command) { c.SetSGL(nvme.SGL{Type: nvme.SGLInCapsule, Len: 512}) }), 512, nvme.Success},
		"good flush":         {io1(nvme.OpFlush, 0, 0), 0, nvme.Success},
		"good flush, no SGL": {change(io1(nvme.OpFlush, 0, 0), func(c *nvme.Command) { c[1] = 0 }), 0, nvme.Success},
	} {
		cqe, _ := w.do(c.sqe, make([]byte, c.data))
		if cqe.Status().Code() != c.want || cqe.CID() != c.sqe.CID() {
			t.Errorf("%s: %v for %d, want %v", name, cqe.Status(), cqe.CID(), c.want)
		}
	}
}

// TestVerbs: FUA, deallocation and zeroing reach the device as they should.
func TestVerbs(t *testing.T) {
	mem := blocktest.NewMemory(blocktest.Options{})
	defer mem.Close()
	_, addr := serve(t, mem, target.Config{})
	_, w := queue(t, addr, 8, tcp.IC{})
	fua := io1(nvme.OpWriteZeroes, 8, 8)
	fua.SetDW(12, fua.DW(12)|nvme.CDW12FUA|nvme.CDW12DEA)
	cqe, _ := w.do(fua, nil)
	w.ok(cqe)
	cqe, _ = w.do(io1(nvme.OpWriteZeroes, 8, 8), nil)
	w.ok(cqe)
	dsm := io1(nvme.OpDSM, 0, 1)
	dsm.SetDW(10, 2)
	dsm.SetDW(11, nvme.CDW11AD)
	dsm.SetDW(12, 0)
	dsm.SetSGL(nvme.SGL{Type: nvme.SGLInCapsule, Len: 48})
	ranges := func(last uint64) []byte {
		b := nvme.Range{SLBA: 8, Blocks: 8}.Append(nil)
		b = nvme.Range{SLBA: 800, Blocks: 0}.Append(b)
		return nvme.Range{SLBA: last, Blocks: 100}.Append(b)
	}
	cqe, _ = w.do(dsm, ranges(1000))
	w.ok(cqe)
	cqe, _ = w.do(dsm, ranges(1<<40))
	w.fails(cqe, nvme.LBAOutOfRange)
	// Linux gives memory for 256 ranges whatever their number.
	linux := dsm
	linux.SetDW(10, 0)
	linux.SetSGL(nvme.SGL{Type: nvme.SGLInCapsule, Len: 4096})
	cqe, _ = w.do(linux, append(nvme.Range{SLBA: 8, Blocks: 8}.Append(nil), bytes.Repeat([]byte{0xff}, 4096-16)...))
	w.ok(cqe)
	linux.SetSGL(nvme.SGL{Type: nvme.SGLInCapsule, Len: 8192})
	cqe, _ = w.do(linux, make([]byte, 8192))
	w.fails(cqe, nvme.SGLLengthInvalid)
	dsm.SetDW(11, 0) // hints only
	cqe, _ = w.do(dsm, ranges(1<<40))
	w.ok(cqe)
	if c := mem.Counts(); c != (blocktest.Counts{Unmaps: 4, Zeroes: 1, FUA: 1}) {
		t.Errorf("counts %+v", c)
	}
}

// TestR2T: data that was asked for must come as asked.
func TestR2T(t *testing.T) {
	mem := blocktest.NewMemory(blocktest.Options{})
	defer mem.Close()
	_, addr := serve(t, mem, target.Config{})
	for name, c := range map[string]struct {
		change func(*tcp.Transfer) tcp.Flags
		fes    tcp.FES
		fei    uint32
	}{
		"tag":        {func(x *tcp.Transfer) tcp.Flags { x.TTAG += 100; return tcp.FlagLast }, tcp.FESInvalidHeader, 10},
		"command":    {func(x *tcp.Transfer) tcp.Flags { x.CCCID++; return tcp.FlagLast }, tcp.FESInvalidHeader, 10},
		"offset":     {func(x *tcp.Transfer) tcp.Flags { x.Offset = 4; return tcp.FlagLast }, tcp.FESDataRange, 12},
		"too much":   {func(x *tcp.Transfer) tcp.Flags { x.Len += 512; return tcp.FlagLast }, tcp.FESDataRange, 12},
		"not last":   {func(*tcp.Transfer) tcp.Flags { return 0 }, tcp.FESInvalidHeader, 1},
		"early last": {func(x *tcp.Transfer) tcp.Flags { x.Len -= 512; return tcp.FlagLast }, tcp.FESInvalidHeader, 1},
	} {
		t.Run(name, func(t *testing.T) {
			_, w := queue(t, addr, 8, tcp.IC{})
			w.command(io1(nvme.OpWrite, 0, 64), nil)
			p := w.next()
			if p.Type != tcp.TypeR2T {
				t.Fatalf("%v", p.Type)
			}
			x := p.Transfer()
			if x.Offset != 0 || x.Len != 32768 || x.CCCID != 77 {
				t.Errorf("R2T %+v", x)
			}
			flags := c.change(&x)
			w.b.H2CData(x, flags, [][]byte{make([]byte, x.Len)})
			w.flush()
			w.expectTerm(c.fes, c.fei)
		})
	}
	if n := mem.Counts().Writes; n != 0 {
		t.Errorf("%d writes were executed", n)
	}
}

// TestTooManyCommands: a host that exceeds its queue's depth is cut off.
func TestTooManyCommands(t *testing.T) {
	mem := blocktest.NewMemory(blocktest.Options{Workers: 1})
	defer mem.Close()
	_, addr := serve(t, mem, target.Config{})
	_, w := queue(t, addr, 4, tcp.IC{})
	mem.Stall()
	defer mem.Resume()
	for range 5 {
		w.command(io1(nvme.OpFlush, 0, 0), nil)
	}
	go func() {
		time.Sleep(100 * time.Millisecond)
		mem.Resume()
	}()
	w.expectTerm(tcp.FESSequence, 0)
}

// TestDigests: a damaged header ends the connection, damaged data concerns the
// command alone.
func TestDigests(t *testing.T) {
	mem := blocktest.NewMemory(blocktest.Options{})
	defer mem.Close()
	_, addr := serve(t, mem, target.Config{})
	_, w := queue(t, addr, 8, tcp.IC{Digests: tcp.HeaderDigest | tcp.DataDigest})
	if w.b.Digests != tcp.HeaderDigest|tcp.DataDigest {
		t.Fatalf("digests %d", w.b.Digests)
	}
	capsule := func() []byte {
		c := io1(nvme.OpWrite, 0, 1)
		c.SetSGL(nvme.SGL{Type: nvme.SGLInCapsule, Len: 512})
		w.b.Command((*[64]byte)(&c), [][]byte{make([]byte, 512)})
		var buf writer
		if err := w.b.Flush(&buf); err != nil {
			t.Fatal(err)
		}
		return buf
	}
	bad := capsule()
	bad[len(bad)-100] ^= 1
	w.send(bad)
	cqe, _ := w.answer()
	if cqe.Status() != nvme.TransientTransportErr {
		t.Errorf("damaged data: %v", cqe.Status())
	}
	w.send(capsule())
	cqe, _ = w.answer()
	w.ok(cqe)
	if n := mem.Counts().Writes; n != 1 {
		t.Errorf("%d writes, want 1", n)
	}
	bad = capsule()
	bad[20] ^= 1
	w.send(bad)
	for {
		p, err := w.rd.Next()
		if err != nil {
			t.Fatal(err)
		}
		if p.Type == tcp.TypeC2HTermReq {
			if p.Term().FES != tcp.FESHeaderDigest {
				t.Errorf("TermReq %v", p.Term().FES)
			}
			break
		}
	}
	w.expectEnd()
}

type writer []byte

func (w *writer) Write(b []byte) (int, error) { *w = append(*w, b...); return len(b), nil }

// TestAlignment: data is aligned as the host asks.
func TestAlignment(t *testing.T) {
	mem := blocktest.NewMemory(blocktest.Options{})
	defer mem.Close()
	_, addr := serve(t, mem, target.Config{})
	w := dial(t, addr)
	w.send(tcp.IC{Align: 31}.Append(nil, tcp.TypeICReq))
	w.next()
	cqe, _ := w.do(connectCommand(nvme.ConnectParams{QueueDepth: 32}), connectData(nvme.CNTLIDDynamic).Append(nil))
	w.ok(cqe)
	var c nvme.Command
	c.SetIdentify(nvme.IdentifyParams{CNS: nvme.CNSController})
	c.SetSGL(nvme.SGL{Type: nvme.SGLTransport, Len: 4096})
	w.command(c, nil)
	head := make([]byte, 8)
	if _, err := io.ReadFull(w.nc, head); err != nil {
		t.Fatal(err)
	}
	if head[3] != 128 {
		t.Errorf("PDO %d, want 128", head[3])
	}
}

// TestGarbage feeds random bytes, and damaged copies of good conversations, to
// a live target, which must neither crash, nor hold memory, nor stop serving.
func TestGarbage(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	mem := blocktest.NewMemory(blocktest.Options{})
	defer mem.Close()
	tgt, addr := serve(t, mem, target.Config{Limits: target.Limits{Handshake: 100 * time.Millisecond, Connections: 16}})
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	rounds := 400
	if testing.Short() {
		rounds = 50
	}
	for range rounds {
		nc, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		b := conversation(rng)
		_ = nc.SetDeadline(time.Now().Add(50 * time.Millisecond))
		_, _ = nc.Write(b)
		if rng.IntN(4) == 0 {
			_, _ = io.Copy(io.Discard, nc)
		}
		_ = nc.Close()
	}
	for start := time.Now(); len(tgt.Associations()) > 0; time.Sleep(10 * time.Millisecond) {
		if time.Since(start) > 5*time.Second {
			t.Fatalf("associations left: %+v", tgt.Associations())
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 32<<20 {
		t.Errorf("heap grew by %d bytes", grown)
	}
	time.Sleep(200 * time.Millisecond) // connections' handshake deadline
	_, w := queue(t, addr, 8, tcp.IC{})
	cqe, _ := w.do(io1(nvme.OpFlush, 0, 0), nil)
	w.ok(cqe)
}

// conversation is a host's side of an admin connection, damaged.
func conversation(rng *rand.Rand) []byte {
	var out writer
	_, _ = out.Write(tcp.IC{}.Append(nil, tcp.TypeICReq))
	b := tcp.NewBatch()
	c := connectCommand(nvme.ConnectParams{QueueDepth: 32, KATO: 1000})
	b.Command((*[64]byte)(&c), [][]byte{connectData(nvme.CNTLIDDynamic).Append(nil)})
	for range rng.IntN(40) {
		var c nvme.Command
		for i := range c {
			c[i] = byte(rng.Uint32())
		}
		c.SetOpcode([]nvme.Opcode{2, 6, 8, 9, 10, 12, 24, 0x7f}[rng.IntN(8)])
		if rng.IntN(2) == 0 {
			c.SetSGL(nvme.SGL{Type: nvme.SGLTransport, Len: 4096})
		}
		b.Command((*[64]byte)(&c), nil)
	}
	_ = b.Flush(&out)
	for range rng.IntN(4) {
		if i := rng.IntN(len(out)); rng.IntN(2) == 0 {
			out[i] ^= 1 << rng.IntN(8)
		} else {
			out = append(out[:i], byte(rng.Uint32()))
		}
	}
	return out
}

// TestCloseWaits: Close returns when the device has completed what was
// submitted.
func TestCloseWaits(t *testing.T) {
	mem := blocktest.NewMemory(blocktest.Options{Workers: 2})
	defer mem.Close()
	tgt, addr := serve(t, mem, target.Config{})
	_, w := queue(t, addr, 8, tcp.IC{})
	mem.Stall()
	w.command(io1(nvme.OpFlush, 0, 0), nil)
	time.Sleep(50 * time.Millisecond)
	var resumed atomic.Bool
	go func() {
		time.Sleep(200 * time.Millisecond)
		resumed.Store(true)
		mem.Resume()
	}()
	if err := tgt.Close(); err != nil {
		t.Fatal(err)
	}
	if !resumed.Load() {
		t.Error("Close returned while a command was in the device")
	}
	if err := tgt.AddSubsystem(target.Subsystem{NQN: subNQN + "2"}); !errors.Is(err, target.ErrClosed) {
		t.Errorf("AddSubsystem after Close: %v", err)
	}
}

// TestPieces: the data that one R2T asked for may come in many PDUs.
func TestPieces(t *testing.T) {
	mem := blocktest.NewMemory(blocktest.Options{})
	defer mem.Close()
	_, addr := serve(t, mem, target.Config{})
	_, w := queue(t, addr, 8, tcp.IC{Digests: tcp.DataDigest})
	w.command(io1(nvme.OpWrite, 0, 64), nil)
	x := w.next().Transfer()
	data := bytes.Repeat([]byte{1, 2, 3, 4, 5, 6, 7, 8}, 4096)
	for at := uint32(0); at < x.Len; at += 4096 {
		var f tcp.Flags
		if at+4096 == x.Len {
			f = tcp.FlagLast
		}
		w.b.H2CData(tcp.Transfer{CCCID: x.CCCID, TTAG: x.TTAG, Offset: at, Len: 4096}, f, [][]byte{data[at:][:4096]})
	}
	w.flush()
	cqe, _ := w.answer()
	w.ok(cqe)
	got := make([]byte, len(data))
	if err := blocktest.Read(mem, 0, got); err != nil || !bytes.Equal(got, data) {
		t.Errorf("other data, %v", err)
	}
}
