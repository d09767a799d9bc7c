package ride

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cask-storage/cask/pkg/block"
)

// run makes sessions, one after the other, until ctx is done.
func (d *Device) run(ctx context.Context) {
	defer close(d.done)
	backoff := minBackoff
	for ctx.Err() == nil {
		s, err := d.attempt(ctx)
		if errors.Is(err, ErrReplaced) && d.shape.Load() != nil {
			d.lose(err)
			<-ctx.Done()
			break
		}
		if err != nil {
			d.attemptFailed(ctx, err)
			select {
			case <-time.After(backoff):
			case <-ctx.Done():
			}
			backoff = min(2*backoff, maxBackoff)
			continue
		}
		backoff = minBackoff
		d.publish(s)
		d.withdraw(s, s.Watch(ctx, d.adopt))
	}
	d.finish(block.ErrClosed)
}

// finish fails what is left, and what comes, with err.
func (d *Device) finish(err error) {
	d.mu.Lock()
	if d.finished == nil {
		d.finished = err
	}
	left := append(d.waiting, d.retries...)
	d.waiting, d.retries = nil, nil
	d.mu.Unlock()
	for _, t := range left {
		t.End(err)
	}
}

// lose gives the device up for good.
func (d *Device) lose(err error) {
	d.cfg.Logf("%s: %v", d.cfg.Name, err)
	d.mu.Lock()
	d.state.LastError, d.state.Replaced = err, true
	d.mu.Unlock()
	d.finish(err)
}

// attempt makes one session and checks that it leads to the device that this
// one is of.
func (d *Device) attempt(ctx context.Context) (Session, error) {
	s, shape, err := d.cfg.Connect(ctx, d.target)
	if errors.Is(err, ErrReplaced) && d.shape.Load() == nil {
		if d.target, err = d.resolve(ctx); err == nil {
			s, shape, err = d.cfg.Connect(ctx, d.target)
		}
	}
	if err != nil {
		return nil, err
	}
	if err := d.adopt(shape); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// resolve is the name of the target now, or still, if nobody can say.
func (d *Device) resolve(ctx context.Context) (string, error) {
	name, err := d.cfg.Resolve(ctx)
	if err != nil {
		return d.target, err
	}
	d.cfg.Logf("%s: now %s", d.cfg.Name, name)
	return name, nil
}

// adopt takes over what is known of the device, if it is the same device.
func (d *Device) adopt(s Shape) error {
	bs := s.Geometry.BlockSize
	if s.Split < bs || s.SplitZeroes < uint64(bs) {
		return fmt.Errorf("%s: %s takes transfers of %d and %d bytes, less than a block of %d", d.cfg.Name, s.Name, s.Split, s.SplitZeroes, bs)
	}
	s.Split -= s.Split % bs // tasks are of whole blocks
	s.SplitZeroes -= s.SplitZeroes % uint64(bs)
	if old := d.shape.Load(); old != nil {
		a, b := old.Geometry, s.Geometry
		switch {
		case old.Identity != s.Identity:
			return fmt.Errorf("%s: %s is another device now (%s, was %s); waiting for the right one", d.cfg.Name, s.Name, s.Identity, old.Identity)
		case a.BlockSize != b.BlockSize || s.Split < old.Split || s.SplitZeroes < old.SplitZeroes:
			return fmt.Errorf("%s: %s has blocks of %d and transfers of %d and %d bytes now, had %d, %d and %d; attach it anew",
				d.cfg.Name, s.Name, b.BlockSize, s.Split, s.SplitZeroes, a.BlockSize, old.Split, old.SplitZeroes)
		case a.Size != b.Size:
			d.cfg.Logf("%s: %d bytes, had %d", d.cfg.Name, b.Size, a.Size)
		}
		s.Split, s.SplitZeroes = old.Split, old.SplitZeroes // tasks of this size are kept for new sessions
	}
	d.shape.Store(&s)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.state.Name = s.Name
	return nil
}

func (d *Device) attemptFailed(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	d.mu.Lock()
	d.state.Attempts++
	d.state.LastError = err
	n := d.state.Attempts
	d.mu.Unlock()
	if n&(n-1) == 0 { // ever more seldom: it may take hours
		d.cfg.Logf("%s: not connected after %d attempts, trying again: %v", d.cfg.Name, n, err)
	}
}

// publish makes the session the one in use and issues what waited for it.
func (d *Device) publish(s Session) {
	d.mu.Lock()
	d.now.Store(&current{s})
	waiting := d.waiting
	d.waiting = nil
	d.state.Connected, d.state.Since, d.state.Attempts = true, time.Now(), 0
	d.state.Sessions++
	first := d.state.Sessions == 1
	d.mu.Unlock()
	d.cfg.Logf("%s: connected", d.cfg.Name)
	if first {
		close(d.first)
	}
	for _, t := range waiting {
		d.issue(t)
	}
}

// withdraw ends the session and keeps its tasks for the next one.
func (d *Device) withdraw(s Session, why error) {
	left := s.Close()
	d.mu.Lock()
	d.now.Store(nil)
	d.waiting = append(append(left, d.waiting...), d.retries...)
	d.retries = nil
	d.state.Connected, d.state.Since, d.state.LastError = false, time.Now(), why
	n := len(d.waiting)
	d.mu.Unlock()
	d.cfg.Logf("%s: disconnected, %d commands kept: %v", d.cfg.Name, n, why)
}
