package host

import (
	"context"
	"fmt"
	"time"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/nvme"
)

// run makes associations, one after the other, until ctx is done.
func (d *Device) run(ctx context.Context) {
	defer close(d.done)
	backoff := minBackoff
	for ctx.Err() == nil {
		a, err := d.attempt(ctx)
		if replaced(err) && d.shape.Load() != nil {
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
		d.publish(a)
		err = d.supervise(ctx, a)
		d.withdraw(a, err)
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
		d.end(t, err)
	}
}

// lose gives the namespace up for good.
func (d *Device) lose(err error) {
	err = fmt.Errorf("%w (%w)", ErrReplaced, err)
	d.cfg.Logf("nvme host: %s at %s: %v", d.cfg.SubsystemNQN, d.cfg.Addr, err)
	d.mu.Lock()
	d.state.LastError, d.state.Replaced = err, true
	d.mu.Unlock()
	d.finish(err)
}

// attempt makes one association and checks that it leads to the namespace the
// Device is of.
func (d *Device) attempt(ctx context.Context) (*association, error) {
	a, s, err := connect(ctx, &d.cfg)
	if replaced(err) && d.shape.Load() == nil {
		name, err := Resolve(ctx, d.cfg)
		if err != nil {
			return nil, err
		}
		d.cfg.Logf("nvme host: %s at %s: now %s", d.cfg.SubsystemNQN, d.cfg.Addr, name)
		d.cfg.SubsystemNQN = name
		a, s, err = connect(ctx, &d.cfg)
		if err != nil {
			return nil, err
		}
	}
	if err != nil {
		return nil, err
	}
	if err := d.adopt(s); err != nil {
		a.close()
		return nil, err
	}
	return a, nil
}

// adopt takes over a namespace's shape, if it is the same namespace.
func (d *Device) adopt(s *shape) error {
	old := d.shape.Load()
	if old == nil {
		d.shape.Store(s)
		return nil
	}
	switch {
	case old.id != s.id:
		return fmt.Errorf("namespace %d of %s is another one now (UUID %x, was %x); waiting for the right one", d.cfg.NSID, d.cfg.SubsystemNQN, s.id.UUID, old.id.UUID)
	case old.geo.BlockSize != s.geo.BlockSize || s.split < old.split:
		return fmt.Errorf("namespace %d of %s has blocks of %d and transfers of %d bytes now, had %d and %d; attach it anew",
			d.cfg.NSID, d.cfg.SubsystemNQN, s.geo.BlockSize, s.split, old.geo.BlockSize, old.split)
	}
	s.split = old.split // commands of this size are kept for new associations
	d.shape.Store(s)
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
		d.cfg.Logf("nvme host: %s at %s: not connected after %d attempts, trying again: %v", d.cfg.SubsystemNQN, d.cfg.Addr, n, err)
	}
}

// publish makes the association the one in use and issues what waited for it.
func (d *Device) publish(a *association) {
	d.mu.Lock()
	d.assoc.Store(a)
	waiting := d.waiting
	d.waiting = nil
	d.state.Connected, d.state.Since, d.state.Attempts = true, time.Now(), 0
	d.state.Associations++
	d.state.Subsystem = d.cfg.SubsystemNQN
	first := d.state.Associations == 1
	d.mu.Unlock()
	d.cfg.Logf("nvme host: %s at %s: connected, %d I/O queues of %d", d.cfg.SubsystemNQN, d.cfg.Addr, len(a.io), len(a.io[0].table))
	if first {
		close(d.first)
	}
	for _, t := range waiting {
		d.issue(t)
	}
}

// withdraw ends the association and keeps its tasks for the next one.
func (d *Device) withdraw(a *association, why error) {
	left := a.close()
	d.mu.Lock()
	d.assoc.Store(nil)
	d.waiting = append(append(left, d.waiting...), d.retries...)
	d.retries = nil
	d.state.Connected, d.state.Since, d.state.LastError = false, time.Now(), why
	n := len(d.waiting)
	d.mu.Unlock()
	d.cfg.Logf("nvme host: %s at %s: disconnected, %d commands kept: %v", d.cfg.SubsystemNQN, d.cfg.Addr, n, why)
}

// supervise watches an association until it fails or ctx is done, and returns
// why it ended.
func (d *Device) supervise(ctx context.Context, a *association) error {
	// A keep-alive every 0.3 KATO, answered within 0.5 KATO (seen
	// at the second tick): a silent target is given up before KATO has passed.
	tick := time.NewTicker(d.cfg.KATO * 3 / 10)
	defer tick.Stop()
	beat := &heartbeat{limit: d.cfg.KATO / 2, answered: make(chan struct{}, 1)}
	var again <-chan time.Time
	for {
		var err error
		select {
		case <-ctx.Done():
			a.shutdown(ctx)
			return block.ErrClosed
		case <-a.failed:
			return a.err
		case now := <-tick.C:
			err = beat.next(now, a)
		case result := <-a.events:
			err = d.onEvent(ctx, a, result)
		case <-d.retry:
			again = time.After(retryDelay)
		case <-again:
			again = nil
			d.reissue()
		}
		if err != nil {
			return err
		}
	}
}

// heartbeat sends keep-alives and misses their answers.
type heartbeat struct {
	limit    time.Duration
	sent     time.Time // of the one not answered; zero when there is none
	answered chan struct{}
}

func (h *heartbeat) next(now time.Time, a *association) error {
	select {
	case <-h.answered:
		h.sent = time.Time{}
	default:
	}
	if !h.sent.IsZero() {
		if silent := now.Sub(h.sent); silent >= h.limit {
			return fmt.Errorf("no answer to a keep-alive for %v", silent.Round(time.Millisecond))
		}
		return nil
	}
	t := &task{}
	t.sqe.SetOpcode(nvme.OpKeepAlive)
	t.done = func(*task, *nvme.Completion) { h.answered <- struct{}{} }
	h.sent = now
	a.admin.submit(t)
	return nil
}

// onEvent looks at the namespace again after a notice.
func (d *Device) onEvent(ctx context.Context, a *association, result uint64) error {
	if err := a.clearEvent(ctx, result); err != nil {
		return err
	}
	a.requestEvent()
	s, err := a.identifyNamespace(ctx)
	if err != nil {
		return err
	}
	if err := d.adopt(s); err != nil {
		return err
	}
	d.cfg.Logf("nvme host: %s: namespace %d has %d bytes", d.cfg.SubsystemNQN, d.cfg.NSID, s.geo.Size)
	return nil
}
