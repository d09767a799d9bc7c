package blocktest

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/cask-storage/cask/pkg/block"
)

// Workload says what Verify does. Zero fields get defaults.
type Workload struct {
	Seed    uint64        // printed when something is wrong; 0 picks one
	Workers int           // 8; each has a region of its own and one request in flight
	Region  uint64        // bytes of a worker's region: 128 KiB
	Ops     int           // of each worker; 0 is no bound
	For     time.Duration // how long; 0 is no bound. With Ops 0 too: 100 operations
}

// Verify writes, zeroes, flushes and reads at random, and checks that every
// read returns what was written last: so a write that is lost, or executed
// again later, is found. Any error of the device is one of the test.
func Verify(t testing.TB, d block.Device, w Workload) {
	t.Helper()
	if w.Seed == 0 {
		w.Seed = rand.Uint64()
	}
	if w.Workers == 0 {
		w.Workers = 8
	}
	if w.Region == 0 {
		w.Region = 128 << 10
	}
	if w.Ops == 0 && w.For == 0 {
		w.Ops = 100
	}
	if need := w.Region * uint64(w.Workers); need > d.Geometry().Size {
		t.Fatalf("verify: needs a device of %d bytes", need)
	}
	deadline := time.Now().Add(w.For)
	var wg sync.WaitGroup
	for i := range w.Workers {
		wg.Add(1)
		go func() { // owner: Verify, which waits below
			defer wg.Done()
			v := newVerifier(d, w, i)
			for n := 0; (w.Ops == 0 || n < w.Ops) && (w.For == 0 || time.Now().Before(deadline)); n++ {
				if err := v.step(); err != nil {
					t.Errorf("verify: seed %d, worker %d, operation %d: %v", w.Seed, i, n, err)
					return
				}
			}
			if err := v.check(block.Extent{Len: w.Region}); err != nil {
				t.Errorf("verify: seed %d, worker %d, at the end: %v", w.Seed, i, err)
			}
		}()
	}
	wg.Wait()
}

// verifier is one worker: it knows what its region must hold.
type verifier struct {
	d      block.Device
	rng    *rand.Rand
	base   uint64
	geo    block.Geometry
	shadow []byte
	known  []bool // by block: written by us
	stamp  uint64
}

func newVerifier(d block.Device, w Workload, i int) *verifier {
	g := d.Geometry()
	return &verifier{
		d: d, geo: g, rng: rand.New(rand.NewPCG(w.Seed, uint64(i))), base: uint64(i) * w.Region,
		shadow: make([]byte, w.Region), known: make([]bool, w.Region/uint64(g.BlockSize)),
	}
}

func (v *verifier) step() error {
	bs := uint64(v.geo.BlockSize)
	blocks := uint64(len(v.known))
	most := min(blocks, uint64(v.geo.MaxTransfer)/bs)
	if v.rng.IntN(3) > 0 {
		most = min(most, 16)
	}
	n := 1 + v.rng.Uint64N(most)
	e := block.Extent{Off: v.rng.Uint64N(blocks-n+1) * bs, Len: n * bs}
	switch k := v.rng.IntN(20); {
	case k < 9:
		return v.write(e)
	case k < 16:
		return v.check(e)
	case k < 17:
		return v.zero(block.OpUnmap, e)
	case k < 18:
		return v.zero(block.OpWriteZeroes, e)
	}
	return Flush(v.d)
}

func (v *verifier) write(e block.Extent) error {
	b := v.shadow[e.Off:e.End()]
	v.stamp++
	for i := range b {
		b[i] = byte(v.stamp>>(8*(i&3))) ^ byte(i>>9) ^ byte(e.Off>>9)
	}
	v.learn(e)
	r := &block.Request{Op: block.OpWrite, Extent: v.at(e), Bufs: [][]byte{append([]byte(nil), b...)}, FUA: v.rng.IntN(8) == 0}
	return v.do(r)
}

func (v *verifier) zero(op block.Op, e block.Extent) error {
	clear(v.shadow[e.Off:e.End()])
	v.learn(e)
	return v.do(&block.Request{Op: op, Extent: v.at(e), FUA: v.rng.IntN(8) == 0})
}

func (v *verifier) at(e block.Extent) block.Extent {
	return block.Extent{Off: v.base + e.Off, Len: e.Len}
}

func (v *verifier) learn(e block.Extent) {
	bs := uint64(v.geo.BlockSize)
	for b := e.Off / bs; b < e.End()/bs; b++ {
		v.known[b] = true
	}
}

func (v *verifier) do(r *block.Request) error {
	if err := Do(v.d, r); err != nil {
		return fmt.Errorf("%v of %v: %w", r.Op, r.Extent, err)
	}
	return nil
}

// check reads e, a transfer at a time, and compares what is known of it.
func (v *verifier) check(e block.Extent) error {
	step := uint64(v.geo.MaxTransfer)
	for ; e.Len > step; e.Off, e.Len = e.Off+step, e.Len-step {
		if err := v.check(block.Extent{Off: e.Off, Len: step}); err != nil {
			return err
		}
	}
	got := make([]byte, e.Len)
	if err := v.do(&block.Request{Op: block.OpRead, Extent: v.at(e), Bufs: [][]byte{got}}); err != nil {
		return err
	}
	bs := uint64(v.geo.BlockSize)
	for o := uint64(0); o < e.Len; o += bs {
		if !v.known[(e.Off+o)/bs] {
			continue
		}
		if i := mismatch(got[o:o+bs], v.shadow[e.Off+o:e.Off+o+bs]); i >= 0 {
			return fmt.Errorf("byte %d is %#02x, want %#02x: a lost or a stale write", v.base+e.Off+o+uint64(i), got[o+uint64(i)], v.shadow[e.Off+o+uint64(i)])
		}
	}
	return nil
}
