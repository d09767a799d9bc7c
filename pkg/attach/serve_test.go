//go:build linux

package attach

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/cask-storage/cask/pkg/attach/loop"
	"github.com/cask-storage/cask/pkg/block"
)

const helperEnv = "CASK_TEST_HELPER"

// TestMain is also a helper.
func TestMain(m *testing.M) {
	if os.Getenv(helperEnv) == "" {
		os.Exit(m.Run())
	}
	if err := RunHelper(os.Stdin, os.Stdout); err != nil {
		panic(err)
	}
}

var testHelper = []string{"/usr/bin/env", helperEnv + "=1", os.Args[0]}

// needRoot skips where FUSE or loop devices cannot be had.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: FUSE mounts and loop devices")
	}
	for _, p := range []string{"/dev/fuse", "/dev/loop-control"} {
		if _, err := os.Stat(p); err != nil {
			t.Skipf("needs %s: %v", p, err)
		}
	}
}

func serveMemory(t *testing.T, m *memory) *Attachment {
	t.Helper()
	needRoot(t)
	a, err := Serve(t.Context(), Options{Device: m, Name: fmt.Sprintf("%s-%d", strings.ToLower(filepath.Base(t.Name())), os.Getpid()), Helper: testHelper})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		if path, found, _ := loop.Find(a.Loop().Backing); found {
			t.Errorf("%s is left", path)
		}
	})
	return a
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// alignedBuffer is for O_DIRECT.
func alignedBuffer(n int) []byte {
	b := make([]byte, n+4096)
	skip := 4096 - int(uintptr(unsafe.Pointer(&b[0]))%4096)
	return b[skip : skip+n]
}

// The regression test of the lab: a pattern of some MiB written with O_DIRECT
// in large pieces, many in flight, read back by another way.
func TestDirectPattern(t *testing.T) {
	m := newMemory(64 << 20)
	a := serveMemory(t, m)
	f, err := os.OpenFile(a.DevicePath(), os.O_RDWR|syscall.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	pattern := alignedBuffer(8 << 20)
	rng := rand.NewChaCha8([32]byte{1})
	_, _ = rng.Read(pattern)
	const at = 4096 * 3
	errs := make(chan error)
	const part = 2 << 20
	for off := 0; off < len(pattern); off += part {
		go func() {
			_, err := f.WriteAt(pattern[off:off+part], int64(at+off))
			errs <- err
		}()
	}
	for range len(pattern) / part {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Sync(); err != nil {
		t.Fatal(err)
	}
	m.set(func() {
		if !bytes.Equal(m.data[at:at+len(pattern)], pattern) {
			t.Error("the device has another pattern than was written")
		}
		if m.flushes == 0 {
			t.Error("fsync made no Flush")
		}
	})
	back := alignedBuffer(len(pattern))
	if _, err := f.ReadAt(back, at); err != nil || !bytes.Equal(back, pattern) {
		t.Errorf("read back: equal %v, err %v", bytes.Equal(back, pattern), err)
	}
	info, err := exec.Command("losetup", "--noheadings", "-O", "NAME,DIO,LOG-SEC,BACK-FILE", a.DevicePath()).CombinedOutput()
	t.Logf("%s %v; direct I/O %v", bytes.TrimSpace(info), err, a.Loop().DirectIO)
	if !a.Loop().DirectIO {
		t.Error("the loop device does not use direct I/O")
	}
}

// A file system lives on it, and what fsck and the device say agree.
func TestFileSystem(t *testing.T) {
	for _, fs := range []struct{ mkfs, fsck []string }{
		{[]string{"mkfs.ext4", "-q"}, []string{"fsck.ext4", "-f", "-n"}},
		{[]string{"mkfs.xfs", "-q"}, []string{"xfs_repair", "-n"}},
	} {
		t.Run(fs.mkfs[0], func(t *testing.T) {
			m := newMemory(512 << 20)
			a := serveMemory(t, m)
			run(t, fs.mkfs[0], append(fs.mkfs[1:], a.DevicePath())...)
			dir := t.TempDir()
			run(t, "mount", "-o", "discard", a.DevicePath(), dir)
			mounted := true
			unmount := func() {
				if mounted {
					run(t, "umount", dir)
					mounted = false
				}
			}
			defer unmount()
			data := make([]byte, 24<<20)
			_, _ = rand.NewChaCha8([32]byte{2}).Read(data)
			if err := os.WriteFile(filepath.Join(dir, "f"), data, 0o600); err != nil {
				t.Fatal(err)
			}
			run(t, "cp", filepath.Join(dir, "f"), filepath.Join(dir, "g"))
			run(t, "sync")
			if err := os.Remove(filepath.Join(dir, "f")); err != nil {
				t.Fatal(err)
			}
			if err := a.Close(); !errors.Is(err, ErrBusy) {
				t.Errorf("close of a mounted device: %v, want ErrBusy", err)
			}
			run(t, "fstrim", dir)
			unmount()
			run(t, fs.fsck[0], append(fs.fsck[1:], a.DevicePath())...)
			run(t, "mount", a.DevicePath(), dir)
			mounted = true
			got, err := os.ReadFile(filepath.Join(dir, "g"))
			if err != nil || !bytes.Equal(got, data) {
				t.Errorf("content: equal %v, err %v", bytes.Equal(got, data), err)
			}
			m.set(func() {
				if m.unmaps == 0 {
					t.Error("trimming made no Unmap")
				}
			})
		})
	}
}

// While the device answers nothing, I/O waits; it is no error.
func TestDeadDeviceIsWaitedFor(t *testing.T) {
	m := newMemory(16 << 20)
	a := serveMemory(t, m)
	f, err := os.OpenFile(a.DevicePath(), os.O_RDWR|syscall.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	gate := make(chan struct{})
	m.set(func() { m.gate = gate })
	done := make(chan error, 1)
	go func() {
		_, err := f.WriteAt(alignedBuffer(1<<20), 0)
		done <- err
	}()
	select {
	case err := <-done:
		t.Errorf("the write ended while the device was dead: %v", err)
	case <-time.After(time.Second):
	}
	m.set(func() { m.gate = nil })
	close(gate)
	if err := <-done; err != nil {
		t.Errorf("the write, after the device came back: %v", err)
	}
}

func TestErrorsBecomeErrnos(t *testing.T) {
	m := newMemory(16 << 20)
	a := serveMemory(t, m)
	f, err := os.OpenFile(a.DevicePath(), os.O_RDWR|syscall.O_DIRECT, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for class, want := range map[error]error{block.ErrNoSpace: unix.ENOSPC, block.ErrMedium: unix.EIO, block.ErrClosed: unix.EIO} {
		m.set(func() { m.failure = class })
		_, err := f.WriteAt(alignedBuffer(4096), 0)
		// The loop driver turns most errors into EIO.
		if !errors.Is(err, want) && !errors.Is(err, unix.EIO) {
			t.Errorf("%v: %v, want %v", class, err, want)
		}
	}
	m.set(func() { m.failure = nil })
}

func TestReadOnly(t *testing.T) {
	needRoot(t)
	m := newMemory(16 << 20)
	a, err := Serve(t.Context(), Options{Device: m, Name: "ro", ReadOnly: true, Helper: testHelper})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if f, err := os.OpenFile(a.DevicePath(), os.O_RDWR, 0); err == nil {
		_, err = f.Write(make([]byte, 4096))
		if err == nil {
			err = f.Sync()
		}
		f.Close()
		if err == nil {
			t.Error("a read-only device was written")
		}
	}
}

// A device cleared by somebody else ends the attachment; closing it again is
// no error.
func TestClearedByOthers(t *testing.T) {
	m := newMemory(16 << 20)
	a := serveMemory(t, m)
	if err := loop.Clear(loop.ClearOptions{Path: a.DevicePath(), Backing: a.Loop().Backing}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-a.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("the server did not end")
	}
}

// A stranger's device at the remembered path is left alone, and so is one of
// another volume that has the same file of a later file system behind it.
func TestClearLeavesOthers(t *testing.T) {
	m := newMemory(16 << 20)
	a := serveMemory(t, m)
	mine := a.Loop().Backing
	for _, other := range []loop.Backing{
		{Dev: mine.Dev + 1, Inode: mine.Inode, Name: mine.Name},
		{Dev: mine.Dev, Inode: mine.Inode, Name: mine.Name + "x"},
	} {
		for _, lazy := range []bool{false, true} {
			err := loop.Clear(loop.ClearOptions{Path: a.DevicePath(), Backing: other, Lazy: lazy})
			if !errors.Is(err, loop.ErrOther) {
				t.Errorf("%v, lazy %v: %v, want ErrOther", other, lazy, err)
			}
		}
		if path, found, err := loop.Find(other); err != nil || found {
			t.Errorf("find %v: %s %v", other, path, err)
		}
	}
	if path, found, err := loop.Find(mine); err != nil || !found || path != a.DevicePath() {
		t.Errorf("find: %s %v %v", path, found, err)
	}
}
