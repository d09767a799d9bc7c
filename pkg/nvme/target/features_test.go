package target_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/cask-storage/cask/pkg/block/blocktest"
	"github.com/cask-storage/cask/pkg/nvme"
	"github.com/cask-storage/cask/pkg/nvme/target"
	"github.com/cask-storage/cask/pkg/nvme/tcp"
)

func asyncEvent(cid nvme.CID) nvme.Command {
	var c nvme.Command
	c.SetOpcode(nvme.OpAsyncEvent)
	c.SetCID(cid)
	return c
}

func enableEvents(w *wire, mask uint32) {
	w.t.Helper()
	cqe, _ := w.do(feature(nvme.OpSetFeatures, nvme.FeatureParams{FID: nvme.FeatAsyncEvents, Value: mask}), nil)
	w.ok(cqe)
}

// TestANA: states, the log page, the event, the answers to commands, and that a
// change to a state without I/O waits for what is in the device.
func TestANA(t *testing.T) {
	mem := blocktest.NewMemory(blocktest.Options{Workers: 2})
	defer mem.Close()
	tgt, addr := serve(t, mem, target.Config{})
	a, w := queue(t, addr, 8, tcp.IC{})
	_, b := identify(a, nvme.CNSController, 0)
	var c nvme.IdentifyController
	if err := c.Decode(b); err != nil || c.CMIC&nvme.CMICANA == 0 || c.ANACAP != nvme.ANACAPAll || c.ANAGRPMAX != 1 || c.NANAGRPID != 1 || c.ANATT == 0 {
		t.Errorf("controller %+v, %v", c, err)
	}
	_, b = identify(a, nvme.CNSNamespace, 1)
	var n nvme.IdentifyNamespace
	if err := n.Decode(b); err != nil || n.ANAGroup != 1 {
		t.Errorf("namespace %+v, %v", n, err)
	}
	page := func(lsp uint8) nvme.ANALog {
		t.Helper()
		cqe, b := logPage(a, nvme.LogParams{LID: nvme.LogANA, Len: 4096, LSP: lsp})
		a.ok(cqe)
		l, err := nvme.DecodeANALog(b)
		if err != nil || len(l.Groups) != 1 {
			t.Fatalf("%+v, %v", l, err)
		}
		return l
	}
	enableEvents(a, nvme.AsyncConfigANA)
	before := page(0)
	if g := before.Groups[0]; g.State != nvme.ANAOptimized || len(g.NSIDs) != 1 || len(page(1).Groups[0].NSIDs) != 0 {
		t.Errorf("log %+v", before)
	}
	for _, s := range []nvme.ANAState{nvme.ANANonOptimized, nvme.ANAUnreachable, nvme.ANALost, nvme.ANAChanging, nvme.ANAOptimized} {
		a.command(asyncEvent(9), nil)
		if err := tgt.SetANA(t.Context(), subNQN, 1, s); err != nil {
			t.Fatal(err)
		}
		cqe, _ := a.answer()
		if e := nvme.DecodeAsyncEvent(cqe.Result()); e != (nvme.AsyncEvent{Type: 2, Info: 3, Log: nvme.LogANA}) {
			t.Errorf("event %+v", e)
		}
		after := page(0)
		if after.Groups[0].State != s || after.Changes <= before.Changes {
			t.Errorf("%v: log %+v", s, after)
		}
		before = after
		for _, op := range []nvme.Command{io1(nvme.OpRead, 0, 1), capsule(nvme.OpWrite, 0, 1), io1(nvme.OpFlush, 0, 0)} {
			var data []byte
			if op.Opcode() == nvme.OpWrite {
				data = fill(1, 1)
			}
			cqe, _ := w.do(op, data)
			if cqe.Status() != s.Status() { // without DNR: another path may do it
				t.Errorf("%v: opcode %#x: %v, want %v", s, op.Opcode(), cqe.Status(), s.Status())
			}
		}
	}
	mem.Stall()
	w.command(capsule(nvme.OpWrite, 0, 1), fill(1, 1))
	time.Sleep(50 * time.Millisecond)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := tgt.SetANA(ctx, subNQN, 1, nvme.ANAUnreachable); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("with a write in the device: %v", err)
	}
	mem.Resume()
	if err := tgt.SetANA(t.Context(), subNQN, 1, nvme.ANAUnreachable); err != nil {
		t.Error(err)
	}
	for _, err := range []error{
		tgt.SetANA(t.Context(), subNQN, 2, nvme.ANAOptimized), tgt.SetANA(t.Context(), "nqn.x", 1, nvme.ANAOptimized),
		tgt.SetANA(t.Context(), subNQN, 1, 9),
	} {
		if err == nil {
			t.Error("accepted")
		}
	}
}

// TestDiscoveryEvents: a persistent discovery connection is told of changes and
// kept by keep-alives.
func TestDiscoveryEvents(t *testing.T) {
	mem := blocktest.NewMemory(blocktest.Options{})
	defer mem.Close()
	tgt, addr := serve(t, mem, target.Config{})
	w := dial(t, addr)
	w.init(tcp.IC{})
	d := connectData(nvme.CNTLIDDynamic)
	d.SubNQN = nvme.DiscoveryNQN
	cqe, _ := w.do(connectCommand(nvme.ConnectParams{QueueDepth: 32, KATO: 5000}), d.Append(nil))
	w.ok(cqe)
	_, b := identify(w, nvme.CNSController, 0)
	var c nvme.IdentifyController
	if err := c.Decode(b); err != nil || c.OAES != nvme.OAESDiscovery || c.KAS == 0 {
		t.Errorf("controller %+v, %v", c, err)
	}
	enableEvents(w, nvme.AsyncConfigDiscovery)
	other := target.Subsystem{NQN: subNQN + "2", Namespaces: []target.Namespace{{ID: 1, Device: mem, UUID: nvme.UUID{2}}}}
	for i, change := range []func() error{
		func() error { return tgt.AddSubsystem(other) },
		func() error { return tgt.RemoveSubsystem(t.Context(), other.NQN) },
	} {
		w.command(asyncEvent(9), nil)
		if err := change(); err != nil {
			t.Fatal(err)
		}
		cqe, _ := w.answer()
		if e := nvme.DecodeAsyncEvent(cqe.Result()); e != (nvme.AsyncEvent{Type: 2, Info: 0xf0, Log: nvme.LogDiscovery}) {
			t.Errorf("event %+v", e)
		}
		cqe, b := logPage(w, nvme.LogParams{LID: nvme.LogDiscovery, Len: 3072})
		w.ok(cqe)
		if l, err := nvme.DecodeDiscoveryLog(b); err != nil || len(l.Entries) != 2-i {
			t.Errorf("log %+v, %v", l, err)
		}
	}
}

// TestDiscoveryTwice: a host keeps its persistent discovery connection while it
// asks by another one, as nvme discover does.
func TestDiscoveryTwice(t *testing.T) {
	mem := blocktest.NewMemory(blocktest.Options{})
	defer mem.Close()
	_, addr := serve(t, mem, target.Config{Limits: target.Limits{Controllers: 2}})
	d := connectData(nvme.CNTLIDDynamic)
	d.SubNQN = nvme.DiscoveryNQN
	discover := func() (*wire, nvme.Completion) {
		w := dial(t, addr)
		w.init(tcp.IC{})
		cqe, _ := w.do(connectCommand(nvme.ConnectParams{QueueDepth: 32}), d.Append(nil))
		return w, cqe
	}
	stays, cqe := discover()
	stays.ok(cqe)
	other, cqe := discover()
	other.ok(cqe)
	for _, w := range []*wire{stays, other} {
		cqe, _ := logPage(w, nvme.LogParams{LID: nvme.LogDiscovery, Len: 2048})
		w.ok(cqe)
	}
	more, cqe := discover()
	more.fails(cqe, nvme.ConnectBusy)
}

func reserve(w *wire, op nvme.Opcode, p nvme.ReservationParams, current, other uint64) nvme.Status {
	w.t.Helper()
	var c nvme.Command
	c.SetReservation(op, p)
	c.SetCID(50)
	c.SetNSID(1)
	data := nvme.ReservationKeys{Current: current, Other: other}.Append(nil)
	if op == nvme.OpReservationRelease {
		data = data[:nvme.ReservationKeySize]
	}
	c.SetSGL(nvme.SGL{Type: nvme.SGLInCapsule, Len: uint32(len(data))})
	cqe, _ := w.do(c, data)
	return cqe.Status().Code()
}

func report(w *wire) nvme.ReservationReport {
	w.t.Helper()
	var c nvme.Command
	c.SetOpcode(nvme.OpReservationReport)
	c.SetNSID(1)
	c.SetDW(10, 1023)
	c.SetDW(11, 1)
	c.SetSGL(nvme.SGL{Type: nvme.SGLTransport, Len: 4096})
	cqe, b := w.do(c, nil)
	w.ok(cqe)
	r, err := nvme.DecodeReservationReport(b)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

func TestReservations(t *testing.T) {
	mem := blocktest.NewMemory(blocktest.Options{})
	defer mem.Close()
	_, addr := serve(t, mem, target.Config{})
	_, x := queueAs(t, addr, nvme.UUID{1})
	ya, y := queueAs(t, addr, nvme.UUID{2})
	is := func(got, want nvme.Status) {
		t.Helper()
		if got != want {
			t.Errorf("%v, want %v", got, want)
		}
	}
	write := func(w *wire) nvme.Status {
		cqe, _ := w.do(capsule(nvme.OpWrite, 0, 1), fill(1, 1))
		return cqe.Status().Code()
	}
	read := func(w *wire) nvme.Status {
		cqe, _ := w.do(io1(nvme.OpRead, 0, 1), nil)
		return cqe.Status().Code()
	}
	is(reserve(x, nvme.OpReservationRegister, nvme.ReservationParams{}, 0, 0x11), nvme.Success)
	is(reserve(y, nvme.OpReservationAcquire, nvme.ReservationParams{Type: nvme.WriteExclusive}, 0, 0), nvme.ReservationConflict)
	is(reserve(x, nvme.OpReservationAcquire, nvme.ReservationParams{Type: nvme.WriteExclusive}, 0x11, 0), nvme.Success)
	is(write(x), nvme.Success)
	is(write(y), nvme.ReservationConflict)
	is(read(y), nvme.Success)
	a, b := fusedPair(y, 0, 1, 2, nil)
	is(a, nvme.AbortedFailedFused)
	is(b, nvme.ReservationConflict)
	is(reserve(y, nvme.OpReservationRegister, nvme.ReservationParams{}, 0, 0x22), nvme.Success)
	is(reserve(x, nvme.OpReservationRegister, nvme.ReservationParams{Persist: nvme.PersistOn, Action: nvme.ReservationReplace}, 0x11, 0x12), nvme.InvalidField)
	r := report(y)
	if len(r.Controllers) != 2 || r.Type != nvme.WriteExclusive || !r.Controllers[0].Holder || r.Controllers[1].Key != 0x22 || r.Generation != 2 {
		t.Errorf("report %+v", r)
	}
	// The preempted host is told, once it has another event to wait with.
	xa, _ := queueAs(t, addr, nvme.UUID{1}) // displaces x; reservations stay
	x.expectEnd()
	xa.command(asyncEvent(9), nil)
	is(reserve(y, nvme.OpReservationAcquire, nvme.ReservationParams{Action: nvme.ReservationPreempt, Type: nvme.ExclusiveAccess}, 0x22, 0x11), nvme.Success)
	cqe, _ := xa.answer()
	if e := nvme.DecodeAsyncEvent(cqe.Result()); e != (nvme.AsyncEvent{Type: 6, Log: nvme.LogReservation}) {
		t.Errorf("event %+v", e)
	}
	cqe, page := logPage(xa, nvme.LogParams{LID: nvme.LogReservation, Len: 64})
	xa.ok(cqe)
	if l, err := nvme.DecodeReservationLog(page); err != nil || l != (nvme.ReservationLog{Count: 1, Notice: nvme.RegistrationPreempted, NSID: 1}) {
		t.Errorf("notice %+v, %v", l, err)
	}
	_, z := queueAs(t, addr, nvme.UUID{3})
	is(read(z), nvme.ReservationConflict)
	is(read(y), nvme.Success)
	mask := feature(nvme.OpSetFeatures, nvme.FeatureParams{FID: nvme.FeatReservationMask, Value: 0xe})
	mask.SetNSID(1)
	cqe, _ = ya.do(mask, nil)
	ya.ok(cqe)
	is(reserve(y, nvme.OpReservationRelease, nvme.ReservationParams{Type: nvme.ExclusiveAccess}, 0x22, 0), nvme.Success)
	is(read(z), nvme.Success)
}

// TestReservationsOfKernels: Linux's pr_ops send 16 bytes with a release or
// clear, too, of which only the first 8 are asked for.
func TestReservationsOfKernels(t *testing.T) {
	mem := blocktest.NewMemory(blocktest.Options{})
	defer mem.Close()
	_, addr := serve(t, mem, target.Config{})
	_, x := queueAs(t, addr, nvme.UUID{1})
	pr := func(op nvme.Opcode, p nvme.ReservationParams, size uint32) {
		t.Helper()
		var c nvme.Command
		c.SetReservation(op, p)
		c.SetNSID(1)
		c.SetSGL(nvme.SGL{Type: nvme.SGLInCapsule, Len: size})
		data := nvme.ReservationKeys{Current: 0x11, Other: 0x11}.Append(nil)
		cqe, _ := x.do(c, append(data, make([]byte, 16)...)[:size])
		if want := size <= nvme.ReservationKeysSize; cqe.Status().OK() != want {
			t.Errorf("opcode %#x with %d bytes: %v", op, size, cqe.Status())
		}
	}
	pr(nvme.OpReservationRegister, nvme.ReservationParams{}, 16)
	pr(nvme.OpReservationAcquire, nvme.ReservationParams{Type: nvme.WriteExclusive}, 16)
	pr(nvme.OpReservationRelease, nvme.ReservationParams{Type: nvme.WriteExclusive}, 24)
	pr(nvme.OpReservationRelease, nvme.ReservationParams{Type: nvme.WriteExclusive}, 16)
	if r := report(x); r.Type != 0 || len(r.Controllers) != 1 {
		t.Errorf("after a release: %+v", r)
	}
	pr(nvme.OpReservationRelease, nvme.ReservationParams{Action: nvme.ReservationClear}, 16)
	if r := report(x); len(r.Controllers) != 0 {
		t.Errorf("after a clear: %+v", r)
	}
}

// TestReservationsKept: with PTPL they outlive the target; when they cannot be
// kept, nothing changes.
func TestReservationsKept(t *testing.T) {
	mem := blocktest.NewMemory(blocktest.Options{})
	defer mem.Close()
	var mu sync.Mutex
	var kept []byte
	var broken error
	keep := func(_ context.Context, b []byte) error {
		mu.Lock()
		defer mu.Unlock()
		if broken == nil {
			kept = b
		}
		return broken
	}
	ns := target.Namespace{ID: 1, Device: mem, UUID: nvme.UUID{1}, Reservations: target.Reservations{Keep: keep}}
	start := func() (string, func()) {
		t.Helper()
		mu.Lock()
		ns.Reservations.State = kept
		mu.Unlock()
		return serveSubsystem(t, target.Config{}, target.Subsystem{NQN: subNQN, Namespaces: []target.Namespace{ns}})
	}
	addr, stop := start()
	_, x := queueAs(t, addr, nvme.UUID{1})
	if s := reserve(x, nvme.OpReservationRegister, nvme.ReservationParams{Persist: nvme.PersistOn}, 0, 0x11); !s.OK() {
		t.Fatal(s)
	}
	if s := reserve(x, nvme.OpReservationAcquire, nvme.ReservationParams{Type: nvme.WriteExclusive}, 0x11, 0); !s.OK() {
		t.Fatal(s)
	}
	stop()
	addr, stop = start()
	defer stop()
	_, y := queueAs(t, addr, nvme.UUID{2})
	cqe, _ := y.do(capsule(nvme.OpWrite, 0, 1), fill(1, 1))
	y.fails(cqe, nvme.ReservationConflict)
	if r := report(y); !r.Persist || len(r.Controllers) != 1 || r.Controllers[0].CNTLID != nvme.CNTLIDDynamic {
		t.Errorf("report %+v", r)
	}
	mu.Lock()
	broken = fmt.Errorf("the disk is full")
	mu.Unlock()
	if s := reserve(y, nvme.OpReservationRegister, nvme.ReservationParams{}, 0, 0x22); s != nvme.InternalError {
		t.Errorf("register that cannot be kept: %v", s)
	}
	if r := report(y); len(r.Controllers) != 1 {
		t.Errorf("report %+v", r)
	}
}

// TestControllerRange: two targets of one subsystem give out different
// identifiers, and a full range is busy.
func TestControllerRange(t *testing.T) {
	mem := blocktest.NewMemory(blocktest.Options{})
	defer mem.Close()
	addr, stop := serveSubsystem(t, target.Config{}, target.Subsystem{
		NQN: subNQN, Controllers: target.ControllerRange{First: 100, Last: 101},
		Namespaces: []target.Namespace{{ID: 1, Device: mem, UUID: nvme.UUID{1}}},
	})
	defer stop()
	a, first := adminAs(t, addr, nvme.UUID{1})
	_, second := adminAs(t, addr, nvme.UUID{2})
	if first != 100 || second != 101 {
		t.Errorf("controllers %d and %d", first, second)
	}
	_, b := identify(a, nvme.CNSControllers, 0)
	if ids, err := nvme.DecodeControllers(b); err != nil || len(ids) != 2 || ids[0] != 100 {
		t.Errorf("list %v, %v", ids, err)
	}
	w := dial(t, addr)
	w.init(tcp.IC{})
	d := connectData(nvme.CNTLIDDynamic)
	d.HostID = nvme.UUID{3}
	cqe, _ := w.do(connectCommand(nvme.ConnectParams{QueueDepth: 32}), d.Append(nil))
	w.fails(cqe, nvme.ConnectBusy)
}
