// Package slack has Go's runtime look after a process less often.
//
// A thread of the runtime (sysmon) looks every 20 microseconds, for as long as a
// goroutine is in a system call or in C, whether others need its processor. Beside
// processes that wait for a disk and a network all the time that is dear (measured
// in pkg/store/dmu/DESIGN.md): waking it takes longer than what it does. The
// runtime has no setting for it, but the kernel has: how late a sleep may end.
package slack

import (
	"os"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// How late the sleeps of a program may end. In one that does not call C nobody
// ever waits for the monitor. In one that does, a goroutine may, when calls keep all
// processors: as long as that, or until there are more of them (package procs).
const (
	Go  = 2 * time.Millisecond
	Cgo = time.Millisecond
)

// Set has the process start again, with the same arguments, environment and
// PID, so that a sleep of any of its threads may end up to late later than asked for:
// they have that from the first one. The process goes on as it is where that cannot be
// done, and when it is done.
func Set(late time.Duration) {
	now, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	if err != nil || time.Duration(now) == late {
		return
	}
	exe, err := os.Executable()
	if err != nil {
		return
	}
	runtime.LockOSThread() // who calls exec is the first thread then
	defer runtime.UnlockOSThread()
	if unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(late), 0, 0, 0) == nil {
		_ = syscall.Exec(exe, os.Args, os.Environ())
	}
}
