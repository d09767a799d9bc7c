//go:build conformance

package nvme

import (
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cask-storage/cask/pkg/nvme"
	"github.com/cask-storage/cask/pkg/nvme/dhchap"
	"github.com/cask-storage/cask/test/conformance/vmtest"
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
	shm, err := os.MkdirTemp("/dev/shm", "cask-conformance-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(shm) })
	base := settings{
		NQN: subNQN, Disk: vmtest.Disk{File: filepath.Join(shm, "disk"), Size: 192 << 20, Room: 256 << 20},
		Listen: vmtest.FreePort(t), First: 1, Port: 1, State: nvme.ANAOptimized, Keep: filepath.Join(shm, "reservations"),
	}
	second := base
	second.Listen, second.First, second.Port, second.State = vmtest.FreePort(t), 101, 2, nvme.ANANonOptimized
	closed := base
	closed.NQN, closed.Listen, closed.Disk.File = subNQN+"-closed", vmtest.FreePort(t), filepath.Join(shm, "closed")
	closed.Secrets = dhchap.Secrets{Host: hostSecret, Controller: ctrlSecret}
	p := &paths{t: t, as: &base, bs: &second}
	p.a, p.b = vmtest.Start(t, base.Listen, p.as), vmtest.Start(t, second.Listen, p.bs)
	vmtest.Start(t, closed.Listen, closed)
	vars := fmt.Sprintf("PORT_A=%s PORT_B=%s PORT_C=%s NQN=%s HOST_SECRET=%s CTRL_SECRET=%s\n",
		vmtest.Port(base.Listen), vmtest.Port(second.Listen), vmtest.Port(closed.Listen), subNQN, hostSecret, ctrlSecret)
	g := vmtest.Guest{T: t, Job: vars + job, Ask: p.ask, Least: 30}
	capture := g.Run()
	dissect(t, capture, base.Listen, second.Listen, closed.Listen)
	vmtest.Keep(t, capture)
}

// paths are the two targets that the guest may ask something of.
type paths struct {
	t      *testing.T
	a, b   *vmtest.Process
	as, bs *settings
}

// TestKernelLoss: Debian's kernel, with a file system mounted, is told that the
// subsystem was replaced. No flush succeeds from then on, and a new connection
// by the new name goes on with what was flushed.
func TestKernelLoss(t *testing.T) {
	shm, err := os.MkdirTemp("/dev/shm", "cask-conformance-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(shm) })
	base := settings{NQN: subNQN, Disk: vmtest.Disk{File: filepath.Join(shm, "disk"), Size: 64 << 20, Room: 64 << 20},
		Listen: vmtest.FreePort(t), First: 1, Port: 1, State: nvme.ANAOptimized}
	p := &paths{t: t, as: &base, a: vmtest.Start(t, base.Listen, &base)}
	functions, _, ok := strings.Cut(job, "\nstep discovery")
	if !ok {
		t.Fatal("job.sh does not begin as expected")
	}
	vars := fmt.Sprintf("PORT_A=%s NQN=%s\n", vmtest.Port(base.Listen), subNQN)
	g := vmtest.Guest{T: t, Job: vars + functions + "\n" + lossJob, Ask: p.ask, Least: 14}
	g.Run()
}

// ask does what the guest asks for.
func (p *paths) ask(what string) {
	switch what {
	case "grow":
		p.a.Tell(fmt.Sprint("resize ", 224<<20))
		p.b.Tell(fmt.Sprint("resize ", 224<<20))
		p.as.Disk.Size, p.bs.Disk.Size = 224<<20, 224<<20
	case "flip": // the second path takes over
		p.a.Tell(fmt.Sprint("ana ", int(nvme.ANAUnreachable)))
		p.b.Tell(fmt.Sprint("ana ", int(nvme.ANAOptimized)))
	case "flip back":
		p.b.Tell(fmt.Sprint("ana ", int(nvme.ANAUnreachable)))
		p.a.Tell(fmt.Sprint("ana ", int(nvme.ANAOptimized)))
	case "kill": // with a second of nothing
		go func() { // owner: the test, which outlives it: the job waits for its effect
			time.Sleep(3 * time.Second)
			p.a.Kill()
			time.Sleep(time.Second)
			p.a.Restart()
		}()
	case "lose":
		p.a.Tell("lose")
	case "add subsystem":
		p.a.Tell("add 1")
	default:
		p.t.Errorf("the guest asks for %q", what)
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
			args = append(args, "-d", "tcp.port=="+vmtest.Port(a)+",nvme-tcp")
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
