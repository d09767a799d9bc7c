//go:build linux

package sanity

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	csispec "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/cask-storage/cask/api/v1alpha1"
	"github.com/cask-storage/cask/csi/controller"
	"github.com/cask-storage/cask/csi/grpcserver"
	"github.com/cask-storage/cask/csi/identity"
	"github.com/cask-storage/cask/csi/node"
	"github.com/cask-storage/cask/csi/ownership"
	"github.com/cask-storage/cask/csi/publishcontext"
	"github.com/cask-storage/cask/csi/runnable"
	"github.com/cask-storage/cask/pkg/attach"
	"github.com/cask-storage/cask/pkg/attach/agent"
	"github.com/cask-storage/cask/pkg/attach/fabrics"
	"github.com/cask-storage/cask/pkg/attach/initiator"
	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/block/blocktest"
	"github.com/cask-storage/cask/pkg/nvme"
	"github.com/cask-storage/cask/pkg/nvme/target"
	corevolume "github.com/cask-storage/cask/pkg/volume"
)

const (
	nodeName  = "node-a"
	otherNode = "node-b"
	childEnv  = "CASK_TEST_CHILD_DIR"
	helperDir = "helper" // no directory: a helper is meant
)

// TestMain is also an attachment's process, and its helper.
func TestMain(m *testing.M) {
	dir := os.Getenv(childEnv)
	switch dir {
	case "":
		os.Exit(m.Run())
	case helperDir:
		if err := attach.RunHelper(os.Stdin, os.Stdout); err != nil {
			panic(err)
		}
		return
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	_ = attach.PrepareProcess()
	exe, err := os.Executable()
	if err != nil {
		panic(err)
	}
	err = agent.RunChild(context.Background(), agent.ChildOptions{
		Dir: dir, Open: initiator.Opener(log), Helper: []string{"/usr/bin/env", childEnv + "=" + helperDir, exe}, Ready: os.NewFile(agent.ReadyFD, "ready"),
		Secrets: os.NewFile(agent.SecretsFD, "secrets"), ConnectTimeout: 10 * time.Second, Log: log,
	})
	if err != nil {
		log.Error("child", "err", err)
		os.Exit(1)
	}
}

// cluster is an API server in memory with an operator in a line: a Volume is
// placed when it is made and has a target, a real one if dev is not nil.
type cluster struct {
	client.Client
	tgt  *target.Target
	addr string
	mu   sync.Mutex
	devs map[string]*blocktest.Memory // guarded by mu
	lost map[string]string            // by subsystem NQN, the one that took its place; guarded by mu
}

func newCluster(t testing.TB) *cluster {
	t.Helper()
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	c := &cluster{devs: map[string]*blocktest.Memory{}, lost: map[string]string{}}
	c.Client = fake.NewClientBuilder().WithScheme(scheme).WithStatusSubresource(&v1alpha1.Volume{}).
		WithObjects(
			&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: nodeName}},
			&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: otherNode}},
		).
		WithInterceptorFuncs(interceptor.Funcs{Create: c.create, Delete: c.delete, Update: c.update}).Build()
	c.startTarget(t)
	return c
}

func (c *cluster) startTarget(t testing.TB) {
	t.Helper()
	var err error
	if c.tgt, err = target.New(target.Config{Admit: c.admit, Locate: c.locate}); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c.addr = l.Addr().String()
	served := make(chan error, 1)
	go func() { served <- c.tgt.Serve(context.Background(), l) }()
	t.Cleanup(func() {
		_ = c.tgt.Close()
		<-served
	})
}

func (c *cluster) locate(_ context.Context, nqn string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := c.lost[nqn]; now != "" {
		return fmt.Errorf("%w: by %s", target.ErrReplaced, now)
	}
	return nil
}

// lose has a volume be served on as one that has lost writes.
func (c *cluster) lose(ctx context.Context, name string) error {
	old := publishcontext.VolumeNQN(name)
	now := corevolume.AfterLoss(old, 7)
	c.mu.Lock()
	c.lost[old] = now
	c.mu.Unlock()
	return errors.Join(c.tgt.RemoveSubsystem(ctx, old), c.serve(now, name))
}

// serve adds a volume's subsystem.
func (c *cluster) serve(nqn, name string) error {
	var id nvme.UUID
	copy(id[:], name)
	id[15] = byte(len(name))
	return c.tgt.AddSubsystem(target.Subsystem{
		NQN: nqn, Namespaces: []target.Namespace{{ID: publishcontext.NSID, Device: c.device(name), UUID: id}},
	})
}

// admit lets the host of a present attachment in.
func (c *cluster) admit(ctx context.Context, hostNQN string) error {
	var all v1alpha1.VolumeList
	if err := c.List(ctx, &all); err != nil {
		return err
	}
	for _, v := range all.Items {
		if a := v.Spec.Attachment; a != nil && publishcontext.HostNQN(a.Node, a.ID) == hostNQN {
			return nil
		}
	}
	return fmt.Errorf("no volume is attached to this host: %w", target.ErrNotAdmitted)
}

func (c *cluster) create(ctx context.Context, w client.WithWatch, o client.Object, opts ...client.CreateOption) error {
	if err := w.Create(ctx, o, opts...); err != nil {
		return err
	}
	v, ok := o.(*v1alpha1.Volume)
	if !ok || v.Spec.Pool == "none" {
		return nil
	}
	size := v.Spec.Size.Value()
	dev := blocktest.NewMemory(blocktest.Options{Geometry: block.Geometry{Size: uint64(size)}, Workers: 4})
	c.mu.Lock()
	c.devs[v.Name] = dev
	c.mu.Unlock()
	if err := c.serve(publishcontext.VolumeNQN(v.Name), v.Name); err != nil {
		return err
	}
	v = v.DeepCopy()
	v.Status.Target.Address, v.Status.Size = c.addr, &v.Spec.Size
	meta.SetStatusCondition(&v.Status.Conditions, metav1.Condition{Type: v1alpha1.ConditionPlaced, Status: metav1.ConditionTrue, Reason: "Placed"})
	return w.Status().Update(ctx, v)
}

// update makes the target look again at who is admitted, and at the size.
func (c *cluster) update(ctx context.Context, w client.WithWatch, o client.Object, opts ...client.UpdateOption) error {
	if err := w.Update(ctx, o, opts...); err != nil {
		return err
	}
	if v, ok := o.(*v1alpha1.Volume); ok && v.Status.Size != nil && v.Status.Size.Cmp(v.Spec.Size) != 0 {
		c.device(v.Name).Resize(uint64(v.Spec.Size.Value()))
		c.tgt.NamespaceChanged(publishcontext.VolumeNQN(v.Name), publishcontext.NSID)
		v = v.DeepCopy()
		v.Status.Size = &v.Spec.Size
		if err := w.Status().Update(ctx, v); err != nil {
			return err
		}
	}
	return c.tgt.Recheck(ctx)
}

func (c *cluster) delete(ctx context.Context, w client.WithWatch, o client.Object, opts ...client.DeleteOption) error {
	if err := w.Delete(ctx, o, opts...); err != nil {
		return err
	}
	c.mu.Lock()
	dev, nqn := c.devs[o.GetName()], publishcontext.VolumeNQN(o.GetName())
	delete(c.devs, o.GetName())
	lost := c.lost[nqn]
	c.mu.Unlock()
	if dev == nil {
		return nil
	}
	return errors.Join(c.tgt.RemoveSubsystem(ctx, nqn), c.tgt.RemoveSubsystem(ctx, lost), dev.Close())
}

func (c *cluster) device(name string) *blocktest.Memory {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.devs[name]
}

// driver is both services on one socket.
type driver struct {
	cluster *cluster
	socket  string
	run     string // the agent's
	agent   *agent.Agent
	stop    func() // ends the agent, not what it attached
	ctl     csispec.ControllerServer
	node    csispec.NodeServer
}

func logTo(t testing.TB) *slog.Logger {
	w := io.Discard
	if testing.Verbose() {
		w = os.Stderr
	}
	return slog.New(slog.NewTextHandler(w, nil)).With("test", t.Name())
}

// newDriver makes a driver; attacher and mounts are stand-ins, or nil for real
// ones.
func newDriver(t testing.TB, attacher node.Attacher, mounts node.Mounts) *driver {
	t.Helper()
	dir, err := os.MkdirTemp("", "cask")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	d := &driver{cluster: newCluster(t), socket: filepath.Join(dir, "csi.sock"), run: filepath.Join(dir, "run")}
	if attacher == nil {
		d.startAgent(t)
		attacher = agent.NewClient(filepath.Join(d.run, "agent.sock"))
	}
	log := logTo(t)
	d.ctl = controller.Locked(controller.New(controller.Options{
		Client: d.cluster, PlacementTimeout: 300 * time.Millisecond, PublishTimeout: time.Second, DeleteTimeout: time.Second,
		PollInterval: 10 * time.Millisecond, Log: log,
	}))
	grower, _ := mounts.(node.Grower) // a stand-in is both
	server := node.New(node.Options{
		Grower: grower,
		Node:   nodeName, MaxVolumes: 128, Attacher: attacher, Mounts: mounts, Owner: ownership.Reader{Client: d.cluster}.Owner, Log: log,
	})
	start(t, server)
	d.node = node.Locked(server)
	start(t, &grpcserver.Server{Socket: d.socket, Log: log, Register: func(s *grpc.Server) {
		csispec.RegisterIdentityServer(s, &identity.Server{Name: identity.DriverName, Version: "test"})
		csispec.RegisterControllerServer(s, d.ctl)
		csispec.RegisterNodeServer(s, d.node)
	}})
	waitFor(t, d.socket)
	return d
}

// start runs a part until the test's end.
func start(t testing.TB, r runnable.Runnable) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Start(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("%T: %v", r, err)
		}
	})
}

func waitFor(t testing.TB, socket string) {
	t.Helper()
	for range 200 {
		c, err := net.Dial("unix", socket)
		if err == nil {
			c.Close()
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("nobody listens on %s", socket)
}

// startAgent runs an agent whose children are this binary, and detaches
// everything at the end.
func (d *driver) startAgent(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	log := logTo(t)
	a, err := agent.New(ctx, agent.Options{
		RunDir: d.run, Choose: agent.ChooseAuto, Kernel: fabrics.Host{Dev: "/nonexistent", Sys: "/nonexistent"}, Log: log,
		Child: func(dir string) *exec.Cmd {
			cmd := exec.Command("/proc/self/exe")
			cmd.Env = append(os.Environ(), childEnv+"="+dir)
			if testing.Verbose() {
				cmd.Stderr = os.Stderr
			}
			return cmd
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	d.agent = a
	served := make(chan error, 1)
	go func() { served <- a.Serve(ctx) }()
	waitFor(t, filepath.Join(d.run, "agent.sock"))
	var once sync.Once
	stop := func() {
		once.Do(func() {
			cancel()
			if err := errors.Join(<-served, a.Close()); err != nil {
				t.Errorf("agent: %v", err)
			}
		})
	}
	t.Cleanup(func() {
		if ctx.Err() == nil {
			for _, i := range a.List(ctx) {
				t.Errorf("volume %s is left attached", i.Spec.Volume)
				_ = a.Detach(ctx, agent.DetachRequest{Volume: i.Spec.Volume, Force: true})
			}
		}
		stop()
	})
	d.stop = stop
}

// needHost skips where the real thing cannot be had.
func needHost(t testing.TB) {
	t.Helper()
	if err := hostProblem(); err != nil {
		t.Skip(err)
	}
}

func hostProblem() error {
	if os.Geteuid() != 0 {
		return errors.New("needs root: mounts, FUSE and loop devices")
	}
	for _, p := range []string{"/dev/fuse", "/dev/loop-control"} {
		if _, err := os.Stat(p); err != nil {
			return fmt.Errorf("needs %s: %w", p, err)
		}
	}
	for _, p := range []string{"mkfs.ext4", "mkfs.xfs", "blkid", "fsck"} {
		if _, err := exec.LookPath(p); err != nil {
			return fmt.Errorf("needs %s: %w", p, err)
		}
	}
	return nil
}

// loopsLeft are loop devices of volumes whose names begin so.
func loopsLeft(prefix string) []string {
	var left []string
	files, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, f := range files {
		raw, _ := os.ReadFile(f)
		if strings.HasPrefix(string(raw), "/"+attach.FilePrefix+prefix) {
			left = append(left, f+": "+strings.TrimSpace(string(raw)))
		}
	}
	return left
}
