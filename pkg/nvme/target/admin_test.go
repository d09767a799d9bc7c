package target_test

import (
	"bytes"
	"context"
	"net"
	"testing"
	"time"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/block/blocktest"
	"github.com/cask-storage/cask/pkg/nvme"
	"github.com/cask-storage/cask/pkg/nvme/target"
	"github.com/cask-storage/cask/pkg/nvme/tcp"
)

func identify(w *wire, cns nvme.CNS, id nvme.NSID) (nvme.Completion, []byte) {
	w.t.Helper()
	var c nvme.Command
	c.SetIdentify(nvme.IdentifyParams{CNS: cns})
	c.SetNSID(id)
	c.SetSGL(nvme.SGL{Type: nvme.SGLTransport, Len: nvme.IdentifySize})
	return w.do(c, nil)
}

func TestIdentify(t *testing.T) {
	mem := blocktest.NewMemory(blocktest.Options{Geometry: block.Geometry{BlockSize: 4096, PhysicalBlock: 16384}})
	defer mem.Close()
	_, addr := serve(t, mem, target.Config{})
	w, id := admin(t, addr, tcp.IC{})
	cqe, b := identify(w, nvme.CNSController, 0)
	w.ok(cqe)
	var c nvme.IdentifyController
	if err := c.Decode(b); err != nil {
		t.Fatal(err)
	}
	if c.CNTLID != id || c.SubNQN != subNQN || c.MaxTransfer() != 1<<20 || c.VWC&nvme.VWCPresent == 0 || c.NN != 1 || c.KAS == 0 || len(c.Serial) != 20 {
		t.Errorf("controller %+v", c)
	}
	cqe, b = identify(w, nvme.CNSNamespace, 1)
	w.ok(cqe)
	var n nvme.IdentifyNamespace
	if err := n.Decode(b); err != nil {
		t.Fatal(err)
	}
	if n.Size != mem.Geometry().Size/4096 || n.LBADS != 12 || n.NPWG != 3 || n.NGUID != (nvme.UUID{1}) || n.EUI64[0]&3 != 2 {
		t.Errorf("namespace %+v", n)
	}
	cqe, b = identify(w, nvme.CNSDescriptors, 1)
	w.ok(cqe)
	ds, err := nvme.DecodeDescriptors(b)
	if err != nil || len(ds) != 4 || ds[0].Type != nvme.NIDTUUID || !bytes.Equal(ds[2].ID, n.EUI64[:]) {
		t.Errorf("descriptors %v, %v", ds, err)
	}
	for _, cns := range []nvme.CNS{nvme.CNSActiveNS, nvme.CNSActiveNSCSI} {
		cqe, b = identify(w, cns, 0)
		w.ok(cqe)
		if ids := nvme.DecodeNSIDs(b); len(ids) != 1 || ids[0] != 1 {
			t.Errorf("active namespaces %v", ids)
		}
		cqe, b = identify(w, cns, 1)
		w.ok(cqe)
		if ids := nvme.DecodeNSIDs(b); len(ids) != 0 {
			t.Errorf("active namespaces after 1: %v", ids)
		}
	}
	for _, cns := range []nvme.CNS{nvme.CNSControllerCSI, nvme.CNSCommandSets, nvme.CNSNamespaceCommon, nvme.CNSNamespaceCSI} {
		cqe, _ = identify(w, cns, 1)
		w.ok(cqe)
	}
	for cns, want := range map[nvme.CNS]nvme.Status{
		nvme.CNSNamespace: nvme.InvalidNamespace, nvme.CNSDescriptors: nvme.InvalidNamespace, nvme.CNSNamespaceCommon: nvme.InvalidNamespace,
	} {
		cqe, _ = identify(w, cns, 5)
		w.fails(cqe, want)
	}
	cqe, _ = identify(w, nvme.CNSActiveNS, nvme.NSIDAll)
	w.fails(cqe, nvme.InvalidNamespace)
	for _, id := range []nvme.NSID{0, 1, 5, nvme.NSIDAll} { // whatever the namespace
		cqe, _ = identify(w, 0x55, id)
		w.fails(cqe, nvme.InvalidField)
	}
}

func feature(op nvme.Opcode, f nvme.FeatureParams) nvme.Command {
	var c nvme.Command
	c.SetFeature(f)
	c.SetOpcode(op)
	c.SetDW(10, c.DW(10)|uint32(f.Select)<<8)
	return c
}

func TestFeatures(t *testing.T) {
	mem := blocktest.NewMemory(blocktest.Options{})
	defer mem.Close()
	_, addr := serve(t, mem, target.Config{Limits: target.Limits{Queues: 4}})
	w, _ := admin(t, addr, tcp.IC{})
	for _, c := range []struct {
		op     nvme.Opcode
		f      nvme.FeatureParams
		want   nvme.Status
		result uint64
	}{
		{nvme.OpGetFeatures, nvme.FeatureParams{FID: nvme.FeatWriteCache}, 0, 1},
		{nvme.OpSetFeatures, nvme.FeatureParams{FID: nvme.FeatWriteCache, Value: 1}, 0, 0},
		{nvme.OpSetFeatures, nvme.FeatureParams{FID: nvme.FeatWriteCache}, nvme.FeatureNotChangeable, 0},
		{nvme.OpSetFeatures, nvme.FeatureParams{FID: nvme.FeatNumberOfQueues, Value: 0x00070001}, 0, 0x00010001},
		{nvme.OpSetFeatures, nvme.FeatureParams{FID: nvme.FeatNumberOfQueues, Value: 0x00070007}, 0, 0x00030003},
		{nvme.OpSetFeatures, nvme.FeatureParams{FID: nvme.FeatNumberOfQueues, Value: 0xffff0001}, nvme.InvalidField, 0},
		{nvme.OpGetFeatures, nvme.FeatureParams{FID: nvme.FeatNumberOfQueues}, 0, 0x00030003},
		{nvme.OpSetFeatures, nvme.FeatureParams{FID: nvme.FeatKeepAlive, Value: 7000}, 0, 0},
		{nvme.OpGetFeatures, nvme.FeatureParams{FID: nvme.FeatKeepAlive}, 0, 7000},
		{nvme.OpGetFeatures, nvme.FeatureParams{FID: nvme.FeatKeepAlive, Select: nvme.SelectSupported}, 0, 4},
		{nvme.OpGetFeatures, nvme.FeatureParams{FID: nvme.FeatKeepAlive, Select: nvme.SelectSaved}, nvme.InvalidField, 0},
		{nvme.OpSetFeatures, nvme.FeatureParams{FID: nvme.FeatAsyncEvents, Value: 0xffffffff}, 0, 0},
		{nvme.OpGetFeatures, nvme.FeatureParams{FID: nvme.FeatAsyncEvents}, 0, nvme.AsyncConfigNamespace | nvme.AsyncConfigANA},
		{nvme.OpSetFeatures, nvme.FeatureParams{FID: nvme.FeatAsyncEvents, Save: true}, nvme.FeatureNotSaveable, 0},
		{nvme.OpSetFeatures, nvme.FeatureParams{FID: nvme.FeatHostID}, nvme.CommandSequenceError, 0},
		{nvme.OpGetFeatures, nvme.FeatureParams{FID: 0x55}, nvme.InvalidField, 0},
		{nvme.OpSetFeatures, nvme.FeatureParams{FID: 0x55}, nvme.InvalidField, 0},
		{nvme.OpSetFeatures, nvme.FeatureParams{FID: nvme.FeatReservationPersist}, nvme.FeatureNotChangeable, 0},
		{nvme.OpGetFeatures, nvme.FeatureParams{FID: 0x55, Select: nvme.SelectSupported}, nvme.InvalidField, 0},
		{nvme.OpGetFeatures, nvme.FeatureParams{FID: nvme.FeatTemperature}, 0, 0},
	} {
		cqe, _ := w.do(feature(c.op, c.f), nil)
		if cqe.Status().Code() != c.want || cqe.Result() != c.result {
			t.Errorf("opcode %#x %+v: %v, result %#x, want %v, %#x", c.op, c.f, cqe.Status(), cqe.Result(), c.want, c.result)
		}
	}
	get := feature(nvme.OpGetFeatures, nvme.FeatureParams{FID: nvme.FeatHostID})
	get.SetSGL(nvme.SGL{Type: nvme.SGLTransport, Len: 16})
	cqe, b := w.do(get, nil)
	w.ok(cqe)
	if !bytes.Equal(b, []byte{5, 15: 0}) {
		t.Errorf("host identifier %x", b)
	}
}

func logPage(w *wire, p nvme.LogParams) (nvme.Completion, []byte) {
	w.t.Helper()
	var c nvme.Command
	c.SetLog(p)
	c.SetSGL(nvme.SGL{Type: nvme.SGLTransport, Len: uint32(p.Len)})
	return w.do(c, nil)
}

func TestLogPages(t *testing.T) {
	mem := blocktest.NewMemory(blocktest.Options{})
	defer mem.Close()
	_, addr := serve(t, mem, target.Config{})
	w, _ := admin(t, addr, tcp.IC{})
	for lid, size := range map[nvme.LID]uint64{
		nvme.LogSupported: 1024, nvme.LogError: 64, nvme.LogSMART: 512, nvme.LogFirmware: 512,
		nvme.LogChangedNS: 4096, nvme.LogEffects: 4096,
	} {
		cqe, b := logPage(w, nvme.LogParams{LID: lid, Len: size})
		w.ok(cqe)
		if uint64(len(b)) != size {
			t.Errorf("log %#x: %d bytes", lid, len(b))
		}
	}
	cqe, b := logPage(w, nvme.LogParams{LID: nvme.LogEffects, Len: 8192, Offset: 1024})
	w.ok(cqe)
	if len(b) != 8192 || b[0] != 1 || b[4] != 3 {
		t.Errorf("effects of I/O commands: %x", b[:16])
	}
	cqe, _ = logPage(w, nvme.LogParams{LID: nvme.LogSMART, Len: 4, Offset: 1 << 40})
	w.fails(cqe, nvme.InvalidField)
	cqe, _ = logPage(w, nvme.LogParams{LID: 0x99, Len: 4})
	w.fails(cqe, nvme.InvalidLogPage)
	cqe, _ = logPage(w, nvme.LogParams{LID: nvme.LogSMART, Len: 1 << 30})
	w.fails(cqe, nvme.InvalidField)
}

func TestDiscovery(t *testing.T) {
	mem := blocktest.NewMemory(blocktest.Options{})
	defer mem.Close()
	for advertise, want := range map[string]nvme.DiscoveryEntry{
		"":                {Family: nvme.AddressIPv4, Address: "127.0.0.1"},
		"10.1.2.3:4420":   {Family: nvme.AddressIPv4, Address: "10.1.2.3", Service: "4420"},
		"[fd00::1]:14420": {Family: nvme.AddressIPv6, Address: "fd00::1", Service: "14420"},
	} {
		_, addr := serve(t, mem, target.Config{
			Advertise: advertise,
			Admit:     func(context.Context, string) error { return context.Canceled }, // discovery is open
		})
		if advertise == "" {
			_, want.Service, _ = net.SplitHostPort(addr)
		}
		w := dial(t, addr)
		w.init(tcp.IC{})
		d := connectData(nvme.CNTLIDDynamic)
		d.SubNQN = nvme.DiscoveryNQN
		cqe, _ := w.do(connectCommand(nvme.ConnectParams{QueueDepth: 32}), d.Append(nil))
		w.ok(cqe)
		cqe, b := identify(w, nvme.CNSController, 0)
		w.ok(cqe)
		var c nvme.IdentifyController
		if err := c.Decode(b); err != nil || c.Type != nvme.CtrlTypeDiscovery || c.SubNQN != nvme.DiscoveryNQN {
			t.Errorf("controller %+v, %v", c, err)
		}
		cqe, b = logPage(w, nvme.LogParams{LID: nvme.LogDiscovery, Len: 2048})
		w.ok(cqe)
		l, err := nvme.DecodeDiscoveryLog(b)
		if err != nil || len(l.Entries) != 1 {
			t.Fatalf("%+v, %v", l, err)
		}
		want.Transport, want.Subtype, want.Treq, want.PortID = 3, 2, 2, 1
		want.CNTLID, want.AdminDepth, want.SubNQN = 0xffff, 32, subNQN
		if l.Entries[0] != want {
			t.Errorf("record %+v, want %+v", l.Entries[0], want)
		}
		cqe, _ = identify(w, nvme.CNSNamespace, 1)
		w.fails(cqe, nvme.InvalidField)
		cqe, _ = logPage(w, nvme.LogParams{LID: nvme.LogSMART, Len: 512})
		w.fails(cqe, nvme.InvalidLogPage)
	}
}

func TestEvents(t *testing.T) {
	mem := blocktest.NewMemory(blocktest.Options{})
	defer mem.Close()
	tgt, addr := serve(t, mem, target.Config{})
	w, _ := admin(t, addr, tcp.IC{})
	event := func(cid nvme.CID) nvme.Command {
		var c nvme.Command
		c.SetOpcode(nvme.OpAsyncEvent)
		c.SetCID(cid)
		return c
	}
	for i := range 4 {
		w.command(event(nvme.CID(100+i)), nil)
	}
	cqe, _ := w.do(event(104), nil)
	w.fails(cqe, nvme.AsyncLimitExceeded)
	tgt.NamespaceChanged(subNQN, 1) // not asked for yet: kept
	abort := nvme.Command{}
	abort.SetOpcode(nvme.OpAbort)
	abort.SetCID(9)
	abort.SetDW(10, 103<<16)
	w.command(abort, nil)
	got := map[nvme.CID]nvme.Completion{}
	for range 2 {
		cqe, _ := w.answer()
		got[cqe.CID()] = cqe
	}
	if c, a := got[103], got[9]; c.Status().Code() != nvme.AbortRequested || a.Result() != 0 {
		t.Errorf("abort: %v", got)
	}
	cqe, _ = w.do(abort, nil)
	if cqe.Result() != 1 {
		t.Errorf("second abort: result %d", cqe.Result())
	}
	w.command(feature(nvme.OpSetFeatures, nvme.FeatureParams{FID: nvme.FeatAsyncEvents, Value: nvme.AsyncConfigNamespace}), nil)
	cqe, _ = w.answer()
	w.ok(cqe)
	tgt.NamespaceChanged(subNQN, 1)
	cqe, _ = w.answer()
	if e := nvme.DecodeAsyncEvent(cqe.Result()); cqe.CID() != 100 || e != (nvme.AsyncEvent{Type: 2, Log: nvme.LogChangedNS}) {
		t.Errorf("event %d %+v", cqe.CID(), e)
	}
	tgt.NamespaceChanged(subNQN, 1) // masked until the page is read
	cqe, b := logPage(w, nvme.LogParams{LID: nvme.LogChangedNS, Len: 4096})
	for cqe.CID() != 0 { // the next event may come first
		cqe, b = w.answer()
	}
	w.ok(cqe)
	if ids := nvme.DecodeNSIDs(b); len(ids) != 1 || ids[0] != 1 {
		t.Errorf("changed namespaces %v", ids)
	}
}

func TestProperties(t *testing.T) {
	mem := blocktest.NewMemory(blocktest.Options{})
	defer mem.Close()
	_, addr := serve(t, mem, target.Config{})
	a, w := queue(t, addr, 8, tcp.IC{})
	get := func(p nvme.PropertyParams) nvme.Completion {
		var c nvme.Command
		c.SetPropertyGet(p)
		cqe, _ := a.do(c, nil)
		return cqe
	}
	set := func(v uint32) {
		var c nvme.Command
		c.SetPropertySet(nvme.PropertyParams{Offset: nvme.PropCC, Value: uint64(v)})
		cqe, _ := a.do(c, nil)
		a.ok(cqe)
	}
	c := get(nvme.PropertyParams{Wide: true, Offset: nvme.PropCAP})
	if l := nvme.DecodeCapabilities(c.Result()); l.QueueDepth != 128 || l.TimeoutMS != 15000 {
		t.Errorf("CAP %+v", l)
	}
	c = get(nvme.PropertyParams{Offset: nvme.PropVS})
	if c.Result() != uint64(nvme.Version) {
		t.Errorf("VS %#x", c.Result())
	}
	a.fails(get(nvme.PropertyParams{Offset: 0x100}), nvme.InvalidField)
	a.fails(get(nvme.PropertyParams{Wide: true, Offset: nvme.PropCC}), nvme.InvalidField)
	// A reset ends the I/O queues before CSTS.RDY falls.
	set(0)
	for start := time.Now(); ; time.Sleep(time.Millisecond) {
		c := get(nvme.PropertyParams{Offset: nvme.PropCSTS})
		if c.Result() == 0 {
			break
		}
		if time.Since(start) > 5*time.Second {
			t.Fatalf("CSTS %#x", c.Result())
		}
	}
	w.expectEnd()
	set(nvme.CCEnable | nvme.CCShutNormal)
	c = get(nvme.PropertyParams{Offset: nvme.PropCSTS})
	if c.Result() != uint64(nvme.CSTSReady|nvme.CSTSShutReady) {
		t.Errorf("CSTS %#x", c.Result())
	}
	var bad nvme.Command
	bad.SetPropertySet(nvme.PropertyParams{Offset: nvme.PropCSTS})
	cqe, _ := a.do(bad, nil)
	a.fails(cqe, nvme.InvalidField)
}

func propertySet(w *wire, cc uint32) {
	w.t.Helper()
	var c nvme.Command
	c.SetPropertySet(nvme.PropertyParams{Offset: nvme.PropCC, Value: uint64(cc)})
	cqe, _ := w.do(c, nil)
	w.ok(cqe)
}

func status(w *wire) uint32 {
	w.t.Helper()
	var c nvme.Command
	c.SetPropertyGet(nvme.PropertyParams{Offset: nvme.PropCSTS})
	cqe, _ := w.do(c, nil)
	w.ok(cqe)
	return uint32(cqe.Result())
}

// TestResets: a reset answers the event requests that were held, so a host may
// reset as often as it likes.
func TestResets(t *testing.T) {
	mem := blocktest.NewMemory(blocktest.Options{})
	defer mem.Close()
	_, addr := serve(t, mem, target.Config{})
	a, _ := admin(t, addr, tcp.IC{})
	var disable nvme.Command
	disable.SetPropertySet(nvme.PropertyParams{Offset: nvme.PropCC})
	mask := feature(nvme.OpSetFeatures, nvme.FeatureParams{FID: nvme.FeatReservationMask, Value: 2})
	mask.SetNSID(1)
	cqe, _ := a.do(mask, nil)
	a.ok(cqe)
	for range 20 {
		for i := range 4 {
			a.command(asyncEvent(nvme.CID(100+i)), nil)
		}
		a.command(disable, nil)
		for i := range 4 {
			cqe, _ := a.answer()
			if cqe.CID() != nvme.CID(100+i) || cqe.Status().Code() != nvme.AbortedSQDeletion {
				t.Fatalf("%d: %v", cqe.CID(), cqe.Status())
			}
		}
		cqe, _ := a.answer()
		a.ok(cqe)
		propertySet(a, nvme.CCEnable|nvme.CCIOSQES|nvme.CCIOCQES)
	}
	mask.SetOpcode(nvme.OpGetFeatures)
	if cqe, _ = a.do(mask, nil); cqe.Result() != 0 {
		t.Errorf("notices that are masked after a reset: %#x", cqe.Result())
	}
}

// TestShutdown: it is complete when what the host had submitted has ended and is
// durable, and not before; there are no queues any more.
func TestShutdown(t *testing.T) {
	mem := blocktest.NewMemory(blocktest.Options{Workers: 2})
	defer mem.Close()
	_, addr := serve(t, mem, target.Config{})
	a, id := admin(t, addr, tcp.IC{})
	w := dial(t, addr)
	w.init(tcp.IC{})
	cqe, _ := w.do(connectCommand(nvme.ConnectParams{QID: 1, QueueDepth: 8}), connectData(id).Append(nil))
	w.ok(cqe)
	mem.Stall()
	w.command(capsule(nvme.OpWrite, 0, 1), fill(1, 1))
	time.Sleep(50 * time.Millisecond)
	const on = nvme.CCEnable | nvme.CCIOSQES | nvme.CCIOCQES
	propertySet(a, on|nvme.CCShutNormal)
	w.expectEnd()
	if s := status(a); s != nvme.CSTSReady|nvme.CSTSShutting {
		t.Errorf("CSTS %#x with a write in the device", s)
	}
	x := dial(t, addr)
	x.init(tcp.IC{})
	cqe, _ = x.do(connectCommand(nvme.ConnectParams{QID: 2, QueueDepth: 8}), connectData(id).Append(nil))
	x.fails(cqe, nvme.CommandSequenceError)
	mem.Resume()
	for start := time.Now(); status(a) != nvme.CSTSReady|nvme.CSTSShutReady; time.Sleep(time.Millisecond) {
		if time.Since(start) > 5*time.Second {
			t.Fatalf("CSTS %#x", status(a))
		}
	}
	if c := mem.Counts(); c != (blocktest.Counts{Writes: 1, Flushes: 1}) {
		t.Errorf("counts %+v", c)
	}
	// What cannot be made durable is not said to be.
	propertySet(a, 0)
	propertySet(a, on)
	if s := status(a); s != nvme.CSTSReady {
		t.Errorf("CSTS %#x after a reset", s)
	}
	mem.Inject(blocktest.Fault{Err: block.ErrIO, Times: 1})
	propertySet(a, on|nvme.CCShutNormal)
	time.Sleep(50 * time.Millisecond)
	if s := status(a); s != nvme.CSTSReady|nvme.CSTSShutting {
		t.Errorf("CSTS %#x after a flush that failed", s)
	}
}

func TestRemoveSubsystem(t *testing.T) {
	mem := blocktest.NewMemory(blocktest.Options{})
	defer mem.Close()
	tgt, addr := serve(t, mem, target.Config{})
	a, w := queue(t, addr, 8, tcp.IC{})
	if err := tgt.RemoveSubsystem(context.Background(), subNQN); err != nil {
		t.Fatal(err)
	}
	a.expectEnd()
	w.expectEnd()
	if err := tgt.RemoveSubsystem(context.Background(), subNQN); err != nil {
		t.Fatal(err)
	}
}

func TestConfig(t *testing.T) {
	mem := blocktest.NewMemory(blocktest.Options{})
	defer mem.Close()
	for _, l := range []target.Limits{{QueueDepth: 1}, {QueueDepth: 5000}, {MaxTransfer: 4096}, {InflightBytes: 4096}, {Queues: 2000}, {Connections: -1}} {
		if _, err := target.New(target.Config{Limits: l}); err == nil {
			t.Errorf("limits %+v accepted", l)
		}
	}
	if _, err := target.New(target.Config{Advertise: "nowhere"}); err == nil {
		t.Error("advertised address accepted")
	}
	tgt, err := target.New(target.Config{})
	if err != nil {
		t.Fatal(err)
	}
	good := target.Namespace{ID: 1, Device: mem, UUID: nvme.UUID{1}}
	for name, s := range map[string]target.Subsystem{
		"name":       {NQN: "x"},
		"discovery":  {NQN: nvme.DiscoveryNQN},
		"namespace":  {NQN: subNQN, Namespaces: []target.Namespace{{Device: mem, UUID: nvme.UUID{1}}}},
		"no UUID":    {NQN: subNQN, Namespaces: []target.Namespace{{ID: 1, Device: mem}}},
		"no device":  {NQN: subNQN, Namespaces: []target.Namespace{{ID: 1, UUID: nvme.UUID{1}}}},
		"block size": {NQN: subNQN, Namespaces: []target.Namespace{{ID: 1, UUID: nvme.UUID{1}, Device: blocktest.NewMemory(blocktest.Options{Geometry: block.Geometry{BlockSize: 8192, PhysicalBlock: 8192}})}}},
		"transfer":   {NQN: subNQN, Namespaces: []target.Namespace{{ID: 1, UUID: nvme.UUID{1}, Device: blocktest.NewMemory(blocktest.Options{Geometry: block.Geometry{MaxTransfer: 4096}})}}},
		"many":       {NQN: subNQN, Namespaces: make([]target.Namespace, 1025)},
	} {
		if err := tgt.AddSubsystem(s); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if err := tgt.AddSubsystem(target.Subsystem{NQN: subNQN, Namespaces: []target.Namespace{good}}); err != nil {
		t.Fatal(err)
	}
	if err := tgt.AddSubsystem(target.Subsystem{NQN: subNQN, Namespaces: []target.Namespace{good}}); err == nil {
		t.Error("the same subsystem twice: accepted")
	}
}
