//go:build conformance && linux

package zvol

import (
	_ "embed"
	"encoding/binary"
	"fmt"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/cask-storage/cask/test/conformance/vmtest"
)

//go:embed job.sh
var job string

// outages is how often the machine loses power.
const outages = 3

// TestKernel: on kernel ZFS a store does what every store does, and after the end of
// its process, or of the machine, it is at a place that it was at.
func TestKernel(t *testing.T) {
	dir := t.TempDir()
	program, disk := filepath.Join(dir, "zvol.test"), filepath.Join(dir, "disk")
	build := exec.Command("go", "test", "-c", "-o", program, "github.com/cask-storage/cask/pkg/store/zvol")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	partition(t, disk)
	t.Setenv("VM_TIMEOUT", "2400")
	rounds := os.Getenv("CASK_ZVOL_ROUNDS")
	if rounds == "" {
		rounds = "20"
	}
	flushed := uint64(0)
	for stage := range outages + 1 {
		vars := fmt.Sprintf("STAGE=%d LAST=%d SEED=%d FLUSHED=%d ROUNDS=%s\n", stage, outages, 100+stage-1, flushed, rounds)
		g := vmtest.Guest{T: t, Job: vars + job, ZFS: true, Disks: []string{disk}, Files: []string{program}, Least: 4}
		left := 5 + rand.Intn(40) // flushes until power is lost
		g.Ask = func(what string) {
			if _, err := fmt.Sscanf(what, "FLUSHED %d", &flushed); err != nil {
				return
			}
			if left--; left == 0 {
				g.PowerOff()
			}
		}
		g.Run()
		if t.Failed() {
			return
		}
	}
}

// diskSize is that of the pool's disk, in sectors. The file is sparse.
const diskSize = 4 << 30 / 512

// partition makes a disk with one partition: ZFS would make some on a disk without,
// and wait for a udev to name them.
func partition(t *testing.T, path string) {
	t.Helper()
	const first = 2048
	b := make([]byte, 512)
	b[446+4] = 0xbf
	binary.LittleEndian.PutUint32(b[446+8:], first)
	binary.LittleEndian.PutUint32(b[446+12:], diskSize-first)
	b[510], b[511] = 0x55, 0xaa
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, diskSize*512); err != nil {
		t.Fatal(err)
	}
}
