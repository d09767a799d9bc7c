//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/cask-storage/cask/pkg/attach"
	"github.com/cask-storage/cask/pkg/attach/agent"
	"github.com/cask-storage/cask/pkg/attach/fabrics"
	"github.com/cask-storage/cask/pkg/attach/initiator"
)

const (
	defaultRunDir  = "/var/lib/kubelet/plugins/csi.cask.storage/attach"
	connectTimeout = 60 * time.Second
	restartBackoff = time.Second
)

type attachFlags struct {
	runDir, path, sysfs, dev string
	drain                    time.Duration
	alone                    bool
}

func attachCommand() *cobra.Command {
	var f attachFlags
	c := &cobra.Command{
		Use: "attach", Short: "the attach agent of a node", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if f.alone {
				return runAgent(c.Context(), f)
			}
			return supervise(c.Context())
		},
	}
	c.Flags().StringVar(&f.runDir, "run-dir", defaultRunDir, "sockets and state, on the host")
	c.Flags().StringVar(&f.path, "path", agent.ChooseAuto, "auto, kernel or user: which NVMe/TCP host is used")
	c.Flags().StringVar(&f.sysfs, "sysfs", "/sys", "root of sysfs")
	c.Flags().StringVar(&f.dev, "dev", "/dev", "root of the device nodes")
	c.Flags().DurationVar(&f.drain, "drain-timeout", 0, "on SIGTERM, wait so long for volumes to be detached; 0: for ever")
	c.Flags().BoolVar(&f.alone, "alone", false, "run the agent itself, without its supervisor")
	return c
}

// supervise runs the same command line again, as the agent itself.
func supervise(ctx context.Context) error {
	return agent.Supervise(ctx, agent.SuperviseOptions{
		Backoff: restartBackoff, Log: logger("supervisor"),
		Command: func() *exec.Cmd {
			cmd := exec.Command("/proc/self/exe", append(os.Args[1:], "--alone")...)
			cmd.Args[0] = os.Args[0]
			cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
			return cmd
		},
	})
}

func runAgent(ctx context.Context, f attachFlags) error {
	log := logger("agent")
	kernel := fabrics.Host{Dev: f.dev, Sys: f.sysfs, Resolve: initiator.Resolve}
	if err := kernel.Usable(); err != nil {
		log.Info("volumes are attached in user space", "why", err)
	}
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	a, err := agent.New(life, agent.Options{RunDir: f.runDir, Choose: f.path, Kernel: kernel, Child: childOf, Log: log})
	if err != nil {
		return err
	}
	go func() { // ends with ctx and the drain; Serve below waits for end
		defer end()
		<-ctx.Done()
		drain(life, a, f, log)
	}()
	return errors.Join(a.Serve(life), a.Close())
}

func drain(ctx context.Context, a *agent.Agent, f attachFlags, log *slog.Logger) {
	if f.drain > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, f.drain)
		defer cancel()
	}
	log.Info("ending once no volume is attached")
	if err := a.Drain(ctx); err != nil {
		log.Warn("ending with volumes attached", "err", err)
	}
}

// childOf is the command of one attachment's process.
func childOf(dir string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", "attach-child", "--dir", dir)
	cmd.Args[0] = os.Args[0]
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd
}

func childCommand() *cobra.Command {
	var dir string
	c := &cobra.Command{
		Use: "attach-child", Short: "serves one attachment; started by the agent", Args: cobra.NoArgs, Hidden: true,
		RunE: func(c *cobra.Command, _ []string) error { return runChild(c.Context(), dir) },
	}
	c.Flags().StringVar(&dir, "dir", "", "the attachment's directory")
	return c
}

// runChild ends by being told to on its socket only: a signal to a process
// group must not take a mounted volume away.
func runChild(ctx context.Context, dir string) error {
	signal.Ignore(os.Interrupt, unix.SIGTERM, unix.SIGHUP, unix.SIGPIPE)
	log := logger("attachment")
	if err := attach.PrepareProcess(); err != nil {
		log.Info("going on without", "err", err)
	}
	return agent.RunChild(context.WithoutCancel(ctx), agent.ChildOptions{
		Dir: dir, Open: initiator.Opener(log), Helper: []string{"/proc/self/exe", helperCommand().Use}, Ready: os.NewFile(agent.ReadyFD, "ready"),
		Secrets: os.NewFile(agent.SecretsFD, "secrets"), ConnectTimeout: connectTimeout, Log: log,
	})
}

func helperCommand() *cobra.Command {
	return &cobra.Command{
		Use: "attach-helper", Short: "makes or clears a loop device; started by attach-child", Args: cobra.NoArgs, Hidden: true,
		RunE: func(c *cobra.Command, _ []string) error { return attach.RunHelper(c.InOrStdin(), c.OutOrStdout()) },
	}
}

const listTimeout = 5 * time.Second

func attachmentsCommand() *cobra.Command {
	var runDir string
	c := &cobra.Command{
		Use: "attachments", Short: "prints what the attach agent of this node has attached", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(c.Context(), listTimeout)
			defer cancel()
			list, err := agent.NewClient(filepath.Join(runDir, "agent.sock")).List(ctx)
			if err != nil {
				return err
			}
			e := json.NewEncoder(c.OutOrStdout())
			e.SetIndent("", "  ")
			return e.Encode(list)
		},
	}
	c.Flags().StringVar(&runDir, "run-dir", defaultRunDir, "the agent's")
	return c
}
