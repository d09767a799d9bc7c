package host

import (
	"net"
	"syscall"
	"time"
)

// userTimeout ends an I/O connection whose data is not taken, when the
// keep-alive on the admin connection still works. It is long, because a target
// whose device stalls stops reading too.
const userTimeout = 30 * time.Second

// tcpUserTimeout is TCP_USER_TIMEOUT, which package syscall lacks.
const tcpUserTimeout = 18

// setUserTimeout is best effort: without it, the kernel's own limit holds.
func setUserTimeout(nc net.Conn) {
	sc, ok := nc.(syscall.Conn)
	if !ok {
		return
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpUserTimeout, int(userTimeout/time.Millisecond))
	})
}
