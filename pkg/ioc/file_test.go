package ioc

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

const mib = 1 << 20

func testConfig(dir string) FileConfig {
	return FileConfig{Dir: dir, Pool: "default", Node: "n1", FirstUse: true, Limits: DefaultLimits}
}

func mustOpen(t *testing.T, cfg FileConfig) *FileEngine {
	t.Helper()
	e, err := OpenFile(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return e
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestReopenKeepsTheIdentity(t *testing.T) {
	cfg := testConfig(t.TempDir())
	e := mustOpen(t, cfg)
	_, err := e.Create(t.Context(), "a", mib)
	must(t, err)
	if _, err := OpenFile(t.Context(), cfg); !errors.Is(err, ErrBusy) {
		t.Fatalf("opened twice: %v", err)
	}
	e.Close()
	cfg.FirstUse, cfg.ExpectID = false, e.PoolID()
	again := mustOpen(t, cfg)
	if again.PoolID() != e.PoolID() {
		t.Fatal("the pool ID changed")
	}
	_, err = again.Open(t.Context(), "a")
	must(t, err)
}

// TestRefusedDirectories: each case is a disk not mounted, or the wrong one.
func TestRefusedDirectories(t *testing.T) {
	for _, c := range []struct {
		name   string
		before func(t *testing.T, dir string)
		config func(*FileConfig)
		class  error
		say    string
	}{
		{"empty but used before", nil, func(c *FileConfig) { c.ExpectID = "1-2" }, ErrForeign, "not mounted"},
		{"empty, first use not allowed", nil, func(c *FileConfig) { c.FirstUse = false }, ErrForeign, "not mounted"},
		{"first use of a full directory", touch("etc", "passwd"), nil, ErrForeign, "not empty (etc, passwd)"},
		{"another pool ID", used(nil), func(c *FileConfig) { c.ExpectID = "1-2" }, ErrForeign, "right disk"},
		{"another pool", used(func(c *FileConfig) { c.Pool = "other" }), nil, ErrForeign, `StoragePool "other"`},
		{"another node", used(func(c *FileConfig) { c.Node = "n2" }), nil, ErrForeign, `node "n2"`},
		{"newer", write(markerName, `{"format":"cask-pool","version":2,"x":1}`), nil, ErrTooNew, "newer"},
		{"garbage marker", write(markerName, "\x00\x01"), nil, ErrForeign, markerName},
		{"no directory", func(t *testing.T, dir string) { must(t, os.Remove(dir)) }, nil, ErrIO, "mount"},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := testConfig(t.TempDir())
			if c.before != nil {
				c.before(t, cfg.Dir)
			}
			if c.config != nil {
				c.config(&cfg)
			}
			_, err := OpenFile(t.Context(), cfg)
			if !errors.Is(err, c.class) || !strings.Contains(err.Error(), c.say) || !strings.Contains(err.Error(), cfg.Dir) {
				t.Fatalf("got %v, want class %v, %q and the directory", err, c.class, c.say)
			}
		})
	}
}

func touch(names ...string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		for _, n := range names {
			must(t, os.WriteFile(filepath.Join(dir, n), nil, 0o600))
		}
	}
}

func write(name, content string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600))
	}
}

func used(change func(*FileConfig)) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		cfg := testConfig(dir)
		if change != nil {
			change(&cfg)
		}
		mustOpen(t, cfg).Close()
	}
}

func TestFirstUseAllowsOurOwnAndNewFileSystems(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Mkdir(filepath.Join(dir, "lost+found"), 0o700))
	touch(SocketName, SocketName+socketTmp, markerTmp)(t, dir)
	mustOpen(t, testConfig(dir))
}

func TestDirectoryReplacedWhileOpen(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pool")
	must(t, os.Mkdir(dir, 0o755))
	e := mustOpen(t, testConfig(dir))
	must(t, os.Rename(dir, dir+".away"))
	must(t, os.Mkdir(dir, 0o755))
	if _, err := e.Create(t.Context(), "a", mib); !errors.Is(err, ErrForeign) {
		t.Fatalf("Create: %v", err)
	}
	if _, err := e.Status(t.Context()); !errors.Is(err, ErrForeign) {
		t.Fatalf("Status: %v", err)
	}
}

func TestMarkerRemovedWhileOpen(t *testing.T) {
	e := mustOpen(t, testConfig(t.TempDir()))
	must(t, os.Remove(filepath.Join(e.cfg.Dir, markerName)))
	if _, err := e.Create(t.Context(), "a", mib); !errors.Is(err, ErrForeign) || !strings.Contains(err.Error(), e.PoolID()) {
		t.Fatalf("got %v", err)
	}
}

func TestUnsoundExtents(t *testing.T) {
	for _, c := range []struct {
		name     string
		harm     func(dir string) error
		class    error
		recreate error // what Create answers then
	}{
		{"missing", func(d string) error { return os.Remove(d + "/a.img") }, ErrMissing, nil},
		{"truncated", func(d string) error { return os.Truncate(d+"/a.img", mib-1) }, ErrTruncated, ErrExists},
		{"no record", func(d string) error { return os.Remove(d + "/a.json") }, ErrDamaged, ErrExists},
		{"bad record", func(d string) error { return os.WriteFile(d+"/a.json", []byte("{"), 0o600) }, ErrDamaged, ErrExists},
		{"newer record", func(d string) error {
			return os.WriteFile(d+"/a.json", []byte(`{"format":"cask-extent","version":9}`), 0o600)
		}, ErrTooNew, ErrExists},
		{"other's record", func(d string) error { return os.Rename(d+"/b.json", d+"/a.json") }, ErrDamaged, ErrExists},
		{"directory", func(d string) error {
			return errors.Join(os.Remove(d+"/a.img"), os.Mkdir(d+"/a.img", 0o700))
		}, ErrDamaged, ErrExists},
		{"symbolic link", func(d string) error {
			return errors.Join(os.Remove(d+"/a.img"), os.Symlink("/etc/passwd", d+"/a.img"))
		}, ErrDamaged, ErrExists},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := mustOpen(t, testConfig(t.TempDir()))
			for _, n := range []string{"a", "b"} {
				_, err := e.Create(t.Context(), n, mib)
				must(t, err)
			}
			must(t, c.harm(filepath.Join(e.cfg.Dir, extentsName)))
			checkUnsound(t, e, c.class)
			if _, err := e.Create(t.Context(), "a", mib); !errors.Is(err, c.recreate) {
				t.Fatalf("Create: %v, want %v", err, c.recreate)
			}
			must(t, e.Delete(t.Context(), "a"))
			_, err := e.Create(t.Context(), "a", mib)
			must(t, err)
		})
	}
}

func checkUnsound(t *testing.T, e *FileEngine, class error) {
	t.Helper()
	_, err := e.Open(t.Context(), "a")
	if !errors.Is(err, class) || !strings.Contains(err.Error(), `"a"`) {
		t.Fatalf("Open: %v, want %v", err, class)
	}
	var full *Error
	if class == ErrTruncated && (!errors.As(err, &full) || full.Recorded != mib || full.Actual != mib-1) {
		t.Fatalf("sizes: %+v", full)
	}
	all, err := e.List(t.Context())
	must(t, err)
	if len(all) == 0 || all[0].Name != "a" || all[0].Fault != class {
		t.Fatalf("List: %+v", all)
	}
	st, err := e.Status(t.Context())
	must(t, err)
	if st.Faulty == 0 {
		t.Fatalf("Status: %+v", st)
	}
}

var errCrash = errors.New("crash")

// TestCrash stops Create and Delete at every point and reopens the directory:
// the extent is there, whole, or it is not there at all, and nothing else is.
func TestCrash(t *testing.T) {
	points := []string{"temporary file made", "temporary file synced", "image made", "deletion decided", "content moved", "record removed"}
	for _, point := range points {
		t.Run(point, func(t *testing.T) {
			cfg := testConfig(t.TempDir())
			e := mustOpen(t, cfg)
			_, err := e.Create(t.Context(), "bystander", mib)
			must(t, err)
			e.crash = func(p string) error {
				if p == point {
					return errCrash
				}
				return nil
			}
			_, err = e.Create(t.Context(), "a", mib)
			if err == nil {
				must(t, os.WriteFile(filepath.Join(cfg.Dir, "extents/a.img"), make([]byte, mib), 0o600))
				err = e.Delete(t.Context(), "a")
			}
			if !errors.Is(err, errCrash) {
				t.Fatalf("point %q was not reached: %v", point, err)
			}
			e.Close()
			checkClean(t, mustOpen(t, cfg))
		})
	}
}

func checkClean(t *testing.T, e *FileEngine) {
	t.Helper()
	if _, err := e.Open(t.Context(), "a"); !errors.Is(err, ErrNotFound) {
		t.Fatalf("Open: %v", err)
	}
	entries, err := os.ReadDir(filepath.Join(e.cfg.Dir, extentsName))
	must(t, err)
	if len(entries) != 2 || entries[0].Name() != "bystander.img" {
		t.Fatalf("left behind: %v", entries)
	}
}

// TestCrashInGrow: the extent is sound at its old size, and can grow then.
func TestCrashInGrow(t *testing.T) {
	cfg := testConfig(t.TempDir())
	e := mustOpen(t, cfg)
	_, err := e.Create(t.Context(), "a", mib)
	must(t, err)
	e.crash = func(string) error { return errCrash }
	if err := e.Grow(t.Context(), "a", 4*mib); !errors.Is(err, errCrash) {
		t.Fatalf("the point was not reached: %v", err)
	}
	e.Close()
	e = mustOpen(t, cfg)
	for _, size := range []uint64{mib, 2 * mib} { // less than the file has by now
		must(t, e.Grow(t.Context(), "a", size))
		if x, err := e.Open(t.Context(), "a"); err != nil || x.Size != size {
			t.Fatalf("%+v, %v: want %d bytes", x, err, size)
		}
	}
}

// TestRecoveryKeepsWrittenContent: content without a record is deleted only
// when it was never written.
func TestRecoveryKeepsWrittenContent(t *testing.T) {
	cfg := testConfig(t.TempDir())
	e := mustOpen(t, cfg)
	_, err := e.Create(t.Context(), "a", mib)
	must(t, err)
	e.Close()
	must(t, os.WriteFile(filepath.Join(cfg.Dir, "extents/a.img"), []byte("data"), 0o600))
	must(t, os.Remove(filepath.Join(cfg.Dir, "extents/a.json")))
	if _, err := mustOpen(t, cfg).Open(t.Context(), "a"); !errors.Is(err, ErrDamaged) {
		t.Fatalf("got %v", err)
	}
}

// TestNewExtentSurvivesOldDeletion: a deletion record left by a failed deletion
// must not take an extent made later with it.
func TestNewExtentSurvivesOldDeletion(t *testing.T) {
	cfg := testConfig(t.TempDir())
	e := mustOpen(t, cfg)
	_, err := e.Create(t.Context(), "a", mib)
	must(t, err)
	e.crash = func(p string) error {
		if p == "content moved" {
			return errCrash
		}
		return nil
	}
	if err := e.Delete(t.Context(), "a"); !errors.Is(err, errCrash) {
		t.Fatal(err)
	}
	e.crash = nil
	_, err = e.Create(t.Context(), "a", mib)
	must(t, err)
	e.Close()
	_, err = mustOpen(t, cfg).Open(t.Context(), "a")
	must(t, err)
}

func TestOwner(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	cfg := testConfig(t.TempDir())
	must(t, os.Chmod(cfg.Dir, 0o700))
	cfg.Owner = &Owner{UID: 65532, GID: 65532}
	e := mustOpen(t, cfg)
	path, err := e.Create(t.Context(), "a", mib)
	must(t, err)
	for name, want := range map[string]string{"": "0:65532 750", extentsName: "0:65532 750", path: "65532:65532 600"} {
		info, err := os.Stat(filepath.Join(cfg.Dir, name))
		must(t, err)
		st := info.Sys().(*syscall.Stat_t)
		if got := fmt.Sprintf("%d:%d %o", st.Uid, st.Gid, info.Mode().Perm()); got != want {
			t.Errorf("%q: %s, want %s", name, got, want)
		}
	}
}

// tmpfs mounts a small file system for the test.
func tmpfs(t *testing.T, options string) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	dir := t.TempDir()
	if err := syscall.Mount("cask-test", dir, "tmpfs", 0, options); err != nil {
		t.Skipf("cannot mount: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func TestPromisesEndAtTheReserve(t *testing.T) {
	e := mustOpen(t, testConfig(tmpfs(t, "size=100m")))
	_, err := e.Create(t.Context(), "a", 80*mib)
	must(t, err)
	_, err = e.Create(t.Context(), "b", 20*mib)
	if !errors.Is(err, ErrNoSpace) || !strings.Contains(err.Error(), `pool "default" on node "n1"`) {
		t.Fatalf("beyond the reserve: %v", err)
	}
	e.SetLimits(Limits{ReservePercent: 10, OvercommitPercent: 200})
	_, err = e.Create(t.Context(), "b", 90*mib)
	must(t, err)
}

// TestFullFileSystem: a creation that the file system refuses leaves nothing.
func TestFullFileSystem(t *testing.T) {
	cfg := testConfig(tmpfs(t, "size=100m,nr_inodes=7"))
	e := mustOpen(t, cfg)
	var err error
	made := 0
	for ; err == nil; made++ {
		_, err = e.Create(t.Context(), fmt.Sprintf("x%d", made), mib)
	}
	if !errors.Is(err, ErrNoSpace) {
		t.Fatalf("got %v", err)
	}
	all, err := e.List(t.Context())
	must(t, err)
	entries, err := os.ReadDir(filepath.Join(cfg.Dir, extentsName))
	must(t, err)
	if len(all) != made-1 || len(entries) != 2*len(all) {
		t.Fatalf("%d made, listed %+v, files %v", made-1, all, entries)
	}
}

// TestUnmounted: the disk goes away and what is below shows.
func TestUnmounted(t *testing.T) {
	dir := t.TempDir()
	below := mustOpen(t, testConfig(dir))
	_ = below.Close()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	if err := syscall.Mount("cask-test", dir, "tmpfs", 0, "size=10m"); err != nil {
		t.Skip(err)
	}
	e := mustOpen(t, testConfig(dir))
	must(t, syscall.Unmount(dir, syscall.MNT_DETACH))
	if _, err := e.Create(t.Context(), "a", mib); !errors.Is(err, ErrForeign) {
		t.Fatalf("got %v", err)
	}
}
