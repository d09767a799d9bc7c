package replica

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

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
	logf  func(string, ...any)

	connMu sync.Mutex
	conns  map[net.Conn]bool
	last   ConnID
}

// NewServer opens the replica; cfg.Run is the Server's own.
func NewServer(cfg Config) *Server {
	s := &Server{tasks: make(chan func(), 256), conns: map[net.Conn]bool{}, logf: cfg.Logf}
	if s.logf == nil {
		s.logf = func(string, ...any) {}
	}
	cfg.Run = func(f func()) { s.tasks <- f }
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
	var wg, pool sync.WaitGroup
	for range workers {
		pool.Go(func() { // ends when Serve closes tasks
			for f := range s.tasks {
				f()
			}
		})
	}
	wg.Go(func() { // ends with ctx
		<-ctx.Done()
		l.Close()
		s.closeAll()
	})
	wg.Go(func() { // ends with ctx
		s.watch(ctx)
		cancel()
	})
	err := s.accept(ctx, l, &wg)
	cancel()
	wg.Wait()
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

func (s *Server) accept(ctx context.Context, l net.Listener, wg *sync.WaitGroup) error {
	for {
		c, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("accept connections of targets: %w", err)
		}
		id, ok := s.add(c)
		if !ok || ctx.Err() != nil {
			s.logf("connection from %v refused: %d are open", c.RemoteAddr(), maxConns)
			s.remove(c)
			continue
		}
		wg.Go(func() { // ends with its connection, which ctx closes
			s.serve(c, id)
			s.remove(c)
		})
	}
}

func (s *Server) add(c net.Conn) (ConnID, bool) {
	s.connMu.Lock()
	defer s.connMu.Unlock()
	s.last++
	s.conns[c] = true
	return s.last, len(s.conns) <= maxConns
}

func (s *Server) remove(c net.Conn) {
	c.Close()
	s.connMu.Lock()
	defer s.connMu.Unlock()
	delete(s.conns, c)
}

func (s *Server) closeAll() {
	s.connMu.Lock()
	defer s.connMu.Unlock()
	for c := range s.conns {
		c.Close()
	}
}

// serve runs one connection: a reader (this goroutine), a worker that obeys
// in order, and a writer.
func (s *Server) serve(c net.Conn, id ConnID) {
	in, out := newQueue(inboxBytes), newQueue(outBytes)
	var worker, writer sync.WaitGroup
	writer.Go(func() { // ends when out is closed, or writing fails
		write(c, out)
		c.Close()
	})
	worker.Go(func() { // ends when in is closed
		s.work(id, in, out)
		out.close()
	})
	if err := s.read(c, id, in, out); err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, io.EOF) {
		s.logf("connection %d from %v: %v", id, c.RemoteAddr(), err)
	}
	in.close()
	worker.Wait()
	writer.Wait()
}

func (s *Server) read(c net.Conn, id ConnID, in, out *queue) error {
	r := bufio.NewReaderSize(c, 256<<10)
	head := make([]byte, len(replication.Preamble))
	if err := c.SetReadDeadline(time.Now().Add(idle)); err != nil {
		return err
	}
	if _, err := io.ReadFull(r, head); err != nil {
		return err
	}
	if string(head) != replication.Preamble {
		return fmt.Errorf("it does not speak this version of the replication protocol: %w", replication.ErrFrame)
	}
	for in.room() && out.room() {
		if err := c.SetReadDeadline(time.Now().Add(idle)); err != nil {
			return err
		}
		m, err := replication.ReadMessage(r)
		if err != nil {
			return err
		}
		if m.Type == replication.Ping && s.core.Current(id) {
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
		if err != nil {
			out.close()
			return
		}
	}
}
