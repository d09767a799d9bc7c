package target

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// Serve accepts connections from ln until ctx is done or the Target is closed,
// which it answers with nil; then it closes ln and every connection it
// accepted, and waits for them.
func (t *Target) Serve(ctx context.Context, ln net.Listener) error {
	t.mu.Lock()
	if t.isClosed {
		t.mu.Unlock()
		return errors.Join(ErrClosed, ln.Close())
	}
	t.serving.Add(1)
	t.mu.Unlock()
	defer t.serving.Done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := &server{t: t, ln: ln, cancel: cancel, wake: make(chan struct{}, 1), idle: make(chan struct{})}
	stepped := make(chan struct{})
	go func() { // owner: this Serve, which waits for stepped
		defer close(stepped)
		s.stepper()
	}()
	s.wg.Add(1)
	go func() { // owner: this Serve, which waits below
		defer s.wg.Done()
		s.watch(ctx)
	}()
	err := s.accept(ctx)
	cancel()
	s.wg.Wait()
	close(s.idle)
	<-stepped
	return err
}

// server is one Serve call.
type server struct {
	t      *Target
	ln     net.Listener
	cancel context.CancelFunc
	wg     sync.WaitGroup
	wake   chan struct{} // capacity 1: there are steps
	idle   chan struct{} // closed when all connections have ended

	mu    sync.Mutex
	steps []*command // whose next step is due: each at most once
}

// again has the stepper go on with a command that was begun. The Device's
// completions call it, which must not block, as the next step may; and it must
// not wait for a peer, as a connection's writer may, while others wait at the gate.
func (s *server) again(cmd *command) {
	s.mu.Lock()
	s.steps = append(s.steps, cmd)
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// stepper takes the steps until the server is idle.
func (s *server) stepper() {
	var steps []*command
	for {
		select {
		case <-s.wake:
		case <-s.idle:
			return
		}
		s.mu.Lock()
		clear(steps)
		steps, s.steps = s.steps, steps[:0]
		s.mu.Unlock()
		for _, cmd := range steps {
			cmd.next()
		}
	}
}

func (s *server) accept(ctx context.Context) error {
	backoff := 10 * time.Millisecond
	for {
		nc, err := s.ln.Accept()
		if err == nil {
			backoff = 10 * time.Millisecond
			s.start(ctx, nc)
			continue
		}
		if ctx.Err() != nil || s.t.stopping() {
			return nil
		}
		if errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("nvme target: listener %v: %w", s.ln.Addr(), err)
		}
		s.t.cfg.Logf("nvme target: accept on %v, next try in %v: %v", s.ln.Addr(), backoff, err)
		select {
		case <-time.After(backoff):
		case <-ctx.Done():
		}
		backoff = min(2*backoff, time.Second)
	}
}

// start runs a connection, or closes it when there are too many.
func (s *server) start(ctx context.Context, nc net.Conn) {
	t := s.t
	c := s.register(nc)
	if c == nil {
		t.cfg.Logf("nvme target: connection from %v refused: %d are open, the limit", nc.RemoteAddr(), t.cfg.Limits.Connections)
		_ = nc.Close()
		return
	}
	s.wg.Add(1)
	go func() { // owner: Serve, which waits for s.wg
		defer s.wg.Done()
		c.serve(ctx)
		t.mu.Lock()
		delete(t.conns, c)
		t.mu.Unlock()
	}()
}

// register makes room for a connection, if there is any: beyond the limit the
// oldest connection that is not yet a queue gives way, and ends soon.
func (s *server) register(nc net.Conn) *conn {
	t := s.t
	t.mu.Lock()
	defer t.mu.Unlock()
	if most := t.cfg.Limits.Connections; len(t.conns) >= most {
		var oldest *conn
		for c := range t.conns {
			if !c.connected.Load() && (oldest == nil || c.order < oldest.order) {
				oldest = c
			}
		}
		// Those told to go are not gone yet: a flood is refused.
		if oldest == nil || len(t.conns) >= most+most/4+1 {
			return nil
		}
		oldest.connected.Store(true) // once
		oldest.abort()
	}
	t.order++
	c := newConn(s, nc)
	c.order = t.order
	t.conns[c] = struct{}{}
	return c
}

// watch advances the clock and enforces keep-alive and stalls, until ctx is
// done or the Target closes; then it closes the listener.
func (s *server) watch(ctx context.Context) {
	tick := time.NewTicker(tickInterval)
	defer tick.Stop()
	for {
		select {
		case now := <-tick.C:
			s.t.enforce(now)
		case <-ctx.Done():
			_ = s.ln.Close()
			return
		case <-s.t.closed:
			s.cancel()
		}
	}
}

func (t *Target) stopping() bool {
	select {
	case <-t.closed:
		return true
	default:
		return false
	}
}

func (t *Target) snapshot() []*conn {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make([]*conn, 0, len(t.conns))
	for c := range t.conns {
		out = append(out, c)
	}
	return out
}

// enforce closes what has been silent or stalled for too long.
func (t *Target) enforce(now time.Time) {
	t.now.Store(now.UnixNano())
	for _, c := range t.snapshot() {
		if since := c.flushing.Load(); since != 0 && now.UnixNano()-since > int64(t.cfg.Limits.WriteStall) {
			t.cfg.Logf("nvme target: %v does not read its answers: closing", c.nc.RemoteAddr())
			c.abort()
		}
		if ctrl := c.admin(); ctrl != nil {
			ctrl.enforce(now.UnixNano())
		}
	}
}
