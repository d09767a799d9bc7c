package target

import (
	"context"
	"errors"
	"maps"

	"github.com/cask-storage/cask/pkg/quorum"
	"github.com/cask-storage/cask/pkg/volume"
)

// Settings are what may change while a target runs.
type Settings struct {
	Layout volume.Layout
	Size   uint64 // bytes that the volume is to have; 0: what it has
	// Addresses are host:port of all replicas, also of those that are about to
	// leave: they vote until the record says otherwise.
	Addresses map[quorum.ReplicaID]string
	// Verify names a comparison of the replicas that is asked for; empty: none is.
	Verify string
}

// Equal reports whether two settings are the same.
func (s Settings) Equal(o Settings) bool {
	return s.Size == o.Size && s.Verify == o.Verify && s.Layout.Equal(o.Layout) && maps.Equal(s.Addresses, o.Addresses)
}

// Configure has the target bring the volume to new settings, step by step. The
// target must have been made with a Layout.
func (t *Target) Configure(s Settings) {
	t.post(func() {
		t.core.Configure(t.now(), s.Layout)
		if s.Size != 0 {
			t.core.Resize(t.now(), s.Size)
		}
		t.perform()
		t.connect(s.Addresses)
		t.core.Verify(t.now(), s.Verify)
	})
}

// connect makes the links those of the addresses.
func (t *Target) connect(addresses map[quorum.ReplicaID]string) {
	for id, l := range t.links {
		if addresses[id] != l.addr {
			l.stop()
			delete(t.links, id)
		}
	}
	for id, addr := range addresses {
		if t.links[id] != nil {
			continue
		}
		l := newLink(t, id, addr)
		ctx, stop := context.WithCancel(t.ctx)
		l.stop = stop
		t.links[id] = l
		t.dials.Go(func() { l.run(ctx) }) // ends with ctx, which is stopped above or ends with Run's
	}
}

// refuse sees to it that no later target goes by a record that this one knows
// to be wrong: it is still this target's, and yet replicas have promised a
// higher epoch, or it was changed by hand.
func (t *Target) refuse(ctx context.Context) {
	if t.stopErr == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if errors.Is(t.stopErr, volume.ErrSuperseded) {
		old, err := t.cfg.Authority.Load(ctx)
		if err != nil {
			t.cfg.Logf("whether the record of volume %s is to be refused is not known: %v", t.cfg.Volume.Volume, err)
			return
		}
		next, wrong := old.Refuse(t.cfg.Volume.Instance, t.stopErr)
		if !wrong {
			return
		}
		if err := t.cfg.Authority.CompareAndSwap(ctx, old, next); err != nil {
			t.cfg.Logf("the record of volume %s could not be marked as refused: %v", t.cfg.Volume.Volume, err)
			return
		}
		t.stopErr = next.Check()
	}
	if errors.Is(t.stopErr, volume.ErrRecord) && t.cfg.Reporter != nil {
		s := Status{Epoch: uint64(t.core.Record().Epoch), Reason: ReasonRecordRefused, Message: t.stopErr.Error()}
		if err := t.cfg.Reporter.Report(ctx, s); err != nil {
			t.cfg.Logf("report status: %v", err)
		}
	}
}

// exposureWindow is how long a Status remembers the exposure, so that it
// changes with the load and not with each write.
const exposureWindow = 10e9 // ns

// exposure is the highest order of magnitude of volume.Status.Exposed in this
// window and the one before.
type exposure struct {
	began     volume.Time
	last, now uint64
}

func (e *exposure) observe(now volume.Time, n uint64) uint64 {
	if now-e.began > exposureWindow {
		e.began, e.last, e.now = now, e.now, 0
	}
	magnitude := uint64(0)
	if n > 0 {
		for magnitude = 1; magnitude < n; {
			magnitude *= 10
		}
	}
	e.now = max(e.now, magnitude)
	return max(e.last, e.now)
}
