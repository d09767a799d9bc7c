package attack

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/quorum"
)

var (
	measure = flag.Bool("measure", false, "take the measures")
	times   = flag.Int("times", 5, "deaths of each kind")
	fillMiB = flag.Int("fill", 8192, "MiB written before a resync, of a volume of 8 GiB")
)

const (
	measureWorkers = 8
	steady         = 8 * time.Second // of load at each latency measured
	slowBy         = 500 * time.Millisecond
)

func wantMeasures(t *testing.T) {
	t.Helper()
	if !*measure {
		t.Skip("run make measure-replication")
	}
}

// sample is one request.
type sample struct {
	write bool
	began time.Time
	took  time.Duration
}

// meter is a steady load of 4 KiB requests, half of them writes.
type meter struct {
	h       *initiator
	mu      sync.Mutex
	samples []sample
	stop    context.CancelFunc
	wg      sync.WaitGroup
}

func (c *cluster) startMeter() *meter {
	h, err := newInitiator(c, 0, newRecorder())
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(c.t.Context())
	m := &meter{h: h, stop: cancel}
	for i := range measureWorkers {
		m.wg.Go(func() { m.work(ctx, rand.New(rand.NewPCG(uint64(i), 1))) }) // ends with ctx
	}
	return m
}

func (m *meter) work(ctx context.Context, rng *rand.Rand) {
	buf := make([]byte, smallSize)
	blocks := int(m.h.c.shape.size / smallSize)
	for ctx.Err() == nil {
		s := sample{write: rng.IntN(2) == 0, began: time.Now()}
		r := &block.Request{Op: block.OpRead, Extent: block.Extent{Off: uint64(rng.IntN(blocks)) * smallSize, Len: smallSize}, Bufs: [][]byte{buf}}
		if s.write {
			r.Op = block.OpWrite
		}
		if err := m.h.do(r); err != nil {
			m.h.rec.fail(err)
			return
		}
		s.took = time.Since(s.began)
		m.mu.Lock()
		m.samples = append(m.samples, s)
		m.mu.Unlock()
		time.Sleep(time.Millisecond)
	}
}

// end stops the load and returns all that it measured.
func (m *meter) end(t *testing.T) []sample {
	t.Helper()
	m.stop()
	m.wg.Wait()
	m.h.dev.Load().Close()
	select {
	case err := <-m.h.rec.errs:
		t.Error(err)
	default:
	}
	return m.samples
}

// slowest is the longest that a request of each kind took, of those under way
// or begun in a span of time.
func slowest(ss []sample, from, to time.Time) (read, write time.Duration) {
	for _, s := range ss {
		switch {
		case s.began.After(to) || s.began.Add(s.took).Before(from):
		case s.write:
			write = max(write, s.took)
		default:
			read = max(read, s.took)
		}
	}
	return read, write
}

func percentile(ss []sample, write bool, p float64) time.Duration {
	var took []time.Duration
	for _, s := range ss {
		if s.write == write {
			took = append(took, s.took)
		}
	}
	if len(took) == 0 {
		return 0
	}
	slices.Sort(took)
	return took[int(p*float64(len(took)-1))]
}

// TestMeasureDeaths: the stall a host sees when a process is killed.
func TestMeasureDeaths(t *testing.T) {
	wantMeasures(t)
	c := newCluster(t, shape{size: 64 << 20, level: quorum.Quorum, small: true})
	m := c.startMeter()
	var deaths []string
	var at []time.Time
	for range *times {
		for _, p := range []*process{c.rs[0], c.rs[1], c.targets[0]} {
			time.Sleep(2 * time.Second)
			deaths, at = append(deaths, p.name), append(at, time.Now())
			p.kill()
			time.Sleep(restartAfter)
			p.start()
			c.allInSync(healWithin)
			time.Sleep(time.Second)
		}
	}
	ss := m.end(t)
	for i, name := range deaths {
		r, w := slowest(ss, at[i], at[i].Add(time.Second))
		t.Logf("death of %s: slowest read %4d ms, slowest write %4d ms", name, r.Milliseconds(), w.Milliseconds())
	}
	t.Logf("without deaths: read p50 %v p99 %v, write p50 %v p99 %v, %d requests", percentile(ss, false, .5), percentile(ss, false, .99),
		percentile(ss, true, .5), percentile(ss, true, .99), len(ss))
}

// TestMeasureSlow: latencies with a replica that is slow and with none.
func TestMeasureSlow(t *testing.T) {
	wantMeasures(t)
	for _, l := range []quorum.Level{quorum.Quorum, quorum.All} {
		c := newCluster(t, shape{size: 64 << 20, level: l, small: true})
		for _, who := range []string{"none", "r2", "r0"} {
			if who != "none" {
				c.lan.set(who, "t0", func(w *way) { w.delay = slowBy })
			}
			c.startMeter().end(t) // connects, so that the next one finds all as it will be
			m := c.startMeter()
			time.Sleep(steady)
			ss := m.end(t)
			t.Logf("level %s, %s slow by %v: write p50 %v p99 %v, read p50 %v p99 %v, %d requests", l, who, slowBy,
				percentile(ss, true, .5), percentile(ss, true, .99), percentile(ss, false, .5), percentile(ss, false, .99), len(ss))
			c.lan.heal()
			c.allInSync(healWithin)
		}
	}
}

// TestMeasureResync: a replica returns after 64 MiB changed, and one returns
// with nothing.
func TestMeasureResync(t *testing.T) {
	wantMeasures(t)
	const size, changed, piece = 8 << 30, 64 << 20, 64 << 10
	c := newCluster(t, shape{size: size, level: quorum.Quorum})
	h, err := newInitiator(c, 0, newRecorder())
	if err != nil {
		t.Fatal(err)
	}
	defer h.dev.Load().Close()
	rng := rand.New(rand.NewPCG(1, 2))
	filled := uint64(*fillMiB) << 20
	began := time.Now()
	writeMany(t, h, extents(filled, 1<<20, func(i uint64) uint64 { return i << 20 }))
	t.Logf("filled %d MiB in %v", *fillMiB, time.Since(began).Round(time.Second))
	c.allInSync(10 * time.Minute) // one may have been too slow for the rest
	began = time.Now()
	v := c.compare()
	t.Logf("comparison of %d replicas: %d KiB of block pointers read for %d MiB held, %.5f to 1, in %v", len(v.Replicas), v.Read>>10, v.Held>>20,
		float64(v.Read)/float64(v.Held), time.Since(began).Round(10*time.Millisecond))
	r := c.rs[2]
	c.killAndMiss(r)
	writeMany(t, h, extents(changed, piece, func(uint64) uint64 { return rng.Uint64N(filled/piece) * piece }))
	report := func(what string, bytes uint64) {
		before, by := c.lan.received(r.name), c.lan.sent("t0", r.name)
		r.start()
		took := c.allInSync(10 * time.Minute)
		moved := c.lan.received(r.name) - before
		t.Logf("%s: %d MiB moved for %d MiB, %.3f to 1, %d MiB of it by the target, in %v", what, moved>>20, bytes>>20,
			float64(moved)/float64(bytes), (c.lan.sent("t0", r.name)-by)>>20, took.Round(10*time.Millisecond))
	}
	report("resync of what changed", changed)
	c.killAndMiss(r)
	if err := errors.Join(os.RemoveAll(c.dir+"/"+r.name), os.Mkdir(c.dir+"/"+r.name, 0o700)); err != nil {
		t.Fatal(err)
	}
	report("resync in full", filled)
}

// killAndMiss kills a process and waits until the target has noticed.
func (c *cluster) killAndMiss(p *process) {
	c.t.Helper()
	p.kill()
	eventually(c.t, healWithin, "the target has not noticed that "+p.name+" was killed", func() bool {
		n := c.inSync()
		return n >= 0 && n < replicas
	})
}

func extents(total, piece uint64, at func(i uint64) uint64) (es []block.Extent) {
	for i := range total / piece {
		es = append(es, block.Extent{Off: at(i), Len: piece})
	}
	return es
}

// writeMany writes content that does not compress, then flushes.
func writeMany(t *testing.T, h *initiator, es []block.Extent) {
	t.Helper()
	work := make(chan block.Extent)
	var wg sync.WaitGroup
	for i := range measureWorkers {
		wg.Go(func() { // ends when work is closed
			rng := rand.NewChaCha8([32]byte{byte(i)})
			buf := make([]byte, 1<<20)
			for e := range work {
				_, _ = rng.Read(buf[:e.Len])
				if err := h.do(&block.Request{Op: block.OpWrite, Extent: e, Bufs: [][]byte{buf[:e.Len]}}); err != nil {
					h.rec.fail(fmt.Errorf("write %v: %w", e, err))
				}
			}
		})
	}
	for _, e := range es {
		work <- e
	}
	close(work)
	wg.Wait()
	h.flush()
	select {
	case err := <-h.rec.errs:
		t.Fatal(err)
	default:
	}
}
