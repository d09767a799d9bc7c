// Package accepttest holds servers against strangers: Flood opens thousands of
// connections that say nothing, or something wrong, and measures what that
// costs the server, which runs in the same process.
package accepttest

import (
	"net"
	"net/netip"
	"runtime"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Flood is many connections of strangers.
type Flood struct {
	Addr string // of the server, IPv4
	// Openings are sent by turns, each by a connection that then waits; one
	// of them is to be empty.
	Openings [][]byte
	N        int // connections: 10,000
	// PerConn is what each of the Most connections that the server keeps
	// open may cost, bytes.
	PerConn, Most int
}

// Run makes the connections and holds them while it measures. It ends them
// before it returns how many bytes the process held on their account.
func (f Flood) Run(t testing.TB) int64 {
	t.Helper()
	if f.N == 0 {
		f.N = 10_000
	}
	if testing.Short() {
		f.N = min(f.N, 1000)
	}
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil || lim.Cur < uint64(f.N+2*f.Most+100) {
		t.Skipf("%d open files are the limit here (%v)", lim.Cur, err)
	}
	before := memory()
	fds := make([]int, 0, f.N)
	defer func() {
		for _, fd := range fds {
			_ = syscall.Close(fd)
		}
	}()
	for i := range f.N {
		fd, err := dial(f.Addr)
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		fds = append(fds, fd)
		// The server may have closed it already.
		_ = unix.Sendto(fd, f.Openings[i%len(f.Openings)], unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT, nil)
	}
	most := int64(f.PerConn) * int64(f.Most)
	held := f.settle(before, most)
	t.Logf("%d connections of strangers cost %d KiB, %d of them may be open", f.N, held>>10, f.Most)
	if held > most && !raceDetector {
		t.Errorf("%d bytes, the bound is %d", held, most)
	}
	return held
}

// settle is what the connections hold once their sockets are read and those
// that were refused are gone: soon, but not by when on a busy machine.
func (f Flood) settle(before, most int64) (held int64) {
	for end := time.Now().Add(3 * time.Second); ; {
		time.Sleep(200 * time.Millisecond)
		held = memory() - before
		if held <= most || time.Now().After(end) {
			return held
		}
	}
}

// dial is a connection without memory of its own in this process.
func dial(addr string) (int, error) {
	a, err := netip.ParseAddrPort(addr)
	if err != nil {
		return 0, err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	if err := unix.Connect(fd, &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}); err != nil {
		_ = unix.Close(fd)
		return 0, err
	}
	return fd, nil
}

// memory is what is in use, after a collection.
func memory() int64 {
	runtime.GC()
	runtime.GC() // pools keep what they have for one
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

// Idle reports and bounds what each of the connections that open makes costs
// the process, server and peer together, bytes.
func Idle(t testing.TB, n, most int, open func(i int) net.Conn) {
	t.Helper()
	before := memory()
	held := make([]net.Conn, 0, n)
	for i := range n {
		held = append(held, open(i))
	}
	per := (memory() - before) / int64(n)
	t.Logf("%d bytes for an idle connection, its peer included", per)
	if per > int64(most) && !raceDetector {
		t.Errorf("%d bytes for an idle connection, at most %d", per, most)
	}
	for _, c := range held {
		_ = c.Close()
	}
}
