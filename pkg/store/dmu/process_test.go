//go:build cgo && linux

package dmu_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/cask-storage/cask/pkg/history"
	"github.com/cask-storage/cask/pkg/store"
	"github.com/cask-storage/cask/pkg/store/dmu"
)

const aloneEnv = "DMU_TEST_ALONE"

// alone runs the rest of a test in a process of its own: what it does to ZFS
// ends with the process.
func alone(t *testing.T) {
	t.Helper()
	if os.Getenv(aloneEnv) == t.Name() {
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+strings.ReplaceAll(t.Name(), "/", "$/^")+"$", "-test.v")
	cmd.Env = append(os.Environ(), aloneEnv+"="+t.Name())
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "_test.go") {
			t.Log(strings.TrimSpace(line))
		}
	}
	t.SkipNow()
}

// A pool that ZFS suspends is an error at once, not a hang.
func TestSuspended(t *testing.T) {
	alone(t)
	s := create(t, extent(t, 64*mib))
	if err := s.Apply([]store.Op{writeOp(1, 0, random(4096))}); err != nil {
		t.Fatal(err)
	}
	dmu.SetFaults(dmu.FaultWrites)
	began := time.Now()
	err := s.Apply([]store.Op{writeOp(2, 0, random(4096))})
	if err == nil {
		err = s.Flush()
	}
	if !errors.Is(err, store.ErrSuspended) {
		t.Fatalf("flush to a failing extent: %v, want store.ErrSuspended", err)
	}
	t.Logf("suspended after %v", time.Since(began))
	if err := s.Flush(); !errors.Is(err, store.ErrSuspended) {
		t.Fatalf("flush after it: %v", err)
	}
	if err := s.Apply([]store.Op{writeOp(3, 0, random(4096))}); !errors.Is(err, store.ErrSuspended) {
		t.Fatalf("apply after it: %v", err)
	}
	if err := s.Close(); !errors.Is(err, store.ErrSuspended) {
		t.Fatalf("close: %v", err)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("that took %v", took)
	}
	fmt.Println("--- PASS: the suspended pool ends with the process")
	os.Exit(0)
}

// Batches of operations to a pool that gets suspended end, with that error.
func TestSuspendedBatch(t *testing.T) {
	alone(t)
	s := create(t, extent(t, 64*mib))
	dmu.SetFaults(dmu.FaultWrites)
	var seq history.Seq
	var err error
	data, began := random(64<<10), time.Now()
	for err == nil && time.Since(began) < 30*time.Second {
		ops := make([]store.Op, 16)
		for i := range ops {
			seq++
			ops[i] = writeOp(seq, uint64(seq%1000)<<16, data)
		}
		err = s.Apply(ops)
	}
	if !errors.Is(err, store.ErrSuspended) {
		t.Fatalf("apply to a failing extent: %v after %d operations, want store.ErrSuspended", err, seq)
	}
	if err := s.Close(); !errors.Is(err, store.ErrSuspended) {
		t.Fatalf("close: %v", err)
	}
	fmt.Println("--- PASS: the suspended pool ends with the process")
	os.Exit(0)
}

// An extent that cannot be written when it is opened is an error at once too:
// found by the attack, as a replica that was started on a full disk and was
// never heard of again.
func TestSuspendedOpen(t *testing.T) {
	alone(t)
	o := extent(t, 64*mib)
	s := create(t, o)
	if err := s.Apply([]store.Op{writeOp(1, 0, random(4096))}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	dmu.SetFaults(dmu.FaultFull)
	opened := make(chan error, 1)
	go func() {
		_, err := dmu.Open(o)
		opened <- err
	}()
	select {
	case err := <-opened:
		if !errors.Is(err, store.ErrSuspended) || !strings.Contains(err.Error(), o.Path) {
			t.Fatalf("open of a failing extent: %v, want store.ErrSuspended and the extent's name", err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("open of a failing extent hangs")
	}
	if _, err := dmu.Open(o); !errors.Is(err, store.ErrInUse) {
		t.Fatalf("open after it: %v, want store.ErrInUse: ZFS still has the extent", err)
	}
	fmt.Println("--- PASS: the suspended pool ends with the process")
	os.Exit(0)
}

// An extent whose file system is full suspends the pool, and the error says why.
func TestFileSystemFull(t *testing.T) {
	alone(t)
	s := create(t, extent(t, 64*mib))
	dmu.SetFaults(dmu.FaultFull)
	err := s.Apply([]store.Op{writeOp(1, 0, random(4096))})
	if err == nil {
		err = s.Flush()
	}
	if !errors.Is(err, store.ErrSuspended) || !errors.Is(err, store.ErrNoSpace) {
		t.Fatalf("flush to a full file system: %v, want store.ErrSuspended and store.ErrNoSpace", err)
	}
	fmt.Println("--- PASS: the suspended pool ends with the process")
	os.Exit(0)
}

// An extent that is deleted or cut off while it is open ends the store soon, and
// never goes on as if nothing were.
func TestExtentLost(t *testing.T) {
	for name, c := range map[string]struct {
		lose func(path string) error
		want error
	}{
		"deleted": {os.Remove, store.ErrNotFound},
		"cut off": {func(path string) error { return os.Truncate(path, 32*mib) }, store.ErrTruncated},
	} {
		t.Run(name, func(t *testing.T) {
			alone(t)
			o := extent(t, 64*mib)
			s := create(t, o)
			if err := c.lose(o.Path); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			var err error
			for seq := history.Seq(1); err == nil && time.Since(began) < 5*time.Second; seq++ {
				err = s.Apply([]store.Op{writeOp(seq, 0, random(4096))})
			}
			if !errors.Is(err, c.want) {
				t.Fatalf("apply: %v, want %v", err, c.want)
			}
			if err := s.Flush(); !errors.Is(err, c.want) {
				t.Fatalf("flush: %v, want %v", err, c.want)
			}
			if err := s.Close(); !errors.Is(err, c.want) {
				t.Fatalf("close: %v, want %v", err, c.want)
			}
		})
	}
}

// Who finds the pool suspended before anybody has looked at the extent says why, too.
func TestCutOffUnseen(t *testing.T) {
	alone(t)
	dmu.SetWatchInterval(3 * time.Second)
	o := extent(t, 64*mib)
	s := create(t, o)
	if err := os.Truncate(o.Path, 32*mib); err != nil {
		t.Fatal(err)
	}
	err := s.SetMeta(nil) // a TXG, which writes the labels, too
	for seq := history.Seq(1); err == nil; seq++ {
		err = s.Apply([]store.Op{writeOp(seq, 0, random(4096))})
	}
	if !errors.Is(err, store.ErrTruncated) {
		t.Errorf("apply: %v, want store.ErrTruncated", err)
	}
	if err := s.Close(); !errors.Is(err, store.ErrTruncated) {
		t.Errorf("close: %v, want store.ErrTruncated", err)
	}
}

// ZFS does not give an extent that was cut off its length back, which would hide
// the hole, however much it writes before anybody looks.
func TestCutOffStaysShort(t *testing.T) {
	alone(t)
	dmu.SetWatchInterval(2 * time.Second)
	o := extent(t, 64*mib)
	s := create(t, o)
	made, err := os.Stat(o.Path)
	if err == nil {
		err = os.Truncate(o.Path, 32*mib)
	}
	for seq := history.Seq(1); err == nil && seq < 1000; seq++ { // a TXG for each
		err = s.Apply([]store.Op{snapshotOp(seq, fmt.Sprint(seq))})
	}
	if !errors.Is(err, store.ErrTruncated) {
		t.Errorf("%v, want store.ErrTruncated", err)
	}
	if st, err := os.Stat(o.Path); err != nil || st.Size() >= made.Size() {
		t.Errorf("the extent has all its %d bytes again (%v)", st.Size(), err)
	}
}

// A failed flush of the extent is never forgotten.
func TestFlushErrorSticks(t *testing.T) {
	alone(t)
	o := extent(t, 64*mib)
	s := create(t, o)
	if err := s.Apply([]store.Op{writeOp(1, 0, random(4096))}); err != nil {
		t.Fatal(err)
	}
	dmu.SetFaults(dmu.FaultFlushes)
	if err := s.Flush(); !errors.Is(err, store.ErrIO) {
		t.Fatalf("flush to a failing extent: %v, want store.ErrIO", err)
	}
	dmu.SetFaults(0)
	if err := s.Flush(); !errors.Is(err, store.ErrIO) {
		t.Fatalf("flush after it: %v, want store.ErrIO", err)
	}
	if err := s.Close(); !errors.Is(err, store.ErrIO) {
		t.Fatalf("close: %v, want store.ErrIO", err)
	}
	s = open(t, o)
	if err := s.Flush(); err != nil {
		t.Fatalf("flush after opening again: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// Without io_uring, as under a seccomp profile that forbids it, everything works
// the same.
func TestThreads(t *testing.T) {
	alone(t)
	o := extent(t, 64*mib)
	o.IO = dmu.IOThreads
	s := create(t, o)
	if !strings.Contains(s.Describe(), "threads") {
		t.Errorf("%s: want threads", s.Describe())
	}
	data := random(mib)
	for i := range history.Seq(64) {
		if err := s.Apply([]store.Op{writeOp(i+1, uint64(i)*mib, data)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, o)
	got := make([]byte, mib)
	for i := range uint64(64) {
		if err := s.ReadAt(got, i*mib); err != nil || !bytes.Equal(got, data) {
			t.Fatalf("read of %d: %v", i*mib, err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// The process stays within Options.Memory.
func TestMemoryBound(t *testing.T) {
	alone(t)
	const span, step = 1200 * mib, 256 << 10
	o := extent(t, span)
	o.Memory = 384 * mib
	s := create(t, o)
	rng := rand.New(rand.NewSource(1))
	data := make([]byte, step)
	began := time.Now()
	for off := uint64(0); off < span; off += step {
		rng.Read(data)
		if err := s.Apply([]store.Op{writeOp(history.Seq(off+1), off, data)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	wrote := time.Since(began)
	began = time.Now()
	for range 4000 {
		if err := s.ReadAt(data[:64<<10], uint64(rng.Intn(span-64<<10))); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("wrote %d MiB in %v, read 250 MiB in %v, %s", span/mib, wrote, time.Since(began), peak(t, o.Memory))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// A store that nobody uses holds little memory, and works as before after it.
func TestIdleGivesMemoryBack(t *testing.T) {
	alone(t)
	o := extent(t, 256*mib)
	o.Idle = 6 * time.Second // longer than a transaction group is open
	s := create(t, o)
	for off := uint64(0); off < 256*mib; off += mib {
		if err := s.Apply([]store.Op{writeOp(history.Seq(off/mib+1), off, random(mib))}); err != nil {
			t.Fatal(err)
		}
	}
	busy, idle := resident(t), uint64(0)
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if idle = resident(t); idle < busy/2 {
			break
		}
	}
	t.Logf("resident: %d MiB after writing, %d MiB when idle", busy/mib, idle/mib)
	if idle > busy/2 {
		t.Error("an idle store keeps its memory")
	}
	if err := s.ReadAt(make([]byte, mib), 5*mib); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// resident is the memory the process has, in bytes.
func resident(t *testing.T) uint64 {
	t.Helper()
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	var size, pages uint64
	if _, err := fmt.Sscan(string(b), &size, &pages); err != nil {
		t.Fatal(err)
	}
	return pages * uint64(os.Getpagesize())
}

// peak is the most memory the process ever had resident.
func peak(t *testing.T, limit uint64) string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	var kib uint64
	for line := range strings.Lines(string(b)) {
		if _, err := fmt.Sscanf(line, "VmHWM: %d kB", &kib); err == nil {
			break
		}
	}
	if kib == 0 || kib<<10 > limit {
		t.Errorf("peak RSS is %d MiB, more than %d", kib>>10, limit/mib)
	}
	return fmt.Sprintf("peak RSS %d MiB", kib>>10)
}
