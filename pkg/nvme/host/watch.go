package host

import (
	"context"
	"fmt"
	"time"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/block/ride"
	"github.com/cask-storage/cask/pkg/nvme"
)

// Watch watches an association until it fails or ctx is done, and returns why
// it ended.
func (a *association) Watch(ctx context.Context, adopt func(ride.Shape) error) error {
	// A keep-alive every 0.3 KATO, answered within 0.5 KATO (seen
	// at the second tick): a silent target is given up before KATO has passed.
	tick := time.NewTicker(a.cfg.KATO * 3 / 10)
	defer tick.Stop()
	beat := &heartbeat{limit: a.cfg.KATO / 2, answered: make(chan struct{}, 1)}
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
			err = a.onEvent(ctx, result, adopt)
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
func (a *association) onEvent(ctx context.Context, result uint64, adopt func(ride.Shape) error) error {
	if err := a.clearEvent(ctx, result); err != nil {
		return err
	}
	a.requestEvent()
	s, err := a.identifyNamespace(ctx)
	if err != nil {
		return err
	}
	return adopt(s)
}
