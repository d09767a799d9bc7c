// Package accept runs the connections of a server: a Group accepts them from
// listeners, bounds how many are open, watches them as time passes, and ends
// them. What is said on a connection is the server's business.
//
//	g := accept.NewGroup[*conn](accept.Config{Name: "nvme target", Most: 1024})
//	err := g.Serve(ctx, listener, accept.Handler[*conn]{Open: newConn, Run: serve})
//
// When there are Config.Most connections, a new one takes the place of the
// oldest that is not settled, which ends soon; if all are, it is refused. So
// those who connect and say nothing cannot keep others out.
//
// # Concurrency
//
// Each connection has a goroutine, owned by the Serve that accepted it, and
// Serve owns one that watches the clock; Serve returns when all of them have
// ended. Handler.Open is called with Group.mu held: it must not call the
// Group, nor block. Methods of a Group may be called from any goroutine.
package accept

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// Conn is a server's connection.
type Conn interface {
	comparable
	// Settled reports whether the peer has shown that it is one, for example
	// by a login: such a connection gives way to none.
	Settled() bool
	// Abort closes the socket, and may be called at any time.
	Abort()
}

// Config of a Group.
type Config struct {
	Name   string // of the server, for messages
	Logf   func(string, ...any)
	Most   int   // connections open at once
	Closed error // what Serve returns when the Group was closed before
	// Interval is how often Handler.Tick is called; 0 is 250 ms.
	Interval time.Duration
}

// The bounds of the wait after an Accept that failed, for example because
// there are no more file descriptors.
const (
	minBackoff = 10 * time.Millisecond
	maxBackoff = time.Second
)

// Handler is what one Serve call does with its connections.
type Handler[C Conn] struct {
	Open func(net.Conn) C
	// Run serves a connection until it has ended, and closes it; ctx says
	// that it is to end.
	Run func(ctx context.Context, c C)
	// Tick, if there is one, is called as time passes, with the connections
	// of all Serve calls that are open; it must not keep the slice.
	Tick func(now time.Time, open []C)
	// Idle, if there is one, is called last, when all connections of this
	// Serve have ended.
	Idle func()
}

// Group is the connections of all Serve calls of a server.
type Group[C Conn] struct {
	cfg     Config
	closed  chan struct{}
	serving sync.WaitGroup // Serve calls

	mu       sync.Mutex
	isClosed bool
	conns    map[C]*place
	order    uint64 // of the connection accepted last
}

// place is what a Group knows of a connection.
type place struct {
	order uint64 // of accepting
	told  bool   // to give way
}

// NewGroup makes a Group that serves nothing yet.
func NewGroup[C Conn](cfg Config) *Group[C] {
	if cfg.Interval == 0 {
		cfg.Interval = 250 * time.Millisecond
	}
	return &Group[C]{cfg: cfg, closed: make(chan struct{}), conns: map[C]*place{}}
}

// Serve accepts connections from ln until ctx is done or the Group is closed,
// which it answers with nil; then it closes ln, tells the connections it
// accepted by their context, and waits for them.
func (g *Group[C]) Serve(ctx context.Context, ln net.Listener, h Handler[C]) error {
	if h.Idle == nil {
		h.Idle = func() {}
	}
	if !g.enter() {
		h.Idle()
		return errors.Join(g.cfg.Closed, ln.Close())
	}
	defer g.serving.Done()
	defer h.Idle()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() { // ends with ctx; this Serve waits below
		g.watch(ctx, h.Tick)
		cancel()
		_ = ln.Close()
	})
	err := g.accept(ctx, ln, func(nc net.Conn) {
		if c, ok := g.open(nc, h.Open); ok {
			wg.Go(func() { // ends with its connection; this Serve waits below
				h.Run(ctx, c)
				g.remove(c)
			})
		}
	})
	cancel()
	wg.Wait()
	return err
}

// enter counts a Serve call; it returns false when the Group is closed.
func (g *Group[C]) enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.isClosed {
		g.serving.Add(1)
	}
	return !g.isClosed
}

func (g *Group[C]) accept(ctx context.Context, ln net.Listener, start func(net.Conn)) error {
	backoff := minBackoff
	for {
		nc, err := ln.Accept()
		if err == nil {
			backoff = minBackoff
			start(nc)
			continue
		}
		if ctx.Err() != nil || g.Closed() {
			return nil
		}
		if errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("%s: listener %v: %w", g.cfg.Name, ln.Addr(), err)
		}
		g.cfg.Logf("%s: accept on %v, next try in %v: %v", g.cfg.Name, ln.Addr(), backoff, err)
		select {
		case <-time.After(backoff):
		case <-ctx.Done():
		}
		backoff = min(2*backoff, maxBackoff)
	}
}

// open makes a connection of nc, or closes it when there are too many.
func (g *Group[C]) open(nc net.Conn, open func(net.Conn) C) (c C, ok bool) {
	g.mu.Lock()
	oldest, full, gives := g.roomLocked()
	if full && !gives {
		n := len(g.conns)
		g.mu.Unlock()
		g.cfg.Logf("%s: connection from %v refused: %d are open, the limit is %d", g.cfg.Name, nc.RemoteAddr(), n, g.cfg.Most)
		_ = nc.Close()
		return c, false
	}
	c = open(nc)
	g.order++
	g.conns[c] = &place{order: g.order}
	g.mu.Unlock()
	if gives {
		oldest.Abort()
	}
	return c, true
}

// roomLocked says whether there are too many connections, and if so which one
// gives way, if one does.
func (g *Group[C]) roomLocked() (oldest C, full, gives bool) {
	n := len(g.conns)
	if n < g.cfg.Most {
		return oldest, false, false
	}
	// Those told to go are not gone yet: a flood is refused.
	if n > g.cfg.Most+g.cfg.Most/4 {
		return oldest, true, false
	}
	var first *place
	for c, p := range g.conns {
		if !p.told && (first == nil || p.order < first.order) && !c.Settled() {
			oldest, first = c, p
		}
	}
	if first == nil {
		return oldest, true, false
	}
	first.told = true
	return oldest, true, true
}

func (g *Group[C]) remove(c C) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.conns, c)
}

// watch ticks until ctx is done or the Group closes.
func (g *Group[C]) watch(ctx context.Context, tick func(time.Time, []C)) {
	t := time.NewTicker(g.cfg.Interval)
	defer t.Stop()
	var open []C
	for {
		select {
		case now := <-t.C:
			if tick != nil {
				open = g.appendOpen(open[:0])
				tick(now, open)
				clear(open)
			}
		case <-ctx.Done():
			return
		case <-g.closed:
			return
		}
	}
}

func (g *Group[C]) appendOpen(to []C) []C {
	g.mu.Lock()
	defer g.mu.Unlock()
	for c := range g.conns {
		to = append(to, c)
	}
	return to
}

// Len is how many connections are open.
func (g *Group[C]) Len() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.conns)
}

// Closed reports whether Close was called.
func (g *Group[C]) Closed() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.isClosed
}

// Close ends all Serve calls and waits for them.
func (g *Group[C]) Close() {
	g.mu.Lock()
	if !g.isClosed {
		g.isClosed = true
		close(g.closed)
	}
	g.mu.Unlock()
	g.serving.Wait()
}
