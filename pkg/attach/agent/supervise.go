//go:build linux

package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"
)

// SuperviseOptions are Supervise's.
type SuperviseOptions struct {
	// Command makes the command of the agent.
	Command func() *exec.Cmd
	// Backoff is the pause before an agent that ended is started again.
	Backoff time.Duration
	Log     *slog.Logger
}

// Supervise is process 1 of the agent's container: it starts the agent, starts
// it again when it dies, and becomes the parent of the attachments' processes,
// which so outlive the agent. It reaps every child of the process it runs in,
// and so must have that process to itself. When ctx is done it tells the agent
// to end and waits for that.
func Supervise(ctx context.Context, o SuperviseOptions) error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become the parent of orphans: %w", err)
	}
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, unix.SIGCHLD)
	defer signal.Stop(ended)
	s := &supervisor{opt: o}
	if err := s.start(); err != nil {
		return err
	}
	done, restart := ctx.Done(), (<-chan time.Time)(nil)
	for {
		select {
		case <-ended:
			if !s.reap() {
				continue
			}
			if ctx.Err() != nil {
				return nil
			}
			o.Log.Error("the agent ended by itself; attachments go on without it until it is started again", "in", o.Backoff)
			restart = time.After(o.Backoff)
		case <-restart:
			restart = nil
			if err := s.start(); err != nil {
				return err
			}
		case <-done:
			done = nil
			if restart != nil {
				return nil // there is no agent now
			}
			if err := unix.Kill(s.pid, unix.SIGTERM); err != nil {
				return fmt.Errorf("tell the agent to end: %w", err)
			}
		}
	}
}

type supervisor struct {
	opt SuperviseOptions
	pid int
}

func (s *supervisor) start() error {
	cmd := s.opt.Command()
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start the agent: %w", err)
	}
	s.pid = cmd.Process.Pid
	return cmd.Process.Release() // reaped by number
}

// reap collects every child that has ended, and says whether the agent was one.
func (s *supervisor) reap() (agent bool) {
	for {
		var st unix.WaitStatus
		pid, err := unix.Wait4(-1, &st, unix.WNOHANG, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || pid <= 0 {
			return agent
		}
		if pid == s.pid {
			s.opt.Log.Info("agent ended", "pid", pid, "exit", st.ExitStatus(), "killed", st.Signaled())
			agent = true
		}
	}
}
