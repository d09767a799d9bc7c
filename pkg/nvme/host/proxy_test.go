package host_test

import (
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"
)

// proxy forwards TCP connections to a target and ill-treats them.
type proxy struct {
	ln   net.Listener
	dst  string
	wg   sync.WaitGroup
	mu   sync.Mutex
	live map[*proxied]struct{}
	hole bool // new connections are swallowed
}

// proxied is one forwarded connection.
type proxied struct {
	host, target net.Conn
	mu           sync.Mutex
	silent       bool          // drop what comes from here on
	late         time.Duration // deliver what was read from the host this much later, then close
}

func newProxy(t testing.TB, dst string) *proxy {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{ln: ln, dst: dst, live: map[*proxied]struct{}{}}
	p.wg.Add(1)
	go func() {
		defer p.wg.Done()
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			p.forward(c)
		}
	}()
	t.Cleanup(func() {
		_ = ln.Close()
		p.each(func(c *proxied) { c.closeBoth() })
		p.wg.Wait()
	})
	return p
}

func (p *proxy) addr() string { return p.ln.Addr().String() }

func (p *proxy) forward(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.hole {
		x := &proxied{host: c, target: c}
		p.live[x] = struct{}{}
		return
	}
	up, err := net.Dial("tcp", p.dst)
	if err != nil {
		_ = c.Close()
		return
	}
	x := &proxied{host: c, target: up}
	p.live[x] = struct{}{}
	p.wg.Add(1)
	go func() {
		defer p.wg.Done()
		var both sync.WaitGroup
		both.Add(1)
		go func() {
			defer both.Done()
			x.pump(x.host, x.target)
			x.closeBoth()
		}()
		x.pump(x.target, x.host)
		x.mu.Lock()
		late := x.late > 0
		x.mu.Unlock()
		if !late {
			x.closeBoth()
		}
		both.Wait()
		p.mu.Lock()
		delete(p.live, x)
		p.mu.Unlock()
	}()
}

func (x *proxied) closeBoth() {
	_ = x.host.Close()
	_ = x.target.Close()
}

func (x *proxied) pump(src, dst net.Conn) {
	b := make([]byte, 64<<10)
	for {
		n, err := src.Read(b)
		x.mu.Lock()
		silent, late := x.silent, x.late
		x.mu.Unlock()
		if late > 0 && src == x.host {
			// The host has given up; what it sent arrives later.
			time.Sleep(late)
			_, _ = dst.Write(b[:n])
			return
		}
		if n > 0 && !silent {
			if _, err := dst.Write(b[:n]); err != nil {
				return
			}
		}
		if err != nil {
			if err != io.EOF && silent {
				return
			}
			return
		}
	}
}

func (p *proxy) each(f func(*proxied)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.live {
		f(c)
	}
}

// cut closes all connections.
func (p *proxy) cut() { p.each(func(c *proxied) { c.closeBoth() }) }

// silence makes all connections swallow everything; new ones too when all is
// set.
func (p *proxy) silence(all bool) {
	p.each(func(c *proxied) {
		c.mu.Lock()
		c.silent = true
		c.mu.Unlock()
	})
	p.mu.Lock()
	p.hole = all
	p.mu.Unlock()
}

// heal lets new connections through, and ends the swallowed ones.
func (p *proxy) heal() {
	p.mu.Lock()
	p.hole = false
	p.mu.Unlock()
	p.cut()
}

// delay closes all connections toward the host at once, and toward the target
// after what the host had sent was delivered, late.
func (p *proxy) delay(late time.Duration) {
	p.each(func(c *proxied) {
		c.mu.Lock()
		c.late = late
		c.mu.Unlock()
		_ = c.host.SetReadDeadline(time.Now().Add(time.Millisecond))
		if t, ok := c.host.(*net.TCPConn); ok {
			_ = t.CloseWrite()
		}
	})
}

// torment does one of its misdeeds.
func (p *proxy) torment(rng *rand.Rand) {
	switch rng.IntN(3) {
	case 0:
		p.cut()
	case 1:
		p.delay(time.Duration(1+rng.IntN(40)) * time.Millisecond)
	case 2:
		p.silence(false)
	}
}
