//go:build conformance

package iscsi

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cask-storage/cask/test/conformance/vmtest"
)

// TestRestartStall kills the target's process under qemu's initiator, starts it
// again at once, and measures until the next write is answered. No write fails,
// and what was written before is there.
func TestRestartStall(t *testing.T) {
	judge(t, "qemu-io")
	shm, err := os.MkdirTemp("/dev/shm", "cask-stall-")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(shm) })
	addr := vmtest.FreePort(t)
	p := vmtest.Start(t, addr, settings{Listen: addr, Node: nodeName, Keep: filepath.Join(shm, "reservations"),
		Disk: vmtest.Disk{File: filepath.Join(shm, "disk"), Size: 64 << 20, Room: 64 << 20}})
	q := startQemuIO(t, fmt.Sprintf("iscsi://%s/%s/0", addr, nodeName))
	q.do("write -P 1 0 64k")
	var stalls, away []time.Duration
	for i := range 5 {
		begin := time.Now()
		p.Kill()
		p.Restart()
		away = append(away, time.Since(begin))
		q.do(fmt.Sprintf("write -P %d %dk 64k", i+2, (i+1)*64))
		stalls = append(stalls, time.Since(begin))
		q.do(fmt.Sprintf("read -P %d %dk 64k", i+1, i*64)) // written before the kill
		time.Sleep(time.Second)
	}
	slices.Sort(stalls)
	slices.Sort(away)
	t.Logf("killed until written again: median %v, longest %v; of it the process was away: median %v, longest %v",
		stalls[2].Round(time.Millisecond), stalls[4].Round(time.Millisecond), away[2].Round(time.Millisecond), away[4].Round(time.Millisecond))
}

// qemuIO is a qemu-io that takes commands.
type qemuIO struct {
	t   *testing.T
	in  io.Writer
	out *bufio.Reader
}

func startQemuIO(t *testing.T, url string) *qemuIO {
	t.Helper()
	cmd := exec.Command("qemu-io", "-f", "raw", url)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return &qemuIO{t, in, bufio.NewReader(out)}
}

// do runs a command and waits for its outcome, which comes in two lines.
func (q *qemuIO) do(command string) {
	q.t.Helper()
	_, err := io.WriteString(q.in, command+"\n")
	must(q.t, err)
	for range 2 {
		line, err := q.out.ReadString('\n')
		if err != nil || strings.Contains(line, "failed") || strings.Contains(line, "verification") {
			q.t.Fatalf("%s: %q, %v", command, line, err)
		}
	}
}
