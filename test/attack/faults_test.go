package attack

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// faulty carries out one round's plan.
type faulty struct {
	c  *cluster
	l  *load
	wg sync.WaitGroup

	mu sync.Mutex // one move at a time
}

// run carries out the plan and returns when its last fault has ended.
func (f *faulty) run(p plan) {
	start := time.Now()
	for _, x := range p.faults {
		time.Sleep(time.Until(start.Add(x.at)))
		undo := f.apply(x)
		f.wg.Go(func() {
			time.Sleep(x.lasts)
			undo()
		})
	}
	f.wg.Wait()
}

// apply begins a fault and returns what ends it.
func (f *faulty) apply(x fault) (undo func()) {
	c, r := f.c, f.c.rs[x.replica]
	now := c.current()
	t := c.targets[now]
	switch x.kind {
	case killReplica:
		r.kill()
		return r.start
	case killAll:
		f.cutPower()
		return func() {
			for _, r := range c.rs {
				r.start()
			}
		}
	case killTarget:
		t.kill()
		return func() {
			if c.current() == now {
				t.start()
			}
		}
	case failover, move:
		return f.moveTarget(x)
	case stop:
		return f.freeze(r)
	case stopTarget:
		return f.freeze(t)
	case full:
		return f.fill(x.replica)
	case noAuthority:
		return f.hideRecord()
	default:
		return f.disturb(x, t.name)
	}
}

func (f *faulty) freeze(p *process) (undo func()) {
	p.signal(syscall.SIGSTOP)
	return func() { p.signal(syscall.SIGCONT) }
}

// cutPower: what was not flushed when the last one dies may be gone.
func (f *faulty) cutPower() {
	for _, r := range f.c.rs {
		r.kill()
	}
}

// moveTarget starts the target that does not run; the other one is killed, or
// has to find out.
func (f *faulty) moveTarget(x fault) (undo func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.c
	from := c.current()
	to := 1 - from
	if c.targets[to].runs() {
		return func() {} // still there from the last move
	}
	if x.kind == failover {
		c.targets[from].kill()
	} else {
		c.targets[from].retire()
	}
	c.setCurrent(to)
	c.targets[to].start()
	for i, h := range f.l.hosts {
		f.wg.Go(func() {
			time.Sleep(x.follow[i])
			if c.current() == to {
				h.follow(to)
			}
		})
	}
	return func() {}
}

// disturb changes the ways of packets.
func (f *faulty) disturb(x fault, target string) (undo func()) {
	rs := []string{f.c.rs[x.replica].name}
	near := target
	switch x.kind {
	case isolate:
		rs = nil
		for _, r := range f.c.rs {
			rs = append(rs, r.name)
		}
		x.to, x.from = true, true
	case cutHost:
		rs, near = []string{target}, f.l.hosts[x.host].node.name
	case slow, narrow:
		x.to, x.from = true, true
	}
	return func(change, back func(*way)) func() {
		f.ways(x, rs, near, change)
		return func() { f.ways(x, rs, near, back) }
	}(x.changes())
}

// changes are what f does to a way, and the way back.
func (f fault) changes() (change, back func(*way)) {
	switch f.kind {
	case slow:
		return func(w *way) { w.delay = f.delay }, func(w *way) { w.delay = 0 }
	case narrow:
		return func(w *way) { w.rate = f.rate }, func(w *way) { w.rate = 0 }
	}
	return func(w *way) { w.cut = true }, func(w *way) { w.cut = false }
}

func (f *faulty) ways(x fault, far []string, near string, change func(*way)) {
	for _, name := range far {
		if x.to {
			f.c.lan.set(near, name, change)
		}
		if x.from {
			f.c.lan.set(name, near, change)
		}
	}
}

// fill leaves a replica's file system no room.
func (f *faulty) fill(i int) (undo func()) {
	r := f.c.rs[i]
	r.excuse()
	file, err := os.CreateTemp(filepath.Join(f.c.dir, r.name), "ballast") // of this fault: another may overlap it
	if err != nil {
		f.l.rec.fail(err)
		return func() {}
	}
	size := int64(0)
	for step := int64(64 << 20); step >= 4096; {
		if err := unix.Fallocate(int(file.Fd()), 0, size, step); err != nil {
			step /= 2
		} else {
			size += step
		}
	}
	return func() {
		if err := errors.Join(file.Close(), os.Remove(file.Name())); err != nil {
			f.l.rec.fail(err)
		}
		r.start()
	}
}

// hideRecord makes the authority fail, between two of its changes.
func (f *faulty) hideRecord() (undo func()) {
	path := f.c.record.Path
	lock, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err == nil {
		err = unix.Flock(int(lock.Fd()), unix.LOCK_EX)
	}
	if err == nil {
		err = errors.Join(os.Rename(path, path+".hidden"), lock.Close())
	}
	if errors.Is(err, os.ErrNotExist) {
		return func() {} // hidden already
	}
	if err != nil {
		f.l.rec.fail(err)
		return func() {}
	}
	return func() {
		if err := os.Rename(path+".hidden", path); err != nil {
			f.l.rec.fail(err)
		}
	}
}
