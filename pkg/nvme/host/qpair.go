package host

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/block/ride"
	"github.com/cask-storage/cask/pkg/nvme"
	"github.com/cask-storage/cask/pkg/nvme/tcp"
)

// qpair is one connection: a queue pair and its two goroutines, which the
// owner ends with close.
type qpair struct {
	nc        net.Conn
	rd        *tcp.Reader
	digests   tcp.Digests
	align     uint32 // of data we send, bytes
	maxH2C    uint32
	inCapsule uint32 // in-capsule data the controller takes, bytes
	fail      func(error)
	wake      chan struct{} // capacity 1: out is not empty
	broken    chan struct{} // closed when dead
	wg        sync.WaitGroup
	sqe       nvme.Command    // the writer's
	cqe       nvme.Completion // the reader's

	mu      sync.Mutex
	dead    bool
	err     error
	table   []*task // outstanding, by CID
	free    []nvme.CID
	backlog []*task // for a CID
	out     []item
	seq     uint64
}

// item is something for the writer: a command, or data asked for by an R2T.
type item struct {
	t        *task
	cid      nvme.CID
	seq      uint64
	transfer tcp.Transfer // Len 0: the command itself
}

// options of openQpair.
type options struct {
	depth     int // entries
	inCapsule uint32
	fail      func(error) // called once, when the connection breaks
}

// openQpair connects and exchanges ICReq and ICResp.
func openQpair(ctx context.Context, cfg *Config, o options) (*qpair, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	nc, err := cfg.Dial(ctx, "tcp", cfg.Addr)
	if err != nil {
		return nil, err
	}
	setUserTimeout(nc)
	q := &qpair{
		nc: nc, inCapsule: o.inCapsule, fail: o.fail, table: make([]*task, o.depth),
		rd:   tcp.NewReader(nc, tcp.Options{Role: tcp.Host, MaxData: maxC2HData, Buffer: readBuffer}),
		wake: make(chan struct{}, 1), broken: make(chan struct{}),
	}
	for i := range o.depth - 1 { // a queue is full with one entry less
		q.free = append(q.free, nvme.CID(o.depth-2-i))
	}
	stop := context.AfterFunc(ctx, func() { _ = nc.SetDeadline(time.Unix(1, 0)) })
	err = q.initialize(cfg)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return nil, errors.Join(err, nc.Close())
	}
	q.wg.Add(2)
	go func() { // owner: the association, which calls close
		defer q.wg.Done()
		q.breakOff(q.read())
	}()
	go func() { // owner: the association, which calls close
		defer q.wg.Done()
		q.write()
	}()
	return q, nil
}

func (q *qpair) initialize(cfg *Config) error {
	var want tcp.Digests
	if cfg.HeaderDigest {
		want |= tcp.HeaderDigest
	}
	if cfg.DataDigest {
		want |= tcp.DataDigest
	}
	if _, err := q.nc.Write(tcp.IC{Digests: want, Max: maxR2T - 1}.Append(nil, tcp.TypeICReq)); err != nil {
		return err
	}
	p, err := q.rd.Next()
	if err != nil {
		return fmt.Errorf("waiting for ICResp: %w", err)
	}
	if p.Type != tcp.TypeICResp {
		return fmt.Errorf("%v instead of ICResp%s", p.Type, termText(p))
	}
	ic := p.IC()
	if ic.PFV != tcp.PFV || ic.Align > tcp.MaxAlign || ic.Max < 4096 || ic.Digests&^want != 0 {
		return fmt.Errorf("ICResp with format %d, alignment %d, data limit %d, digests %d", ic.PFV, ic.Align, ic.Max, ic.Digests)
	}
	q.digests, q.align, q.maxH2C = ic.Digests, 4*(uint32(ic.Align)+1), ic.Max
	q.rd.Negotiated(ic.Digests)
	return nil
}

func termText(p *tcp.PDU) string {
	if p.Type != tcp.TypeC2HTermReq {
		return ""
	}
	t := p.Term()
	return fmt.Sprintf(": the controller says %v, information %#x", t.FES, t.FEI)
}

// submit issues a task, or keeps it until a CID is free. It reports false when
// the connection is broken.
func (q *qpair) submit(t *task) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.dead {
		return false
	}
	if len(q.free) == 0 {
		q.backlog = append(q.backlog, t)
		return true
	}
	q.startLocked(t)
	return true
}

func (q *qpair) startLocked(t *task) {
	cid := q.free[len(q.free)-1]
	q.free = q.free[:len(q.free)-1]
	q.table[cid] = t
	q.seq++
	t.seq, t.got, t.r2ts, t.sent = q.seq, 0, 0, false
	t.sqe.SetCID(cid)
	sgl := nvme.SGL{Type: nvme.SGLTransport, Len: t.size}
	if t.inCapsule(q.inCapsule) {
		sgl.Type = nvme.SGLInCapsule
	}
	t.sqe.SetSGL(sgl)
	q.putLocked(item{t: t, cid: cid, seq: t.seq})
}

func (q *qpair) putLocked(i item) {
	q.out = append(q.out, i)
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// breakOff makes the connection dead; the first call says why.
func (q *qpair) breakOff(err error) {
	q.mu.Lock()
	first := !q.dead
	if first {
		q.dead, q.err = true, err
		close(q.broken)
	}
	q.mu.Unlock()
	if first {
		_ = q.nc.Close()
		q.fail(err)
	}
}

// close ends the connection and its goroutines and returns the tasks that
// were not completed. After it nothing refers to their buffers.
func (q *qpair) close() []*task {
	q.breakOff(net.ErrClosed)
	q.wg.Wait()
	var left []*task
	for _, t := range q.table {
		if t != nil {
			left = append(left, t)
		}
	}
	left = append(left, q.backlog...)
	q.table, q.backlog, q.out = nil, nil, nil
	return left
}

// write sends what is queued until the connection is dead.
func (q *qpair) write() {
	batch := tcp.NewBatch()
	batch.Digests, batch.Align = q.digests, q.align
	var items []item
	var scratch [][]byte
	for {
		select {
		case <-q.wake:
		case <-q.broken:
			return
		}
		q.mu.Lock()
		items, q.out = q.out, items[:0]
		q.mu.Unlock()
		for i := range items {
			scratch = q.encode(batch, items[i], scratch)
			if !batch.Full() && i < len(items)-1 {
				continue
			}
			if err := batch.Flush(q.nc); err != nil {
				q.breakOff(err)
				return
			}
		}
		clear(items)
	}
}

// encode adds an item to the batch. scratch is reused memory.
func (q *qpair) encode(b *tcp.Batch, i item, scratch [][]byte) [][]byte {
	data, live := q.look(i, scratch[:0])
	switch {
	case !live: // it was completed early
	case i.transfer.Len == 0:
		b.Command((*[tcp.SQESize]byte)(&q.sqe), data)
	default:
		q.encodeData(b, i.transfer, data)
	}
	return data
}

// look puts the command of an item that is still outstanding into q.sqe and
// returns the data to send with it. The reader may complete the task at any
// time, so what is needed of it is collected under the lock.
func (q *qpair) look(i item, data [][]byte) (_ [][]byte, live bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	t := i.t
	if q.table[i.cid] != t || t.seq != i.seq {
		return data, false
	}
	t.sent = true
	q.sqe = t.sqe
	if i.transfer.Len > 0 {
		t.r2ts--
		x := block.Extent{Off: uint64(i.transfer.Offset), Len: uint64(i.transfer.Len)}
		return ride.Slice(data, t.bufs, x), true
	}
	if t.inCapsule(q.inCapsule) {
		data = append(data, t.bufs...)
	}
	return data, true
}

// encodeData answers an R2T with as many PDUs as the controller's limit asks
// for.
func (q *qpair) encodeData(b *tcp.Batch, x tcp.Transfer, data [][]byte) {
	if x.Len <= q.maxH2C {
		b.H2CData(x, tcp.FlagLast, data)
		return
	}
	for done := uint32(0); done < x.Len; {
		n := min(x.Len-done, q.maxH2C)
		var flags tcp.Flags
		if done+n == x.Len {
			flags = tcp.FlagLast
		}
		part := ride.Slice(nil, data, block.Extent{Off: uint64(done), Len: uint64(n)})
		b.H2CData(tcp.Transfer{CCCID: x.CCCID, TTAG: x.TTAG, Offset: x.Offset + done, Len: n}, flags, part)
		done += n
	}
}

// inCapsule reports whether the task's data goes with its command.
func (t *task) inCapsule(limit uint32) bool { return !t.read && t.size > 0 && t.size <= limit }

// read takes PDUs until the connection breaks.
func (q *qpair) read() error {
	for {
		p, err := q.rd.Next()
		if err != nil {
			return err
		}
		switch p.Type {
		case tcp.TypeCapsuleResp:
			err = q.onResponse((*nvme.Completion)(p.CQE()))
		case tcp.TypeC2HData:
			err = q.onData(p)
		case tcp.TypeR2T:
			err = q.onR2T(p.Transfer())
		default:
			err = fmt.Errorf("unexpected %v%s", p.Type, termText(p))
		}
		if err != nil {
			return err
		}
	}
}

// find returns the task whose command was sent with the CID.
func (q *qpair) find(cid nvme.CID) *task {
	q.mu.Lock()
	defer q.mu.Unlock()
	if int(cid) >= len(q.table) || q.table[cid] == nil || !q.table[cid].sent {
		return nil
	}
	return q.table[cid]
}

func (q *qpair) onResponse(cqe *nvme.Completion) error {
	t := q.find(cqe.CID())
	if t == nil {
		return fmt.Errorf("completion of command %d, which is not outstanding", cqe.CID())
	}
	if t.read && cqe.Status().OK() && t.got != t.size {
		return fmt.Errorf("read completed with %d of %d bytes", t.got, t.size)
	}
	q.finish(t, cqe)
	return nil
}

// finish takes the task out of the table, starts another in its place and
// completes it.
func (q *qpair) finish(t *task, cqe *nvme.Completion) {
	cid := t.sqe.CID()
	q.mu.Lock()
	q.table[cid] = nil
	q.free = append(q.free, cid)
	if len(q.backlog) > 0 {
		next := q.backlog[0]
		q.backlog[0] = nil
		q.backlog = q.backlog[1:]
		q.startLocked(next)
	}
	q.mu.Unlock()
	t.done(t, cqe)
}

func (q *qpair) onData(p *tcp.PDU) error {
	x := p.Transfer()
	t := q.find(nvme.CID(x.CCCID))
	if t == nil || !t.read {
		return fmt.Errorf("data for command %d, which is not an outstanding read", x.CCCID)
	}
	if x.Offset != t.got || x.Len > t.size-t.got {
		return fmt.Errorf("data of %d bytes at %d of a read of %d, expected at %d", x.Len, x.Offset, t.size, t.got)
	}
	skip, left, flags := t.got, x.Len, p.Flags
	for _, b := range t.bufs {
		if n := uint32(len(b)); skip >= n {
			skip -= n
			continue
		}
		b = b[skip:]
		b = b[:min(uint32(len(b)), left)]
		if err := q.rd.ReadData(b); err != nil {
			return err
		}
		skip, left = 0, left-uint32(len(b))
	}
	t.got += x.Len
	if err := q.rd.EndData(); err != nil {
		return err
	}
	if flags&tcp.FlagSuccess == 0 {
		return nil
	}
	q.cqe = nvme.Completion{}
	q.cqe.SetCID(nvme.CID(x.CCCID))
	return q.onResponse(&q.cqe)
}

func (q *qpair) onR2T(x tcp.Transfer) error {
	t := q.find(nvme.CID(x.CCCID))
	if t == nil || t.read || x.Len == 0 || x.Offset > t.size || x.Len > t.size-x.Offset {
		return fmt.Errorf("R2T of %d bytes at %d for command %d, which has no such data to send", x.Len, x.Offset, x.CCCID)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if t.r2ts++; t.r2ts > maxR2T {
		return fmt.Errorf("more than %d R2Ts outstanding for command %d", maxR2T, x.CCCID)
	}
	q.putLocked(item{t: t, cid: nvme.CID(x.CCCID), seq: t.seq, transfer: x})
	return nil
}
