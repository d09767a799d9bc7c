//go:build conformance

package iscsi

import (
	"bufio"
	"context"
	_ "embed"
	"fmt"
	"log"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cask-storage/cask/pkg/iscsi/target"
	"github.com/cask-storage/cask/test/conformance/vmtest"
)

//go:embed job.sh
var job string

// settings of a target in a process of its own, so that it can be killed.
type settings struct {
	Listen string
	Node   string
	Disk   vmtest.Disk
	Keep   string // file of the reservations
	Auth   *target.Auth
}

// keeper keeps reservations in a file.
type keeper string

func (k keeper) Load() ([]byte, error) {
	b, err := os.ReadFile(string(k))
	if os.IsNotExist(err) {
		return nil, nil
	}
	return b, err
}

func (k keeper) Save(b []byte, done func(error)) { done(os.WriteFile(string(k), b, 0o600)) }

// serve runs the target; lines on the standard input change it.
func (s settings) serve() error {
	dev, err := s.Disk.Open()
	if err != nil {
		return err
	}
	// The guest's way to this machine's loopback is not in a local address.
	t, err := target.New(target.Config{Logf: log.Printf, AdvertiseNone: true, Auth: func(_, node string) (*target.Auth, error) {
		if node == "" {
			return nil, nil
		}
		return s.Auth, nil
	}})
	if err != nil {
		return err
	}
	err = t.AddNode(target.Node{Name: s.Node, Units: []target.Unit{{LUN: 0, Device: dev, UUID: [16]byte{0xca, 0x5c, 15: 1}, Keeper: keeper(s.Keep)}}})
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", s.Listen)
	if err != nil {
		return err
	}
	go vmtest.Obey(func(word string, n uint64) error { // owner: the process
		if word != "resize" {
			return fmt.Errorf("the target was told %q", word)
		}
		dev.Resize(n)
		t.Resized(s.Node)
		return nil
	})
	return t.Serve(context.Background(), l)
}

// TestKernel runs job.sh in a VM with Debian's kernel and open-iscsi against two
// targets: one, and one that wants initiators to authenticate.
func TestKernel(t *testing.T) {
	shm, err := os.MkdirTemp("/dev/shm", "cask-conformance-")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(shm) })
	open := &settings{Listen: vmtest.FreePort(t), Node: nodeName, Keep: filepath.Join(shm, "reservations"),
		Disk: vmtest.Disk{File: filepath.Join(shm, "disk"), Size: 192 << 20, Room: 256 << 20}}
	closed := settings{Listen: vmtest.FreePort(t), Node: nodeName + "-closed", Keep: filepath.Join(shm, "more"),
		Disk: vmtest.Disk{File: filepath.Join(shm, "closed"), Size: 64 << 20, Room: 64 << 20},
		Auth: &target.Auth{User: "alice", Secret: "alice has a secret", MutualUser: "cask", MutualSecret: "cask has one too"}}
	p := vmtest.Start(t, open.Listen, open)
	vmtest.Start(t, closed.Listen, closed)
	g := vmtest.Guest{T: t, Least: 45, Packages: "open-iscsi libopeniscsiusr libisns0",
		Job: fmt.Sprintf("PORT_A=%s PORT_C=%s NODE=%s\n", vmtest.Port(open.Listen), vmtest.Port(closed.Listen), nodeName) + job,
		Ask: func(what string) {
			switch what {
			case "grow":
				p.Tell(fmt.Sprint("resize ", 224<<20))
				open.Disk.Size = 224 << 20
			case "restart":
				p.Kill()
				p.Restart()
			case "kill": // with a second of nothing
				go func() { // owner: the test, which outlives it: the job waits for its effect
					time.Sleep(3 * time.Second)
					p.Kill()
					time.Sleep(time.Second)
					p.Restart()
				}()
			default:
				t.Errorf("the guest asks for %q", what)
			}
		}}
	capture := g.Run()
	decode(t, capture, open.Listen, closed.Listen)
	vmtest.Keep(t, capture)
}

// decode lets tshark judge what the kernel and the targets said.
func decode(t *testing.T, file string, addrs ...string) {
	t.Helper()
	judge(t, "tshark")
	args := []string{"-r", file, "-O", "iscsi", "-Y", "iscsi"}
	for _, a := range addrs {
		args = append(args, "-d", "tcp.port=="+vmtest.Port(a)+",iscsi")
	}
	cmd := exec.CommandContext(t.Context(), "tshark", args...)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	n, payload := map[string]int{}, ""
	for lines := bufio.NewScanner(out); lines.Scan(); {
		line := lines.Text()
		if strings.HasPrefix(line, "SCSI Payload") {
			payload = line
		}
		// tshark 4.0 reads beyond INQUIRY data that was asked for in part.
		if strings.HasPrefix(line, "[Malformed") && !strings.Contains(payload, "Inquiry Response Data") {
			n["Malformed"]++
			t.Log(payload)
		}
		for _, what := range []string{"Opcode: ", "Good CRC32", "Bad CRC32"} {
			if strings.Contains(line, what) {
				n[what]++
			}
		}
	}
	must(t, cmd.Wait())
	t.Logf("tshark: %v", n)
	if n["Opcode: "] < 1000 || n["Good CRC32"] < 1000 || n["Bad CRC32"]+n["Malformed"] > 0 {
		t.Errorf("tshark objects: %v", n)
	}
}
