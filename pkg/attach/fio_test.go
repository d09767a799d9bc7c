//go:build linux

package attach

import (
	"os"
	"os/exec"
	"testing"
)

// TestFioVerify lets fio write, verify and time, when CASK_FIO is set.
func TestFioVerify(t *testing.T) {
	needRoot(t)
	if os.Getenv("CASK_FIO") == "" {
		t.Skip("set CASK_FIO to run fio for some seconds")
	}
	m := newMemory(512 << 20)
	a := serveMemory(t, m)
	for _, job := range [][]string{
		{"--rw=randwrite", "--bs=4k", "--iodepth=32", "--verify=crc32c", "--size=128m"},
		{"--rw=randrw", "--bsrange=4k-1m", "--iodepth=16", "--verify=crc32c", "--size=256m"},
		{"--rw=randwrite", "--bs=4k", "--iodepth=32", "--time_based", "--runtime=5"},
		{"--rw=randread", "--bs=4k", "--iodepth=32", "--time_based", "--runtime=5"},
		{"--rw=randread", "--bs=4k", "--iodepth=1", "--time_based", "--runtime=5"},
		{"--rw=read", "--bs=1m", "--iodepth=8", "--time_based", "--runtime=5"},
	} {
		args := append([]string{"--name=v", "--filename=" + a.DevicePath(), "--direct=1", "--ioengine=io_uring"}, job...)
		out, err := exec.Command("fio", args...).CombinedOutput()
		t.Logf("fio %v: %v\n%s", job, err, out)
		if err != nil {
			t.Error(err)
		}
	}
}
