package volumetest

import (
	"errors"
	"slices"

	"github.com/cask-storage/cask/pkg/quorum"
	"github.com/cask-storage/cask/pkg/volume"
)

var errAway = errors.New("the authority is away")

// authority keeps the record, as an API server does: a swap reads, compares,
// and stores a little later unless something was stored in between. Calls may
// fail before, after, or without having been carried out.
type authority struct {
	record  volume.Record
	coming  []volume.Record // what swaps under way may make of it
	version int
	down    bool
	slow    bool
	leaving map[quorum.ReplicaID]bool // get no vote any more; nil: replicas come and go with their data
}

// call carries out do after a while; slow calls take up to seconds.
func (w *world) call(do func()) {
	d := w.between(ms, 20*ms)
	if w.auth.slow {
		d = w.between(ms, 4000*ms)
	}
	w.after(d, do)
}

func (w *world) away(t *target) bool { return w.auth.down || t.noAPI }

func (w *world) load(t *target) {
	w.call(func() {
		rec, err := w.auth.record, error(nil)
		if w.away(t) {
			rec, err = volume.Record{}, errAway
		}
		w.call(func() { t.step(func() { t.core.Loaded(t.now(), rec, err) }) })
	})
}

func (w *world) swap(t *target, a volume.Action) {
	answered, late := false, t.late
	if t.late = nil; late == nil {
		late = func(do func()) { w.after(w.between(0, 20*ms), do) }
	}
	answer := func(err error) {
		if answered {
			return
		}
		answered = true
		late(func() {
			w.trace("%s swapped: %v", t.name, err)
			t.step(func() { t.core.Swapped(t.now(), err) })
		})
	}
	w.call(func() {
		switch {
		case w.away(t):
			answer(errAway)
			return
		case !w.auth.record.Equal(a.Old):
			answer(volume.ErrConflict)
			return
		case w.denied(a.Old, a.Next):
			answer(volume.ErrDenied)
			return
		}
		version := w.auth.version
		w.auth.coming = append(w.auth.coming, a.Next)
		if !w.healing && w.chance(0.04) {
			answer(errAway) // and yet it is carried out
		}
		w.call(func() {
			err := w.store(version, a.Next)
			if err == nil && t.doubtful {
				err = errAway
			}
			t.doubtful = false
			answer(err)
		})
	})
}

// denied reports whether a swap would give a leaving replica a vote.
func (w *world) denied(old, next volume.Record) bool {
	return slices.ContainsFunc(next.Voters, func(id quorum.ReplicaID) bool {
		return w.auth.leaving[id] && !slices.Contains(old.Voters, id)
	})
}

// store replaces the record unless something was stored since version; it may
// succeed and say that it failed.
func (w *world) store(version int, next volume.Record) error {
	w.auth.coming = slices.DeleteFunc(w.auth.coming, next.Equal)
	if w.auth.version != version {
		return volume.ErrConflict
	}
	if next.Epoch == w.auth.record.Epoch && next.Lost == w.auth.record.Lost && !w.fewLostOf(nil, next) {
		return errAway // the contract says nothing of a quorum that has failed already
	}
	changed := next.Epoch == w.auth.record.Epoch
	w.auth.version++
	w.auth.record = next
	w.trace("RECORD %+v", next)
	if changed {
		w.ambushRecord()
	}
	if !w.healing && w.chance(0.04) {
		return errAway
	}
	return nil
}
