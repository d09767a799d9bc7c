package host_test

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/cask-storage/cask/pkg/block/blocktest"
	"github.com/cask-storage/cask/pkg/nvme/host"
	"github.com/cask-storage/cask/pkg/nvme/target"
)

// mangling changes bytes on the way. The functions get the offset of the bytes
// in the stream.
type mangling struct {
	onRead  func(off int, b []byte)
	onWrite func(off int, b []byte)
}

// mangled is a connection whose bytes are changed.
type mangled struct {
	net.Conn
	mangling
	mu      sync.Mutex
	in, out int
}

func (m *mangled) Read(b []byte) (int, error) {
	n, err := m.Conn.Read(b)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.onRead != nil {
		m.onRead(m.in, b[:n])
	}
	m.in += n
	return n, err
}

func (m *mangled) Write(b []byte) (int, error) {
	m.mu.Lock()
	if m.onWrite != nil {
		b = append([]byte(nil), b...)
		m.onWrite(m.out, b)
	}
	m.out += len(b)
	m.mu.Unlock()
	return m.Conn.Write(b)
}

func mangler(m mangling) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		nc, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return &mangled{Conn: nc, mangling: m}, nil
	}
}

// TestDamage flips bits in both directions: with digests no request fails and
// no byte changes.
func TestDamage(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	var mu sync.Mutex
	rng := rand.New(rand.NewPCG(seed, 0))
	flips := 0
	flip := func(off int, b []byte) {
		mu.Lock()
		defer mu.Unlock()
		// ICReq and ICResp have no digest.
		if off >= 128 && len(b) > 0 && rng.IntN(150) == 0 {
			b[rng.IntN(len(b))] ^= 1 << rng.IntN(8)
			flips++
		}
	}
	mem := blocktest.NewMemory(blocktest.Options{Workers: 2})
	defer mem.Close()
	r := newRig(quiet{t}, mem, target.Config{})
	cfg := r.config()
	cfg.HeaderDigest, cfg.DataDigest, cfg.KATO = true, true, 500*time.Millisecond
	cfg.Dial = mangler(mangling{onRead: flip, onWrite: flip})
	d := attach(t, cfg)
	blocktest.Verify(t, d, blocktest.Workload{Seed: seed, Region: 64 << 10, For: 3 * time.Second})
	t.Logf("%d bits flipped, %d associations", flips, d.State().Sessions)
}

// TestTransient: a write whose data is damaged is repeated on the same
// association.
func TestTransient(t *testing.T) {
	mem := blocktest.NewMemory(blocktest.Options{})
	defer mem.Close()
	r := newRig(t, mem, target.Config{})
	cfg := r.config()
	cfg.DataDigest = true
	damaged := 0
	cfg.Dial = mangler(mangling{onWrite: func(_ int, b []byte) {
		if len(b) == 4096 && damaged < 2 { // the data of a capsule is written by itself
			b[100] ^= 1
			damaged++
		}
	}})
	d := attach(t, cfg)
	if err := blocktest.Write(d, 0, make([]byte, 4096)); err != nil {
		t.Fatal(err)
	}
	if damaged != 2 || mem.Counts().Writes != 1 || d.State().Sessions != 1 {
		t.Errorf("damaged %d times, %+v, %+v", damaged, mem.Counts(), d.State())
	}
}

// TestSmallH2CData: a controller's limit on the data of one PDU is kept.
func TestSmallH2CData(t *testing.T) {
	mem := blocktest.NewMemory(blocktest.Options{})
	defer mem.Close()
	r := newRig(t, mem, target.Config{})
	cfg := r.config()
	cfg.Dial = mangler(mangling{onRead: func(off int, b []byte) {
		if off <= 12 && off+len(b) >= 16 {
			binary.LittleEndian.PutUint32(b[12-off:], 4096) // MAXH2CDATA
		}
	}})
	d, err := host.Attach(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	blocktest.Verify(t, d, blocktest.Workload{Workers: 4, Ops: 60})
}
