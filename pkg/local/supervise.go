package local

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cask-storage/cask/pkg/volume"
)

const (
	restartAfter = 200 * time.Millisecond
	stopTarget   = 15 * time.Second
	stopReplica  = 30 * time.Second
	startWithin  = 60 * time.Second
)

// supervisor keeps the processes of one volume running.
type supervisor struct {
	dir  string
	bin  string // where the binaries are
	spec Spec

	mu    sync.Mutex
	state State
}

// Supervise runs the volume in dir until ctx ends, then stops it in good
// order: the target first, so that the replicas end up equal. bin is the
// directory of cask-target and cask-replica.
func Supervise(ctx context.Context, dir, bin string) error {
	lock, err := lockDir(dir)
	if err != nil {
		return err
	}
	defer lock.Close()
	spec, err := open(dir, Spec{})
	if err != nil {
		return err
	}
	s := &supervisor{dir: dir, bin: bin, spec: spec, state: State{
		Name: spec.Name, Dir: dir, Metrics: "http://" + spec.probes() + "/metrics",
		PIDs: PIDs{Supervisor: os.Getpid(), Replicas: make([]int, spec.Replicas)},
	}}
	if spec.frontend() == "iscsi" {
		s.state.ISCSI = ISCSI{Portal: spec.hosts(), Node: volume.NodeName(spec.Name)}
	} else {
		s.state.NVMe = NVMe{Addr: spec.hosts(), NQN: volume.SubsystemNQN(spec.Name), NSID: volume.NSID}
	}
	replicas, stopReplicas := context.WithCancel(context.WithoutCancel(ctx))
	defer stopReplicas()
	var front, back sync.WaitGroup
	for i := range spec.Replicas {
		back.Go(func() { s.keep(replicas, func() child { return s.replica(i) }) }) // ends with replicas
	}
	front.Go(func() { s.keep(ctx, s.target) }) // ends with ctx
	front.Wait()
	stopReplicas()
	back.Wait()
	return os.Remove(filepath.Join(dir, "state.json"))
}

// lockDir makes sure that one supervisor works on dir.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("another supervisor runs the volume in %s: %w", dir, err), f.Close())
	}
	return f, nil
}

// child is a process to keep running.
type child struct {
	name string
	args []string
	pid  *int // in the state
	stop time.Duration
}

func (s *supervisor) replica(i int) child {
	id := replicaID(i)
	return child{name: id, pid: &s.state.PIDs.Replicas[i], stop: stopReplica, args: []string{
		filepath.Join(s.bin, "cask-replica"), "--volume=" + s.spec.Name, "--replica=" + id, "--listen=" + s.spec.replica(i),
		"--pool-dir=" + filepath.Join(s.dir, id), "--compression=" + s.spec.Compression,
		fmt.Sprintf("--block-size=%d", s.spec.recordSize())}}
}

func (s *supervisor) target() child {
	size := s.spec.Size
	if now, err := open(s.dir, Spec{}); err != nil {
		log.Printf("whether the volume was resized is not known: %v", err)
	} else {
		size = now.Size
	}
	level := cmp.Or(s.spec.Zones, string(s.spec.Consistency))
	args := []string{filepath.Join(s.bin, "cask-target"), "--volume=" + s.spec.Name,
		"--authority=file:" + filepath.Join(s.dir, "record.json"), "--level=" + level, "--min-voters=" + strconv.Itoa(s.spec.MinVoters),
		"--durability=" + s.spec.Durability, "--size=" + strconv.FormatUint(size, 10),
		"--frontend=" + s.spec.frontend(), "--listen=" + s.spec.hosts(), "--health=" + s.spec.probes()}
	for i := range s.spec.Replicas {
		args = append(args, "--replica="+replicaID(i)+"="+s.spec.replica(i))
		if s.spec.Zones != "" {
			args = append(args, "--replica-zone="+replicaID(i)+"="+zone(i))
		}
	}
	if s.spec.Zones != "" {
		args = append(args, "--zone="+zone(0))
	}
	return child{name: "target", args: args, pid: &s.state.PIDs.Target, stop: stopTarget}
}

// keep runs a child until ctx ends.
func (s *supervisor) keep(ctx context.Context, next func() child) {
	for ctx.Err() == nil {
		c := next()
		if err := s.once(ctx, c); ctx.Err() == nil {
			log.Printf("%s ended and is started again: %v", c.name, err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(restartAfter):
		}
	}
}

func (s *supervisor) once(ctx context.Context, c child) error {
	out, err := os.OpenFile(filepath.Join(s.dir, "logs", c.name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	cmd := exec.CommandContext(ctx, c.args[0], c.args[1:]...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = c.stop
	if err := cmd.Start(); err != nil {
		return err
	}
	s.record(c, cmd.Process.Pid)
	err = cmd.Wait()
	s.record(c, 0)
	return err
}

func (s *supervisor) record(c child, pid int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	*c.pid = pid
	if err := writeJSON(filepath.Join(s.dir, "state.json"), s.state); err != nil {
		log.Printf("state of the volume: %v", err)
	}
}

// Options of Up.
type Options struct {
	Dir  string
	Spec Spec // Size 0: as it was, or the default
	// Exe and Args start Supervise in a process of its own.
	Exe      string
	Args     []string
	Progress func(format string, args ...any)
}

// Up starts the volume in o.Dir, unless it runs, and waits until it serves.
func Up(ctx context.Context, o Options) (State, error) {
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return State{}, err
	}
	spec, err := open(o.Dir, o.Spec)
	if err != nil {
		return State{}, err
	}
	lock, err := lockDir(o.Dir)
	if err == nil {
		lock.Close()
		if err = start(o.Dir, "supervisor", append([]string{o.Exe}, o.Args...)); err != nil {
			return State{}, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, startWithin)
	defer cancel()
	if err := o.wait(ctx, spec); err != nil {
		return State{}, fmt.Errorf("volume in %s does not serve: %w; see %s", o.Dir, err, filepath.Join(o.Dir, "logs"))
	}
	return ReadState(o.Dir)
}

// start runs a process that outlives this one.
func start(dir, name string, args []string) error {
	out, err := os.OpenFile(filepath.Join(dir, "logs", name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	return cmd.Process.Release()
}

// wait polls the target until it serves with every process running.
func (o Options) wait(ctx context.Context, spec Spec) error {
	last := ""
	for {
		code, text := probe(ctx, "http://"+spec.probes()+"/readyz")
		st, err := ReadState(o.Dir)
		if code == http.StatusOK && err == nil && st.PIDs.Target != 0 && !slices.Contains(st.PIDs.Replicas, 0) {
			return nil
		}
		if text != last && o.Progress != nil {
			o.Progress("%s", text)
		}
		last = text
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %s", ctx.Err(), last)
		case <-time.After(100 * time.Millisecond):
		}
	}
}
