package target

import (
	"bufio"
	"context"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cask-storage/cask/pkg/quorum"
	"github.com/cask-storage/cask/pkg/replication"
)

const (
	dialTimeout  = 2 * time.Second
	redialAfter  = 250 * time.Millisecond
	writeTimeout = 10 * time.Second
	writeBatch   = 256 // messages of one system call
)

// lastConn numbers connections, over all links of the process.
var lastConn atomic.Uint64

// link keeps a connection to one replica.
type link struct {
	t    *Target
	id   quorum.ReplicaID
	addr string
	stop context.CancelFunc

	mu   sync.Mutex
	cond sync.Cond
	conn uint64 // 0: none
	c    net.Conn
	out  []replication.Message
}

func newLink(t *Target, id quorum.ReplicaID, addr string) *link {
	l := &link{t: t, id: id, addr: addr}
	l.cond.L = &l.mu
	return l
}

// send queues m on connection conn; on another it is dropped. What a core
// sends to a replica that does not take it is bounded by the core's backlog.
func (l *link) send(conn uint64, m replication.Message) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conn == conn && conn != 0 {
		l.out = append(l.out, m)
		l.cond.Signal()
	}
}

// reset closes connection conn.
func (l *link) reset(conn uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conn == conn && conn != 0 {
		l.c.Close()
	}
}

// run dials, again and again, until ctx ends.
func (l *link) run(ctx context.Context) {
	d := net.Dialer{Timeout: dialTimeout, KeepAlive: time.Second}
	for ctx.Err() == nil {
		if c, err := d.DialContext(ctx, "tcp", l.addr); err == nil {
			l.serve(ctx, c)
		}
		select {
		case <-ctx.Done():
		case <-time.After(redialAfter):
		}
	}
}

func (l *link) serve(ctx context.Context, c net.Conn) {
	conn := lastConn.Add(1)
	l.mu.Lock()
	l.conn, l.c, l.out = conn, c, nil
	l.mu.Unlock()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	var writer sync.WaitGroup
	writer.Go(func() { // ends when the connection is closed, below
		l.write(conn, c)
		c.Close()
	})
	l.t.post(func() { l.t.core.Connected(l.t.now(), l.id, conn) })
	r := bufio.NewReaderSize(c, 64<<10)
	for {
		m, err := replication.ReadMessage(r)
		if err != nil {
			break
		}
		l.t.received(l.id, conn, m)
	}
	c.Close()
	l.mu.Lock()
	l.conn, l.out = 0, nil
	l.cond.Broadcast()
	l.mu.Unlock()
	writer.Wait()
	l.t.post(func() { l.t.core.Disconnected(l.t.now(), l.id, conn) })
}

func (l *link) write(conn uint64, c net.Conn) {
	if _, err := io.WriteString(c, replication.Preamble); err != nil {
		return
	}
	var head []byte
	for {
		ms := l.take(conn)
		if ms == nil {
			return
		}
		err := c.SetWriteDeadline(time.Now().Add(writeTimeout))
		if err == nil {
			head, err = replication.WriteMessages(c, ms, head)
		}
		if err != nil {
			return
		}
	}
}

// take waits for messages of connection conn; nil once it is over.
func (l *link) take(conn uint64) []replication.Message {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.out) == 0 && l.conn == conn {
		l.cond.Wait()
	}
	if l.conn != conn {
		return nil
	}
	n := min(len(l.out), writeBatch)
	ms := l.out[:n:n]
	l.out = l.out[n:]
	return ms
}
