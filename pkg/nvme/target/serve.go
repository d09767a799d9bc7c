package target

import (
	"context"
	"net"
	"sync"
	"time"

	"github.com/cask-storage/cask/pkg/accept"
)

// Serve accepts connections from ln until ctx is done or the Target is closed,
// which it answers with nil; then it closes ln and every connection it
// accepted, and waits for them.
func (t *Target) Serve(ctx context.Context, ln net.Listener) error {
	s := &server{wake: make(chan struct{}, 1), idle: make(chan struct{})}
	stepped := make(chan struct{})
	go func() { // owner: this Serve, which waits for stepped
		defer close(stepped)
		s.stepper()
	}()
	return t.conns.Serve(ctx, ln, accept.Handler[*conn]{
		Open: func(nc net.Conn) *conn { return newConn(t, s, nc) },
		Run:  func(ctx context.Context, c *conn) { c.serve(ctx) },
		Tick: t.enforce,
		Idle: func() {
			close(s.idle)
			<-stepped
		},
	})
}

// server is one Serve call.
type server struct {
	wake chan struct{} // capacity 1: there are steps
	idle chan struct{} // closed when all connections have ended

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

// enforce advances the clock and closes what has been silent or stalled for
// too long.
func (t *Target) enforce(now time.Time, open []*conn) {
	at := t.clock.At(now)
	t.now.Store(at)
	for _, c := range open {
		if since := c.flushing.Load(); since != 0 && at-since > int64(t.cfg.Limits.WriteStall) {
			t.cfg.Logf("nvme target: %v does not read its answers: closing", c.nc.RemoteAddr())
			c.Abort()
		}
		if ctrl := c.admin(); ctrl != nil {
			ctrl.enforce(at)
		}
	}
}
