//go:build conformance

package iscsi

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cask-storage/cask/pkg/block/blocktest"
	"github.com/cask-storage/cask/pkg/iscsi"
	"github.com/cask-storage/cask/pkg/iscsi/iscsitest"
	"github.com/cask-storage/cask/pkg/iscsi/target"
)

// output runs a program to its end.
func output(t *testing.T, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	b, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, b)
	}
	return string(b)
}

// TestQemu has qemu's initiator write, read back, zero, discard and convert.
func TestQemu(t *testing.T) {
	judge(t, "qemu-io")
	if out, _ := exec.Command("qemu-img", "info", "iscsi://127.0.0.1:1/none/0").CombinedOutput(); bytes.Contains(out, []byte("Unknown protocol")) {
		t.Skip("qemu has no iSCSI: install qemu-block-extra")
	}
	auth := &target.Auth{User: "alice", Secret: "alice has a secret"}
	for name, c := range map[string]struct {
		auth func(string, string) (*target.Auth, error)
		user string
	}{
		"open": {}, "CHAP": {func(string, string) (*target.Auth, error) { return auth, nil }, "alice%alice has a secret@"},
	} {
		t.Run(name, func(t *testing.T) {
			url := fmt.Sprintf("iscsi://%s%s/%s/0", c.user, serve(t, c.auth), nodeName)
			out := output(t, "qemu-io", "-f", "raw", "-c", "write -P 0x5a 0 4M", "-c", "write -P 0xa5 -f 1M 64k", "-c", "write -z 2M 1M",
				"-c", "discard 3M 512k", "-c", "flush", "-c", "read -P 0x5a 0 1M", "-c", "read -P 0xa5 1M 64k", "-c", "read -P 0 2M 1536k",
				"-c", "read -P 0x5a 3584k 512k", "-c", "aio_write -P 1 8M 8M", "-c", "aio_write -P 2 16M 8M", "-c", "aio_flush", "-c", "read -P 2 16M 8M", url)
			if strings.Contains(out, "failed") || strings.Contains(out, "error") {
				t.Errorf("qemu-io:\n%s", out)
			}
			img := filepath.Join(t.TempDir(), "copy.raw")
			output(t, "qemu-img", "convert", "-f", "raw", "-O", "raw", url, img)
			if out := output(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", url, img); !strings.Contains(out, "Images are identical") {
				t.Errorf("qemu-img compare: %s", out)
			}
		})
	}
}

// TestCapture has tshark decode a session with digests, R2Ts, task management
// and the tests of libiscsi.
func TestCapture(t *testing.T) {
	judge(t, "tshark")
	judge(t, "iscsi-test-cu")
	addr := serve(t, nil)
	_, port, err := net.SplitHostPort(addr)
	must(t, err)
	file := filepath.Join(os.TempDir(), fmt.Sprintf("cask-iscsi-%d.pcap", os.Getpid())) // tshark drops privileges
	t.Cleanup(func() { os.Remove(file) })
	ctx, stop := context.WithCancel(context.Background())
	capture := exec.CommandContext(ctx, "tshark", "-q", "-i", "lo", "-f", "tcp port "+port, "-w", file)
	capture.Cancel = func() error { return capture.Process.Signal(os.Interrupt) }
	must(t, capture.Start())
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		if st, err := os.Stat(file); err == nil && st.Size() > 0 {
			break
		}
		if time.Now().After(end) {
			stop()
			t.Skipf("tshark does not capture here: %v", capture.Wait())
		}
	}
	time.Sleep(500 * time.Millisecond)
	for _, keys := range []iscsi.Text{
		{{Key: "HeaderDigest", Value: "CRC32C"}, {Key: "DataDigest", Value: "CRC32C"}, {Key: "InitialR2T", Value: "No"}, {Key: "MaxRecvDataSegmentLength", Value: "4096"}},
		{{Key: "HeaderDigest", Value: "CRC32C"}, {Key: "ImmediateData", Value: "No"}, {Key: "MaxBurstLength", Value: "8192"}},
	} {
		s, err := iscsitest.Dial(iscsitest.Options{Addr: addr, Node: nodeName, Keys: keys})
		must(t, err)
		d, err := s.Start()
		must(t, err)
		blocktest.Verify(t, d, blocktest.Workload{Workers: 4, Ops: 40})
		must(t, d.Close())
	}
	for _, name := range []string{"CompareAndWrite.Simple", "iSCSITMF.AbortTaskSimpleAsync", "ProutReserve.AccessEA", "Inquiry", "Unmap", "iSCSIResiduals.Read10Residuals", "ReportSupportedOpcodes", "ModeSense6"} {
		exec.Command("iscsi-test-cu", "-d", "-s", "--test=ALL."+name, fmt.Sprintf("iscsi://%s/%s/0", addr, nodeName)).Run() // TestLibiscsi judges
	}
	time.Sleep(time.Second)
	stop()
	_ = capture.Wait()
	text := output(t, "tshark", "-r", file, "-d", "tcp.port=="+port+",iscsi", "-Y", "iscsi && tcp.srcport=="+port, "-O", "iscsi")
	count := func(what string) int { return strings.Count(text, what) }
	pdus, good := count("Opcode: "), count("(Good CRC32)")
	if pdus < 1000 || good < 500 {
		t.Errorf("only %d PDUs of the target, %d good digests", pdus, good)
	}
	for _, bad := range []string{"Malformed", "Bad CRC32"} {
		if n := count(bad); n > 0 {
			at := strings.Index(text, bad)
			t.Errorf("%d times %q, first in:\n%s", n, bad, text[max(0, at-3000):at+100])
		}
	}
	t.Logf("%d PDUs of the target, %d good digests, none malformed", pdus, good)
}
