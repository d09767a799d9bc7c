package host

import (
	"bytes"
	"context"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"github.com/cask-storage/cask/pkg/nvme"
	"github.com/cask-storage/cask/pkg/nvme/tcp"
)

// fakeController is the other end of a qpair: it takes one write by as many R2Ts
// as it likes, out of order and several at once, with a small MAXH2CDATA.
type fakeController struct {
	t    *testing.T
	nc   net.Conn
	rd   *tcp.Reader
	b    *tcp.Batch
	most uint32
}

func (f *fakeController) next(want tcp.Type) *tcp.PDU {
	f.t.Helper()
	p, err := f.rd.Next()
	if err != nil || p.Type != want {
		f.t.Fatalf("%v, %v, want %v", p, err, want)
	}
	return p
}

func (f *fakeController) take(parts []tcp.Transfer, size uint32) []byte {
	f.t.Helper()
	p := f.next(tcp.TypeCapsuleCmd)
	cid := uint16((*nvme.Command)(p.SQE()).CID())
	for i := range parts {
		parts[i].CCCID, parts[i].TTAG = cid, uint16(100+i)
		f.b.R2T(parts[i])
	}
	if err := f.b.Flush(f.nc); err != nil {
		f.t.Fatal(err)
	}
	out := make([]byte, size)
	for _, want := range parts {
		for got := uint32(0); got < want.Len; {
			p := f.next(tcp.TypeH2CData)
			x := p.Transfer()
			if x.CCCID != cid || x.TTAG != want.TTAG || x.Offset != want.Offset+got || x.Len > f.most || x.Len > want.Len-got {
				f.t.Fatalf("H2CData %+v for R2T %+v, of which %d came", x, want, got)
			}
			got += x.Len
			if last := p.Flags&tcp.FlagLast != 0; last != (got == want.Len) {
				f.t.Fatalf("LAST_PDU is %v at %d of %d", last, got, want.Len)
			}
			if err := f.rd.ReadData(out[x.Offset:][:x.Len]); err != nil {
				f.t.Fatal(err)
			}
		}
	}
	var cqe nvme.Completion
	cqe.SetCID(nvme.CID(cid))
	f.b.Response((*[tcp.CQESize]byte)(&cqe))
	if err := f.b.Flush(f.nc); err != nil {
		f.t.Fatal(err)
	}
	return out
}

// newFake is a qpair of the depth and the other end of it.
func newFake(t *testing.T, depth int) (*qpair, *fakeController) {
	t.Helper()
	a, b := net.Pipe()
	t.Cleanup(func() { _ = b.Close() })
	_ = b.SetDeadline(time.Now().Add(10 * time.Second))
	f := &fakeController{t: t, nc: b, b: tcp.NewBatch(), most: 4096, rd: tcp.NewReader(b, tcp.Options{Role: tcp.Controller, MaxData: 4096, MaxCapsule: 0})}
	opened := make(chan *qpair, 1)
	go func() { // ends with the pipe
		cfg := &Config{Dial: func(context.Context, string, string) (net.Conn, error) { return a, nil }}
		q, err := openQpair(t.Context(), cfg, options{depth: depth, fail: func(error) {}})
		if err != nil {
			t.Error(err)
		}
		opened <- q
	}()
	f.next(tcp.TypeICReq)
	if _, err := b.Write(tcp.IC{Max: f.most}.Append(nil, tcp.TypeICResp)); err != nil {
		t.Fatal(err)
	}
	q := <-opened
	if q == nil {
		t.FailNow()
	}
	t.Cleanup(func() { q.close() })
	return q, f
}

// TestR2TFlood: a controller that asks for data and does not take it cannot make
// the host remember more R2Ts than ICReq allows.
func TestR2TFlood(t *testing.T) {
	q, f := newFake(t, 4)
	w := &task{size: 4096, bufs: [][]byte{make([]byte, 4096)}, done: func(*task, *nvme.Completion) {}}
	w.sqe.SetOpcode(nvme.OpWrite)
	q.submit(w)
	cid := uint16((*nvme.Command)(f.next(tcp.TypeCapsuleCmd).SQE()).CID())
	for range 1000 {
		f.b.R2T(tcp.Transfer{CCCID: cid, Len: 4096})
		if err := f.b.Flush(f.nc); err != nil {
			return
		}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	t.Errorf("%d R2Ts are remembered", len(q.out))
}

// TestQueueNotFull: a queue of n entries takes n-1 commands.
func TestQueueNotFull(t *testing.T) {
	q, f := newFake(t, 4)
	for range 5 {
		c := &task{done: func(*task, *nvme.Completion) {}}
		c.sqe.SetOpcode(nvme.OpFlush)
		q.submit(c)
	}
	var last nvme.CID
	for range 3 {
		last = (*nvme.Command)(f.next(tcp.TypeCapsuleCmd).SQE()).CID()
	}
	_ = f.nc.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if p, err := f.rd.Next(); err == nil {
		t.Fatalf("%v, the queue is full", p.Type)
	}
	_ = f.nc.SetReadDeadline(time.Now().Add(10 * time.Second))
	var cqe nvme.Completion
	cqe.SetCID(last)
	f.b.Response((*[tcp.CQESize]byte)(&cqe))
	if err := f.b.Flush(f.nc); err != nil {
		t.Fatal(err)
	}
	f.next(tcp.TypeCapsuleCmd)
}

func TestManyR2T(t *testing.T) {
	for name, parts := range map[string][]tcp.Transfer{
		"one":          {{Len: 64 << 10}},
		"in order":     {{Len: 20 << 10}, {Offset: 20 << 10, Len: 44 << 10}},
		"out of order": {{Offset: 40 << 10, Len: 24 << 10}, {Len: 1 << 10}, {Offset: 1 << 10, Len: 39 << 10}},
	} {
		q, f := newFake(t, 4)
		data := make([]byte, 64<<10)
		rng := rand.NewChaCha8([32]byte{1})
		_, _ = rng.Read(data)
		done := make(chan nvme.Status, 1)
		w := &task{size: uint32(len(data)), bufs: [][]byte{data[:10000], data[10000:]}}
		w.sqe.SetOpcode(nvme.OpWrite)
		w.done = func(_ *task, cqe *nvme.Completion) { done <- cqe.Status() }
		q.submit(w)
		if got := f.take(parts, uint32(len(data))); !bytes.Equal(got, data) {
			t.Errorf("%s: other data arrived", name)
		}
		if s := <-done; !s.OK() {
			t.Errorf("%s: %v", name, s)
		}
	}
}
