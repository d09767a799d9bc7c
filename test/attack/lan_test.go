package attack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	mtu       = 60000
	queueSize = 4096 // packets delayed on one way; more are dropped
	maxNodes  = 8
)

// way is how packets from one node to another fare.
type way struct {
	cut   bool
	delay time.Duration
	rate  float64 // bytes per second; 0: as fast as can be
}

// lan is a switch in user space between nodes.
type lan struct {
	wg    sync.WaitGroup
	nodes []*node

	mu    sync.Mutex
	ways  [maxNodes][maxNodes]way
	lines [maxNodes][maxNodes]*line // of delayed packets
	bytes [maxNodes][maxNodes]atomic.Uint64
}

// node is a network namespace with one address.
type node struct {
	lan  *lan
	id   int
	name string
	tun  *os.File
	do   chan func() // run by a thread in the namespace
}

func (n *node) ip() string           { return fmt.Sprintf("10.77.0.%d", n.id+1) }
func (n *node) addr(port int) string { return fmt.Sprintf("%s:%d", n.ip(), port) }

func newLAN(t *testing.T, names ...string) *lan {
	t.Helper()
	l := &lan{}
	for i, name := range names {
		n := &node{lan: l, id: i, name: name, do: make(chan func())}
		l.nodes = append(l.nodes, n)
		started := make(chan error)
		l.wg.Go(func() { n.live(started) }) // ends when do is closed
		if err := <-started; err != nil {
			t.Fatalf("network namespace of %s: %v", name, err)
		}
	}
	for _, n := range l.nodes {
		l.wg.Go(n.forward) // ends when tun is closed
	}
	t.Cleanup(l.close)
	return l
}

func (l *lan) close() {
	l.mu.Lock()
	for i := range l.lines {
		for j := range l.lines[i] {
			if l.lines[i][j] != nil {
				close(l.lines[i][j].packets)
			}
			l.lines[i][j], l.ways[i][j] = nil, way{cut: true}
		}
	}
	l.mu.Unlock()
	for _, n := range l.nodes {
		n.tun.Close()
		close(n.do)
	}
	l.wg.Wait()
}

func (l *lan) node(name string) *node {
	for _, n := range l.nodes {
		if n.name == name {
			return n
		}
	}
	panic("no node " + name)
}

// set changes the way from one node to another.
func (l *lan) set(from, to string, change func(*way)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change(&l.ways[l.node(from).id][l.node(to).id])
}

// heal makes all ways good.
func (l *lan) heal() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ways = [maxNodes][maxNodes]way{}
}

// sent counts the bytes from one node to another.
func (l *lan) sent(from, to string) uint64 { return l.bytes[l.node(from).id][l.node(to).id].Load() }

// received counts the bytes that came to a node.
func (l *lan) received(to string) (n uint64) {
	for i := range l.nodes {
		n += l.bytes[i][l.node(to).id].Load()
	}
	return n
}

// live is the thread of the node's namespace; it ends with the goroutine.
func (n *node) live(started chan<- error) {
	runtime.LockOSThread()
	err := unix.Unshare(unix.CLONE_NEWNET)
	if err == nil {
		err = n.open()
	}
	started <- err
	for f := range n.do {
		f()
	}
}

// in runs f on a thread in the namespace.
func (n *node) in(f func()) {
	done := make(chan struct{})
	n.do <- func() {
		defer close(done)
		f()
	}
	<-done
}

// dial connects from the node.
func (n *node) dial(ctx context.Context, addr string) (c net.Conn, err error) {
	fd := -1
	n.in(func() { fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0) })
	if err != nil {
		return nil, err
	}
	to, err := net.ResolveTCPAddr("tcp4", addr)
	if err != nil {
		return nil, err
	}
	sa := &unix.SockaddrInet4{Port: to.Port, Addr: [4]byte(to.IP.To4())}
	if err = unix.Connect(fd, sa); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return nil, errors.Join(err, unix.Close(fd))
	}
	f := os.NewFile(uintptr(fd), addr)
	defer f.Close()
	if err := connected(ctx, f); err != nil {
		return nil, fmt.Errorf("connect to %s: %w", addr, err)
	}
	return net.FileConn(f)
}

// connected waits until f's connection is there.
func connected(ctx context.Context, f *os.File) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { f.Close() })
	defer stop()
	var state error
	err = raw.Write(func(fd uintptr) bool {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
		if n, err := unix.Poll(p, 0); n == 0 && err == nil {
			return false
		}
		code, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_ERROR)
		if state = err; err == nil && code != 0 {
			state = unix.Errno(code)
		}
		return true
	})
	return errors.Join(ctx.Err(), err, state)
}

// open makes the TUN device and gives it its address.
func (n *node) open() error {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	ifr, err := unix.NewIfreq("cask0")
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		return fmt.Errorf("TUNSETIFF: %w", err)
	}
	n.tun = os.NewFile(uintptr(fd), "tun")
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	return errors.Join(
		configure(s, "lo", unix.SIOCSIFFLAGS, func(r *unix.Ifreq) error { r.SetUint16(unix.IFF_UP); return nil }),
		configure(s, "cask0", unix.SIOCSIFADDR, func(r *unix.Ifreq) error { return r.SetInet4Addr(net.ParseIP(n.ip()).To4()) }),
		configure(s, "cask0", unix.SIOCSIFNETMASK, func(r *unix.Ifreq) error { return r.SetInet4Addr([]byte{255, 255, 255, 0}) }),
		configure(s, "cask0", unix.SIOCSIFMTU, func(r *unix.Ifreq) error { r.SetUint32(mtu); return nil }),
		configure(s, "cask0", unix.SIOCSIFFLAGS, func(r *unix.Ifreq) error { r.SetUint16(unix.IFF_UP); return nil }))
}

func configure(socket int, name string, request uint, set func(*unix.Ifreq) error) error {
	r, err := unix.NewIfreq(name)
	if err == nil {
		err = set(r)
	}
	if err == nil {
		err = unix.IoctlIfreq(socket, request, r)
	}
	if err != nil {
		return fmt.Errorf("request %#x of interface %s: %w", request, name, err)
	}
	return nil
}

// forward takes the node's packets to where they go.
func (n *node) forward() {
	buf := make([]byte, mtu+64)
	for {
		size, err := n.tun.Read(buf)
		if err != nil {
			return
		}
		if p := buf[:size]; size >= 20 && p[0]>>4 == 4 && bytes.Equal(p[16:19], []byte{10, 77, 0}) {
			n.lan.pass(n.id, int(p[19])-1, p)
		}
	}
}

// pass lets one packet go its way; p is the caller's.
func (l *lan) pass(from, to int, p []byte) {
	if to < 0 || to >= len(l.nodes) {
		return
	}
	l.mu.Lock()
	w, q := l.ways[from][to], l.lines[from][to]
	if q == nil && (w.delay > 0 || w.rate > 0) {
		q = &line{packets: make(chan delayed, queueSize)}
		l.lines[from][to] = q
		l.wg.Go(func() { q.run(l, from, to) }) // ends when packets is closed
	}
	if !w.cut && q != nil {
		q.put(w, p) // a way once delayed keeps its line, and so its order
	}
	l.mu.Unlock()
	if !w.cut && q == nil {
		l.deliver(from, to, p)
	}
}

func (l *lan) deliver(from, to int, p []byte) {
	l.bytes[from][to].Add(uint64(len(p)))
	_, _ = l.nodes[to].tun.Write(p) // a packet that does not fit is lost, as packets are
}

// line holds a way's packets until they are due, in order.
type line struct {
	packets chan delayed
	free    time.Time // when the wire is
}

type delayed struct {
	due  time.Time
	data []byte
}

func (q *line) put(w way, p []byte) {
	now := time.Now()
	if q.free.Before(now) {
		q.free = now
	}
	if w.rate > 0 {
		q.free = q.free.Add(time.Duration(float64(len(p)) / w.rate * float64(time.Second)))
	}
	select {
	case q.packets <- delayed{q.free.Add(w.delay), bytes.Clone(p)}:
	default:
	}
}

func (q *line) run(l *lan, from, to int) {
	for p := range q.packets {
		time.Sleep(time.Until(p.due))
		l.mu.Lock()
		cut := l.ways[from][to].cut
		l.mu.Unlock()
		if !cut {
			l.deliver(from, to, p.data)
		}
	}
}
