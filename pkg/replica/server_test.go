package replica

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cask-storage/cask/pkg/replication"
)

func serve(t *testing.T, d *disk) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	s := NewServer(Config{Identity: Identity{"vol", "r0"}, Backing: d})
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

// TestGarbage sends what no target sends: each connection ends, the replica
// goes on.
func TestGarbage(t *testing.T) {
	addr := serve(t, &disk{})
	huge := []byte(replication.Preamble + "\xff\xff\xff\x7f")
	for name, b := range map[string][]byte{
		"http": []byte("GET / HTTP/1.1\r\n\r\n"), "length": huge, "zeroes": append([]byte(replication.Preamble), make([]byte, 4096)...),
	} {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write(b); err != nil {
			t.Fatal(err)
		}
		if err := c.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if n, err := c.Read(make([]byte, 1)); err == nil {
			t.Errorf("%s: %d bytes of answer", name, n)
		} else if e, ok := err.(net.Error); ok && e.Timeout() {
			t.Errorf("%s: the connection stays open", name)
		}
		c.Close()
	}
	c := talk(t, addr)
	if m := exchange(t, c, hello(1)); m.Type != replication.State {
		t.Errorf("after the garbage: %v", &m)
	}
}

func talk(t *testing.T, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if _, err := c.Write([]byte(replication.Preamble)); err != nil {
		t.Fatal(err)
	}
	return c
}

func exchange(t *testing.T, c net.Conn, m replication.Message) replication.Message {
	t.Helper()
	if _, err := replication.WriteMessages(c, []replication.Message{m}, nil); err != nil {
		t.Fatal(err)
	}
	r, err := replication.ReadMessage(c)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestSupersededConnection: a ping on a connection that lost its epoch must
// not confirm a lease.
func TestSupersededConnection(t *testing.T) {
	addr := serve(t, &disk{})
	old, next := talk(t, addr), talk(t, addr)
	exchange(t, old, hello(1))
	if m := exchange(t, old, replication.Message{Type: replication.Ping, Epoch: 1, ID: 4}); m.Type != replication.Pong || m.ID != 4 {
		t.Fatalf("ping: %v", &m)
	}
	exchange(t, next, hello(2))
	if m := exchange(t, old, replication.Message{Type: replication.Ping, Epoch: 1, ID: 5}); m.Type != replication.Refused || m.Promised != 2 {
		t.Errorf("ping of a superseded epoch: %v", &m)
	}
}

func TestManyConnections(t *testing.T) {
	addr := serve(t, &disk{})
	var open atomic.Int64
	var wg sync.WaitGroup
	for range 3 * maxConns {
		c := talk(t, addr)
		if err := c.SetReadDeadline(time.Now().Add(2 * time.Second)); err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			if _, err := c.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
				open.Add(1)
			}
		})
	}
	wg.Wait()
	// Which ones stay depends on which had spoken when the others came.
	if n := open.Load(); n == 0 || n > maxConns {
		t.Errorf("%d connections stay open, the bound is %d", n, maxConns)
	}
}
