//go:build linux

package attach

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	memoryLimit = 160 << 20 // soft; the garbage collector works harder near it
	oomScoreAdj = "-998"    // as the kubelet gives to node-critical pods
)

// PrepareProcess is for a process that does nothing but serve an attachment:
// its memory allocations must not wait for write-back that it has to do
// itself, and it should be the last to be killed for memory. What cannot be
// had (CAP_SYS_RESOURCE) is returned as an error to log, not to fail for.
func PrepareProcess() error {
	debug.SetMemoryLimit(memoryLimit)
	var errs []error
	if _, _, errno := syscall.AllThreadsSyscall(unix.SYS_PRCTL, unix.PR_SET_IO_FLUSHER, 1, 0); errno != 0 {
		errs = append(errs, fmt.Errorf("PR_SET_IO_FLUSHER: %w", errno))
	}
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte(oomScoreAdj), 0o600); err != nil {
		errs = append(errs, fmt.Errorf("lower the OOM score: %w", err))
	}
	return errors.Join(errs...)
}
