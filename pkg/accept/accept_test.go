package accept_test

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cask-storage/cask/pkg/accept"
)

var errClosed = errors.New("closed")

// conn is settled once its peer has sent a byte.
type conn struct {
	net.Conn
	settled atomic.Bool
}

func (c *conn) Settled() bool { return c.settled.Load() }
func (c *conn) Abort()        { c.Close() }

func open(nc net.Conn) *conn { return &conn{Conn: nc} }

// run answers bytes until the connection ends.
func run(ctx context.Context, c *conn) {
	defer context.AfterFunc(ctx, c.Abort)()
	defer c.Close()
	b := make([]byte, 1)
	for {
		if _, err := io.ReadFull(c, b); err != nil {
			return
		}
		c.settled.Store(true)
		if _, err := c.Write(b); err != nil {
			return
		}
	}
}

type rig struct {
	*accept.Group[*conn]
	ln   net.Listener
	done chan error
}

func serve(t *testing.T, most int, h accept.Handler[*conn]) *rig {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{ln: ln, done: make(chan error, 1), Group: accept.NewGroup[*conn](accept.Config{
		Name: "test", Logf: t.Logf, Most: most, Closed: errClosed, Interval: time.Millisecond})}
	h.Open, h.Run = open, run
	go func() { r.done <- r.Serve(t.Context(), ln, h) }() // owner: the test, by the Cleanup
	t.Cleanup(r.Close)
	return r
}

func (r *rig) dial(t *testing.T) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", r.ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c
}

// speak returns nil when the other side answers.
func speak(c net.Conn) error {
	b := []byte{1}
	if _, err := c.Write(b); err != nil {
		return err
	}
	_, err := io.ReadFull(c, b)
	return err
}

// TestRoom: the silent give way, the oldest first; those who speak do not.
func TestRoom(t *testing.T) {
	r := serve(t, 2, accept.Handler[*conn]{})
	speaks := r.dial(t)
	if err := speak(speaks); err != nil {
		t.Fatal(err)
	}
	silent, next := r.dial(t), r.dial(t)
	if err := speak(next); err != nil {
		t.Fatal(err)
	}
	if err := speak(silent); err == nil {
		t.Error("the silent connection is still served")
	}
	for end := time.Now().Add(10 * time.Second); r.Len() > 2 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	if err := speak(r.dial(t)); err == nil {
		t.Error("served, though two that speak are the limit")
	}
	if err := errors.Join(speak(speaks), speak(next)); err != nil {
		t.Errorf("a connection that speaks gave way: %v", err)
	}
}

// TestFlood: connections that were told to go count until they have ended, so
// that a server that is slow to end them holds a bounded number.
func TestFlood(t *testing.T) {
	const most = 8
	g := accept.NewGroup[*conn](accept.Config{Name: "test", Logf: func(string, ...any) {}, Most: most})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var opened atomic.Int64
	end := make(chan struct{})
	done := make(chan error, 1)
	go func() { // owner: the test, which waits for done
		done <- g.Serve(t.Context(), ln, accept.Handler[*conn]{
			Open: func(nc net.Conn) *conn { opened.Add(1); return open(nc) },
			Run:  func(context.Context, *conn) { <-end },
		})
	}()
	for range 5 * most {
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	last, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := last.Read(make([]byte, 1)); err == nil {
		t.Error("the last of a flood is served")
	}
	if n := opened.Load(); n != most+most/4+1 {
		t.Errorf("%d connections were opened, limit %d", n, most)
	}
	close(end)
	g.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestClose: it waits for connections and for Idle, which is last; afterwards
// nothing is served.
func TestClose(t *testing.T) {
	var idle atomic.Bool
	r := serve(t, 2, accept.Handler[*conn]{Idle: func() { idle.Store(true) }})
	c := r.dial(t)
	if err := speak(c); err != nil {
		t.Fatal(err)
	}
	r.Close()
	if !idle.Load() || r.Len() != 0 || !r.Closed() {
		t.Errorf("after Close: idle %v, %d open", idle.Load(), r.Len())
	}
	if err := <-r.done; err != nil {
		t.Errorf("Serve: %v", err)
	}
	if err := speak(c); err == nil {
		t.Error("served after Close")
	}
	idle.Store(false)
	err := r.Serve(t.Context(), r.ln, accept.Handler[*conn]{Open: open, Run: run, Idle: func() { idle.Store(true) }})
	if !errors.Is(err, errClosed) || !idle.Load() {
		t.Errorf("Serve after Close: %v", err)
	}
}

// TestEnds: Serve ends with its context, in good order, and with its listener,
// which is an error.
func TestEnds(t *testing.T) {
	r := serve(t, 2, accept.Handler[*conn]{})
	r.ln.Close()
	if err := <-r.done; !errors.Is(err, net.ErrClosed) {
		t.Errorf("the listener was closed: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Serve(ctx, ln, accept.Handler[*conn]{Open: open, Run: run}); err != nil {
		t.Errorf("the context ended: %v", err)
	}
}

// TestTick: the watch sees who is open, and that time passes.
func TestTick(t *testing.T) {
	var mu sync.Mutex
	var last time.Time
	seen := make(chan int, 1)
	r := serve(t, 2, accept.Handler[*conn]{Tick: func(now time.Time, open []*conn) {
		mu.Lock()
		defer mu.Unlock()
		if !now.After(last) {
			t.Errorf("%v after %v", now, last)
		}
		last = now
		select {
		case seen <- len(open):
		default:
		}
	}})
	if err := speak(r.dial(t)); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); <-seen != 1; {
		if time.Now().After(end) {
			t.Fatal("the watch does not see the connection")
		}
	}
}

// poor fails to accept a few times, as one without file descriptors.
type poor struct {
	net.Listener
	left atomic.Int32
}

func (l *poor) Accept() (net.Conn, error) {
	if l.left.Add(-1) >= 0 {
		return nil, errors.New("too many open files")
	}
	return l.Listener.Accept()
}

// TestBackoff: a failure to accept is not the end of serving.
func TestBackoff(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &poor{Listener: ln}
	l.left.Store(3)
	r := &rig{ln: ln, done: make(chan error, 1), Group: accept.NewGroup[*conn](accept.Config{Name: "test", Logf: t.Logf, Most: 1})}
	start := time.Now()
	go func() { r.done <- r.Serve(t.Context(), l, accept.Handler[*conn]{Open: open, Run: run}) }() // owner: the test, which waits for done
	if err := speak(r.dial(t)); err != nil {
		t.Error(err)
	}
	if d := time.Since(start); d < 70*time.Millisecond { // 10, 20 and 40
		t.Errorf("served after %v: it did not wait between its tries", d)
	}
	r.Close()
	if err := <-r.done; err != nil {
		t.Error(err)
	}
}
