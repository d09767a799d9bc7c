package target_test

import (
	"bytes"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/block/blocktest"
	"github.com/cask-storage/cask/pkg/nvme"
	"github.com/cask-storage/cask/pkg/nvme/target"
	"github.com/cask-storage/cask/pkg/nvme/tcp"
)

// capsule is a command whose data goes along.
func capsule(op nvme.Opcode, slba uint64, blocks uint32) nvme.Command {
	c := io1(op, slba, blocks)
	c.SetSGL(nvme.SGL{Type: nvme.SGLInCapsule, Len: blocks * 512})
	return c
}

// plain is a command without data.
func plain(op nvme.Opcode, slba uint64, blocks uint32) nvme.Command {
	c := io1(op, slba, blocks)
	c[1] = 0
	return c
}

func fill(b byte, blocks int) []byte { return bytes.Repeat([]byte{b}, blocks*512) }

func TestCompareAndVerify(t *testing.T) {
	mem := blocktest.NewMemory(blocktest.Options{})
	defer mem.Close()
	_, addr := serve(t, mem, target.Config{})
	_, w := queue(t, addr, 8, tcp.IC{})
	if err := blocktest.Write(mem, 512, fill(7, 2)); err != nil {
		t.Fatal(err)
	}
	cqe, _ := w.do(capsule(nvme.OpCompare, 1, 2), fill(7, 2))
	w.ok(cqe)
	cqe, _ = w.do(capsule(nvme.OpCompare, 1, 2), append(fill(7, 1), fill(8, 1)...))
	w.fails(cqe, nvme.CompareFailure)
	cqe, _ = w.do(plain(nvme.OpVerify, 0, 16), nil)
	w.ok(cqe)
	mem.Inject(blocktest.Fault{Op: block.OpRead, Err: block.ErrMedium, Times: 2})
	cqe, _ = w.do(plain(nvme.OpVerify, 0, 16), nil)
	w.fails(cqe, nvme.UnrecoveredRead)
	cqe, _ = w.do(capsule(nvme.OpCompare, 1, 2), fill(7, 2))
	w.fails(cqe, nvme.UnrecoveredRead)
	cqe, _ = w.do(plain(nvme.OpVerify, 0, 4096), nil)
	w.fails(cqe, nvme.InvalidField) // beyond VSL
}

func TestCopy(t *testing.T) {
	mem := blocktest.NewMemory(blocktest.Options{})
	defer mem.Close()
	_, addr := serve(t, mem, target.Config{Limits: target.Limits{MaxTransfer: 64 << 10, InflightBytes: 64 << 10}})
	_, w := queue(t, addr, 8, tcp.IC{})
	if err := blocktest.Write(mem, 0, append(fill(1, 4), fill(2, 4)...)); err != nil {
		t.Fatal(err)
	}
	run := func(dst uint64, want nvme.Status, ranges ...nvme.CopyRange) {
		t.Helper()
		var c nvme.Command
		c.SetCopy(nvme.CopyParams{SDLBA: dst, Ranges: uint32(len(ranges))})
		c.SetNSID(1)
		var b []byte
		for _, r := range ranges {
			b = r.Append(b)
		}
		c.SetSGL(nvme.SGL{Type: nvme.SGLInCapsule, Len: uint32(len(b))})
		cqe, _ := w.do(c, b)
		w.fails(cqe, want)
	}
	run(100, nvme.Success, nvme.CopyRange{SLBA: 6, Blocks: 2}, nvme.CopyRange{SLBA: 2, Blocks: 3})
	got := make([]byte, 6*512)
	if err := blocktest.Read(mem, 100*512, got); err != nil || !bytes.Equal(got, append(append(append(fill(2, 2), fill(1, 2)...), fill(2, 1)...), fill(0, 1)...)) {
		t.Errorf("copied %v, %x…", err, got[:4])
	}
	run(100, nvme.CommandSizeLimit, nvme.CopyRange{SLBA: 0, Blocks: 100}, nvme.CopyRange{SLBA: 0, Blocks: 29})
	run(100, nvme.LBAOutOfRange, nvme.CopyRange{SLBA: 1 << 40, Blocks: 1})
	run(1<<40, nvme.LBAOutOfRange, nvme.CopyRange{SLBA: 0, Blocks: 1})
	mem.Inject(blocktest.Fault{Op: block.OpWrite, Err: block.ErrNoSpace, Times: 1})
	run(100, nvme.CapacityExceeded, nvme.CopyRange{SLBA: 0, Blocks: 1})
	mem.Inject(blocktest.Fault{Op: block.OpRead, Err: block.ErrMedium, Times: 1})
	run(100, nvme.UnrecoveredRead, nvme.CopyRange{SLBA: 0, Blocks: 1})
}

// fusedPair sends a compare-and-write of one block.
func fusedPair(w *wire, lba uint64, expect, put byte, change func(first, second *nvme.Command)) (a, b nvme.Status) {
	w.t.Helper()
	first, second := capsule(nvme.OpCompare, lba, 1), capsule(nvme.OpWrite, lba, 1)
	first[1] |= nvme.FuseFirst
	second[1] |= nvme.FuseSecond
	first.SetCID(1)
	second.SetCID(2)
	if change != nil {
		change(&first, &second)
	}
	data := func(c *nvme.Command, b byte) []byte {
		if c.SGL().Type != nvme.SGLInCapsule {
			return nil
		}
		return fill(b, int(c.SGL().Len/512))
	}
	w.command(first, data(&first, expect))
	w.command(second, data(&second, put))
	got := map[nvme.CID]nvme.Status{}
	for len(got) < 2 {
		switch p := w.next(); p.Type {
		case tcp.TypeR2T:
			x := p.Transfer()
			b := put
			if x.CCCID == 1 {
				b = expect
			}
			w.b.H2CData(x, tcp.FlagLast, [][]byte{fill(b, int(x.Len/512))})
			w.flush()
		case tcp.TypeCapsuleResp:
			c := nvme.Completion(*p.CQE())
			got[c.CID()] = c.Status().Code()
		default:
			w.t.Fatalf("unexpected %v", p.Type)
		}
	}
	return got[1], got[2]
}

func TestCompareAndWrite(t *testing.T) {
	mem := blocktest.NewMemory(blocktest.Options{})
	defer mem.Close()
	_, addr := serve(t, mem, target.Config{})
	_, w := queue(t, addr, 8, tcp.IC{})
	check := func(name string, want byte, a, b, wantA, wantB nvme.Status) {
		t.Helper()
		got := make([]byte, 512)
		if err := blocktest.Read(mem, 512, got); err != nil || a != wantA || b != wantB || got[0] != want {
			t.Errorf("%s: %v and %v, the block is %d, %v; want %v and %v, %d", name, a, b, got[0], err, wantA, wantB, want)
		}
	}
	a, b := fusedPair(w, 1, 0, 5, nil)
	check("equal", 5, a, b, nvme.Success, nvme.Success)
	a, b = fusedPair(w, 1, 0, 6, nil)
	check("different", 5, a, b, nvme.CompareFailure, nvme.AbortedFailedFused)
	transport := func(first, second *nvme.Command) {
		first.SetSGL(nvme.SGL{Type: nvme.SGLTransport, Len: 512})
		second.SetSGL(nvme.SGL{Type: nvme.SGLTransport, Len: 512})
	}
	a, b = fusedPair(w, 1, 5, 6, transport)
	check("by R2T", 6, a, b, nvme.Success, nvme.Success)
	a, b = fusedPair(w, 1, 6, 7, func(_, s *nvme.Command) { s.SetRange(2, 1) })
	check("another block", 6, a, b, nvme.AbortedFailedFused, nvme.InvalidField)
	a, b = fusedPair(w, 1, 6, 7, func(f, s *nvme.Command) {
		f.SetRange(1, 2)
		s.SetRange(1, 2)
		f.SetSGL(nvme.SGL{Type: nvme.SGLInCapsule, Len: 1024})
		s.SetSGL(nvme.SGL{Type: nvme.SGLInCapsule, Len: 1024})
	})
	check("two blocks", 6, a, b, nvme.AtomicUnitExceeded, nvme.AbortedFailedFused)
	a, b = fusedPair(w, 1, 6, 7, func(f, _ *nvme.Command) { f.SetOpcode(nvme.OpWrite) })
	check("no compare", 6, a, b, nvme.InvalidField, nvme.AbortedFailedFused)
	mem.Inject(blocktest.Fault{Op: block.OpRead, Err: block.ErrMedium, Times: 1})
	a, b = fusedPair(w, 1, 6, 7, nil)
	check("a read error", 6, a, b, nvme.UnrecoveredRead, nvme.AbortedFailedFused)
	mem.Inject(blocktest.Fault{Op: block.OpWrite, Err: block.ErrNoSpace, Times: 1})
	a, b = fusedPair(w, 1, 6, 7, nil)
	check("a write error", 6, a, b, nvme.Success, nvme.CapacityExceeded)
	a, b = fusedPair(w, 1, 6, 7, func(f, _ *nvme.Command) { f[1] &^= 3 })
	check("no first", 6, a, b, nvme.Success, nvme.AbortedMissingFused)
	a, b = fusedPair(w, 1, 6, 7, func(_, s *nvme.Command) { s[1] &^= 3 })
	check("no second", 7, a, b, nvme.AbortedMissingFused, nvme.Success)
	a, b = fusedPair(w, 1, 7, 8, nil)
	check("and again", 8, a, b, nvme.Success, nvme.Success)
}

// TestCompareAndWriteAtomic: many hosts count one block up by compare-and-write;
// no count is lost, and writes beside it do not tear it.
func TestCompareAndWriteAtomic(t *testing.T) {
	mem := blocktest.NewMemory(blocktest.Options{Workers: 4})
	defer mem.Close()
	_, addr := serve(t, mem, target.Config{})
	const hosts, counts = 4, 25
	var wg sync.WaitGroup
	for h := range hosts {
		a, id := adminAs(t, addr, nvme.UUID{9, byte(h)})
		_ = a
		w := dial(t, addr)
		w.init(tcp.IC{})
		d := connectData(id)
		d.HostID = nvme.UUID{9, byte(h)}
		cqe, _ := w.do(connectCommand(nvme.ConnectParams{QID: 1, QueueDepth: 8}), d.Append(nil))
		w.ok(cqe)
		wg.Go(func() {
			for n := 0; n < counts; {
				_, b := w.do(io1(nvme.OpRead, 0, 1), nil)
				s1, s2 := fusedPair(w, 0, b[0], b[0]+1, nil)
				if s1.OK() && s2.OK() {
					n++
				}
				cqe, _ := w.do(capsule(nvme.OpWrite, 8, 1), fill(1, 1))
				w.ok(cqe)
			}
		})
	}
	wg.Wait()
	got := make([]byte, 512)
	if err := blocktest.Read(mem, 0, got); err != nil || got[0] != hosts*counts {
		t.Errorf("counted to %d, %v, want %d", got[0], err, hosts*counts)
	}
}

// adminAs is admin of another host.
func adminAs(t testing.TB, addr string, host nvme.UUID) (*wire, nvme.CNTLID) {
	t.Helper()
	w := dial(t, addr)
	w.init(tcp.IC{})
	d := connectData(nvme.CNTLIDDynamic)
	d.HostID = host
	cqe, _ := w.do(connectCommand(nvme.ConnectParams{QueueDepth: 32}), d.Append(nil))
	w.ok(cqe)
	var set nvme.Command
	set.SetPropertySet(nvme.PropertyParams{Offset: nvme.PropCC, Value: uint64(nvme.CCEnable | nvme.CCIOSQES | nvme.CCIOCQES)})
	e, _ := w.do(set, nil)
	w.ok(e)
	return w, nvme.CNTLID(cqe.Result())
}

// queueAs is queue of another host.
func queueAs(t testing.TB, addr string, host nvme.UUID) (*wire, *wire) {
	t.Helper()
	a, id := adminAs(t, addr, host)
	w := dial(t, addr)
	w.init(tcp.IC{})
	d := connectData(id)
	d.HostID = host
	cqe, _ := w.do(connectCommand(nvme.ConnectParams{QID: 1, QueueDepth: 8}), d.Append(nil))
	w.ok(cqe)
	return a, w
}

// TestFaults: each backend error class has its status, for each verb.
func TestFaults(t *testing.T) {
	mem := blocktest.NewMemory(blocktest.Options{})
	defer mem.Close()
	_, addr := serve(t, mem, target.Config{})
	_, w := queue(t, addr, 8, tcp.IC{})
	dsm := capsule(nvme.OpDSM, 0, 1)
	dsm.SetDW(10, 0)
	dsm.SetDW(11, nvme.CDW11AD)
	dsm.SetDW(12, 0)
	dsm.SetSGL(nvme.SGL{Type: nvme.SGLInCapsule, Len: nvme.RangeSize})
	for name, c := range map[string]struct {
		sqe   nvme.Command
		data  []byte
		media nvme.Status
	}{
		"read":         {io1(nvme.OpRead, 0, 1), nil, nvme.UnrecoveredRead},
		"write":        {capsule(nvme.OpWrite, 0, 1), fill(1, 1), nvme.WriteFault},
		"flush":        {io1(nvme.OpFlush, 0, 0), nil, nvme.WriteFault},
		"write zeroes": {plain(nvme.OpWriteZeroes, 0, 1), nil, nvme.WriteFault},
		"deallocate":   {dsm, nvme.Range{Blocks: 1}.Append(nil), nvme.WriteFault},
		"compare":      {capsule(nvme.OpCompare, 0, 1), fill(0, 1), nvme.UnrecoveredRead},
		"verify":       {plain(nvme.OpVerify, 0, 1), nil, nvme.UnrecoveredRead},
	} {
		for class, want := range map[error]nvme.Status{
			block.ErrRange: nvme.LBAOutOfRange, block.ErrMedium: c.media, block.ErrNoSpace: nvme.CapacityExceeded,
			block.ErrReadOnly: nvme.NSWriteProtected, block.ErrUnsupported: nvme.InvalidField,
			block.ErrAborted: nvme.AbortRequested, block.ErrIO: nvme.InternalError, errors.New("anything"): nvme.InternalError,
		} {
			mem.Inject(blocktest.Fault{Err: fmt.Errorf("wrapped: %w", class), Times: 1})
			cqe, _ := w.do(c.sqe, c.data)
			if s := cqe.Status(); s.Code() != want || s.Retry() {
				t.Errorf("%s with %v: %v, want %v, do not retry", name, class, s, want)
			}
			mem.ClearFaults()
		}
	}
	mem.Inject(blocktest.Fault{Err: block.ErrFenced, Times: 1})
	w.command(capsule(nvme.OpCompare, 0, 1), fill(0, 1))
	w.expectEnd()
}

// TestBlockedWriterHoldsNobody: a host that does not read its answers while it is
// in the middle of compare-and-writes does not keep others from writing.
func TestBlockedWriterHoldsNobody(t *testing.T) {
	mem := blocktest.NewMemory(blocktest.Options{Workers: 2})
	defer mem.Close()
	_, addr := serve(t, mem, target.Config{})
	_, bad := queueAs(t, addr, nvme.UUID{1})
	_, good := queueAs(t, addr, nvme.UUID{2})
	first, second := capsule(nvme.OpCompare, 1, 1), capsule(nvme.OpWrite, 1, 1)
	first[1] |= nvme.FuseFirst
	second[1] |= nvme.FuseSecond
	// Answers nobody reads fill the socket; then compare-and-writes.
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for range 6 {
			c := io1(nvme.OpRead, 0, 2048)
			bad.b.Command((*[64]byte)(&c), nil)
		}
		bad.b.Command((*[64]byte)(&first), [][]byte{fill(0, 1)})
		bad.b.Command((*[64]byte)(&second), [][]byte{fill(0, 1)})
		_ = bad.b.Flush(bad.nc)
	}()
	<-sent
	time.Sleep(50 * time.Millisecond)
	_ = good.nc.SetDeadline(time.Now().Add(5 * time.Second))
	cqe, _ := good.do(capsule(nvme.OpWrite, 3, 1), fill(3, 1))
	good.ok(cqe)
}

// TestErrorAndHealthLogs: what failed, and how much was done.
func TestErrorAndHealthLogs(t *testing.T) {
	mem := blocktest.NewMemory(blocktest.Options{})
	defer mem.Close()
	_, addr := serve(t, mem, target.Config{})
	a, w := queue(t, addr, 8, tcp.IC{})
	for i := range 70 {
		c := io1(nvme.OpRead, 1<<40+uint64(i), 1)
		c.SetCID(nvme.CID(i))
		cqe, _ := w.do(c, nil)
		w.fails(cqe, nvme.LBAOutOfRange)
	}
	cqe, _ := w.do(capsule(nvme.OpWrite, 0, 2), fill(1, 2))
	w.ok(cqe)
	mem.Inject(blocktest.Fault{Err: block.ErrMedium, Times: 1})
	cqe, _ = w.do(io1(nvme.OpRead, 5, 1), nil)
	w.fails(cqe, nvme.UnrecoveredRead)
	cqe, b := logPage(a, nvme.LogParams{LID: nvme.LogError, Len: 64 * 64})
	a.ok(cqe)
	newest, err := nvme.DecodeErrorEntry(b)
	if want := (nvme.ErrorEntry{Count: 71, QID: 1, CID: 77, Status: nvme.UnrecoveredRead | nvme.DNR, LBA: 5, NSID: 1}); err != nil || newest != want {
		t.Errorf("newest %+v, %v, want %+v", newest, err, want)
	}
	oldest, err := nvme.DecodeErrorEntry(b[63*64:])
	if err != nil || oldest.Count != 8 || oldest.CID != 7 {
		t.Errorf("oldest %+v, %v", oldest, err)
	}
	cqe, b = logPage(a, nvme.LogParams{LID: nvme.LogSMART, Len: 512})
	a.ok(cqe)
	var s nvme.SMART
	if err := s.Decode(b); err != nil || s.Writes != 1 || s.UnitsWritten != 1 || s.Reads != 0 || s.MediaErrors != 1 || s.ErrorEntries != 71 {
		t.Errorf("health %+v, %v", s, err)
	}
}

// TestAbort: a command that waits for room is aborted, one in the device is not.
func TestAbort(t *testing.T) {
	mem := blocktest.NewMemory(blocktest.Options{Workers: 1})
	defer mem.Close()
	_, addr := serve(t, mem, target.Config{Limits: target.Limits{MaxTransfer: 64 << 10, InflightBytes: 64 << 10}})
	a, w := queue(t, addr, 8, tcp.IC{})
	mem.Stall()
	for i := range 2 {
		c := io1(nvme.OpRead, 0, 128)
		c.SetCID(nvme.CID(10 + i))
		w.command(c, nil)
	}
	time.Sleep(50 * time.Millisecond)
	abort := func(cid uint32) uint64 {
		var c nvme.Command
		c.SetOpcode(nvme.OpAbort)
		c.SetDW(10, cid<<16|1)
		cqe, _ := a.do(c, nil)
		a.ok(cqe)
		return cqe.Result()
	}
	if got := abort(10); got != 1 {
		t.Errorf("abort of a command in the device: %d", got)
	}
	if got := abort(11); got != 0 {
		t.Errorf("abort of a command that waits: %d", got)
	}
	cqe, _ := w.answer()
	if cqe.CID() != 11 || cqe.Status().Code() != nvme.AbortRequested {
		t.Errorf("%d: %v", cqe.CID(), cqe.Status())
	}
	mem.Resume()
	cqe, _ = w.answer()
	if cqe.CID() != 10 {
		t.Errorf("%d: %v", cqe.CID(), cqe.Status())
	}
	w.ok(cqe)
}
