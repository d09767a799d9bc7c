package host_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/cask-storage/cask/pkg/block/blocktest"
	"github.com/cask-storage/cask/pkg/nvme/host"
	"github.com/cask-storage/cask/pkg/nvme/target"
)

// capture records what TCP connections carry as a pcap file with made-up IP
// and TCP headers.
type capture struct {
	mu   sync.Mutex
	out  bytes.Buffer
	port uint16
}

func newCapture() *capture {
	c := &capture{port: 40000}
	le := binary.LittleEndian
	h := le.AppendUint32(nil, 0xa1b2c3d4)
	h = le.AppendUint16(h, 2)
	h = le.AppendUint16(h, 4)
	h = append(h, make([]byte, 8)...)
	h = le.AppendUint32(h, 1<<18)
	h = le.AppendUint32(h, 101) // raw IP
	c.out.Write(h)
	return c
}

// segment appends one TCP segment.
func (c *capture) segment(src, dst uint16, seq uint32, data []byte) {
	be := binary.BigEndian
	p := []byte{0x45, 0}
	p = be.AppendUint16(p, uint16(40+len(data)))
	p = append(p, 0, 0, 0x40, 0, 64, 6, 0, 0, 127, 0, 0, 1, 127, 0, 0, 1)
	p = be.AppendUint16(p, src)
	p = be.AppendUint16(p, dst)
	p = be.AppendUint32(p, seq)
	p = append(p, 0, 0, 0, 1, 0x50, 0x18, 0xff, 0xff, 0, 0, 0, 0)
	p = append(p, data...)
	le := binary.LittleEndian
	h := append(make([]byte, 8), le.AppendUint32(nil, uint32(len(p)))...)
	h = le.AppendUint32(h, uint32(len(p)))
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out.Write(h)
	c.out.Write(p)
}

// captured is a connection of the host being recorded.
type captured struct {
	net.Conn
	c        *capture
	port     uint16
	out, in  uint32 // sequence numbers
	mu       sync.Mutex
	readHalf sync.Mutex
}

func (c *capture) wrap(nc net.Conn) net.Conn {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.port++
	return &captured{Conn: nc, c: c, port: c.port, out: 1, in: 1}
}

const maxSegment = 60000

func (x *captured) Write(b []byte) (int, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for rest := b; len(rest) > 0; {
		n := min(len(rest), maxSegment)
		x.c.segment(x.port, 4420, x.out, rest[:n])
		x.out += uint32(n)
		rest = rest[n:]
	}
	return x.Conn.Write(b)
}

func (x *captured) Read(b []byte) (int, error) {
	n, err := x.Conn.Read(b[:min(len(b), maxSegment)])
	x.readHalf.Lock()
	defer x.readHalf.Unlock()
	if n > 0 {
		x.c.segment(4420, x.port, x.in, b[:n])
		x.in += uint32(n)
	}
	return n, err
}

// TestDissector lets tshark judge a session.
func TestDissector(t *testing.T) {
	tshark, err := exec.LookPath("tshark")
	if err != nil {
		t.Skip("tshark is not installed")
	}
	for _, digests := range []bool{false, true} {
		mem := blocktest.NewMemory(blocktest.Options{})
		defer mem.Close()
		r := newRig(t, mem, target.Config{})
		c := newCapture()
		cfg := r.config()
		cfg.HeaderDigest, cfg.DataDigest = digests, digests
		cfg.Dial = dialer(c)
		d, err := host.Attach(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		mem.Resize(mem.Geometry().Size * 2)
		r.tgt.NamespaceChanged(subNQN, 1)
		blocktest.Verify(t, d, blocktest.Workload{Workers: 2, Ops: 20})
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "session.pcap")
		if err := os.WriteFile(file, c.out.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		run := func(args ...string) string {
			args = append([]string{"-r", file, "-o", "nvme-tcp.check_hdgst:TRUE", "-o", "nvme-tcp.check_ddgst:TRUE"}, args...)
			out, err := exec.Command(tshark, args...).Output()
			if err != nil {
				t.Fatalf("tshark: %v", err)
			}
			return string(out)
		}
		bad := run("-Y", `_ws.malformed || nvme-tcp.hdgst.status == "Bad" || nvme-tcp.ddgst.status == "Bad"`)
		if bad != "" {
			t.Errorf("digests %v: tshark objects:\n%s", digests, bad)
		}
		good := run("-Y", `nvme-tcp.hdgst.status == "Good" && nvme-tcp.ddgst.status == "Good"`)
		if digests != (good != "") {
			t.Errorf("digests %v: tshark found these good:\n%s", digests, good)
		}
		types := run("-Y", "nvme-tcp", "-T", "fields", "-e", "nvme-tcp.type")
		n := 0
		for _, line := range strings.Fields(types) {
			n += 1 + strings.Count(line, ",")
		}
		t.Logf("digests %v: %d PDUs", digests, n)
		if n < 60 {
			t.Errorf("digests %v: tshark saw only %d PDUs", digests, n)
		}
	}
}

func dialer(c *capture) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		nc, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return c.wrap(nc), nil
	}
}
