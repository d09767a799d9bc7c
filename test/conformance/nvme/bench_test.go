//go:build conformance

package nvme

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/nvme"
	"github.com/cask-storage/cask/pkg/nvme/host"
	"github.com/cask-storage/cask/test/conformance/vmtest"
)

// load is one kind of I/O.
type load struct {
	name   string
	op     block.Op
	size   int
	depth  int
	random bool
}

var loads = []load{
	{"4k random read QD1", block.OpRead, 4 << 10, 1, true},
	{"4k random read QD32", block.OpRead, 4 << 10, 32, true},
	{"128k read QD8", block.OpRead, 128 << 10, 8, false},
	{"4k random write QD32", block.OpWrite, 4 << 10, 32, true},
	{"128k write QD8", block.OpWrite, 128 << 10, 8, false},
}

const (
	rounds    = 3
	each      = 4 * time.Second
	benchSize = 256 << 20
)

// result of one measurement. cpu is the server's alone.
type result struct {
	iops float64
	cpu  time.Duration // per operation
	p99  time.Duration
}

// TestThroughput measures the target, loaded by our host library, next to tgtd,
// loaded by libiscsi's iscsi-perf, which only reads: the same machine, the same
// minutes, three rounds by turns. Both serve memory. It passes whatever it finds.
func TestThroughput(t *testing.T) {
	shm, err := os.MkdirTemp("/dev/shm", "cask-bench-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(shm) })
	addr := vmtest.FreePort(t)
	ours := vmtest.Start(t, addr, settings{NQN: subNQN, Disk: vmtest.Disk{File: filepath.Join(shm, "ours"), Size: benchSize, Room: benchSize},
		Listen: addr, First: 1, Port: 1, State: nvme.ANAOptimized})
	theirs := startTgtd(t, filepath.Join(shm, "theirs"))
	for _, l := range loads {
		var a, b []result
		for range rounds {
			a = append(a, runOurs(t, ours, l))
			if l.op == block.OpRead {
				b = append(b, theirs.run(t, l))
			}
		}
		x := median(a)
		line := fmt.Sprintf("%-22s cask %7.0f/s %6.1f µs CPU/op p99 %v", l.name, x.iops, micros(x.cpu), x.p99.Round(time.Microsecond))
		if len(b) > 0 {
			y := median(b)
			line += fmt.Sprintf("; tgtd %7.0f/s %6.1f µs CPU/op; ratio %.2f, per CPU %.2f", y.iops, micros(y.cpu), x.iops/y.iops, float64(y.cpu)/float64(x.cpu))
		}
		t.Log(line)
	}
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }

// median by CPU.
func median(r []result) result {
	slices.SortFunc(r, func(a, b result) int { return int(a.cpu - b.cpu) })
	return r[len(r)/2]
}

// cpuOf is the CPU time a process has used.
func cpuOf(t *testing.T, pid int) time.Duration {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+2:]))
	var ticks int64
	for _, s := range f[11:13] { // utime, stime
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

func runOurs(t *testing.T, p *vmtest.Process, l load) result {
	t.Helper()
	d, err := host.Attach(t.Context(), host.Config{Addr: p.Addr, SubsystemNQN: subNQN, HostNQN: "nqn.2026-01.storage.cask:host:bench", HostID: nvme.UUID{7}})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	var mu sync.Mutex
	var took []time.Duration
	var wg sync.WaitGroup
	cpu, begin := cpuOf(t, p.PID()), time.Now()
	for w := range l.depth {
		wg.Go(func() {
			mine := l.worker(t, d, w, begin.Add(each))
			mu.Lock()
			defer mu.Unlock()
			took = append(took, mine...)
		})
	}
	wg.Wait()
	n := len(took)
	r := result{iops: float64(n) / time.Since(begin).Seconds(), cpu: (cpuOf(t, p.PID()) - cpu) / time.Duration(n)}
	slices.Sort(took)
	r.p99 = took[n*99/100]
	return r
}

// worker keeps one request in flight, and returns how long each took.
func (l load) worker(t *testing.T, d block.Device, w int, end time.Time) (took []time.Duration) {
	rng := rand.New(rand.NewPCG(1, uint64(w)))
	slots := uint64(benchSize / l.size)
	at := uint64(w) * slots / uint64(l.depth)
	done := make(chan error, 1)
	r := &block.Request{Op: l.op, Bufs: [][]byte{make([]byte, l.size)}, Done: func(_ *block.Request, err error) { done <- err }}
	for now := time.Now(); now.Before(end); {
		if at = (at + 1) % slots; l.random {
			at = rng.Uint64N(slots)
		}
		r.Extent = block.Extent{Off: at * uint64(l.size), Len: uint64(l.size)}
		d.Submit(r)
		if err := <-done; err != nil {
			t.Error(err)
			return took
		}
		next := time.Now()
		took = append(took, next.Sub(now))
		now = next
	}
	return took
}

// tgtd is the target to beat.
type tgtd struct {
	pid  int
	addr string
}

func startTgtd(t *testing.T, file string) *tgtd {
	t.Helper()
	if err := os.WriteFile(file, make([]byte, benchSize), 0o600); err != nil {
		t.Fatal(err)
	}
	x := &tgtd{addr: vmtest.FreePort(t)}
	control := strconv.Itoa(os.Getpid() % 30000)
	cmd := exec.Command("tgtd", "-f", "-C", control, "--iscsi", "portal="+x.addr)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	x.pid = cmd.Process.Pid
	for i, args := range []string{
		"--op new --mode target --tid 1 -T iqn.2026-01.bench:tgt",
		"--op new --mode logicalunit --tid 1 --lun 1 -b " + file,
		"--op bind --mode target --tid 1 -I ALL",
	} {
		for try := 0; ; try++ {
			out, err := exec.Command("tgtadm", append([]string{"-C", control, "--lld", "iscsi"}, strings.Fields(args)...)...).CombinedOutput()
			if err == nil {
				break
			}
			if i > 0 || try > 50 {
				t.Fatalf("tgtadm %s: %v: %s", args, err, out)
			}
			time.Sleep(100 * time.Millisecond)
		}
	}
	return x
}

var average = regexp.MustCompile(`iops average (\d+)`)

func (x *tgtd) run(t *testing.T, l load) result {
	t.Helper()
	args := []string{"-m", strconv.Itoa(l.depth), "-b", strconv.Itoa(l.size / 512), "-t", strconv.Itoa(int(each.Seconds()))}
	if l.random {
		args = append(args, "-r")
	}
	cpu := cpuOf(t, x.pid)
	out, err := exec.Command("iscsi-perf", append(args, "iscsi://"+x.addr+"/iqn.2026-01.bench:tgt/1")...).Output()
	if err != nil {
		t.Fatalf("iscsi-perf: %v", err)
	}
	found := average.FindAllSubmatch(out, -1)
	if found == nil {
		t.Fatalf("iscsi-perf: %s", out)
	}
	iops, _ := strconv.ParseFloat(string(found[len(found)-1][1]), 64)
	return result{iops: iops, cpu: time.Duration(float64(cpuOf(t, x.pid)-cpu) / (iops * each.Seconds()))}
}
