//go:build conformance

package vmtest

import (
	"bufio"
	_ "embed"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// The words of every job: step, check, refused, same, wait_for.
//
//go:embed words.sh
var words string

// Guest is the VM.
type Guest struct {
	T *testing.T
	// Job is what the guest runs, after the words of this package.
	Job string
	// Ask does what a line "@@ …" of the job asks for.
	Ask func(what string)
	// Packages are Debian's, separated by spaces, that the guest needs and
	// this machine need not have.
	Packages string
	// ZFS asks for Debian's kernel that has ZFS's modules.
	ZFS bool
	// Disks are files that the guest has as /dev/vda, /dev/vdb, …
	Disks []string
	// Files are copied to the guest's /tmp/job.
	Files []string
	// Least is how many checks must pass.
	Least int

	ok   int
	done bool
	pid  int // of the VM, and of its process group
}

// PowerOff ends the VM at once, and with that Run: the guest's memory is lost. It is
// for Ask to call.
func (g *Guest) PowerOff() {
	g.T.Log("power is lost")
	if err := syscall.Kill(-g.pid, syscall.SIGKILL); err != nil {
		g.T.Errorf("end the VM: %v", err)
	}
	g.done = true
}

// Run boots the VM, and judges by what its job says. It returns a capture of
// the guest's network.
func (g *Guest) Run() (capture string) {
	t := g.T
	t.Helper()
	dir := t.TempDir()
	capture = filepath.Join(dir, "kernel.pcap")
	if err := os.WriteFile(filepath.Join(dir, "job"), []byte(words+g.Job), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, file := range g.Files {
		if err := os.Link(file, filepath.Join(dir, filepath.Base(file))); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("../../../hack/vm/run", dir)
	cmd.Env = append(os.Environ(), "VM_NETDEV=-object filter-dump,id=dump,netdev=net,file="+capture, "VM_PACKAGES="+g.Packages,
		"VM_DISKS="+strings.Join(g.Disks, " "))
	if g.ZFS {
		cmd.Env = append(cmd.Env, "VM_ZFS=yes")
	}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	g.pid = cmd.Process.Pid // run becomes timeout, which leads a group
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	for lines := bufio.NewScanner(out); lines.Scan() && !g.done; {
		g.line(strings.TrimRight(lines.Text(), "\r"))
	}
	if !g.done {
		t.Errorf("the VM ended early")
	}
	t.Logf("%d checks passed", g.ok)
	if g.ok < g.Least {
		t.Errorf("only %d checks", g.ok)
	}
	return capture
}

func (g *Guest) line(line string) {
	word, rest, _ := strings.Cut(line, " ")
	switch word {
	case "OK":
		g.ok++
		g.T.Log(line)
	case "FAIL":
		g.T.Error(line)
	case "@@":
		g.T.Log(line)
		g.Ask(rest)
	case "VM-DONE":
		g.done = true
	default:
		g.T.Log("  |", line)
	}
}

// Keep moves a capture to where CASK_CAPTURE says, if it does.
func Keep(t *testing.T, capture string) {
	t.Helper()
	if keep := os.Getenv("CASK_CAPTURE"); keep != "" {
		if err := os.Rename(capture, keep); err != nil {
			t.Error(err)
		}
	}
}
