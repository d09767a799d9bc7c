package replica

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/cask-storage/cask/pkg/replication"
)

const (
	peerDial  = time.Second     // to another replica
	peerFetch = 2 * time.Second // all of a Fetch: writes to its extent wait
)

// peers fetches from other replicas, over connections that it keeps: at most
// maxPulls, as many as a Core has fetches under way.
type peers struct {
	locked func(func()) // runs what touches the Core
	wg     sync.WaitGroup

	mu   sync.Mutex
	ctx  context.Context // of Serve; nil: not yet
	idle []peerConn
}

// peerConn is a connection that nobody uses now.
type peerConn struct {
	addr string
	nc   net.Conn
}

// Fetch implements Peers.
func (p *peers) Fetch(addr string, m replication.Message, done func(replication.Message, error)) {
	p.mu.Lock()
	ctx := p.ctx
	p.mu.Unlock()
	p.wg.Go(func() { // ends within peerFetch, or with ctx
		r, err := p.fetch(ctx, addr, m)
		p.locked(func() { done(r, err) })
	})
}

// fetch asks on a kept connection, and anew on another when that one has ended.
func (p *peers) fetch(ctx context.Context, addr string, m replication.Message) (replication.Message, error) {
	ctx, cancel := context.WithTimeout(ctx, peerFetch)
	defer cancel()
	if nc := p.take(addr); nc != nil {
		if r, err := p.ask(ctx, peerConn{addr, nc}, m); err == nil {
			return r, nil
		}
	}
	d := net.Dialer{Timeout: peerDial}
	nc, err := d.DialContext(ctx, "tcp", addr)
	if err == nil {
		_, err = io.WriteString(nc, replication.Preamble)
	}
	if err != nil {
		return replication.Message{}, fmt.Errorf("reach replica %s: %w", m.Replica, err)
	}
	return p.ask(ctx, peerConn{addr, nc}, m)
}

// ask sends m and reads the answer; the connection is kept, or closed on error.
func (p *peers) ask(ctx context.Context, c peerConn, m replication.Message) (replication.Message, error) {
	stop := context.AfterFunc(ctx, func() { c.nc.Close() })
	_, err := replication.WriteMessages(c.nc, []replication.Message{m}, nil)
	var r replication.Message
	if err == nil {
		r, err = replication.ReadMessage(c.nc)
	}
	if err == nil && (r.ID != m.ID || r.Type != replication.Data) {
		err = fmt.Errorf("it answered %v %s: %w", r.Type, r.Text, replication.ErrFrame)
	}
	if !stop() || err != nil {
		c.nc.Close()
	} else {
		p.keep(c)
	}
	if err != nil {
		return r, fmt.Errorf("fetch %v from replica %s: %w", m.Extent, m.Replica, err)
	}
	return r, nil
}

func (p *peers) take(addr string) net.Conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, c := range p.idle {
		if c.addr == addr {
			p.idle = append(p.idle[:i], p.idle[i+1:]...)
			return c.nc
		}
	}
	return nil
}

// keep keeps a connection for the next fetch, beyond the bound instead of the
// oldest.
func (p *peers) keep(c peerConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.idle) >= maxPulls {
		p.idle[0].nc.Close()
		p.idle = p.idle[1:]
	}
	p.idle = append(p.idle, c)
}

// start gives fetches the context that ends them.
func (p *peers) start(ctx context.Context) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ctx = ctx
}

// close waits for what is under way, whose context has ended, and closes what
// was kept.
func (p *peers) close() {
	p.wg.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.idle {
		c.nc.Close()
	}
	p.idle = nil
}
