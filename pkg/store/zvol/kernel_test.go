package zvol

import (
	"errors"
	"fmt"
	"math/rand"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cask-storage/cask/pkg/history"
	"github.com/cask-storage/cask/pkg/store"
	"github.com/cask-storage/cask/pkg/store/storetest"
)

// What tests on kernel ZFS find in the environment; test/conformance/zvol sets it.
const (
	envParent  = "CASK_ZVOL_PARENT"  // the dataset below which volumes are made
	envRounds  = "CASK_ZVOL_ROUNDS"  // of the suite
	envDisk    = "CASK_ZVOL_DISK"    // the pool's
	envSeed    = "CASK_ZVOL_SEED"    // of what is written, and the volume's name
	envFlushed = "CASK_ZVOL_FLUSHED" // the mark that must have survived
)

// kernelOptions are those of volume name; it skips the test where no kernel has ZFS.
func kernelOptions(t *testing.T, name string) Options {
	parent := os.Getenv(envParent)
	if parent == "" {
		t.Skipf("%s is not set: make vm-zvol", envParent)
	}
	return Options{Dataset: parent + "/" + name, Size: storetest.Size, BlockSize: 16 << 10, ring: smallRing}
}

func number(t *testing.T, name string) int {
	n, err := strconv.Atoi(os.Getenv(name))
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

func TestKernelConformance(t *testing.T) {
	var made atomic.Int64
	reopen := func(t *testing.T, s store.Store) store.Store {
		t.Helper()
		again, err := Open(t.Context(), Options{Dataset: s.(*Store).name})
		if err != nil {
			t.Fatal(err)
		}
		return again
	}
	_ = kernelOptions(t, "")
	storetest.Run(t, storetest.Factory{
		Exact:  true,
		Rounds: number(t, envRounds),
		Create: func(t *testing.T) store.Store {
			s, err := Create(t.Context(), kernelOptions(t, fmt.Sprint("suite-", made.Add(1))))
			if err != nil {
				t.Fatal(err)
			}
			return s
		},
		Reopen: func(t *testing.T, s store.Store) store.Store {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			return reopen(t, s)
		},
		Crash: func(t *testing.T, s store.Store, _ *rand.Rand) store.Store {
			s.(*Store).past.close() // as the end of a process does
			if err := s.(*Store).m.close(); err != nil {
				t.Fatal(err)
			}
			return reopen(t, s)
		},
		Rot: func(t *testing.T, s store.Store, off uint64) store.Store {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			rot(t, s.(*Store).name, off)
			return reopen(t, s)
		},
	})
}

// rot spoils the block at byte off of a volume that is closed, on the pool's disk: its
// cache goes with the pool.
func rot(t *testing.T, volume string, off uint64) {
	t.Helper()
	pool, _, _ := strings.Cut(volume, "/")
	disk := os.Getenv(envDisk)
	if out, err := exec.Command("zpool", "export", pool).CombinedOutput(); err != nil {
		t.Fatalf("export: %v: %s", err, out)
	}
	out, err := exec.Command("zdb", "-e", "-p", disk, "-ddddd", volume+"/vol", "1").CombinedOutput()
	if err != nil {
		t.Fatalf("zdb: %v: %s", err, out)
	}
	at := regexp.MustCompile(fmt.Sprintf(`(?m)^ *%x +L0 0:([0-9a-f]+):`, off)).FindSubmatch(out)
	if at == nil {
		t.Fatalf("zdb knows no block at %#x:\n%s", off, out)
	}
	where, err := strconv.ParseInt(string(at[1]), 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(disk, os.O_RDWR|os.O_SYNC, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt(slices.Repeat([]byte{0x5a}, 512), where+4<<20) // the labels come first
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("zpool", "import", "-d", disk, "-o", "cachefile=none", pool).CombinedOutput(); err != nil {
		t.Fatalf("import: %v: %s", err, out)
	}
}

func TestKernelClasses(t *testing.T) {
	o := kernelOptions(t, "classes")
	if _, err := Open(t.Context(), o); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("open of what is not there: %v, want store.ErrNotFound", err)
	}
	s, err := Create(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), o); !errors.Is(err, store.ErrInUse) {
		t.Errorf("a second open: %v, want store.ErrInUse", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Create(t.Context(), o); !errors.Is(err, store.ErrInUse) {
		t.Errorf("create of what is there: %v, want store.ErrInUse", err)
	}
	if _, err := run("set", propState+"="+making, o.Dataset); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), o); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("open of what was not made whole: %v, want store.ErrNotFound", err)
	}
	if s, err = Create(t.Context(), o); err != nil {
		t.Fatalf("create over what was not made whole: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// written are the operations that TestKernelWriter applies.
func written(seed int) *storetest.Gen {
	return &storetest.Gen{Rng: rand.New(rand.NewSource(int64(seed))), Size: storetest.Size, Snapshots: 60}
}

// TestKernelWriter writes until it is killed, and says what is stable.
func TestKernelWriter(t *testing.T) {
	if os.Getenv(envSeed) == "" || os.Getenv(envFlushed) != "" {
		t.Skip("is run by make vm-zvol, to be killed")
	}
	seed := number(t, envSeed)
	s, err := Create(t.Context(), kernelOptions(t, fmt.Sprint("crash-", seed)))
	if err != nil {
		t.Fatal(err)
	}
	gen, rng := written(seed), rand.New(rand.NewSource(int64(seed)))
	for {
		ops := make([]store.Op, 1+rng.Intn(8))
		for i := range ops {
			ops[i] = gen.Op()
		}
		if err := s.Apply(ops); err != nil {
			t.Fatal(err)
		}
		if rng.Intn(8) > 0 {
			continue
		}
		if err := s.Flush(); err != nil {
			t.Fatal(err)
		}
		fmt.Println("FLUSHED", gen.Seq)
	}
}

// TestKernelVerify: what a writer left is a prefix of what it applied, at least what
// it flushed.
func TestKernelVerify(t *testing.T) {
	if os.Getenv(envFlushed) == "" {
		t.Skip("is run by make vm-zvol, after a crash")
	}
	seed, flushed := number(t, envSeed), history.Seq(number(t, envFlushed))
	s, err := Open(t.Context(), kernelOptions(t, fmt.Sprint("crash-", seed)))
	if err != nil {
		t.Fatal(err)
	}
	mark := s.Info().Mark
	if mark < flushed {
		t.Fatalf("the mark is %d, and %d was flushed", mark, flushed)
	}
	m, gen := storetest.Model{Size: storetest.Size}, written(seed)
	for gen.Seq < mark {
		m.Ops = append(m.Ops, gen.Op())
	}
	content, want := m.At(len(m.Ops))
	if mark != want {
		t.Fatalf("the mark is %d, no operation has it; the next one is %d", mark, want)
	}
	if at := storetest.FirstDiff(storetest.Content(t, s), content); at >= 0 {
		t.Fatalf("content at mark %d differs first at byte %d", mark, at)
	}
	snaps := m.Snapshots(len(m.Ops))
	if got := s.Snapshots(); !slices.Equal(got, snaps) {
		t.Fatalf("snapshots %v, want %v", got, snaps)
	}
	for _, x := range snaps {
		if at := storetest.FirstDiff(storetest.SnapshotContent(t, s, x), m.Before(x.Seq)); at >= 0 {
			t.Fatalf("snapshot %v differs first at byte %d", x, at)
		}
	}
	fmt.Printf("VERIFIED mark %d, flushed %d, %d operations, %d snapshots\n", mark, flushed, len(m.Ops), len(snaps))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}
