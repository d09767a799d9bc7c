//go:build cgo && linux

package dmu_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/history"
	"github.com/cask-storage/cask/pkg/store"
	"github.com/cask-storage/cask/pkg/store/dmu"
)

const mib = 1 << 20

func writeOp(seq history.Seq, off uint64, data []byte) store.Op {
	return store.Op{Kind: store.Write, Seq: seq, Extent: block.Extent{Off: off, Len: uint64(len(data))}, Data: data}
}

func random(n int) []byte {
	p := make([]byte, n)
	rand.New(rand.NewSource(int64(n))).Read(p)
	return p
}

func wantOpenError(t *testing.T, o dmu.Options, class error) {
	t.Helper()
	s, err := dmu.Open(o)
	if err == nil {
		_ = s.Close()
	}
	if !errors.Is(err, class) {
		t.Fatalf("open: %v, want %v", err, class)
	}
	if !strings.Contains(err.Error(), o.Path) {
		t.Errorf("open: %v: does not name the extent", err)
	}
}

// patchLabels replaces a string in all four labels.
func patchLabels(t *testing.T, path, from, to string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	found := 0
	for at := 0; ; found++ {
		i := bytes.Index(b[at:], []byte(from))
		if i < 0 {
			break
		}
		at += i
		if _, err := f.WriteAt([]byte(to), int64(at)); err != nil {
			t.Fatal(err)
		}
		at += len(from)
	}
	if found < 4 {
		t.Fatalf("%q found %d times in %s", from, found, path)
	}
}

// made is an extent with a closed volume on it.
func made(t *testing.T, size uint64) dmu.Options {
	t.Helper()
	o := extent(t, size)
	if err := create(t, o).Close(); err != nil {
		t.Fatal(err)
	}
	return o
}

func TestOpenMissing(t *testing.T) {
	o := extent(t, mib)
	wantOpenError(t, o, store.ErrNotFound)
	if err := os.Remove(o.Path); err != nil {
		t.Fatal(err)
	}
	wantOpenError(t, o, store.ErrNotFound)
	if _, err := dmu.Create(o); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("create without an extent: %v", err)
	}
}

func TestOpenGarbage(t *testing.T) {
	o := extent(t, mib)
	if err := os.WriteFile(o.Path, random(80*mib), 0o600); err != nil {
		t.Fatal(err)
	}
	wantOpenError(t, o, store.ErrCorrupt)
	if _, err := dmu.Create(o); !errors.Is(err, store.ErrCorrupt) {
		t.Fatalf("create on garbage: %v", err)
	}
}

func TestOpenTruncated(t *testing.T) {
	o := made(t, mib)
	if err := os.Truncate(o.Path, 100*mib); err != nil {
		t.Fatal(err)
	}
	wantOpenError(t, o, store.ErrTruncated)
}

func TestOpenInUse(t *testing.T) {
	o := extent(t, mib)
	s := create(t, o)
	wantOpenError(t, o, store.ErrInUse)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := open(t, o).Close(); err != nil {
		t.Fatal(err)
	}
}

// A pod may see the extent at another path.
func TestOpenMoved(t *testing.T) {
	o := made(t, mib)
	moved := o.Path + ".moved"
	if err := os.Rename(o.Path, moved); err != nil {
		t.Fatal(err)
	}
	o.Path = moved
	if err := open(t, o).Close(); err != nil {
		t.Fatal(err)
	}
}

func TestOpenNewerFormat(t *testing.T) {
	o := made(t, mib)
	patchLabels(t, o.Path, "cask volume v1", "cask volume v2")
	wantOpenError(t, o, store.ErrFormat)
}

// A volume whose creation was interrupted is not there, and can be made again.
func TestCreateTwice(t *testing.T) {
	o := made(t, mib)
	if _, err := dmu.Create(o); !errors.Is(err, store.ErrInUse) {
		t.Fatalf("create over a volume: %v", err)
	}
	patchLabels(t, o.Path, "cask volume v1", "cask-volume v1")
	wantOpenError(t, o, store.ErrNotFound)
	if err := create(t, o).Close(); err != nil {
		t.Fatal(err)
	}
	if err := open(t, o).Close(); err != nil {
		t.Fatal(err)
	}
}

func TestBadOptions(t *testing.T) {
	for name, change := range map[string]func(*dmu.Options){
		"path":        func(o *dmu.Options) { o.Path = "" },
		"size":        func(o *dmu.Options) { o.Size = 8192 + 512 },
		"no size":     func(o *dmu.Options) { o.Size = 0 },
		"block size":  func(o *dmu.Options) { o.BlockSize = 12 << 10 },
		"compression": func(o *dmu.Options) { o.Compression = "best" },
		"memory":      func(o *dmu.Options) { o.Memory = mib },
	} {
		o := extent(t, mib)
		change(&o)
		if _, err := dmu.Create(o); !errors.Is(err, block.ErrRange) {
			t.Errorf("%s: %v, want block.ErrRange", name, err)
		}
	}
}

// A block that rotted is an error of its own class; the others read well.
func TestCorruptBlock(t *testing.T) {
	o := extent(t, 64*mib)
	o.Compression = "off"
	data := random(mib)
	s := create(t, o)
	if err := s.Apply([]store.Op{writeOp(1, 0, data)}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	rot(t, o.Path, data[512<<10:][:dmu.DefaultBlockSize])
	s = open(t, o)
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	p := make([]byte, 4096)
	if err := s.ReadAt(p, 512<<10); !errors.Is(err, store.ErrCorrupt) {
		t.Fatalf("read of a rotten block: %v, want store.ErrCorrupt", err)
	}
	if err := s.ReadAt(p, 512<<10+dmu.DefaultBlockSize); err != nil {
		t.Fatalf("read of the block after it: %v", err)
	}
}

// rotted closes s, spoils the block at off on its extent, and opens it again.
func rotted(t *testing.T, s store.Store, o dmu.Options, off uint64) store.Store {
	t.Helper()
	p := make([]byte, s.Info().BlockSize)
	if err := s.ReadAt(p, off); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	rot(t, o.Path, p)
	return open(t, o)
}

func rot(t *testing.T, path string, block []byte) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(b, block)
	if at < 0 {
		t.Fatal("the block is not in the extent")
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("rotten"), int64(at+100)); err != nil {
		t.Fatal(err)
	}
}

func TestNoSpace(t *testing.T) {
	o := extent(t, 0)
	o.Size = 4 << 30
	if err := os.Truncate(o.Path, 80*mib); err != nil {
		t.Fatal(err)
	}
	s := create(t, o)
	var err error
	for i := uint64(0); err == nil && i < 200; i++ {
		data := make([]byte, mib)
		rand.New(rand.NewSource(int64(i))).Read(data)
		err = s.Apply([]store.Op{writeOp(history.Seq(i+1), i*mib, data)})
	}
	if !errors.Is(err, store.ErrNoSpace) {
		t.Fatalf("writing more than fits: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, o)
	unmap := store.Op{Kind: store.Unmap, Seq: s.Info().Mark + 1, Extent: block.Extent{Len: o.Size}}
	if err := s.Apply([]store.Op{unmap}); err != nil {
		t.Fatalf("unmap of a full store: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// The extent is an ordinary pool: zdb walks it and finds every block.
func TestZdb(t *testing.T) {
	o := extent(t, 64*mib)
	s := create(t, o)
	for i := range uint64(20) {
		if err := s.Apply([]store.Op{writeOp(history.Seq(i+1), i*3*mib, random(100<<10+int(i)*512))}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if out := zdb(t, o, "-bcc", o.Pool); !bytes.Contains(out, []byte("No leaks")) {
		t.Fatalf("zdb -bcc: %s", out)
	}
	want := fmt.Sprintf("size = %d", o.Size)
	if out := zdb(t, o, "-dddd", o.Pool+"/vol"); !bytes.Contains(out, []byte(want)) {
		t.Fatalf("zdb -dddd lacks %q: %s", want, out)
	}
}

// Noise is stored as it is, and read back.
func TestNoise(t *testing.T) {
	o := extent(t, 64*mib)
	s := create(t, o)
	data := random(8 * mib)
	for off := uint64(0); off < 8*mib; off += mib {
		mustApply(t, s, writeOp(history.Seq(off/mib+1), off, data[off:][:mib]))
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if n := allocated(t, o.Path); n < 8*mib || n > 12*mib {
		t.Errorf("8 MiB of noise take %d bytes of the extent", n)
	}
	s = open(t, o)
	got := make([]byte, len(data))
	if err := s.ReadAt(got, 0); err != nil || !bytes.Equal(got, data) {
		t.Errorf("after reopening: %v, or other bytes", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// zdb runs stock ZFS's zdb on a closed extent.
func zdb(t *testing.T, o dmu.Options, args ...string) []byte {
	t.Helper()
	path, err := exec.LookPath("zdb")
	if err != nil {
		path = "/usr/sbin/zdb"
	}
	if _, err := os.Stat(path); err != nil {
		t.Skip("zdb is not installed: apt-get install zfsutils-linux")
	}
	out, err := exec.Command(path, append([]string{"-e", "-p", filepath.Dir(o.Path)}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("zdb %v: %v\n%s", args, err, out)
	}
	return out
}

func TestNoHandleLeaks(t *testing.T) {
	o := made(t, mib)
	for range 3 {
		s := open(t, o)
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); !errors.Is(err, store.ErrClosed) {
			t.Fatalf("second close: %v", err)
		}
	}
	fds, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if to, _ := os.Readlink(fd); to == o.Path {
			t.Errorf("%s is still open", to)
		}
	}
}
