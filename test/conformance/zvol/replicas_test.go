//go:build conformance && cgo && linux

package zvol

import (
	_ "embed"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/cask-storage/cask/pkg/quorum"
	"github.com/cask-storage/cask/pkg/target"
	"github.com/cask-storage/cask/pkg/volume"
	"github.com/cask-storage/cask/test/conformance/vmtest"
)

//go:embed replicas.sh
var replicas string

// TestReplicas: a volume whose replicas are on zvols serves a kernel's file system,
// survives the kill of one, and is there when all were stopped.
func TestReplicas(t *testing.T) {
	dir := t.TempDir()
	disk := filepath.Join(dir, "disk")
	files := []string{filepath.Join(dir, "cask-replica"), filepath.Join(dir, "cask-target")}
	for i, name := range []string{"replica", "target"} {
		if out, err := exec.Command("go", "build", "-o", files[i], "github.com/cask-storage/cask/cmd/"+name).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	record := target.FileAuthority{Path: filepath.Join(dir, "record")}
	if err := record.CreateRecord(volume.Record{Voters: []quorum.ReplicaID{"r0", "r1", "r2"}}); err != nil {
		t.Fatal(err)
	}
	partition(t, disk)
	t.Setenv("VM_TIMEOUT", "1200")
	(&vmtest.Guest{T: t, Job: "NQN=" + volume.SubsystemNQN("v") + "\n" + replicas, ZFS: true, Disks: []string{disk}, Files: append(files, record.Path), Least: 31}).Run()
}
