//go:build linux

package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cask-storage/cask/pkg/attach/keylock"
	"github.com/cask-storage/cask/pkg/attach/loop"
	"github.com/cask-storage/cask/pkg/nvme/dhchap"
)

// Kernel is the kernel's own NVMe/TCP host.
type Kernel interface {
	// Usable is nil, or says why it is not.
	Usable() error
	// Connect returns the block device. ErrNoKernel: the kernel does not
	// take it after all.
	Connect(ctx context.Context, r Request) (device string, err error)
	// Disconnect of what is not connected is no error.
	Disconnect(ctx context.Context, s Spec, q DetachRequest) error
	// Lookup finds what is connected.
	Lookup(s Spec) (device string, link Link, found bool)
	// Lost reports whether a connection that is not live will never be again.
	Lost(ctx context.Context, s Spec) bool
}

// ErrNoKernel: the kernel has no NVMe/TCP host.
var ErrNoKernel = errors.New("no kernel NVMe/TCP host")

// The choices of a path.
const (
	ChooseAuto   = "auto"   // the kernel's when it is usable
	ChooseKernel = "kernel" // never in user space
	ChooseUser   = "user"   // always in user space
)

// Options are an Agent's.
type Options struct {
	RunDir string
	Choose string
	Kernel Kernel
	// Child makes the command of a child that will run RunChild on dir,
	// with Ready and Secrets as its descriptors ReadyFD and SecretsFD.
	Child func(dir string) *exec.Cmd
	Log   *slog.Logger
}

// The descriptors of ChildOptions.Ready and Secrets in a child.
const (
	ReadyFD   = 3
	SecretsFD = 4
)

const (
	stateTimeout  = 2 * time.Second // a child answers from memory
	detachTimeout = 30 * time.Second
	exitTimeout   = 10 * time.Second
)

// Agent attaches volumes.
type Agent struct {
	opt    Options
	boot   string
	lock   *os.File
	ctx    context.Context // ends the watchers
	cancel context.CancelFunc
	wg     sync.WaitGroup // one for each watcher

	volumes keylock.Set

	mu       sync.Mutex
	attached map[string]*attachment // by volume; guarded by mu
	draining bool                   // guarded by mu
}

// attachment is one that this agent knows.
type attachment struct {
	rec  record
	dir  string
	cmd  *exec.Cmd // nil when adopted, or the kernel's
	gone chan struct{}
}

func (t *attachment) child() caller { return newCaller(filepath.Join(t.dir, "sock")) }

// New takes the run directory over: adopts what still runs, cleans up the rest.
// ctx ends the agent's watchers, as Close does.
func New(ctx context.Context, o Options) (*Agent, error) {
	boot, err := bootID()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(o.RunDir, 0o700); err != nil {
		return nil, fmt.Errorf("make the run directory: %w", err)
	}
	lock, err := lockDir(o.RunDir)
	if err != nil {
		return nil, err
	}
	a := &Agent{opt: o, boot: boot, lock: lock, attached: map[string]*attachment{}}
	a.ctx, a.cancel = context.WithCancel(ctx)
	if err := a.takeOver(); err != nil {
		return nil, errors.Join(err, a.Close())
	}
	return a, nil
}

// lockDir keeps a second agent out.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the lock: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("run directory %s belongs to another agent that still runs; stop it first: %w", dir, err)
	}
	return f, nil
}

// Close stops watching. Attachments stay.
func (a *Agent) Close() error {
	a.cancel()
	a.wg.Wait()
	return a.lock.Close()
}

// Serve answers on the run directory's socket until ctx is done.
func (a *Agent) Serve(ctx context.Context) error {
	l, err := listen(filepath.Join(a.opt.RunDir, "agent.sock"))
	if err != nil {
		return err
	}
	return serveHTTP(ctx, l, a.routes())
}

func (a *Agent) routes() http.Handler {
	m := http.NewServeMux()
	m.HandleFunc("POST /v1/attach", func(w http.ResponseWriter, r *http.Request) {
		var q Request
		var i Info
		err := decode(r, &q)
		if err == nil {
			i, err = a.Attach(r.Context(), q)
		}
		answer(w, i, err)
	})
	m.HandleFunc("POST /v1/detach", func(w http.ResponseWriter, r *http.Request) {
		var q DetachRequest
		err := decode(r, &q)
		if err == nil {
			err = a.Detach(r.Context(), q)
		}
		answer(w, struct{}{}, err)
	})
	m.HandleFunc("GET /v1/attachments", func(w http.ResponseWriter, r *http.Request) {
		answer(w, a.List(r.Context()), nil)
	})
	return m
}

// Attach gives a volume a device. The same again returns the same; another
// attachment of the volume replaces one that is not in use.
func (a *Agent) Attach(ctx context.Context, r Request) (Info, error) {
	if err := r.Validate(); err != nil {
		return Info{}, err
	}
	s := r.Spec
	unlock, err := a.volumes.Lock(ctx, s.Volume)
	if err != nil {
		return Info{}, fmt.Errorf("volume %s: %w: another operation is under way: %w", s.Volume, ErrBusy, err)
	}
	defer unlock()
	if t := a.get(s.Volume); t != nil {
		i, err := a.info(ctx, t)
		if t.rec.Spec == s && !i.Link.Lost {
			return i, err
		}
		a.opt.Log.Info("replacing an older attachment", "volume", s.Volume, "old", t.rec.Spec.HostNQN, "new", s.HostNQN, "lost", i.Link.Lost)
		if err := a.remove(ctx, t, DetachRequest{Volume: s.Volume, Force: i.Link.Lost}); err != nil {
			return Info{}, fmt.Errorf("volume %s is still attached as %s: %w", s.Volume, t.rec.Spec.HostNQN, err)
		}
	}
	if err := a.room(s.Volume); err != nil {
		return Info{}, err
	}
	t, err := a.add(ctx, r)
	if err != nil {
		return Info{}, err
	}
	return a.info(ctx, t)
}

// add attaches by the path that fits.
func (a *Agent) add(ctx context.Context, r Request) (*attachment, error) {
	s := r.Spec
	t := &attachment{dir: filepath.Join(a.opt.RunDir, dirName(s.Volume)), gone: make(chan struct{})}
	t.rec = record{Version: stateVersion, BootID: a.boot, Spec: s}
	if err := os.MkdirAll(t.dir, 0o700); err != nil {
		return nil, fmt.Errorf("volume %s: %w", s.Volume, err)
	}
	err := a.addKernel(ctx, t, r)
	if errors.Is(err, ErrNoKernel) && a.opt.Choose != ChooseKernel {
		t.rec.Path, t.rec.Why = PathUser, err.Error()
		err = a.addChild(ctx, t, r.Secrets)
	}
	if err != nil {
		return nil, errors.Join(err, a.clean(t.dir, t.rec))
	}
	a.opt.Log.Info("volume attached", "volume", s.Volume, "path", t.rec.Path, "why", t.rec.Why)
	a.mu.Lock()
	a.attached[s.Volume] = t
	a.mu.Unlock()
	if t.rec.Path == PathUser {
		a.wg.Add(1)
		go a.watch(t) // ends with the child or with a.ctx; Close waits
	}
	return t, nil
}

func (a *Agent) addKernel(ctx context.Context, t *attachment, r Request) error {
	if t.rec.Spec.Frontend == FrontendISCSI {
		return fmt.Errorf("%w: the volume's frontend is iscsi, whose kernel initiator needs iscsid on the node", ErrNoKernel)
	}
	if a.opt.Choose == ChooseUser {
		return fmt.Errorf("%w: user space was asked for", ErrNoKernel)
	}
	if err := a.opt.Kernel.Usable(); err != nil {
		return fmt.Errorf("%w: %w", ErrNoKernel, err)
	}
	t.rec.Path, t.rec.Why = PathKernel, "/dev/nvme-fabrics takes NVMe/TCP"
	if err := t.rec.write(t.dir); err != nil {
		return err
	}
	dev, err := a.opt.Kernel.Connect(ctx, r)
	if err != nil {
		return err
	}
	t.rec.Device = dev
	return t.rec.write(t.dir)
}

// addChild starts a child and waits until it serves.
func (a *Agent) addChild(ctx context.Context, t *attachment, s dhchap.Secrets) error {
	if err := t.rec.write(t.dir); err != nil {
		return err
	}
	secrets, err := secretsPipe(s)
	if err != nil {
		return err
	}
	defer secrets.Close()
	ready, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("make a pipe: %w", err)
	}
	defer ready.Close()
	cmd := a.opt.Child(t.dir)
	cmd.ExtraFiles = []*os.File{ReadyFD - 3: w, SecretsFD - 3: secrets}
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true}
	err = cmd.Start()
	w.Close()
	if err != nil {
		return fmt.Errorf("start a child: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = ready.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	err = readStarted(ready)
	if err != nil {
		_ = cmd.Process.Kill() // it has ended already, or is to
		_ = cmd.Wait()
		if ctx.Err() != nil {
			err = fmt.Errorf("%w: %s did not answer in time: %w", ErrUnreachable, t.rec.Spec.Address, ctx.Err())
		}
		if rec, rerr := readRecord(t.dir); rerr == nil {
			t.rec = rec
		}
		return fmt.Errorf("attach volume %s: %w", t.rec.Spec.Volume, err)
	}
	t.cmd = cmd
	t.rec, err = readRecord(t.dir)
	return err
}

func readStarted(r io.Reader) error {
	raw, err := io.ReadAll(io.LimitReader(r, maxState))
	if err != nil {
		return fmt.Errorf("wait for the child: %w", err)
	}
	return parseStarted(raw)
}

// watch waits for the end of t's child and cleans up behind one that ended by
// itself.
func (a *Agent) watch(t *attachment) {
	defer a.wg.Done()
	err := t.child().wait(a.ctx, "/v1/watch")
	if a.ctx.Err() != nil {
		return
	}
	if t.cmd != nil {
		_ = t.cmd.Wait() // its socket is closed: it is gone, or about to
	}
	close(t.gone)
	unlock, lerr := a.volumes.Lock(a.ctx, t.rec.Spec.Volume)
	if lerr != nil {
		return
	}
	defer unlock()
	if a.get(t.rec.Spec.Volume) != t {
		return // detached as asked
	}
	a.opt.Log.Error("the process that served a volume ended by itself: I/O to it fails until it is attached again",
		"volume", t.rec.Spec.Volume, "device", t.rec.Device, "err", err)
	a.forget(t)
	if err := a.clean(t.dir, t.rec); err != nil {
		a.opt.Log.Error("clean up", "volume", t.rec.Spec.Volume, "err", err)
	}
}

// Detach takes a volume's device away; that it has none is no error. One in
// use is ErrBusy, unless forced.
func (a *Agent) Detach(ctx context.Context, q DetachRequest) error {
	unlock, err := a.volumes.Lock(ctx, q.Volume)
	if err != nil {
		return fmt.Errorf("volume %s: %w: another operation is under way: %w", q.Volume, ErrBusy, err)
	}
	defer unlock()
	t := a.get(q.Volume)
	if t == nil || q.HostNQN != "" && q.HostNQN != t.rec.Spec.HostNQN {
		return nil
	}
	return a.remove(ctx, t, q)
}

func (a *Agent) remove(ctx context.Context, t *attachment, q DetachRequest) error {
	ctx, cancel := context.WithTimeout(ctx, detachTimeout)
	defer cancel()
	if t.rec.Path == PathKernel {
		if err := a.opt.Kernel.Disconnect(ctx, t.rec.Spec, q); err != nil {
			return err
		}
	} else if err := a.removeChild(ctx, t, q); err != nil {
		return err
	}
	a.forget(t)
	a.opt.Log.Info("volume detached", "volume", q.Volume)
	return a.clean(t.dir, t.rec)
}

func (a *Agent) removeChild(ctx context.Context, t *attachment, q DetachRequest) error {
	err := t.child().call(ctx, "/v1/detach", q, nil)
	if err != nil && !errors.Is(err, ErrNoAgent) && !q.Force {
		return fmt.Errorf("detach volume %s: %w", q.Volume, err)
	}
	if q.Force {
		// Whatever it still waits for, its requests have failed by now.
		if err := t.rec.kill(); err != nil {
			return err
		}
	}
	exit := time.NewTimer(exitTimeout)
	defer exit.Stop()
	select {
	case <-t.gone:
		return nil
	case <-exit.C:
	case <-ctx.Done():
	}
	return fmt.Errorf("detach volume %s: %w: process %d still ends", q.Volume, ErrBusy, t.rec.PID)
}

// clean removes what a record says was made and is no longer served.
func (a *Agent) clean(dir string, r record) error {
	var err error
	if r.BootID == a.boot && r.Backing != nil {
		err = clearBacking(*r.Backing)
	}
	return errors.Join(err, os.RemoveAll(dir))
}

func clearBacking(b loop.Backing) error {
	path, found, err := loop.Find(b)
	if err != nil || !found {
		return err
	}
	err = loop.Clear(loop.ClearOptions{Path: path, Backing: b, Lazy: true})
	if errors.Is(err, loop.ErrOther) {
		return nil
	}
	return err
}

// List tells all attachments, ordered by volume.
func (a *Agent) List(ctx context.Context) []Info {
	a.mu.Lock()
	all := make([]*attachment, 0, len(a.attached))
	for _, t := range a.attached {
		all = append(all, t)
	}
	a.mu.Unlock()
	out := make([]Info, len(all))
	var wg sync.WaitGroup
	for n, t := range all {
		wg.Go(func() { out[n] = a.describe(ctx, t) })
	}
	wg.Wait()
	slices.SortFunc(out, func(x, y Info) int { return strings.Compare(x.Spec.Volume, y.Spec.Volume) })
	return out
}

// describe is info with a failure as the link's message.
func (a *Agent) describe(ctx context.Context, t *attachment) Info {
	i, err := a.info(ctx, t)
	if err != nil {
		i = Info{Spec: t.rec.Spec, Device: t.rec.Device, Path: t.rec.Path, Why: t.rec.Why, PID: t.rec.PID}
		i.Link.Message = err.Error()
	}
	return i
}

func (a *Agent) info(ctx context.Context, t *attachment) (Info, error) {
	if t.rec.Path == PathKernel {
		dev, link, found := a.opt.Kernel.Lookup(t.rec.Spec)
		if !found {
			link = Link{}
			link.Message = fmt.Sprintf("the kernel's connection to %s is gone", t.rec.Spec.NQN)
		}
		if !link.Connected {
			ctx, cancel := context.WithTimeout(ctx, stateTimeout)
			defer cancel()
			link.Lost = a.opt.Kernel.Lost(ctx, t.rec.Spec)
		}
		return Info{Spec: t.rec.Spec, Device: dev, Path: t.rec.Path, Why: t.rec.Why, Link: link}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, stateTimeout)
	defer cancel()
	var i Info
	err := t.child().call(ctx, "/v1/state", nil, &i)
	if err != nil {
		return Info{}, fmt.Errorf("volume %s: its process %d does not answer: %w", t.rec.Spec.Volume, t.rec.PID, err)
	}
	return i, nil
}

func (a *Agent) get(volume string) *attachment {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.attached[volume]
}

// room says whether one more can be attached.
func (a *Agent) room(volume string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.draining {
		return fmt.Errorf("volume %s: the attach agent is being ended: %w", volume, ErrBusy)
	}
	if n := len(a.attached); n >= maxVolumes {
		return fmt.Errorf("volume %s: %d volumes are attached, which is the most: %w", volume, n, ErrBusy)
	}
	return nil
}

const drainPoll = 200 * time.Millisecond

// Drain attaches nothing any more and waits until no process serves a volume.
// It returns ctx's error when that takes longer.
func (a *Agent) Drain(ctx context.Context) error {
	tick := time.NewTicker(drainPoll)
	defer tick.Stop()
	for {
		n := a.drain()
		if n == 0 {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%d volumes are still attached: %w", n, ctx.Err())
		}
	}
}

func (a *Agent) drain() (left int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.draining = true
	for _, t := range a.attached {
		if t.rec.Path == PathUser {
			left++
		}
	}
	return left
}

func (a *Agent) forget(t *attachment) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.attached[t.rec.Spec.Volume] == t {
		delete(a.attached, t.rec.Spec.Volume)
	}
}
