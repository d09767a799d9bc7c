package target

import (
	"context"
	"errors"
	"io"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/block/blocktest"
	"github.com/cask-storage/cask/pkg/nvme"
	"github.com/cask-storage/cask/pkg/nvme/dhchap"
	"github.com/cask-storage/cask/pkg/nvme/tcp"
)

// pipes is a listener without sockets.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}
func (p *pipes) Close() error   { p.once.Do(func() { close(p.done) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

func (p *pipes) dial() net.Conn {
	a, b := net.Pipe()
	p.conns <- b
	return a
}

const fuzzNQN = "nqn.2026-01.storage.cask:volume:fuzz"

// fuzzSecret is asked of hosts whose identifier is odd.
const fuzzSecret = "DHHC-1:00:Rhze4QDk83O+PsMQqqJPlM6GamZDYhQ/MI1wJO/CMIFjvAMY:"

func servePipes(t testing.TB, dev block.Device, cfg Config) (*Target, *pipes) {
	t.Helper()
	tgt, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ns := Namespace{ID: 1, Device: dev, UUID: nvme.UUID{1}, Reservations: Reservations{Keep: func(context.Context, []byte) error { return nil }}}
	if err := tgt.AddSubsystem(Subsystem{NQN: fuzzNQN, Namespaces: []Namespace{ns}}); err != nil {
		t.Fatal(err)
	}
	p := &pipes{conns: make(chan net.Conn), done: make(chan struct{})}
	served := make(chan error, 1)
	go func() { served <- tgt.Serve(context.Background(), p) }()
	t.Cleanup(func() {
		_ = tgt.Close()
		<-served
	})
	return tgt, p
}

// client writes what a fuzzer says and drops what it is answered.
type client struct {
	nc net.Conn
	b  *tcp.Batch
}

func (c *client) drain() { _, _ = io.Copy(io.Discard, c.nc) }

// connect sends ICReq and Connect, and enables the controller.
func (c *client) connect(digests tcp.Digests, p nvme.ConnectParams, d nvme.ConnectData) (uint64, error) {
	if _, err := c.nc.Write(tcp.IC{Digests: digests}.Append(nil, tcp.TypeICReq)); err != nil {
		return 0, err
	}
	rd := tcp.NewReader(c.nc, tcp.Options{Role: tcp.Host, MaxData: 1 << 20})
	if _, err := rd.Next(); err != nil {
		return 0, err
	}
	c.b.Digests = digests
	rd.Negotiated(digests)
	var sqe nvme.Command
	sqe.SetConnect(p)
	sqe.SetSGL(nvme.SGL{Type: nvme.SGLInCapsule, Len: nvme.ConnectSize})
	c.b.Command((*[64]byte)(&sqe), [][]byte{d.Append(nil)})
	if p.QID == 0 {
		sqe = nvme.Command{}
		sqe.SetPropertySet(nvme.PropertyParams{Offset: nvme.PropCC, Value: uint64(nvme.CCEnable)})
		c.b.Command((*[64]byte)(&sqe), nil)
	}
	if err := c.b.Flush(c.nc); err != nil {
		return 0, err
	}
	pdu, err := rd.Next()
	if err != nil {
		return 0, err
	}
	if pdu.Type != tcp.TypeCapsuleResp {
		return 0, io.ErrUnexpectedEOF
	}
	result := (*nvme.Completion)(pdu.CQE()).Result()
	if p.QID == 0 {
		_, err = rd.Next()
	}
	return result, err
}

// step is one thing a fuzzer has a client do.
const stepSize = 12

func (c *client) step(op []byte, data []byte) {
	if op[11]&0x40 != 0 {
		n := uint32(op[1])*16 + 4
		var f tcp.Flags
		if op[2]&1 == 1 {
			f = tcp.FlagLast
		}
		c.b.H2CData(tcp.Transfer{CCCID: uint16(op[0]), TTAG: uint16(op[3] & 7), Offset: uint32(op[4]) * 256, Len: n}, f, [][]byte{data[:n]})
		return
	}
	var sqe nvme.Command
	sqe.SetOpcode(nvme.Opcode(op[0]))
	sqe[1] = op[1]
	sqe.SetCID(nvme.CID(op[2]))
	sqe.SetNSID(nvme.NSID(op[3] & 3))
	if op[0] == byte(nvme.OpFabrics) {
		sqe[4] = op[3]
		sqe[41], sqe[42], sqe[43] = 1, 1, dhchap.SecurityProtocol
	}
	copy(sqe[40:], op[4:8])
	sqe.SetDW(11, sqe.DW(11)|uint32(op[8]))
	sqe.SetDW(12, uint32(op[9])|uint32(op[10])<<24)
	n := uint32(op[5])*16 + 16
	sgl := nvme.SGL{Type: nvme.SGLTransport, Len: n}
	if op[0] == byte(nvme.OpRead) || op[0] == byte(nvme.OpWrite) || op[0] == byte(nvme.OpCompare) {
		n = (uint32(op[9]) + 1) * 512
		sgl.Len = n
	}
	var v [][]byte
	if op[11]&2 != 0 && n <= 8192 {
		sgl.Type, v = nvme.SGLInCapsule, [][]byte{data[:n]}
	}
	sqe.SetSGL(sgl)
	sqe[1] |= op[1] & 3
	c.b.Command((*[64]byte)(&sqe), v)
}

// play has two clients, an admin and an I/O queue, do what in says.
func play(p *pipes, in []byte) {
	if len(in) < 2 {
		return
	}
	mode, in := in[0], in[1:]
	data := make([]byte, 8192) // the most of a step
	copy(data, in)
	d := nvme.ConnectData{HostID: nvme.UUID{1, mode >> 4 & 1}, CNTLID: nvme.CNTLIDDynamic, SubNQN: fuzzNQN, HostNQN: "nqn.host"}
	if mode&8 != 0 {
		d.SubNQN = nvme.DiscoveryNQN
	}
	if mode&16 != 0 {
		d.HostNQN = "nqn.secret"
	}
	a := &client{nc: p.dial(), b: tcp.NewBatch()}
	defer a.nc.Close()
	_ = a.nc.SetDeadline(time.Now().Add(5 * time.Second))
	if mode&4 != 0 { // bytes as they are, from the beginning
		go a.drain()
		_, _ = a.nc.Write(in)
		return
	}
	result, err := a.connect(tcp.Digests(mode&3), nvme.ConnectParams{QueueDepth: 16, NoSQFlow: mode&32 != 0}, d)
	if err != nil {
		return
	}
	go a.drain()
	clients := []*client{a}
	b := &client{nc: p.dial(), b: tcp.NewBatch()}
	defer b.nc.Close()
	_ = b.nc.SetDeadline(time.Now().Add(5 * time.Second))
	d.CNTLID = nvme.CNTLID(result)
	if _, err := b.connect(tcp.Digests(mode&3), nvme.ConnectParams{QID: 1, QueueDepth: 16, NoSQFlow: mode&32 != 0}, d); err == nil {
		go b.drain()
		clients = append(clients, b)
	}
	for ; len(in) >= stepSize; in = in[stepSize:] {
		c := clients[int(in[11]&1)%len(clients)]
		c.step(in[:stepSize], data)
		if in[11]&4 != 0 || c.b.Full() {
			if c.b.Flush(c.nc) != nil {
				return
			}
		}
	}
	for _, c := range clients {
		_ = c.b.Flush(c.nc)
	}
}

// settled waits until a target holds nothing of its connections any more.
func settled(t testing.TB, tgt *Target) {
	t.Helper()
	for start := time.Now(); ; time.Sleep(20 * time.Microsecond) {
		conns := tgt.conns.Len()
		if conns == 0 && len(tgt.Associations()) == 0 {
			break
		}
		if time.Since(start) > 20*time.Second {
			buf := make([]byte, 1<<20)
			t.Fatalf("%d connections do not end\n%s", conns, buf[:runtime.Stack(buf, true)])
		}
	}
	if n := tgt.held.Load(); n != 0 {
		t.Fatalf("%d bytes are held for nobody", n)
	}
}

// FuzzConnection: whatever a host sends, its connections end, nothing is held
// for them afterwards, and the namespace's gate is open.
func FuzzConnection(f *testing.F) {
	step := func(b ...byte) []byte { return append(b, make([]byte, stepSize-len(b))...) }
	cat := func(b ...[]byte) (out []byte) {
		for _, x := range b {
			out = append(out, x...)
		}
		return out
	}
	io := func(op nvme.Opcode, fuse, cid byte) []byte {
		return []byte{byte(op), fuse, cid, 1, 0, 0, 0, 0, 0, 0, 0, 1 | 2 | 4}
	}
	f.Add(cat([]byte{0}, io(nvme.OpCompare, 1, 1), io(nvme.OpWrite, 2, 2), io(nvme.OpRead, 0, 3), io(nvme.OpCopy, 0, 4), io(nvme.OpDSM, 0, 5)))
	f.Add(cat([]byte{3}, io(nvme.OpReservationRegister, 0, 1), io(nvme.OpReservationAcquire, 0, 2), io(nvme.OpWrite, 0, 3)))
	f.Add(cat([]byte{32}, []byte{1, 0, 1, 1, 0, 0, 0, 0, 0, 7, 0, 1 | 4}, []byte{1, 255, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0x40 | 1 | 4}))
	f.Add(cat([]byte{0}, step(byte(nvme.OpIdentify), 0, 1, 0, 1, 255), step(byte(nvme.OpAsyncEvent), 0, 2), step(byte(nvme.OpGetLogPage), 0, 3, 0, 0x0c, 0, 63)))
	f.Add(cat([]byte{16}, step(0x7f, 0, 1, 5, 0, 4), step(0x7f, 0, 2, 6, 0, 255)))
	f.Add(cat([]byte{8}, step(byte(nvme.OpGetLogPage), 0, 1, 0, 0x70, 0, 255)))
	f.Add(append([]byte{4}, tcp.IC{}.Append(nil, tcp.TypeICReq)...))
	mem := blocktest.NewMemory(blocktest.Options{Geometry: block.Geometry{Size: 1 << 20}, Workers: 2})
	f.Cleanup(func() { _ = mem.Close() })
	tgt, p := servePipes(f, mem, Config{
		Limits: Limits{QueueDepth: 16, MaxTransfer: 64 << 10, InflightBytes: 128 << 10},
		Authenticate: func(_ context.Context, nqn string) (dhchap.Secrets, error) {
			if nqn == "nqn.secret" {
				return dhchap.Secrets{Host: fuzzSecret}, nil
			}
			return dhchap.Secrets{}, nil
		},
	})
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) > 1200 {
			return
		}
		play(p, in)
		settled(t, tgt)
		ns := tgt.lookup(fuzzNQN).namespace(1)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if err := ns.drained(ctx); err != nil {
			t.Fatalf("the gate stays closed: %v", err)
		}
		if err := blocktest.Flush(mem); err != nil && !errors.Is(err, block.ErrClosed) {
			t.Fatal(err)
		}
	})
}

// TestFlood: ten thousand connections, most of which stall at some point, cost
// what Limits say, and a host that is connected goes on, and a new one gets in.
func TestFlood(t *testing.T) {
	const flood = 10_000
	mem := blocktest.NewMemory(blocktest.Options{Geometry: block.Geometry{Size: 1 << 20}})
	defer mem.Close()
	tgt, p := servePipes(t, mem, Config{Limits: Limits{Connections: 64}})
	host := func(id byte) (*client, *client) {
		t.Helper()
		d := nvme.ConnectData{HostID: nvme.UUID{id}, CNTLID: nvme.CNTLIDDynamic, SubNQN: fuzzNQN, HostNQN: "nqn.good"}
		for range 100 {
			a := &client{nc: p.dial(), b: tcp.NewBatch()}
			result, err := a.connect(0, nvme.ConnectParams{QueueDepth: 16}, d)
			if err != nil {
				time.Sleep(time.Millisecond) // it was told to go, or refused: try again
				continue
			}
			b := &client{nc: p.dial(), b: tcp.NewBatch()}
			d.CNTLID = nvme.CNTLID(result)
			if _, err := b.connect(0, nvme.ConnectParams{QID: 1, QueueDepth: 16}, d); err != nil {
				continue
			}
			return a, b
		}
		t.Fatal("a good host does not get in")
		return nil, nil
	}
	flush := func(c *client) {
		t.Helper()
		var sqe nvme.Command
		sqe.SetOpcode(nvme.OpFlush)
		sqe.SetNSID(1)
		c.b.Command((*[64]byte)(&sqe), nil)
		_ = c.nc.SetDeadline(time.Now().Add(10 * time.Second))
		if err := c.b.Flush(c.nc); err != nil {
			t.Fatal(err)
		}
		pdu, err := tcp.NewReader(c.nc, tcp.Options{Role: tcp.Host}).Next()
		if err != nil || pdu.Type != tcp.TypeCapsuleResp {
			t.Fatalf("flush of a good host: %v", err)
		}
	}
	_, good := host(1)
	runtime.GC()
	var before, now runtime.MemStats
	runtime.ReadMemStats(&before)
	var most uint64
	var open []net.Conn
	ic := tcp.IC{}.Append(nil, tcp.TypeICReq)
	for i := range flood {
		nc := p.dial()
		open = append(open, nc)
		_ = nc.SetDeadline(time.Now().Add(200 * time.Millisecond))
		switch i % 4 {
		case 0: // says nothing
		case 1:
			_, _ = nc.Write(ic[:20])
		case 2: // does not read its ICResp
			_, _ = nc.Write(ic)
		case 3: // lies about a length
			_, _ = nc.Write([]byte{byte(tcp.TypeCapsuleCmd), 0, 72, 72, 0xff, 0xff, 0xff, 0xff})
		}
		if i%500 == 0 {
			flush(good)
			runtime.GC()
			runtime.ReadMemStats(&now)
			most = max(most, now.HeapInuse+now.StackInuse)
		}
	}
	grown := int64(most) - int64(before.HeapInuse+before.StackInuse)
	t.Logf("%d connections: heap and stacks grew by at most %d KiB", flood, grown>>10)
	if grown > 64<<20 {
		t.Errorf("grew by %d bytes", grown)
	}
	_, late := host(2)
	flush(late)
	flush(good)
	for _, nc := range open {
		_ = nc.Close()
	}
	_ = good.nc.Close()
	_ = late.nc.Close()
	if n := tgt.held.Load(); n != 0 {
		t.Errorf("%d bytes held", n)
	}
}
