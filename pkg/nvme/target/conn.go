package target

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cask-storage/cask/pkg/nvme"
	"github.com/cask-storage/cask/pkg/nvme/dhchap"
	"github.com/cask-storage/cask/pkg/nvme/tcp"
)

// conn is one TCP connection: one queue pair once its Connect was answered.
type conn struct {
	t      *Target
	server *server
	nc     net.Conn
	rd     *tcp.Reader
	ctx    context.Context // ends with the connection
	cancel context.CancelFunc

	// Set by the reader before the writer can need them.
	digests  tcp.Digests
	align    uint32
	qid      nvme.QID
	noSQFlow bool

	connected atomic.Bool // its queue is

	// The reader's own.
	fusing *pair              // whose first command was the last to come
	login  *dhchap.Controller // nil: the host need not authenticate

	submitted sync.WaitGroup // requests in a Device
	flushing  atomic.Int64   // when the writer began a write; 0 when it is not in one
	wake      chan struct{}  // capacity 1: out is not empty
	quit      chan struct{}  // closed by the reader: the writer ends
	ended     chan struct{}  // closed by the writer

	mu      sync.Mutex
	ctrl    *controller
	depth   int // entries of the queue
	busy    int // commands the host has outstanding
	free    []*command
	slots   []*command // by tag
	out     []*command // for the writer
	pending []*command // waiting for room in inflight
	bytes   int        // of room given, bounded by Limits.InflightBytes
	closing bool
	term    []byte // TermReq to send last
	why     error  // first reason to close
}

func newConn(t *Target, s *server, nc net.Conn) *conn {
	return &conn{
		t: t, server: s, nc: nc, align: 4, depth: 1, cancel: func() {},
		rd: tcp.NewReader(nc, tcp.Options{
			Role: tcp.Controller, MaxCapsule: adminCapsule, MaxData: maxH2CData, Buffer: readBuffer,
		}),
		wake: make(chan struct{}, 1), quit: make(chan struct{}), ended: make(chan struct{}),
	}
}

// Abort closes the socket; the reader finds out and cleans up.
func (c *conn) Abort() { _ = c.nc.Close() }

// Settled reports whether its queue is connected.
func (c *conn) Settled() bool { return c.connected.Load() }

// leave ends the association because the device is not to be used any more.
func (c *conn) leave(why error) {
	if ctrl := c.controller(); ctrl != nil {
		ctrl.kill(why)
		return
	}
	c.Abort()
}

func (c *conn) controller() *controller {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ctrl
}

// admin is the controller if this is its admin connection.
func (c *conn) admin() *controller {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ctrl != nil && c.ctrl.adminConn == c {
		return c.ctrl
	}
	return nil
}

// serve runs the connection: it is the reader, and owns the writer. It returns
// when both have ended and the devices have completed what was submitted.
func (c *conn) serve(ctx context.Context) {
	c.ctx, c.cancel = context.WithCancel(ctx)
	stop := context.AfterFunc(ctx, c.Abort)
	defer stop()
	err := c.handshake()
	started := err == nil
	if started {
		go c.write() // owner: this reader, which waits for c.ended
		err = c.read()
	} else {
		close(c.ended)
	}
	c.finish(err)
	c.cancel()
	if ctrl := c.controller(); ctrl != nil {
		if ctrl.adminConn == c {
			ctrl.kill(fmt.Errorf("its admin connection ended: %w", err))
		}
		c.submitted.Wait()
		ctrl.detach(c)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t.held.Add(-int64(c.bytes))
	c.bytes = 0
}

// finish ends the writer, after it sent what is queued when the error is the
// peer's fault and a TermReq must go out, and closes the socket.
func (c *conn) finish(err error) {
	var fatal *tcp.Error
	c.mu.Lock()
	if c.why == nil {
		c.why = err
	}
	if errors.As(err, &fatal) {
		c.term = tcp.Term{FES: fatal.FES, FEI: fatal.FEI, Header: fatal.Header}.Append(nil, tcp.TypeC2HTermReq)
	}
	ctrl := c.ctrl
	c.mu.Unlock()
	if fatal != nil || ctrl.alive() && !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
		c.t.cfg.Logf("nvme target: %v: %v", c.nc.RemoteAddr(), err)
	}
	if fatal == nil {
		_ = c.nc.Close()
	} else {
		_ = c.nc.SetDeadline(time.Now().Add(lingerTime))
	}
	close(c.quit)
	<-c.ended
	if fatal != nil {
		c.linger()
	}
	_ = c.nc.Close()
}

// linger sends the TermReq and waits, for a bounded time, for the peer to
// close, so that what it still sends does not reset the connection before it
// has read the TermReq.
func (c *conn) linger() {
	if _, err := c.nc.Write(c.term); err != nil {
		return
	}
	if half, ok := c.nc.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		_, _ = io.Copy(io.Discard, io.LimitReader(c.nc, maxH2CData))
	}
}

// read takes PDUs until the connection ends.
func (c *conn) read() error {
	for {
		p, err := c.rd.Next()
		if err != nil {
			return err
		}
		c.touch()
		switch p.Type {
		case tcp.TypeCapsuleCmd:
			err = c.onCommand(p)
		case tcp.TypeH2CData:
			err = c.onData(p)
		case tcp.TypeH2CTermReq:
			t := p.Term()
			err = fmt.Errorf("the host terminated the connection: %v, information %#x", t.FES, t.FEI)
		default:
			err = p.Fault(tcp.FESSequence, 0, "%v after the connection was initialized", p.Type)
		}
		if err != nil {
			return err
		}
	}
}

// touch notes that the host is alive.
func (c *conn) touch() {
	if ctrl := c.ctrl; ctrl != nil { // only the reader sets it
		ctrl.seen.Store(c.t.now.Load())
	}
}

// handshake exchanges ICReq and ICResp.
func (c *conn) handshake() error {
	if err := c.nc.SetDeadline(time.Now().Add(c.t.cfg.Limits.Handshake)); err != nil {
		return err
	}
	p, err := c.rd.Next()
	if err != nil {
		return fmt.Errorf("waiting for ICReq: %w", err)
	}
	if p.Type != tcp.TypeICReq {
		return p.Fault(tcp.FESSequence, 0, "%v before ICReq", p.Type)
	}
	ic := p.IC()
	switch {
	case ic.PFV != tcp.PFV:
		return p.Fault(tcp.FESUnsupported, 8, "PDU format version %d", ic.PFV)
	case ic.Align > tcp.MaxAlign:
		return p.Fault(tcp.FESInvalidHeader, 10, "HPDA %d", ic.Align)
	}
	c.align = 4 * (uint32(ic.Align) + 1)
	c.digests = ic.Digests & (tcp.HeaderDigest | tcp.DataDigest)
	resp := tcp.IC{Digests: c.digests, Max: maxH2CData}.Append(nil, tcp.TypeICResp)
	if _, err := c.nc.Write(resp); err != nil {
		return fmt.Errorf("sending ICResp: %w", err)
	}
	c.rd.Negotiated(c.digests)
	// Writes are watched by Target.enforce from here on, reads until
	// Connect by this deadline.
	return c.nc.SetWriteDeadline(time.Time{})
}

// take gives the next command a slot. It fails when the host exceeds the depth
// of its queue. There are twice as many slots as entries, because the host
// may reuse an entry before the writer has returned from sending its answer.
func (c *conn) take(p *tcp.PDU) (*command, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.busy >= c.depth || len(c.free) == 0 && len(c.slots) >= 2*c.depth {
		return nil, p.Fault(tcp.FESSequence, 0, "more than %d commands outstanding", c.depth)
	}
	c.busy++
	if n := len(c.free); n > 0 {
		cmd := c.free[n-1]
		c.free = c.free[:n-1]
		return cmd, nil
	}
	cmd := newCommand(c, uint16(len(c.slots)))
	c.slots = append(c.slots, cmd)
	return cmd, nil
}

// admit reserves room for the command's data; if there is none, the writer
// starts the command when there is.
func (c *conn) admit(cmd *command) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.pending) > 0 || !c.reserveLocked(cmd) {
		c.pending = append(c.pending, cmd)
		return false
	}
	return true
}

// reserveLocked gives a command the room it needs, if there is that much. A
// connection that holds nothing is always given room, so that others who hold
// much do not keep it waiting.
func (c *conn) reserveLocked(cmd *command) bool {
	l := &c.t.cfg.Limits
	n := int(cmd.room)
	if c.bytes > 0 && (c.bytes+n > l.InflightBytes || c.t.held.Load()+int64(n) > int64(l.TotalBytes)) {
		return false
	}
	cmd.counts = true
	c.bytes += n
	c.t.held.Add(int64(n))
	return true
}

// abortPending aborts a command that waits for room.
func (c *conn) abortPending(cid nvme.CID) bool {
	c.mu.Lock()
	i := slices.IndexFunc(c.pending, func(cmd *command) bool { return cmd.sqe.CID() == cid })
	if i < 0 {
		c.mu.Unlock()
		return false
	}
	cmd := c.pending[i]
	c.pending = slices.Delete(c.pending, i, i+1)
	c.mu.Unlock()
	cmd.refuse(nvme.AbortRequested)
	return true
}

// complete queues a command for the writer.
func (c *conn) complete(cmd *command) {
	c.mu.Lock()
	if !c.closing {
		c.out = append(c.out, cmd)
	}
	c.mu.Unlock()
	c.poke()
}

func (c *conn) poke() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}
