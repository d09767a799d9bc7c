package local

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/local"
)

const mib = 1 << 20

// resize runs cask local resize and returns all that it says.
func resize(t *testing.T, dir string, args ...string) (string, error) {
	t.Helper()
	out, err := exec.Command(filepath.Join(bin(t), "cask"), append([]string{"local", "resize", "--dir", dir}, args...)...).CombinedOutput()
	return string(out), err
}

// refused reports what cask local resize says when it does not do it.
func refused(t *testing.T, words []string, dir string, args ...string) {
	t.Helper()
	out, err := resize(t, dir, args...)
	if err == nil {
		t.Errorf("%v was done: %s", args, out)
	}
	for _, w := range words {
		if !strings.Contains(out, w) {
			t.Errorf("%v does not say %q: %s", args, w, out)
		}
	}
}

// TestResize grows a volume under its device: never down, not before every
// replica has room, and for every target and start that follows.
func TestResize(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "vol")
	st := up(t, dir, "--size", "64Mi")
	allInSync(t, dir, 3)
	device := strings.TrimSpace(string(cask(t, "local", "attach", "--dir", dir)))
	f, err := os.OpenFile(device, os.O_RDWR|os.O_SYNC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	old := bytes.Repeat([]byte{1}, mib)
	if _, err := f.WriteAt(old, 63*mib); err != nil {
		t.Fatal(err)
	}
	refused(t, []string{"cannot shrink", "67108864", "another --dir"}, dir, "32Mi")
	refused(t, []string{"multiple of 1Mi"}, dir, "65M")
	refused(t, []string{"size such as 4Gi"}, dir, "large")

	if err := syscall.Kill(st.PIDs.Replicas[1], syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	refused(t, []string{"replica r1", "goes on by itself"}, dir, "128Mi", "--timeout", "4s")
	if out := string(cask(t, "local", "status", "--dir", dir)); !strings.Contains(out, "resize    replica r1") {
		t.Errorf("status: %s", out)
	}
	if err := syscall.Kill(st.PIDs.Replicas[1], syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if out, err := resize(t, dir, "128Mi"); err != nil || !strings.Contains(out, "134217728 bytes") || !strings.Contains(out, "resize2fs "+device) {
		t.Fatalf("%v: %s", err, out)
	}
	follows(t, device, 128*mib)
	grown := bytes.Repeat([]byte{2}, mib)
	if _, err := f.WriteAt(grown, 127*mib); err != nil {
		t.Fatal(err)
	}

	if st, err = local.ReadState(dir); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(st.PIDs.Target, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if out, err := resize(t, dir, "128Mi"); err != nil { // the next target knows it
		t.Fatalf("%v: %s", err, out)
	}
	if out := string(cask(t, "local", "status", "--dir", dir)); strings.Contains(out, "resize ") || !strings.Contains(out, "134217728 bytes") {
		t.Errorf("status of the next target: %s", out)
	}
	f.Close()
	cask(t, "local", "down", "--dir", dir)
	refused(t, []string{"cask local up"}, dir, "256Mi")
	if st = up(t, dir); st.Size != 128*mib {
		t.Errorf("it starts with %d bytes", st.Size)
	}
	l := &load{dev: attach(t, st)}
	defer l.dev.Close()
	buf := make([]byte, mib)
	for off, want := range map[uint64][]byte{63 * mib: old, 127 * mib: grown} {
		if err := l.do(block.OpRead, off, buf); err != nil || !bytes.Equal(buf, want) {
			t.Errorf("content at %d: %v", off, err)
		}
	}
}

// follows waits until the kernel says that a loop device has size bytes.
func follows(t *testing.T, device string, size int64) {
	t.Helper()
	path := filepath.Join("/sys/block", filepath.Base(device), "size")
	var last string
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		b, err := os.ReadFile(path)
		if last = strings.TrimSpace(string(b)); err != nil {
			t.Fatal(err)
		}
		if sectors, err := strconv.ParseInt(last, 10, 64); err == nil && sectors*512 == size {
			return
		}
	}
	t.Fatalf("%s has %s sectors", device, last)
}
