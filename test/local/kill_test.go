package local

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cask-storage/cask/pkg/local"
)

var (
	rounds = flag.Int("rounds", 20, "processes to kill")
	seed   = flag.Uint64("seed", 0, "of the choice of processes; 0 picks one")
)

// bin is where make build puts the binaries.
func bin(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs("../../bin")
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range []string{"cask", "cask-target", "cask-replica"} {
		if _, err := os.Stat(filepath.Join(dir, b)); err != nil {
			t.Skipf("%s is not built; run make build first", b)
		}
	}
	return dir
}

func cask(t *testing.T, args ...string) []byte {
	t.Helper()
	cmd := exec.Command(filepath.Join(bin(t), "cask"), args...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("cask %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return out
}

// up starts a volume in dir and stops it when the test ends.
func up(t *testing.T, dir string, args ...string) local.State {
	t.Helper()
	var st local.State
	out := cask(t, append([]string{"local", "up", "--dir", dir, "--json"}, args...)...)
	if err := json.Unmarshal(out, &st); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			logs(t, dir)
		}
		cask(t, "local", "down", "--dir", dir)
	})
	return st
}

func logs(t *testing.T, dir string) {
	files, err := filepath.Glob(filepath.Join(dir, "logs", "*.log"))
	if err != nil {
		t.Error(err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Error(err)
		}
		lines := strings.Split(strings.TrimSpace(string(b)), "\n")
		t.Logf("%s:\n%s", filepath.Base(f), strings.Join(lines[max(0, len(lines)-30):], "\n"))
	}
}

// allInSync waits until every replica counts.
func allInSync(t *testing.T, dir string, n int) time.Duration {
	t.Helper()
	start := time.Now()
	for time.Since(start) < 90*time.Second {
		if st, err := local.ReadState(dir); err == nil && inSync(st) == n && !strings.Contains(fmt.Sprint(st.PIDs.Replicas), " 0") {
			return time.Since(start)
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("the replicas in %s are not in sync after 90 s", dir)
	return 0
}

func inSync(st local.State) int {
	resp, err := http.Get(st.Metrics)
	if err != nil {
		return -1
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return -1
	}
	n := 0
	for _, l := range strings.Split(string(b), "\n") {
		if strings.HasPrefix(l, "cask_replica_in_sync{") && strings.HasSuffix(l, " 1") {
			n++
		}
	}
	return n
}

// TestKill kills a random process of the volume, again and again, under a
// load that verifies: no acknowledged write may be lost, no request may fail.
func TestKill(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "vol")
	st := up(t, dir, "--replicas", "3", "--size", "1Gi")
	if *seed == 0 {
		*seed = uint64(time.Now().UnixNano())
	}
	t.Logf("seed %d", *seed)
	rng := rand.New(rand.NewPCG(*seed, 0))
	l := &load{dev: attach(t, st)}
	defer l.dev.Close()
	var values [writers][]uint64
	for i := range values {
		values[i] = make([]uint64, perWriter)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.run(ctx, values) }()
	for i := range *rounds {
		caught := allInSync(t, dir, 3)
		time.Sleep(time.Duration(rng.IntN(1500)) * time.Millisecond)
		before, slowest := l.writes.Load(), l.slowest.Swap(0)
		name, pid := victim(t, dir, rng)
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		t.Logf("round %2d: %d writes acknowledged, slowest request %4d ms, in sync after %4d ms; killing %s", i+1, before, slowest/1e6, caught.Milliseconds(), name)
		time.Sleep(300 * time.Millisecond)
		select {
		case err := <-done:
			t.Fatalf("after killing %s: %v", name, err)
		default:
		}
	}
	allInSync(t, dir, 3)
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	t.Logf("%d rounds, %d writes acknowledged, %d reads verified, 0 lost", *rounds, l.writes.Load(), l.reads.Load())
}

func victim(t *testing.T, dir string, rng *rand.Rand) (string, int) {
	t.Helper()
	st, err := local.ReadState(dir)
	if err != nil {
		t.Fatal(err)
	}
	if n := rng.IntN(len(st.PIDs.Replicas) + 1); n < len(st.PIDs.Replicas) {
		return fmt.Sprintf("replica r%d", n), st.PIDs.Replicas[n]
	}
	return "target", st.PIDs.Target
}

// TestDownUp stops the volume and starts it: everything is there at once.
func TestDownUp(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "vol")
	var values [writers][]uint64
	for i := range values {
		values[i] = make([]uint64, perWriter)
	}
	for range 2 {
		l := &load{dev: attach(t, up(t, dir, "--replicas", "3", "--size", "512Mi"))}
		if err := l.readAll(values); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		if err := l.run(ctx, values); err != nil {
			t.Fatal(err)
		}
		cancel()
		l.dev.Close()
		cask(t, "local", "down", "--dir", dir)
	}
}
