package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

func probe(ctx context.Context, url string) (int, string) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err.Error()
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "waiting for the target to start"
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, strings.TrimSpace(string(b))
}

// Down stops the volume in dir; its data stays.
func Down(ctx context.Context, dir string) error {
	if err := Detach(ctx, dir); err != nil {
		return err
	}
	st, err := ReadState(dir)
	if err != nil {
		return err
	}
	if runs(st.PIDs.Supervisor, dir) {
		return stop(ctx, dir, st.PIDs.Supervisor)
	}
	// The supervisor was killed: its children are on their own.
	for _, pid := range append([]int{st.PIDs.Target}, st.PIDs.Replicas...) {
		if err := stop(ctx, dir, pid); err != nil {
			return err
		}
	}
	return os.Remove(filepath.Join(dir, "state.json"))
}

// runs reports whether pid is a process of the volume in dir.
func runs(pid int, dir string) bool {
	if pid <= 0 {
		return false
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err == nil && strings.Contains(string(b), dir)
}

// stop ends a process of the volume and waits for it.
func stop(ctx context.Context, dir string, pid int) error {
	if !runs(pid, dir) {
		return nil
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("stop process %d: %w", pid, err)
	}
	for runs(pid, dir) {
		select {
		case <-ctx.Done():
			return fmt.Errorf("process %d of the volume in %s has not ended: %w", pid, dir, ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
	return nil
}
