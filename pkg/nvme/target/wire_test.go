package target_test

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/nvme"
	"github.com/cask-storage/cask/pkg/nvme/target"
	"github.com/cask-storage/cask/pkg/nvme/tcp"
)

const (
	subNQN  = "nqn.2026-01.storage.cask:volume:test"
	hostNQN = "nqn.2026-01.storage.cask:host:node1:a1"
)

// serve runs a target with one namespace and returns it and its address.
func serve(t testing.TB, dev block.Device, cfg target.Config) (*target.Target, string) {
	t.Helper()
	tgt, err := target.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := tgt.AddSubsystem(target.Subsystem{NQN: subNQN, Namespaces: []target.Namespace{{ID: 1, Device: dev, UUID: nvme.UUID{1}}}}); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- tgt.Serve(context.Background(), ln) }()
	t.Cleanup(func() {
		_ = tgt.Close()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return tgt, ln.Addr().String()
}

// wire is a host made of PDUs.
type wire struct {
	t  testing.TB
	nc net.Conn
	rd *tcp.Reader
	b  *tcp.Batch
}

func dial(t testing.TB, addr string) *wire {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nc.Close() })
	_ = nc.SetDeadline(time.Now().Add(20 * time.Second))
	return &wire{t: t, nc: nc, b: tcp.NewBatch(), rd: tcp.NewReader(nc, tcp.Options{Role: tcp.Host, MaxData: 4 << 20})}
}

func (w *wire) send(b []byte) {
	w.t.Helper()
	if _, err := w.nc.Write(b); err != nil {
		w.t.Fatal(err)
	}
}

func (w *wire) flush() {
	w.t.Helper()
	if err := w.b.Flush(w.nc); err != nil {
		w.t.Fatal(err)
	}
}

func (w *wire) next() *tcp.PDU {
	w.t.Helper()
	p, err := w.rd.Next()
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

func (w *wire) init(ic tcp.IC) {
	w.t.Helper()
	w.send(ic.Append(nil, tcp.TypeICReq))
	p := w.next()
	if p.Type != tcp.TypeICResp {
		w.t.Fatalf("%v instead of ICResp", p.Type)
	}
	w.b.Digests = p.IC().Digests
	w.rd.Negotiated(p.IC().Digests)
}

// command sends an SQE with in-capsule data.
func (w *wire) command(c nvme.Command, data []byte) {
	w.t.Helper()
	var v [][]byte
	if len(data) > 0 {
		v = [][]byte{data}
	}
	w.b.Command((*[64]byte)(&c), v)
	w.flush()
}

// answer reads up to the next response, and returns the data that came first.
func (w *wire) answer() (nvme.Completion, []byte) {
	w.t.Helper()
	var data []byte
	for {
		p := w.next()
		switch p.Type {
		case tcp.TypeC2HData:
			b := make([]byte, p.DataLen)
			if err := w.rd.ReadData(b); err != nil {
				w.t.Fatal(err)
			}
			if err := w.rd.EndData(); err != nil {
				w.t.Fatal(err)
			}
			data = append(data, b...)
		case tcp.TypeCapsuleResp:
			return nvme.Completion(*p.CQE()), data
		case tcp.TypeC2HTermReq:
			w.t.Fatalf("terminated: %v %#x", p.Term().FES, p.Term().FEI)
		default:
			w.t.Fatalf("unexpected %v", p.Type)
		}
	}
}

// do sends a command and returns its completion.
func (w *wire) do(c nvme.Command, data []byte) (nvme.Completion, []byte) {
	w.t.Helper()
	w.command(c, data)
	return w.answer()
}

// expectTerm reads a C2HTermReq and then the end.
func (w *wire) expectTerm(fes tcp.FES, fei uint32) {
	w.t.Helper()
	for {
		p, err := w.rd.Next()
		if err != nil {
			w.t.Fatalf("no TermReq: %v", err)
		}
		if p.Type != tcp.TypeC2HTermReq {
			continue
		}
		if x := p.Term(); x.FES != fes || x.FEI != fei {
			w.t.Errorf("TermReq %v %#x, want %v %#x", x.FES, x.FEI, fes, fei)
		}
		break
	}
	w.expectEnd()
}

func (w *wire) expectEnd() {
	w.t.Helper()
	for {
		_, err := w.rd.Next()
		if err == nil {
			continue
		}
		if !errors.Is(err, io.EOF) && !strings.Contains(err.Error(), "reset") {
			w.t.Errorf("connection is not closed: %v", err)
		}
		return
	}
}

func connectCommand(p nvme.ConnectParams) nvme.Command {
	var c nvme.Command
	c.SetConnect(p)
	c.SetSGL(nvme.SGL{Type: nvme.SGLInCapsule, Len: nvme.ConnectSize})
	return c
}

func connectData(id nvme.CNTLID) nvme.ConnectData {
	return nvme.ConnectData{HostID: nvme.UUID{5}, CNTLID: id, SubNQN: subNQN, HostNQN: hostNQN}
}

// admin makes an enabled association.
func admin(t testing.TB, addr string, ic tcp.IC) (*wire, nvme.CNTLID) {
	t.Helper()
	w := dial(t, addr)
	w.init(ic)
	return w, w.enable(nvme.ConnectParams{QueueDepth: 32})
}

// enable makes the association on an admin connection.
func (w *wire) enable(p nvme.ConnectParams) nvme.CNTLID {
	w.t.Helper()
	cqe, _ := w.do(connectCommand(p), connectData(nvme.CNTLIDDynamic).Append(nil))
	w.ok(cqe)
	var set nvme.Command
	set.SetPropertySet(nvme.PropertyParams{Offset: nvme.PropCC, Value: uint64(nvme.CCEnable | nvme.CCIOSQES | nvme.CCIOCQES)})
	e, _ := w.do(set, nil)
	w.ok(e)
	return nvme.CNTLID(cqe.Result())
}

// queue makes an association and one I/O queue of the depth.
func queue(t testing.TB, addr string, depth uint32, ic tcp.IC) (*wire, *wire) {
	t.Helper()
	a, id := admin(t, addr, ic)
	w := dial(t, addr)
	w.init(ic)
	cqe, _ := w.do(connectCommand(nvme.ConnectParams{QID: 1, QueueDepth: depth}), connectData(id).Append(nil))
	w.ok(cqe)
	return a, w
}

func (w *wire) ok(cqe nvme.Completion) {
	w.t.Helper()
	if !cqe.Status().OK() {
		w.t.Fatalf("%v, result %#x", cqe.Status(), cqe.Result())
	}
}

func (w *wire) fails(cqe nvme.Completion, want nvme.Status) {
	w.t.Helper()
	if cqe.Status().Code() != want {
		w.t.Errorf("%v, want %v", cqe.Status(), want)
	}
}

// io is an I/O command with a transport SGL.
func io1(op nvme.Opcode, slba uint64, blocks uint32) nvme.Command {
	var c nvme.Command
	c.SetOpcode(op)
	c.SetCID(77)
	c.SetNSID(1)
	if op != nvme.OpFlush {
		c.SetRange(slba, blocks)
	}
	c.SetSGL(nvme.SGL{Type: nvme.SGLTransport, Len: blocks * 512})
	return c
}

// serveSubsystem runs a target until stop is called.
func serveSubsystem(t testing.TB, cfg target.Config, s target.Subsystem) (addr string, stop func()) {
	t.Helper()
	tgt, err := target.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := tgt.AddSubsystem(s); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- tgt.Serve(context.Background(), ln) }()
	return ln.Addr().String(), func() {
		_ = tgt.Close()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	}
}
