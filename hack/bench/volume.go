package main

import (
	"context"
	"fmt"
	"math/rand"
	"path/filepath"
	"time"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/local"
	"github.com/cask-storage/cask/pkg/nvme"
	"github.com/cask-storage/cask/pkg/nvme/host"
	"github.com/cask-storage/cask/pkg/volume"
)

type volumeOptions struct {
	name, bin string
	replicas  int
	o         options
}

// caskVolume is a volume of pkg/local, reached through NVMe/TCP.
type caskVolume struct {
	volumeOptions
	st  local.State
	dev *host.Device
}

func newVolume(ctx context.Context, vo volumeOptions) (*caskVolume, error) {
	dir := filepath.Join(vo.o.dir, fmt.Sprintf("%s-%d", vo.name, vo.replicas))
	exe, err := filepath.Abs(filepath.Join(vo.bin, "cask"))
	if err != nil {
		return nil, err
	}
	st, err := local.Up(ctx, local.Options{Dir: dir, Exe: exe, Args: []string{"local", "supervise", "--dir=" + dir},
		Spec: local.Spec{Name: "bench", Size: uint64(vo.o.span), Replicas: vo.replicas, Consistency: "quorum",
			Durability: "flush", Compression: "lz4"}})
	if err != nil {
		return nil, err
	}
	dev, err := host.Attach(ctx, host.Config{Addr: st.NVMe.Addr, SubsystemNQN: st.NVMe.NQN, NSID: nvme.NSID(st.NVMe.NSID),
		HostNQN: volume.HostNQN("bench", "local"), HostID: nvme.UUID{1}})
	return &caskVolume{vo, st, dev}, err
}

func (v *caskVolume) name() string { return v.volumeOptions.name }

func (v *caskVolume) close() error {
	_ = v.dev.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return local.Down(ctx, v.st.Dir)
}

func (v *caskVolume) servers() []int { return append([]int{v.st.PIDs.Target}, v.st.PIDs.Replicas...) }

// run measures after a time of warming up, so that what the case before left
// to be done is paid by nobody and what this one leaves is about what it found.
func (v *caskVolume) run(ctx context.Context, w work) (Row, error) {
	r := Row{System: v.volumeOptions.name, Replicas: v.replicas, Frontend: "nvme/tcp"}
	l := newLoad(v.dev, w, v.o.span)
	if w.op == "seqwrite" {
		l.limit = int(v.o.span) / w.bs // the whole volume, once
	} else {
		settle(ctx, v.servers())
		if err := l.run(ctx, min(v.o.time/2, time.Second)); err != nil {
			return r, err
		}
		l.latencies = l.latencies[:0]
	}
	before, targetBefore := used(v.servers()), used(v.servers()[:1])
	began := time.Now()
	if err := l.run(ctx, v.o.time); err != nil {
		return r, err
	}
	took := time.Since(began)
	n := float64(len(l.latencies))
	r.IOPS = n / took.Seconds()
	r.P50, r.P99, r.P999 = percentiles(l.latencies)
	all, target := used(v.servers()).minus(before), used(v.servers()[:1]).minus(targetBefore)
	r.CPU, r.Target = float64(all.cpu.Microseconds())/n, float64(target.cpu.Microseconds())/n
	r.Switches, r.Faults = float64(all.switches)/n, float64(all.faults)/n
	r.RSS = rss(v.servers())
	return r, nil
}

// load keeps w.qd operations under way.
type load struct {
	dev       *host.Device
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

func newLoad(dev *host.Device, w work, span int64) *load {
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
