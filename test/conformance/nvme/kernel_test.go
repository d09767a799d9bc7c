//go:build conformance

package nvme

import (
	"bufio"
	_ "embed"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cask-storage/cask/pkg/nvme"
	"github.com/cask-storage/cask/pkg/nvme/dhchap"
)

//go:embed job.sh
var job string

//go:embed loss.sh
var lossJob string

const (
	subNQN     = "nqn.2026-01.storage.cask:volume:judged"
	hostSecret = "DHHC-1:00:Rhze4QDk83O+PsMQqqJPlM6GamZDYhQ/MI1wJO/CMIFjvAMY:"
	ctrlSecret = "DHHC-1:01:AXOjJdxCuyrj/wjQfFgKkbpqBTsUuoMqXeRNGAEpA1QQQEE8:"
)

// TestKernel runs job.sh in a VM with Debian's kernel against three targets: one,
// another path to the same namespace, and one that wants hosts to authenticate.
// The job asks on its console for what only this side can do. CASK_CAPTURE is
// where to keep what was captured.
func TestKernel(t *testing.T) {
	dir := t.TempDir()
	shm, err := os.MkdirTemp("/dev/shm", "cask-conformance-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(shm) })
	base := settings{
		NQN: subNQN, File: filepath.Join(shm, "disk"), Size: 192 << 20, Room: 256 << 20,
		Listen: freePort(t), First: 1, Port: 1, State: nvme.ANAOptimized, Keep: filepath.Join(dir, "reservations"),
	}
	second := base
	second.Listen, second.First, second.Port, second.State = freePort(t), 101, 2, nvme.ANANonOptimized
	closed := base
	closed.NQN, closed.Listen, closed.File = subNQN+"-closed", freePort(t), filepath.Join(shm, "closed")
	closed.Secrets = dhchap.Secrets{Host: hostSecret, Controller: ctrlSecret}
	g := &guest{t: t, a: start(t, base), b: start(t, second), least: 30}
	start(t, closed)
	vars := fmt.Sprintf("PORT_A=%s PORT_B=%s PORT_C=%s NQN=%s HOST_SECRET=%s CTRL_SECRET=%s\n",
		portOf(base.Listen), portOf(second.Listen), portOf(closed.Listen), subNQN, hostSecret, ctrlSecret)
	if err := os.WriteFile(filepath.Join(dir, "job"), []byte(vars+job), 0o700); err != nil {
		t.Fatal(err)
	}
	capture := filepath.Join(dir, "kernel.pcap")
	g.run(dir, capture)
	dissect(t, capture, base.Listen, second.Listen, closed.Listen)
	if keep := os.Getenv("CASK_CAPTURE"); keep != "" {
		if err := os.Rename(capture, keep); err != nil {
			t.Error(err)
		}
	}
}

// TestKernelLoss: Debian's kernel, with a file system mounted, is told that the
// subsystem was replaced. No flush succeeds from then on, and a new connection
// by the new name goes on with what was flushed.
func TestKernelLoss(t *testing.T) {
	dir := t.TempDir()
	shm, err := os.MkdirTemp("/dev/shm", "cask-conformance-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(shm) })
	base := settings{NQN: subNQN, File: filepath.Join(shm, "disk"), Size: 64 << 20, Room: 64 << 20,
		Listen: freePort(t), First: 1, Port: 1, State: nvme.ANAOptimized}
	g := &guest{t: t, a: start(t, base), least: 14}
	functions, _, ok := strings.Cut(job, "\nstep discovery")
	if !ok {
		t.Fatal("job.sh does not begin as expected")
	}
	vars := fmt.Sprintf("PORT_A=%s NQN=%s\n", portOf(base.Listen), subNQN)
	if err := os.WriteFile(filepath.Join(dir, "job"), []byte(vars+functions+"\n"+lossJob), 0o700); err != nil {
		t.Fatal(err)
	}
	g.run(dir, filepath.Join(dir, "kernel.pcap"))
}

func portOf(addr string) string {
	_, port, _ := net.SplitHostPort(addr)
	return port
}

// guest is the VM and what it may ask for.
type guest struct {
	t    *testing.T
	a, b *process
	ok   int
	done bool
	// least is how many checks there are at least.
	least int
}

func (g *guest) run(dir, capture string) {
	t := g.t
	cmd := exec.Command("../../../hack/vm/run", dir)
	cmd.Env = append(os.Environ(), "VM_NETDEV=-object filter-dump,id=dump,netdev=net,file="+capture)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	lines := bufio.NewScanner(out)
	for lines.Scan() && !g.done {
		g.line(strings.TrimRight(lines.Text(), "\r"))
	}
	if !g.done {
		t.Errorf("the VM ended early")
	}
	t.Logf("%d checks passed", g.ok)
	if g.ok < g.least {
		t.Errorf("only %d checks", g.ok)
	}
}

func (g *guest) line(line string) {
	word, rest, _ := strings.Cut(line, " ")
	switch word {
	case "OK":
		g.ok++
		g.t.Log(line)
	case "FAIL":
		g.t.Error(line)
	case "@@":
		g.t.Log(line)
		g.ask(rest)
	case "VM-DONE":
		g.done = true
	default:
		g.t.Log("  |", line)
	}
}

// ask does what the guest asks for.
func (g *guest) ask(what string) {
	switch what {
	case "grow":
		g.a.tell(fmt.Sprint("resize ", 224<<20))
		g.b.tell(fmt.Sprint("resize ", 224<<20))
		g.a.s.Size, g.b.s.Size = 224<<20, 224<<20
	case "flip": // the second path takes over
		g.a.tell(fmt.Sprint("ana ", int(nvme.ANAUnreachable)))
		g.b.tell(fmt.Sprint("ana ", int(nvme.ANAOptimized)))
	case "flip back":
		g.b.tell(fmt.Sprint("ana ", int(nvme.ANAUnreachable)))
		g.a.tell(fmt.Sprint("ana ", int(nvme.ANAOptimized)))
	case "kill": // with a second of nothing
		go func() { // owner: the test, which outlives it: the job waits for its effect
			time.Sleep(3 * time.Second)
			g.a.kill()
			time.Sleep(time.Second)
			g.a.start()
		}()
	case "lose":
		g.a.tell("lose")
	case "add subsystem":
		g.a.tell("add 1")
	default:
		g.t.Errorf("the guest asks for %q", what)
	}
}

// dissect lets tshark judge what the kernel and the targets said.
func dissect(t *testing.T, file string, addrs ...string) {
	t.Helper()
	tshark, err := exec.LookPath("tshark")
	if err != nil {
		t.Fatal("no tshark: run hack/setup.sh --vm")
	}
	run := func(filter string) int {
		args := []string{"-r", file, "-o", "nvme-tcp.check_hdgst:TRUE", "-o", "nvme-tcp.check_ddgst:TRUE", "-Y", filter}
		for _, a := range addrs {
			args = append(args, "-d", "tcp.port=="+portOf(a)+",nvme-tcp")
		}
		out, err := exec.Command(tshark, args...).Output()
		if err != nil {
			t.Fatalf("tshark: %v", err)
		}
		n := 0
		for line := range strings.Lines(string(out)) {
			// tshark 4.0 reads an entry of the error log beyond its 64 bytes.
			if strings.Contains(line, "Get Log Page Error Information") {
				continue
			}
			n++
			if strings.Contains(filter, "malformed") {
				t.Errorf("tshark objects: %s", line)
			}
		}
		return n
	}
	run(`_ws.malformed || nvme-tcp.hdgst.status == "Bad" || nvme-tcp.ddgst.status == "Bad"`)
	all, good := run("nvme-tcp"), run(`nvme-tcp.hdgst.status == "Good" && nvme-tcp.ddgst.status == "Good"`)
	t.Logf("tshark: %d frames with PDUs, in %d all digests are good, none is malformed", all, good)
	if all < 1000 || good < 100 {
		t.Errorf("tshark saw only %d frames, %d with digests", all, good)
	}
}
