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
	s := &server{t: t, ln: ln, cancel: cancel}
	s.wg.Add(1)
	go func() { // owner: this Serve, which waits below
		defer s.wg.Done()
		s.watch(ctx)
	}()
	err := s.accept(ctx)
	cancel()
	s.wg.Wait()
	return err
}

// server is one Serve call.
type server struct {
	t      *Target
	ln     net.Listener
	cancel context.CancelFunc
	wg     sync.WaitGroup
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
			return fmt.Errorf("iscsi target: listener %v: %w", s.ln.Addr(), err)
		}
		s.t.cfg.Logf("iscsi target: accept on %v, next try in %v: %v", s.ln.Addr(), backoff, err)
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
	t.mu.Lock()
	full := len(t.conns) >= t.cfg.Limits.Connections
	var c *conn
	if !full {
		c = newConn(t, nc)
		t.conns[c] = struct{}{}
	}
	t.mu.Unlock()
	if full {
		t.cfg.Logf("iscsi target: connection from %v refused: %d are open, the limit", nc.RemoteAddr(), t.cfg.Limits.Connections)
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

// watch advances the clock and enforces pings and stalls, until ctx is done or
// the Target closes; then it closes the listener.
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

// enforce pings what is silent and closes what is silent or stalled for too
// long.
func (t *Target) enforce(now time.Time) {
	t.now.Store(now.UnixNano())
	for _, c := range t.snapshot() {
		if then := c.flushing.Load(); then != 0 && since(now, then) > t.cfg.Limits.WriteStall {
			t.cfg.Logf("iscsi target: %v does not read its answers: closing", c.nc.RemoteAddr())
			c.abort()
			continue
		}
		c.watchPing(now)
	}
}
