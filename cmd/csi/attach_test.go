//go:build linux

package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cask-storage/cask/pkg/attach/agent"
	"github.com/cask-storage/cask/pkg/attach/loop"
	"github.com/cask-storage/cask/pkg/block/blocktest"
	iscsitarget "github.com/cask-storage/cask/pkg/iscsi/target"
	"github.com/cask-storage/cask/pkg/nvme"
	"github.com/cask-storage/cask/pkg/nvme/dhchap"
	"github.com/cask-storage/cask/pkg/nvme/target"
)

const mainEnv = "CASK_TEST_MAIN"

// TestMain is also cask-csi itself, so that the processes under test are real.
func TestMain(m *testing.M) {
	if os.Getenv(mainEnv) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

const testNQN = "nqn.2026-01.storage.cask:volume:pvc-cmd"

func serveTarget(t *testing.T) (addr string) {
	t.Helper()
	addr, _ = serveDevice(t)
	return addr
}

func serveDevice(t *testing.T) (addr string, dev *blocktest.Memory) {
	t.Helper()
	dev = blocktest.NewMemory(blocktest.Options{})
	addr, stop := serveOn(t, "127.0.0.1:0", target.Config{}, dev)
	t.Cleanup(func() {
		stop()
		_ = dev.Close()
	})
	return addr, dev
}

// serveOn serves dev at an address, until stop.
func serveOn(t *testing.T, at string, cfg target.Config, dev *blocktest.Memory) (addr string, stop func()) {
	t.Helper()
	tgt, err := target.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	err = tgt.AddSubsystem(target.Subsystem{NQN: testNQN, Namespaces: []target.Namespace{{ID: 1, Device: dev, UUID: nvme.UUID{1}}}})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- tgt.Serve(context.Background(), l) }() // owner: the test, by stop
	return l.Addr().String(), func() {
		_ = tgt.Close()
		<-served
	}
}

// attacher is a running `cask-csi attach`.
type attacher struct {
	t      *testing.T
	cmd    *exec.Cmd
	dir    string
	client *agent.Client
}

func startAttach(t *testing.T, dir string) *attacher {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: FUSE and loop devices")
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip(err)
	}
	a := &attacher{t: t, dir: dir, client: agent.NewClient(filepath.Join(dir, "agent.sock"))}
	a.cmd = exec.Command("/proc/self/exe", "attach", "--run-dir", dir, "--path", "user")
	a.cmd.Env = append(os.Environ(), mainEnv+"=1")
	if testing.Verbose() {
		a.cmd.Stderr = os.Stderr
	}
	if err := a.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.killAll)
	a.wait("the agent answers", func() bool {
		_, err := a.client.List(t.Context())
		return err == nil
	})
	return a
}

func (a *attacher) wait(what string, ok func() bool) {
	a.t.Helper()
	for range 1000 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	a.t.Fatalf("in vain waited until %s", what)
}

// children of a process, of all its threads.
func children(pid int) []int {
	var out []int
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, file := range files {
		raw, _ := os.ReadFile(file)
		for _, f := range strings.Fields(string(raw)) {
			if n, err := strconv.Atoi(f); err == nil {
				out = append(out, n)
			}
		}
	}
	return out
}

// killAll is the node losing its power, as far as processes go: all at once.
// One that saw another die would clear up after it.
func (a *attacher) killAll() {
	pid := a.cmd.Process.Pid
	if unix.Kill(pid, 0) != nil {
		return
	}
	all := stopped(pid)
	for _, p := range all {
		_ = unix.Kill(p, unix.SIGKILL)
	}
	_ = a.cmd.Wait()
}

// stopped stops a process, then its children: what is stopped starts no others.
func stopped(pid int) []int {
	_ = unix.Kill(pid, unix.SIGSTOP)
	awaitStop(pid)
	all := []int{pid}
	for _, c := range children(pid) {
		all = append(all, stopped(c)...)
	}
	return all
}

// awaitStop waits until a signal that was sent has stopped all threads.
func awaitStop(pid int) {
	for range 1000 {
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		_, state, found := strings.Cut(string(raw), ") ")
		if err != nil || !found || strings.ContainsAny(state[:1], "TZX") {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

func testSpec(addr string) agent.Request {
	return agent.Request{Spec: agent.Spec{Volume: "pvc-cmd", Address: addr, NQN: testNQN, NSID: 1, HostNQN: "nqn.2026-01.storage.cask:host:n:1"}}
}

func roundTrip(t *testing.T, device string, fill byte) {
	t.Helper()
	f, err := os.OpenFile(device, os.O_RDWR|syscall.O_SYNC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	want := bytes.Repeat([]byte{fill}, 1<<20)
	if _, err := f.WriteAt(want, 4096); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(want))
	if _, err := f.ReadAt(got, 4096); err != nil || !bytes.Equal(got, want) {
		t.Errorf("read back: equal %v, %v", bytes.Equal(got, want), err)
	}
}

// The agent is killed, its supervisor starts another, which adopts; asked to
// end, it waits for the volume.
func TestAgentIsReplacedUnderAVolume(t *testing.T) {
	addr := serveTarget(t)
	a := startAttach(t, t.TempDir())
	i, err := a.client.Attach(t.Context(), testSpec(addr))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = loopGone(i.Device) })
	roundTrip(t, i.Device, 1)
	agents := children(a.cmd.Process.Pid)
	if len(agents) != 1 {
		t.Fatalf("the supervisor's children: %v", agents)
	}
	if err := unix.Kill(agents[0], unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	roundTrip(t, i.Device, 2)
	a.wait("another agent answers", func() bool {
		l, err := a.client.List(t.Context())
		return err == nil && len(l) == 1 && l[0].PID == i.PID && l[0].Link.Connected
	})
	again, err := a.client.Attach(t.Context(), testSpec(addr))
	if err != nil || again.Device != i.Device {
		t.Errorf("attach again: %+v, %v", again, err)
	}
	if err := a.cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	roundTrip(t, i.Device, 3)
	if err := a.client.Detach(t.Context(), agent.DetachRequest{Volume: "pvc-cmd"}); err != nil {
		t.Error(err)
	}
	if err := a.cmd.Wait(); err != nil {
		t.Errorf("the supervisor: %v", err)
	}
}

// After everything was killed the loop device is left, dead; the next agent
// takes it away, and the volume can be attached again.
func TestLeftoversOfALostNode(t *testing.T) {
	addr := serveTarget(t)
	dir := t.TempDir()
	a := startAttach(t, dir)
	i, err := a.client.Attach(t.Context(), testSpec(addr))
	if err != nil {
		t.Fatal(err)
	}
	a.killAll()
	if _, bound, err := loop.BackingAt(i.Device); err != nil || !bound {
		t.Fatalf("the loop device: bound %v, %v", bound, err)
	}
	b := startAttach(t, dir)
	if err := loopGone(i.Device); err != nil {
		t.Error(err)
	}
	if l, err := b.client.List(t.Context()); err != nil || len(l) != 0 {
		t.Errorf("%v, %v", l, err)
	}
	i, err = b.client.Attach(t.Context(), testSpec(addr))
	if err != nil {
		t.Fatal(err)
	}
	roundTrip(t, i.Device, 4)
	if err := b.client.Detach(t.Context(), agent.DetachRequest{Volume: "pvc-cmd"}); err != nil {
		t.Error(err)
	}
}

// An attachment killed while it makes its device, when its target does not
// answer, ends as well.
func TestKilledWhileAttaching(t *testing.T) {
	addr, dev := serveDevice(t)
	dev.Stall() // the loop driver flushes the file that it is put on
	defer dev.Resume()
	a := startAttach(t, t.TempDir())
	attached := make(chan error, 1)
	go func() {
		_, err := a.client.Attach(context.WithoutCancel(t.Context()), testSpec(addr))
		attached <- err
	}()
	pid := 0
	a.wait("the child makes its device", func() bool {
		for _, agents := range children(a.cmd.Process.Pid) {
			for _, pid = range children(agents) {
				return asksItsServer(pid)
			}
		}
		return false
	})
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	a.wait("the killed process is gone", func() bool { return unix.Kill(pid, 0) != nil })
	if err := <-attached; err == nil {
		t.Error("attached by a process that was killed")
	}
}

// asksItsServer: a process of pid's family waits for FUSE.
func asksItsServer(pid int) bool {
	stacks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stack", pid))
	for _, file := range stacks {
		if raw, _ := os.ReadFile(file); bytes.Contains(raw, []byte("fuse_fsync")) {
			return true
		}
	}
	return slices.ContainsFunc(children(pid), asksItsServer)
}

// An attachment killed while its device is being taken away, with writes that
// its target does not answer, ends: nothing of it waits for itself. What waited
// for it fails, and the volume can be attached again.
func TestKilledWhileDetaching(t *testing.T) {
	addr, dev := serveDevice(t)
	a := startAttach(t, t.TempDir())
	i, err := a.client.Attach(t.Context(), testSpec(addr))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = loopGone(i.Device) })
	dev.Stall()
	defer dev.Resume()
	dirty(t, i.Device)
	detached := make(chan struct{})
	go func() { // nothing is left to detach when the process is gone, so an error is not expected
		defer close(detached)
		_ = a.client.Detach(context.WithoutCancel(t.Context()), agent.DetachRequest{Volume: "pvc-cmd"})
	}()
	time.Sleep(500 * time.Millisecond) // it, or the closing of the device, waits for the target by now
	if err := unix.Kill(i.PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	a.wait("the killed process is gone", func() bool { return unix.Kill(i.PID, 0) != nil })
	<-detached
	dev.Resume()
	a.wait("the volume is attached again", func() bool {
		i, err = a.client.Attach(t.Context(), testSpec(addr))
		return err == nil
	})
	roundTrip(t, i.Device, 5)
	if err := a.client.Detach(t.Context(), agent.DetachRequest{Volume: "pvc-cmd"}); err != nil {
		t.Error(err)
	}
}

// dirty leaves writes in the page cache of a device, held open by a process
// that is not told to write them back when it ends.
func dirty(t *testing.T, device string) {
	t.Helper()
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(bytes.Repeat([]byte{9}, 4<<20), 0); err != nil {
		t.Fatal(err)
	}
	go f.Close() // waits for the write-back, which is what is stalled
}

// loopGone waits until a device of ours is not behind path any more.
func loopGone(path string) error {
	for range 200 {
		_, bound, err := loop.BackingAt(path)
		if err != nil || !bound {
			return err
		}
		name, _ := os.ReadFile("/sys/block/" + filepath.Base(path) + "/loop/backing_file")
		if !strings.HasPrefix(string(name), "/cask-pvc-cmd") {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("%s is left", path)
}

// A volume of iSCSI is attached in user space, which says why, and rides out a
// target that goes away.
func TestAttachByISCSI(t *testing.T) {
	dev := blocktest.NewMemory(blocktest.Options{})
	defer dev.Close()
	addr := "127.0.0.1:0"
	serve := func() (stop func()) {
		tgt, err := iscsitarget.New(iscsitarget.Config{})
		if err != nil {
			t.Fatal(err)
		}
		if err := tgt.AddNode(iscsitarget.Node{Name: agent.IQN(testNQN), Units: []iscsitarget.Unit{{Device: dev, UUID: [16]byte{1}}}}); err != nil {
			t.Fatal(err)
		}
		l, err := net.Listen("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		addr = l.Addr().String()
		ctx, cancel := context.WithCancel(context.Background())
		served := make(chan error, 1)
		go func() { served <- tgt.Serve(ctx, l) }() // owner: the test, by stop
		return func() {
			cancel()
			if err := <-served; err != nil {
				t.Error(err)
			}
		}
	}
	stop := serve()
	a := startAttach(t, t.TempDir())
	s := testSpec(addr)
	s.Frontend = agent.FrontendISCSI
	i, err := a.client.Attach(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = loopGone(i.Device) })
	if i.Path != agent.PathUser || !strings.Contains(i.Why, "frontend is iscsi") {
		t.Errorf("path %s: %s", i.Path, i.Why)
	}
	roundTrip(t, i.Device, 1)
	stop()
	written := make(chan struct{})
	go func() { // waits for the target
		defer close(written)
		roundTrip(t, i.Device, 2)
	}()
	stop = serve()
	<-written
	if err := a.client.Detach(t.Context(), agent.DetachRequest{Volume: s.Volume}); err != nil {
		t.Error(err)
	}
	stop()
}

// TestAttachWithKeys: a node that has the keys stays connected through the end of
// its agent and of its target, and nobody finds them in what a process shows or
// leaves behind.
func TestAttachWithKeys(t *testing.T) {
	keys, err := dhchap.NewSecrets()
	if err != nil {
		t.Fatal(err)
	}
	dev := blocktest.NewMemory(blocktest.Options{})
	defer dev.Close()
	cfg := target.Config{Authenticate: func(context.Context, string) (dhchap.Secrets, error) { return keys, nil }}
	addr, stop := serveOn(t, "127.0.0.1:0", cfg, dev)
	dir := t.TempDir()
	a := startAttach(t, dir)
	r := testSpec(addr)
	r.Secrets = keys
	i, err := a.client.Attach(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = loopGone(i.Device) })
	roundTrip(t, i.Device, 1)
	shown, _ := filepath.Glob(fmt.Sprintf("/proc/%d/[ce][mn][dv]*", i.PID)) // cmdline, environ
	left, _ := filepath.Glob(filepath.Join(dir, "pvc-cmd", "state.json*"))
	for _, file := range append(shown, left...) {
		if raw, err := os.ReadFile(file); err != nil || bytes.Contains(raw, []byte("DHHC")) {
			t.Errorf("%s: %q, %v", file, raw, err)
		}
	}
	if len(shown) != 2 || len(left) != 1 {
		t.Errorf("looked at %v %v", shown, left)
	}
	agents := children(a.cmd.Process.Pid)
	if err := unix.Kill(agents[slices.IndexFunc(agents, func(pid int) bool { return pid != i.PID })], unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	stop()
	written := make(chan struct{})
	go func() { // waits for the target
		defer close(written)
		roundTrip(t, i.Device, 2)
	}()
	_, stop = serveOn(t, addr, cfg, dev)
	<-written
	a.wait("another agent has adopted it", func() bool {
		l, err := a.client.List(t.Context())
		return err == nil && len(l) == 1 && l[0].PID == i.PID
	})
	if err := a.client.Detach(t.Context(), agent.DetachRequest{Volume: r.Volume}); err != nil {
		t.Error(err)
	}
	stop()
}

// An unreachable target is an error of its own, in the time allowed, and leaves
// nothing.
func TestUnreachable(t *testing.T) {
	a := startAttach(t, t.TempDir())
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if _, err := a.client.Attach(ctx, testSpec("127.0.0.1:1")); err == nil {
		t.Error("attached to nothing")
	}
	a.wait("the child is gone", func() bool {
		entries, _ := filepath.Glob(filepath.Join(a.dir, "pvc-cmd"))
		return len(entries) == 0
	})
}
