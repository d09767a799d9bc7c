//go:build conformance

package iscsi

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/block/blocktest"
	"github.com/cask-storage/cask/pkg/iscsi/iscsitest"
	"github.com/cask-storage/cask/pkg/iscsi/target"
	"github.com/cask-storage/cask/test/conformance/vmtest"
)

var (
	measure = flag.Duration("measure", 0, "compare with tgtd, this long for each point")
	rounds  = flag.Int("rounds", 3, "of the comparison, interleaved")
)

// serveEnv makes this test binary a target process.
const serveEnv = "CASK_TEST_SERVE_ISCSI"

// TestMain is a target when it is told to be: of TestMeasure or of TestKernel.
func TestMain(m *testing.M) {
	if os.Getenv(serveEnv) != "" {
		if err := serveProcess(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	var s settings
	vmtest.Main(m, &s, func() error { return s.serve() })
}

// serveProcess serves a disk in memory until its standard input ends.
func serveProcess() error {
	dev := blocktest.NewMemory(blocktest.Options{Geometry: block.Geometry{Size: 256 << 20}})
	tg, err := target.New(target.Config{})
	if err != nil {
		return err
	}
	if err := tg.AddNode(target.Node{Name: nodeName, Units: []target.Unit{{Device: dev, UUID: [16]byte{1}}}}); err != nil {
		return err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(ln.Addr())
	go func() { // ends with the process's input; owner: main, which Serve holds
		_, _ = io.Copy(io.Discard, os.Stdin)
		_ = tg.Close()
	}()
	return tg.Serve(context.Background(), ln)
}

// peer is a target process to measure.
type peer struct {
	name, addr, node string
	lun              byte
	pid              int
}

// ours starts this binary as a target.
func ours(t *testing.T) peer {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), serveEnv+"=1")
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
	addr, err := bufio.NewReader(out).ReadString('\n')
	must(t, err)
	return peer{name: "cask", addr: strings.TrimSpace(addr), node: nodeName, pid: cmd.Process.Pid}
}

// tgtd starts tgtd on a file in memory.
func tgtd(t *testing.T) peer {
	judge(t, "tgtd")
	dir, err := os.MkdirTemp("/dev/shm", "cask-tgtd-")
	must(t, err)
	img := filepath.Join(dir, "disk")
	must(t, os.WriteFile(img, nil, 0o600))
	must(t, os.Truncate(img, 256<<20))
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	p := peer{name: "tgtd", addr: ln.Addr().String(), node: "iqn.2026-01.storage.cask:tgtd", lun: 1}
	ln.Close()
	control := strconv.Itoa(os.Getpid() % 30000)
	cmd := exec.Command("tgtd", "-f", "-C", control, "--iscsi", "portal="+p.addr)
	must(t, cmd.Start())
	p.pid = cmd.Process.Pid
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = os.RemoveAll(dir)
	})
	adm := func(args ...string) error {
		return exec.Command("tgtadm", append([]string{"-C", control, "--lld", "iscsi"}, args...)...).Run()
	}
	for end := time.Now().Add(5 * time.Second); adm("--op", "new", "--mode", "target", "--tid", "1", "-T", p.node) != nil; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("tgtd does not start")
		}
	}
	must(t, adm("--op", "new", "--mode", "logicalunit", "--tid", "1", "--lun", "1", "-b", img))
	must(t, adm("--op", "bind", "--mode", "target", "--tid", "1", "-I", "ALL"))
	return p
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// cpu is the processor time a process has used.
func cpu(t *testing.T, pid int) time.Duration {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	must(t, err)
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}

// load is a point to measure.
type load struct {
	op    block.Op
	size  uint64
	depth int
}

func (l load) String() string { return fmt.Sprintf("%v %dk QD%d", l.op, l.size>>10, l.depth) }

// sample is what one run of a load gave.
type sample struct {
	ops float64       // per second
	cpu time.Duration // of the target, for each
	p99 time.Duration
}

// drive runs a load for d.
func drive(t *testing.T, p peer, l load, d time.Duration) sample {
	s, err := iscsitest.Dial(iscsitest.Options{Addr: p.addr, Node: p.node, LUN: p.lun})
	must(t, err)
	dev, err := s.Start()
	must(t, err)
	defer dev.Close()
	var mu sync.Mutex
	var times []time.Duration
	started, before := time.Now(), cpu(t, p.pid)
	var wg sync.WaitGroup
	for w := range l.depth {
		wg.Go(func() {
			buf := make([]byte, l.size)
			var mine []time.Duration
			done := make(chan error, 1)
			for i := uint64(0); time.Since(started) < d; i++ {
				off := (uint64(w)*4<<20 + i*l.size) % (128 << 20)
				at := time.Now()
				dev.Submit(&block.Request{Op: l.op, Extent: block.Extent{Off: off, Len: l.size}, Bufs: [][]byte{buf},
					Done: func(_ *block.Request, err error) { done <- err }})
				if err := <-done; err != nil {
					t.Error(err)
					return
				}
				mine = append(mine, time.Since(at))
			}
			mu.Lock()
			times = append(times, mine...)
			mu.Unlock()
		})
	}
	wg.Wait()
	took, used := time.Since(started), cpu(t, p.pid)-before
	if len(times) == 0 {
		t.Fatal("nothing was done")
	}
	slices.Sort(times)
	return sample{ops: float64(len(times)) / took.Seconds(), cpu: used / time.Duration(len(times)), p99: times[len(times)*99/100]}
}

// TestMeasure prints the target beside tgtd, on disks in memory, driven by the
// same initiator in turns: -measure 3s.
func TestMeasure(t *testing.T) {
	if *measure == 0 {
		t.Skip("give -measure 3s")
	}
	peers := []peer{ours(t), tgtd(t)}
	for _, l := range []load{
		{block.OpRead, 4 << 10, 1}, {block.OpWrite, 4 << 10, 1}, {block.OpRead, 4 << 10, 32}, {block.OpWrite, 4 << 10, 32},
		{block.OpRead, 128 << 10, 8}, {block.OpWrite, 128 << 10, 8},
	} {
		best := make([]sample, len(peers))
		for range *rounds {
			for i, p := range peers {
				if s := drive(t, p, l, *measure); s.ops > best[i].ops {
					best[i] = s
				}
			}
		}
		a, b := best[0], best[1]
		t.Logf("%-22v cask %7.0f/s %6v CPU p99 %8v | tgtd %7.0f/s %6v CPU p99 %8v | speed ×%.2f CPU ×%.2f", l,
			a.ops, a.cpu.Round(100*time.Nanosecond), a.p99.Round(time.Microsecond),
			b.ops, b.cpu.Round(100*time.Nanosecond), b.p99.Round(time.Microsecond), a.ops/b.ops, float64(a.cpu)/float64(b.cpu))
	}
}
