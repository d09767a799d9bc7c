package target

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cask-storage/cask/pkg/iscsi"
)

// conn is one TCP connection, and the session on it once a login succeeded.
type conn struct {
	t   *Target
	nc  net.Conn
	rd  *iscsi.Reader
	ctx context.Context // ends with the connection

	// Set by the reader before the writer can need them.
	params  params
	sess    *session // nil in discovery
	login   *login
	statSN  uint32 // the writer's, once it runs
	textTTT uint32 // the reader's: of a text answer sent in pieces
	text    []byte // likewise: what is left of it
	gather  []byte // likewise: text requests that go on

	submitted sync.WaitGroup // tasks that run
	flushing  atomic.Int64   // when the writer began a write; 0 when it is not in one
	seen      atomic.Int64   // when the last PDU came
	pinged    atomic.Int64   // when a ping was sent that is not answered; 0: none
	full      atomic.Bool    // in the full feature phase
	wake      chan struct{}  // capacity 1: there is something for the writer
	quit      chan struct{}  // closed by the reader: the writer ends
	ended     chan struct{}  // closed by the writer

	mu       sync.Mutex
	expCmdSN iscsi.Serial
	busy     int // commands in the CmdSN window
	free     []*command
	slots    []*command // by tag
	byITT    map[uint32]*command
	out      []*command // for the writer
	pending  []*command // waiting for room in bytes
	bytes    int        // of data buffers, bounded by Limits.InflightBytes
	ping     bool       // the writer is to send one
	bye      iscsi.AsyncEvent
	rejects  []*iscsi.Error // bounded: the connection ends with each
	closing  bool
	why      error // first reason to close
}

func newConn(t *Target, nc net.Conn) *conn {
	c := &conn{t: t, nc: nc, params: defaultParams(), byITT: map[uint32]*command{},
		rd:   iscsi.NewReader(nc, iscsi.Options{Role: iscsi.Target, MaxData: loginData, Buffer: readBuffer}),
		wake: make(chan struct{}, 1), quit: make(chan struct{}), ended: make(chan struct{})}
	c.seen.Store(t.now.Load())
	return c
}

// Abort closes the socket; the reader finds out and cleans up.
func (c *conn) Abort() { _ = c.nc.Close() }

// Settled reports whether a login to a node succeeded: discovery proves nothing,
// and gives way.
func (c *conn) Settled() bool { return c.full.Load() && c.sess != nil }

// errLoggedOut ends a connection in good order.
var errLoggedOut = errors.New("logged out")

// leave ends the session: the initiator is told that the connection is
// dropped, as far as it reads.
func (c *conn) leave(why error) {
	c.mu.Lock()
	if c.why == nil {
		c.why = why
	}
	c.bye = iscsi.AsyncDropSession
	c.mu.Unlock()
	// The reader wakes up; the writer still has lingerTime.
	_ = c.nc.SetReadDeadline(time.Now())
	_ = c.nc.SetWriteDeadline(time.Now().Add(lingerTime))
}

// serve runs the connection: it is the reader, and owns the writer. It returns
// when both have ended and the devices have completed what was submitted.
func (c *conn) serve(ctx context.Context) {
	var cancel context.CancelFunc
	c.ctx, cancel = context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { c.leave(ErrClosed) })
	defer stop()
	err := c.handshake()
	if err == nil {
		c.full.Store(true)
		go c.write() // owner: this reader, which waits for c.ended
		err = c.read()
	} else {
		close(c.ended)
	}
	c.finish(err)
	c.abortAll()
	c.submitted.Wait()
	if c.sess != nil {
		c.t.end(c.sess)
	}
}

// finish ends the writer, after it sent what is queued, and closes the socket.
func (c *conn) finish(err error) {
	c.mu.Lock()
	if c.why == nil {
		c.why = err
	}
	why := c.why
	var fault *iscsi.Error
	if errors.As(err, &fault) && !c.closing {
		c.rejects = append(c.rejects, fault)
	}
	c.mu.Unlock()
	orderly := errors.Is(why, io.EOF) || errors.Is(why, errLoggedOut) || errors.Is(why, ErrClosed)
	if !orderly {
		c.t.cfg.Logf("iscsi target: %v: %v", c.nc.RemoteAddr(), why)
	}
	speaks := fault != nil || errors.Is(err, errLoggedOut) || errors.Is(err, os.ErrDeadlineExceeded)
	if speaks {
		_ = c.nc.SetDeadline(time.Now().Add(lingerTime))
	} else {
		_ = c.nc.Close()
	}
	close(c.quit)
	<-c.ended
	if speaks {
		c.linger()
	}
	_ = c.nc.Close()
}

// linger waits, for a bounded time, for the peer to close, so that what it
// still sends does not reset the connection before it has read what was said
// last.
func (c *conn) linger() {
	if half, ok := c.nc.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		_, _ = io.Copy(io.Discard, io.LimitReader(c.nc, int64(c.t.cfg.Limits.Segment)))
	}
}

// read takes PDUs until the connection ends.
func (c *conn) read() error {
	for {
		p, err := c.rd.Next()
		if err != nil {
			return err
		}
		c.seen.Store(c.t.now.Load())
		switch p.Opcode() {
		case iscsi.OpCommand:
			err = c.onCommand(p)
		case iscsi.OpDataOut:
			err = c.onData(p)
		case iscsi.OpNopOut:
			err = c.onNop(p)
		case iscsi.OpTask:
			err = c.onTask(p)
		case iscsi.OpText:
			err = c.onText(p)
		case iscsi.OpLogout:
			err = c.onLogout(p)
		case iscsi.OpSNACK:
			err = p.Fault(iscsi.ReasonSNACK, "SNACK at error recovery level 0")
		default:
			err = p.Fault(iscsi.ReasonProtocol, "%v in the full feature phase", p.Opcode())
		}
		if err != nil {
			return err
		}
	}
}

// handshake runs the login phase.
func (c *conn) handshake() error {
	if err := c.nc.SetDeadline(time.Now().Add(c.t.cfg.Limits.Handshake)); err != nil {
		return err
	}
	l := newLogin(env{c, c.ctx}, c.t.cfg.Limits)
	c.login = l
	for done := false; !done; {
		var err error
		if done, err = c.loginStep(l); err != nil {
			return err
		}
	}
	c.params = l.neg.params
	c.rd.SetDigests(c.params.digests)
	c.rd.SetMaxData(uint32(c.t.cfg.Limits.Segment))
	// Writes are watched by Target.enforce from here on, silence by pings.
	err := c.nc.SetDeadline(time.Time{})
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.why != nil { // leave was called meanwhile
		return c.why
	}
	return err
}

// loginStep answers one login request.
func (c *conn) loginStep(l *login) (bool, error) {
	p, err := c.rd.Next()
	if err != nil {
		return false, fmt.Errorf("waiting for a login request: %w", err)
	}
	if p.Opcode() != iscsi.OpLogin {
		return false, fmt.Errorf("%v before the login", p.Opcode())
	}
	data := make([]byte, p.DataLen())
	if err := c.rd.ReadData(data); err != nil {
		return false, err
	}
	first := !l.began
	if first {
		c.expCmdSN = iscsi.Serial(p.Uint32(iscsi.AtCmdSN))
		c.statSN = p.Uint32(iscsi.AtExpStatSN)
	}
	a, failed := l.step(&p.Header, data)
	if a.done && failed == nil && !l.discovery() {
		if c.sess, failed = c.t.open(c.ctx, c, l); failed != nil {
			a = loginAnswer{status: iscsi.LoginUnavailable}
			var r *loginError
			if errors.As(failed, &r) {
				a.status = r.status
			}
		}
	}
	if err := c.sendLogin(p, a); err != nil {
		return false, errors.Join(failed, err)
	}
	if failed != nil {
		return false, failed
	}
	return a.done, nil
}

// sendLogin writes a login response.
func (c *conn) sendLogin(p *iscsi.PDU, a loginAnswer) error {
	b := iscsi.NewBatch()
	h := b.Begin(iscsi.OpLoginResp)
	csg, _ := p.Stages()
	h[1] = byte(csg) << 2
	if a.transit {
		h[1] |= iscsi.FlagTransit | byte(a.next)
	}
	isid := p.ISID()
	copy(h[8:14], isid[:])
	tsih := p.TSIH()
	if c.sess != nil {
		tsih = c.sess.tsih
	} else if a.done {
		tsih = 1 // discovery: any but zero
	}
	h.SetUint16(14, tsih)
	h.SetITT(p.ITT())
	h.SetUint32(iscsi.AtStatSN, c.statSN)
	h.SetUint32(iscsi.AtExpCmdSN, uint32(c.expCmdSN))
	h.SetUint32(iscsi.AtMaxCmdSN, uint32(c.expCmdSN)+uint32(c.t.cfg.Limits.QueueDepth)-1)
	h.SetUint16(iscsi.AtLoginStatus, uint16(a.status))
	c.statSN++
	b.End(a.text.Append(nil))
	return b.Flush(c.nc)
}

// random is where logins get challenges from.
func (e env) random(b []byte) { _, _ = rand.Read(b) }

// watchPing asks a silent initiator for a sign of life, and closes the
// connection when none comes.
func (c *conn) watchPing(now time.Time) {
	lim := &c.t.cfg.Limits
	silent := c.t.since(now, c.seen.Load())
	switch sent := c.pinged.Load(); {
	case !c.full.Load():
		return
	case silent < lim.Ping:
		c.pinged.Store(0)
	case sent == 0:
		c.pinged.Store(c.t.clock.At(now))
		c.mu.Lock()
		c.ping = true
		c.mu.Unlock()
		c.signal()
	case c.t.since(now, sent) > lim.PingAnswer:
		c.t.cfg.Logf("iscsi target: %v has been silent for %v: closing", c.nc.RemoteAddr(), silent.Round(time.Second))
		c.Abort()
	}
}

// signal wakes the writer.
func (c *conn) signal() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}
