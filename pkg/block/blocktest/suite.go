package blocktest

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cask-storage/cask/pkg/block"
)

// patience is how long the suite waits for a request before it says that the
// device forgot it.
const patience = 60 * time.Second

// Run holds the devices that open returns against the contract of
// block.Device. Each call of open returns a new device of at least 4 MiB that
// reads as zeroes; the suite closes it.
func Run(t *testing.T, open func(t *testing.T) block.Device) {
	t.Helper()
	for _, c := range []struct {
		name string
		run  func(*testing.T, block.Device)
	}{
		{"Geometry", testGeometry},
		{"ReadsZeroes", testReadsZeroes},
		{"WriteRead", testWriteRead},
		{"ScatterGather", testScatterGather},
		{"LastBlock", testLastBlock},
		{"Range", testRange},
		{"Zeroing", testZeroing},
		{"FlushAndFUA", testFlush},
		{"ManyInFlight", testManyInFlight},
		{"Verify", testVerify},
		{"Closed", testClosed},
		{"CloseWhileBusy", testCloseWhileBusy},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := open(t)
			t.Cleanup(func() { _ = d.Close() })
			c.run(t, d)
		})
	}
}

func testGeometry(t *testing.T, d block.Device) {
	g := d.Geometry()
	if g.BlockSize < 512 || g.BlockSize&(g.BlockSize-1) != 0 {
		t.Errorf("block size %d is not a power of two of at least 512", g.BlockSize)
	}
	if g.Size < 4<<20 || g.Size%uint64(g.BlockSize) != 0 {
		t.Errorf("size %d", g.Size)
	}
	if g.PhysicalBlock < g.BlockSize || g.MaxTransfer < g.BlockSize || g.MaxTransfer%g.BlockSize != 0 {
		t.Errorf("geometry %+v", g)
	}
}

func testReadsZeroes(t *testing.T, d block.Device) {
	expect(t, d, 0, make([]byte, 64<<10))
}

func testWriteRead(t *testing.T, d block.Device) {
	g := d.Geometry()
	bs := uint64(g.BlockSize)
	for _, n := range []uint64{bs, 3 * bs, 8 * bs, uint64(g.MaxTransfer) / 2 / bs * bs, uint64(g.MaxTransfer)} {
		n = min(n, g.Size/2/bs*bs)
		want := pattern(n, n)
		must(t, Write(d, bs, want), "write of %d", n)
		expect(t, d, bs, want)
		expect(t, d, 0, make([]byte, bs)) // its neighbour is untouched
	}
}

func testScatterGather(t *testing.T, d block.Device) {
	bs := uint64(d.Geometry().BlockSize)
	n := 16 * bs
	want := pattern(n, 1)
	r := &block.Request{Op: block.OpWrite, Extent: block.Extent{Off: bs, Len: n}, Bufs: scatter(want)}
	must(t, Do(d, r), "write")
	got := make([]byte, n)
	r = &block.Request{Op: block.OpRead, Extent: block.Extent{Off: bs, Len: n}, Bufs: scatter(got)}
	must(t, Do(d, r), "read")
	if !bytes.Equal(got, want) {
		t.Errorf("scattered read differs from gathered write")
	}
}

// scatter cuts b into pieces of odd lengths, an empty one among them.
func scatter(b []byte) [][]byte {
	out := [][]byte{{}}
	for n := 1; len(b) > 0; n = n*2 + 1 {
		n = min(n, len(b))
		out = append(out, b[:n:n])
		b = b[n:]
	}
	return out
}

func testLastBlock(t *testing.T, d block.Device) {
	g := d.Geometry()
	off := g.Size - uint64(g.BlockSize)
	want := pattern(uint64(g.BlockSize), 3)
	must(t, Write(d, off, want), "write of the last block")
	expect(t, d, off, want)
}

func testRange(t *testing.T, d block.Device) {
	g := d.Geometry()
	bs := uint64(g.BlockSize)
	whole := make([]byte, 2*bs)
	for _, c := range []struct {
		name string
		r    block.Request
		want error
	}{
		{"at the end", block.Request{Op: block.OpRead, Extent: block.Extent{Off: g.Size, Len: bs}, Bufs: [][]byte{whole[:bs]}}, block.ErrRange},
		{"across the end", block.Request{Op: block.OpWrite, Extent: block.Extent{Off: g.Size - bs, Len: 2 * bs}, Bufs: [][]byte{whole}}, block.ErrRange},
		{"wrapping", block.Request{Op: block.OpUnmap, Extent: block.Extent{Off: ^uint64(0) - bs + 1, Len: 2 * bs}}, block.ErrRange},
		{"unaligned offset", block.Request{Op: block.OpWrite, Extent: block.Extent{Off: 1, Len: bs}, Bufs: [][]byte{whole[:bs]}}, block.ErrRange},
		{"unaligned length", block.Request{Op: block.OpRead, Extent: block.Extent{Len: bs - 1}, Bufs: [][]byte{whole[:bs-1]}}, block.ErrRange},
		{"no length", block.Request{Op: block.OpWriteZeroes}, block.ErrRange},
		{"short buffers", block.Request{Op: block.OpRead, Extent: block.Extent{Len: 2 * bs}, Bufs: [][]byte{whole[:bs]}}, block.ErrRange},
		{"no verb", block.Request{Extent: block.Extent{Len: bs}, Bufs: [][]byte{whole[:bs]}}, block.ErrUnsupported},
	} {
		if err := Do(d, &c.r); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
	expect(t, d, g.Size-bs, make([]byte, bs))
}

func testZeroing(t *testing.T, d block.Device) {
	g := d.Geometry()
	bs := uint64(g.BlockSize)
	n := min(g.Size/2, 3<<20) / bs * bs // more than one transfer, for most
	for _, op := range []block.Op{block.OpUnmap, block.OpWriteZeroes} {
		for off := uint64(0); off < n; off += 64 << 10 {
			must(t, Write(d, off, pattern(min(64<<10, n-off), off)), "write")
		}
		must(t, Do(d, &block.Request{Op: op, Extent: block.Extent{Off: bs, Len: n - 2*bs}}), "%v", op)
		expect(t, d, 0, pattern(64<<10, 0)[:bs])
		expect(t, d, bs, make([]byte, 32<<10))
		expect(t, d, n-bs-32<<10, make([]byte, 32<<10))
		must(t, Do(d, &block.Request{Op: op, Extent: block.Extent{Len: bs}, FUA: true}), "%v with FUA", op)
		expect(t, d, 0, make([]byte, bs))
	}
}

func testFlush(t *testing.T, d block.Device) {
	bs := uint64(d.Geometry().BlockSize)
	must(t, Flush(d), "flush of nothing")
	want := pattern(bs, 5)
	r := &block.Request{Op: block.OpWrite, Extent: block.Extent{Len: bs}, Bufs: [][]byte{want}, FUA: true}
	must(t, Do(d, r), "write with FUA")
	must(t, Flush(d), "flush")
	expect(t, d, 0, want)
}

// testManyInFlight has more requests at once than a device is likely to take:
// Submit may block, and every Done comes once.
func testManyInFlight(t *testing.T, d block.Device) {
	const n = 600
	bs := uint64(d.Geometry().BlockSize)
	counts := make([]atomic.Int32, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Add(1)
		op := block.OpWrite
		if i%5 == 4 {
			op = block.OpFlush
		}
		d.Submit(&block.Request{
			Op: op, Extent: block.Extent{Off: uint64(i) * bs, Len: bs}, Bufs: [][]byte{pattern(bs, uint64(i))},
			Done: func(_ *block.Request, err error) {
				if err != nil {
					t.Errorf("request %d: %v", i, err)
				}
				if counts[i].Add(1) == 1 {
					wg.Done()
				}
			},
		})
	}
	wait(t, &wg)
	for i := range n {
		if got := counts[i].Load(); got != 1 {
			t.Errorf("Done of request %d was called %d times", i, got)
		}
		if i%5 != 4 {
			expect(t, d, uint64(i)*bs, pattern(bs, uint64(i)))
		}
	}
}

func testVerify(t *testing.T, d block.Device) {
	Verify(t, d, Workload{Workers: 8, Ops: 150})
}

func testClosed(t *testing.T, d block.Device) {
	must(t, d.Close(), "close")
	bs := uint64(d.Geometry().BlockSize)
	if err := Write(d, 0, make([]byte, bs)); !errors.Is(err, block.ErrClosed) {
		t.Errorf("write after Close: %v, want %v", err, block.ErrClosed)
	}
}

// testCloseWhileBusy closes under load: every request completes, with nil or
// ErrClosed, before Close returns.
func testCloseWhileBusy(t *testing.T, d block.Device) {
	bs := uint64(d.Geometry().BlockSize)
	var open atomic.Int64
	var senders sync.WaitGroup
	stop := make(chan struct{})
	for w := range 4 {
		senders.Add(1)
		go func() { // owner: this test, which waits below
			defer senders.Done()
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				open.Add(1)
				d.Submit(&block.Request{
					Op: block.OpWrite, Extent: block.Extent{Off: uint64(w) * bs, Len: bs}, Bufs: [][]byte{make([]byte, bs)},
					Done: func(_ *block.Request, err error) {
						open.Add(-1)
						if err != nil && !errors.Is(err, block.ErrClosed) {
							t.Errorf("write while closing: %v", err)
						}
					},
				})
			}
		}()
	}
	<-time.After(20 * time.Millisecond)
	must(t, d.Close(), "close")
	close(stop)
	senders.Wait()
	if n := open.Load(); n != 0 {
		t.Errorf("%d requests were not completed when Close had returned", n)
	}
}

func must(t *testing.T, err error, format string, args ...any) {
	t.Helper()
	if err != nil {
		t.Fatalf(format+": %v", append(slices.Clone(args), err)...)
	}
}

func expect(t *testing.T, d block.Device, off uint64, want []byte) {
	t.Helper()
	got := make([]byte, len(want))
	must(t, Read(d, off, got), "read of %d at %d", len(want), off)
	if i := mismatch(got, want); i >= 0 {
		t.Fatalf("read of %d at %d: byte %d is %#02x, want %#02x", len(want), off, i, got[i], want[i])
	}
}

// mismatch is the index of the first difference, or -1.
func mismatch(a, b []byte) int {
	for i := range a {
		if a[i] != b[i] {
			return i
		}
	}
	return -1
}

// pattern is n bytes that depend on the seed.
func pattern(n, seed uint64) []byte {
	b := make([]byte, n)
	rng := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16), 1})
	_, _ = rng.Read(b)
	return b
}

func wait(t *testing.T, wg *sync.WaitGroup) {
	t.Helper()
	done := make(chan struct{})
	go func() { // ends with the group; owner: this function, unless it gives up
		wg.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatalf("requests are not completed after %v", patience)
	}
}
