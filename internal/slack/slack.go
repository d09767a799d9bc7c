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

	"golang.org/x/sys/unix"
)

// Sleep is how much later than asked for, at most and in nanoseconds, a sleep of the process may
// end. With a millisecond, goroutines may wait too long for a processor.
const Sleep = 200_000

// Set has the process start again, with the same arguments, environment and
// PID, so that all its threads have Sleep: they have it from the first one. The
// process goes on as it is where that cannot be done, and when it is done.
func Set() {
	now, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	if err != nil || now == Sleep {
		return
	}
	exe, err := os.Executable()
	if err != nil {
		return
	}
	runtime.LockOSThread() // who calls exec is the first thread then
	defer runtime.UnlockOSThread()
	if unix.Prctl(unix.PR_SET_TIMERSLACK, Sleep, 0, 0, 0) == nil {
		_ = syscall.Exec(exe, os.Args, os.Environ())
	}
}
