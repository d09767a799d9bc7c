package replica

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cask-storage/cask/pkg/accept"
	"github.com/cask-storage/cask/pkg/replication"
)

// The bounds of what peers can make a Server hold.
const (
	maxConns   = 16
	inboxBytes = 24 << 20 // per connection; more than a target's backlog
	outBytes   = 16 << 20 // per connection; beyond it nothing more is read
	idle       = 10 * time.Second
	workers    = 16
	lingerOpen = time.Minute     // how long a replica that cannot open its store says so
	lingerFail = 2 * time.Second // the same for one that failed at work
)

// Server runs a replica behind TCP connections.
type Server struct {
	mu    sync.Mutex // held around Core.Handle
	core  *Core
	tasks chan func()
	ahead chan bool // has room for one: the store is to catch up, now if true
	logf  func(string, ...any)
	peers peers

	conns *accept.Group[*conn]
	last  ConnID // given in Group.Open, one at a time
}

// conn is a target's connection.
type conn struct {
	nc      net.Conn
	id      ConnID
	greeted atomic.Bool
}

// Settled reports whether the peer speaks our protocol.
func (c *conn) Settled() bool { return c.greeted.Load() }

// Abort closes the socket; the reader finds out.
func (c *conn) Abort() { c.nc.Close() }

// NewServer opens the replica; cfg.Run and cfg.Peers are the Server's own.
func NewServer(cfg Config) *Server {
	s := &Server{tasks: make(chan func(), 256), ahead: make(chan bool, 1), logf: cfg.Logf}
	if s.logf == nil {
		s.logf = func(string, ...any) {}
	}
	s.conns = accept.NewGroup[*conn](accept.Config{Name: "replica", Logf: s.logf, Most: maxConns})
	s.peers.locked = func(f func()) {
		s.mu.Lock()
		defer s.mu.Unlock()
		f()
	}
	cfg.Peers = &s.peers
	cfg.Run = func(f func()) { s.tasks <- f }
	cfg.Soon = func(now bool) {
		select {
		case s.ahead <- now:
		default:
		}
	}
	s.core = Open(cfg)
	s.logf("open: %v", s.core)
	return s
}

// Ready returns nil while the replica works, else why it does not.
func (s *Server) Ready() error { return s.core.Err() }

// Describe says in one line what the replica is.
func (s *Server) Describe() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.core.String()
}

// Serve answers targets on l until ctx ends, then closes the replica cleanly;
// or until the replica has failed, and says why.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.peers.start(ctx)
	var wg, pool sync.WaitGroup
	for range workers {
		pool.Go(func() { // ends when Serve closes tasks
			for f := range s.tasks {
				f()
			}
		})
	}
	wg.Go(func() { // ends with ctx
		s.watch(ctx)
		cancel()
	})
	wg.Go(func() { s.scrub(ctx) })   // ends with ctx
	wg.Go(func() { s.catchUp(ctx) }) // ends with ctx
	err := s.conns.Serve(ctx, l, accept.Handler[*conn]{Open: s.open, Run: s.serve})
	cancel()
	wg.Wait()
	s.peers.close()
	close(s.tasks)
	pool.Wait()
	failed := s.core.Err()
	return errors.Join(failed, err, s.core.Close())
}

// watch ends, a little later, when the replica has failed or ctx is done.
func (s *Server) watch(ctx context.Context) {
	linger := lingerFail
	if s.core.Err() != nil {
		linger = lingerOpen
	}
	t := time.NewTicker(100 * time.Millisecond)
	defer t.Stop()
	for s.core.Err() == nil {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
	select {
	case <-ctx.Done():
	case <-time.After(linger):
	}
}

// gather is for how long what was acknowledged waits for more that the store gets
// at once, unless something asks for it. A host that does one write after the
// other does some ten meanwhile.
const gather = 3 * time.Millisecond

// catchUp has the store catch up with what was acknowledged, until ctx ends.
func (s *Server) catchUp(ctx context.Context) {
	t := time.NewTimer(gather)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-s.ahead:
			if now {
				runtime.Gosched() // the acknowledgement goes first
				s.core.CatchUp()
				continue
			}
			t.Reset(gather)
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			s.core.CatchUp()
		}
	}
}

func (s *Server) open(nc net.Conn) *conn {
	s.last++
	return &conn{nc: nc, id: s.last}
}

// serve runs one connection: a reader (this goroutine), a worker that obeys
// in order, and a writer.
func (s *Server) serve(ctx context.Context, c *conn) {
	defer context.AfterFunc(ctx, c.Abort)()
	defer c.nc.Close()
	in, out := newQueue(inboxBytes), newQueue(outBytes)
	var worker, writer sync.WaitGroup
	writer.Go(func() { // ends when out is closed, or writing fails
		write(c.nc, out)
		c.nc.Close()
	})
	worker.Go(func() { // ends when in is closed
		s.work(c.id, in, out)
		out.close()
	})
	if err := s.read(c, in, out); err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, io.EOF) {
		s.logf("connection %d from %v: %v", c.id, c.nc.RemoteAddr(), err)
	}
	in.close()
	worker.Wait()
	s.mu.Lock()
	s.core.Ended(c.id)
	s.mu.Unlock()
	writer.Wait()
}

func (s *Server) read(c *conn, in, out *queue) error {
	r := bufio.NewReaderSize(c.nc, 64<<10)
	head := make([]byte, len(replication.Preamble))
	if err := c.nc.SetReadDeadline(time.Now().Add(idle)); err != nil {
		return err
	}
	if _, err := io.ReadFull(r, head); err != nil {
		return err
	}
	if string(head) != replication.Preamble {
		return fmt.Errorf("it does not speak this version of the replication protocol: %w", replication.ErrFrame)
	}
	c.greeted.Store(true)
	for in.room() && out.room() {
		if err := c.nc.SetReadDeadline(time.Now().Add(idle)); err != nil {
			return err
		}
		m, err := replication.ReadMessage(r)
		if err != nil {
			return err
		}
		if m.Type == replication.Ping && s.core.Current(c.id) && s.core.Err() == nil {
			// A lease must not wait behind a slow transaction group.
			out.put(replication.Message{Type: replication.Pong, ID: m.ID})
			continue
		}
		in.put(m)
	}
	return nil
}

func (s *Server) work(id ConnID, in, out *queue) {
	for {
		ms := in.take(maxBatch)
		if len(ms) == 0 {
			return
		}
		s.mu.Lock()
		ok := s.core.Handle(id, ms, out.put)
		s.mu.Unlock()
		if !ok {
			in.close()
			return
		}
	}
}

func write(c net.Conn, out *queue) {
	var head []byte
	for {
		ms := out.take(maxBatch)
		if len(ms) == 0 {
			return
		}
		var err error
		if err = c.SetWriteDeadline(time.Now().Add(3 * idle)); err == nil {
			head, err = replication.WriteMessages(c, ms, head)
		}
		for i := range ms {
			ms[i].Own.Free()
		}
		if err != nil {
			out.close()
			return
		}
	}
}
