package main

import (
	"context"
	"math/rand"
	"time"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/block/ride"
)

// served is a disk that other processes serve.
type served struct {
	system   string
	replicas int
	frontend string
	servers  []int // processes, the target first
	dev      *ride.Device
	o        options
}

func (v *served) name() string { return v.system }

// run measures after a time of warming up, so that what the case before left
// to be done is paid by nobody and what this one leaves is about what it found.
func (v *served) run(ctx context.Context, w work) (Row, error) {
	r := Row{System: v.system, Replicas: v.replicas, Frontend: v.frontend}
	l := newLoad(v.dev, w, v.o.span)
	if w.op == "seqwrite" {
		l.limit = int(v.o.span) / w.bs // the whole volume, once
	} else {
		settle(ctx, v.servers)
		if err := l.run(ctx, min(v.o.time/2, time.Second)); err != nil {
			return r, err
		}
		l.latencies = l.latencies[:0]
	}
	before, targetBefore := used(v.servers), used(v.servers[:1])
	began := time.Now()
	if err := l.run(ctx, v.o.time); err != nil {
		return r, err
	}
	took := time.Since(began)
	n := float64(len(l.latencies))
	r.IOPS = n / took.Seconds()
	r.P50, r.P99, r.P999 = percentiles(l.latencies)
	all, target := used(v.servers).minus(before), used(v.servers[:1]).minus(targetBefore)
	r.CPU, r.Target = float64(all.cpu.Microseconds())/n, float64(target.cpu.Microseconds())/n
	r.Switches, r.Faults = float64(all.switches)/n, float64(all.faults)/n
	r.RSS = rss(v.servers)
	return r, nil
}

// load keeps w.qd operations under way.
type load struct {
	dev       *ride.Device
	w         work
	span      int64
	rng       *rand.Rand
	next      int64 // of a sequential one, bytes
	limit     int   // operations, when not 0, instead of a time
	latencies []time.Duration
	done      chan *slot
}

// slot is one operation under way.
type slot struct {
	r       block.Request
	started time.Time
	flushes bool // its write is done
	err     error
}

func newLoad(dev *ride.Device, w work, span int64) *load {
	return &load{dev: dev, w: w, span: span, rng: rand.New(rand.NewSource(1)), done: make(chan *slot, w.qd)}
}

// run starts operations for d, or until limit, and waits for all.
func (l *load) run(ctx context.Context, d time.Duration) error {
	data := make([]byte, l.w.bs)
	l.rng.Read(data)
	end := time.Now().Add(d)
	started := 0
	for range l.w.qd {
		s := &slot{}
		s.r.Bufs = [][]byte{append([]byte(nil), data...)}
		s.r.Done = func(_ *block.Request, err error) {
			s.err = err
			l.done <- s // never blocks: one room each
		}
		l.start(s)
		started++
	}
	for running := l.w.qd; running > 0; {
		s := <-l.done
		if s.err != nil {
			return s.err
		}
		if l.w.op == "flush" && !s.flushes {
			s.flushes = true
			s.r.Op = block.OpFlush
			l.dev.Submit(&s.r)
			continue
		}
		now := time.Now()
		l.latencies = append(l.latencies, now.Sub(s.started))
		if ctx.Err() != nil || l.limit > 0 && started >= l.limit || l.limit == 0 && now.After(end) {
			running--
			continue
		}
		l.start(s)
		started++
	}
	return ctx.Err()
}

func (l *load) start(s *slot) {
	s.flushes, s.started = false, time.Now()
	s.r.Op = block.OpWrite
	if l.w.op == "read" || l.w.op == "seqread" {
		s.r.Op = block.OpRead
	} else {
		l.rng.Read(s.r.Bufs[0][:64]) // each write is another
	}
	off := l.rng.Int63n(l.span/int64(l.w.bs)) * int64(l.w.bs)
	if l.w.op == "seqread" || l.w.op == "seqwrite" {
		off = l.next
		l.next = (l.next + int64(l.w.bs)) % l.span
	}
	s.r.Extent = block.Extent{Off: uint64(off), Len: uint64(l.w.bs)}
	l.dev.Submit(&s.r)
}
