//go:build linux

package mount

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts")
	}
}

func TestBindAndRemove(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	src, dst := filepath.Join(dir, "src"), filepath.Join(dir, "a", "dst")
	if err := os.Mkdir(src, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = Unmount(dst) })
	if err := Bind(Request{Source: src, Target: dst, ReadOnly: true}); err != nil {
		t.Fatal(err)
	}
	m, mounted, err := At(dst)
	if err != nil || !mounted || !m.ReadOnly {
		t.Errorf("%+v %v %v", m, mounted, err)
	}
	if err := os.WriteFile(filepath.Join(dst, "f"), nil, 0o600); !errors.Is(err, unix.EROFS) {
		t.Errorf("write to a read-only bind mount: %v", err)
	}
	if err := Bind(Request{Source: src, Target: dst}); err != nil { // on top
		t.Fatal(err)
	}
	if m, _, _ := At(dst); m.ReadOnly {
		t.Error("the topmost mount is not the one told")
	}
	f, err := os.Create(filepath.Join(dst, "busy"))
	if err != nil {
		t.Fatal(err)
	}
	if err := Remove(dst); !errors.Is(err, ErrBusy) {
		t.Errorf("remove of what is in use: %v", err)
	}
	f.Close()
	for range 2 {
		if err := Remove(dst); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(dst); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the mount point is left: %v", err)
	}
}

// Remove takes mount points, never content.
func TestRemoveKeepsContent(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "full", "f")
	if err := errors.Join(os.Mkdir(filepath.Dir(file), 0o700), os.WriteFile(file, []byte("x"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := Remove(filepath.Dir(file)); err == nil {
		t.Error("a directory with content was removed")
	}
	if _, err := os.Stat(file); err != nil {
		t.Error(err)
	}
}

func TestAtFollowsDirectoryLinks(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	real := filepath.Join(dir, "real")
	if err := errors.Join(os.MkdirAll(filepath.Join(real, "m"), 0o700), os.Symlink(real, filepath.Join(dir, "link"))); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "link", "m")
	t.Cleanup(func() { _ = Unmount(path) })
	if err := Bind(Request{Source: real, Target: path}); err != nil {
		t.Fatal(err)
	}
	if _, mounted, err := At(path); err != nil || !mounted {
		t.Errorf("%v %v", mounted, err)
	}
	if !Same(path, filepath.Join(real, "m")) {
		t.Error("two names of one place differ")
	}
}

func TestAtOfNothing(t *testing.T) {
	for _, p := range []string{t.TempDir(), "/nonexistent/a/b"} {
		if _, mounted, err := At(p); err != nil || mounted {
			t.Errorf("%s: %v %v", p, mounted, err)
		}
		if err := Remove(filepath.Join(p, "x")); err != nil {
			t.Errorf("%s: %v", p, err)
		}
	}
}

func TestUsageOfAFile(t *testing.T) {
	u, err := UsageOf(t.TempDir())
	if err != nil || u.Block || u.Bytes == 0 || u.Inodes == 0 || u.BytesUsed > u.Bytes {
		t.Errorf("%+v, %v", u, err)
	}
	if _, err := UsageOf("/nonexistent"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
	if _, err := DeviceOf("/dev/null"); err == nil {
		t.Error("a character device passed for a block device")
	}
}
