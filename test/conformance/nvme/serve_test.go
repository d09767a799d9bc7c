//go:build conformance

package nvme

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/nvme"
	"github.com/cask-storage/cask/pkg/nvme/dhchap"
	"github.com/cask-storage/cask/pkg/nvme/target"
)

// settings of a target in a process of its own, so that it can be killed.
type settings struct {
	Listen  string
	NQN     string
	File    string // the RAM device: a file in memory that outlives the process
	Size    uint64
	Room    uint64 // that it may grow to
	First   uint16 // controller identifier
	State   nvme.ANAState
	Port    uint16
	Secrets dhchap.Secrets
	Keep    string // file of the reservations; empty refuses to persist
}

const settingsVariable = "CASK_CONFORMANCE_TARGET"

// TestMain is the target when it is told to be.
func TestMain(m *testing.M) {
	text := os.Getenv(settingsVariable)
	if text == "" {
		os.Exit(m.Run())
	}
	var s settings
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		log.Fatal(err)
	}
	if err := s.serve(); err != nil {
		log.Fatal(err)
	}
}

// ram is a device in shared memory.
type ram struct {
	mu   sync.RWMutex // held for writing by a resize only
	size uint64
	data []byte
}

func openRAM(s settings) (*ram, error) {
	f, err := os.OpenFile(s.File, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := f.Truncate(int64(s.Room)); err != nil {
		return nil, err
	}
	data, err := syscall.Mmap(int(f.Fd()), 0, int(s.Room), syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	return &ram{size: s.Size, data: data}, err
}

func (d *ram) Geometry() block.Geometry {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return block.Geometry{Size: d.size, BlockSize: 512, PhysicalBlock: 4096, MaxTransfer: 1 << 20}
}

func (d *ram) Submit(r *block.Request) {
	err := d.Geometry().Check(r)
	if err == nil {
		switch r.Op {
		case block.OpRead:
			off := r.Extent.Off
			for _, b := range r.Bufs {
				off += uint64(copy(b, d.data[off:]))
			}
		case block.OpWrite:
			off := r.Extent.Off
			for _, b := range r.Bufs {
				off += uint64(copy(d.data[off:], b))
			}
		case block.OpUnmap, block.OpWriteZeroes:
			clear(d.data[r.Extent.Off:r.Extent.End()])
		}
	}
	r.Done(r, err)
}

func (d *ram) Close() error { return nil }

// serve runs the target; lines on the standard input change it.
func (s settings) serve() error {
	dev, err := openRAM(s)
	if err != nil {
		return err
	}
	var lost atomic.Bool
	cfg := target.Config{Logf: log.Printf, PortID: s.Port, Locate: func(_ context.Context, nqn string) error {
		if lost.Load() && nqn == s.NQN {
			return target.ErrReplaced
		}
		return nil
	}}
	if s.Secrets.Host != "" {
		cfg.Authenticate = func(context.Context, string) (dhchap.Secrets, error) { return s.Secrets, nil }
	}
	t, err := target.New(cfg)
	if err != nil {
		return err
	}
	ns := target.Namespace{ID: 1, Device: dev, UUID: nvme.UUID{0xca, 0x5c, 6: 0x40, 8: 0x80, 15: 1}, ANAState: s.State}
	if s.Keep != "" {
		ns.Reservations.State, _ = os.ReadFile(s.Keep)
		ns.Reservations.Keep = func(_ context.Context, b []byte) error { return os.WriteFile(s.Keep, b, 0o600) }
	}
	sub := target.Subsystem{
		NQN: s.NQN, Namespaces: []target.Namespace{ns},
		Controllers: target.ControllerRange{First: nvme.CNTLID(s.First), Last: nvme.CNTLID(s.First + 99)},
	}
	if err := t.AddSubsystem(sub); err != nil {
		return err
	}
	l, err := net.Listen("tcp", s.Listen)
	if err != nil {
		return err
	}
	go s.obey(t, dev, func() error { // owner: the process
		lost.Store(true)
		sub.NQN += ":lost-7"
		return errors.Join(t.RemoveSubsystem(context.Background(), s.NQN), t.AddSubsystem(sub))
	})
	return t.Serve(context.Background(), l)
}

func (s settings) obey(t *target.Target, dev *ram, lose func() error) {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var word string
		var n uint64
		_, _ = fmt.Sscan(lines.Text(), &word, &n)
		switch word {
		case "resize":
			dev.mu.Lock()
			dev.size = n
			dev.mu.Unlock()
			t.NamespaceChanged(s.NQN, 1)
		case "lose":
			if err := lose(); err != nil {
				log.Print(err)
			}
		case "ana":
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			if err := t.SetANA(ctx, s.NQN, 1, nvme.ANAState(n)); err != nil {
				log.Print(err)
			}
			cancel()
		case "add":
			err := t.AddSubsystem(target.Subsystem{NQN: s.NQN + lines.Text(), Namespaces: []target.Namespace{{ID: 1, Device: dev, UUID: nvme.UUID{9}}}})
			if err != nil {
				log.Print(err)
			}
		}
		fmt.Println("done", lines.Text())
	}
	os.Exit(0) // its parent is gone
}

// process is a target in a process of its own.
type process struct {
	t     *testing.T
	s     settings
	cmd   *exec.Cmd
	stdin interface{ Write([]byte) (int, error) }
	out   *bufio.Reader
}

func start(t *testing.T, s settings) *process {
	t.Helper()
	p := &process{t: t, s: s}
	t.Cleanup(func() { p.kill() })
	p.start()
	return p
}

func (p *process) start() {
	p.t.Helper()
	text, err := json.Marshal(p.s)
	if err != nil {
		p.t.Fatal(err)
	}
	p.cmd = exec.Command(os.Args[0])
	p.cmd.Env = append(os.Environ(), settingsVariable+"="+string(text))
	p.cmd.Stderr = os.Stderr
	if testing.Verbose() {
		log.SetFlags(log.Lmicroseconds)
	}
	in, err := p.cmd.StdinPipe()
	if err != nil {
		p.t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		p.t.Fatal(err)
	}
	p.stdin, p.out = in, bufio.NewReader(out)
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	for range 100 {
		if nc, err := net.Dial("tcp", p.s.Listen); err == nil {
			_ = nc.Close()
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	p.t.Fatalf("the target does not listen on %s", p.s.Listen)
}

// tell sends a line and waits until it was obeyed.
func (p *process) tell(line string) {
	p.t.Helper()
	if _, err := p.stdin.Write([]byte(line + "\n")); err != nil {
		p.t.Errorf("%s: %v", line, err)
		return
	}
	if answer, err := p.out.ReadString('\n'); err != nil || !strings.HasPrefix(answer, "done") {
		p.t.Errorf("%s: %q, %v", line, answer, err)
	}
}

// kill ends the process as a crash would.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

// freePort is an address nobody listens on.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
