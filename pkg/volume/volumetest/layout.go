package volumetest

import (
	"fmt"
	"slices"

	"github.com/cask-storage/cask/pkg/quorum"
	"github.com/cask-storage/cask/pkg/volume"
)

// systemOf is the quorum system of a record.
func (w *world) systemOf(r volume.Record) (quorum.System, error) {
	c := quorum.Config{Level: r.Level, Voters: r.Voters, Zones: r.Zones, Zone: r.Zone}
	if c.Level == "" && w.layout == nil {
		c.Level = w.opt.Level
	} else if c.Level == "" {
		c.Level = quorum.Quorum // no target has begun yet
	}
	return c.System()
}

func (w *world) zone(i int) string { return fmt.Sprintf("z%d", i) }

func (w *world) setUpLayout() {
	if w.opt.Spares == 0 && w.opt.Zones == 0 {
		return
	}
	w.layout = &volume.Layout{Level: w.opt.Level, Replicas: slices.Clone(w.auth.record.Voters)}
	if w.favours("deny", 0.5) {
		w.auth.leaving = map[quorum.ReplicaID]bool{}
		w.after(w.between(0, 500*ms), w.operate)
	}
	if w.opt.Zones > 0 {
		w.layout.Zones = map[quorum.ReplicaID]string{}
		for i, n := range w.replicas {
			w.layout.Zones[n.id] = w.zone(i % w.opt.Zones)
		}
	}
}

// layout is what the target was told of how the volume is to be.
func (t *target) layout() *volume.Layout {
	if t.w.layout == nil {
		return nil
	}
	l := *t.w.layout
	l.Zone = t.zone
	return &l
}

// changeLayouts goes on until the faults end.
func (w *world) changeLayouts() {
	if w.healing {
		return
	}
	w.changeLayout()
	w.after(w.between(0, 3000*ms), w.changeLayouts)
}

// changeLayout asks for another level, or other voters, or both.
func (w *world) changeLayout() {
	l := *w.layout
	if w.chance(0.5) {
		levels := []quorum.Level{quorum.One, quorum.Quorum, quorum.Quorum, quorum.All}
		if w.opt.Zones > 0 {
			levels = append(levels, quorum.Local, quorum.Each, quorum.Local, quorum.Each)
		}
		l.Level = levels[w.rng.IntN(len(levels))]
	}
	if w.chance(0.7) {
		l.Replicas = nil
		for _, i := range w.rng.Perm(len(w.replicas))[:1+w.rng.IntN(len(w.replicas))] {
			l.Replicas = append(l.Replicas, w.replicas[i].id)
		}
	}
	l.MinVoters = w.rng.IntN(2)
	w.setLayout(l)
}

func (w *world) setLayout(l volume.Layout) {
	w.layout = &l
	w.trace("LAYOUT %+v", l)
	for _, t := range w.targets {
		w.after(w.between(0, 500*ms), func() { t.step(func() { t.core.Configure(t.now(), *t.layout()) }) })
	}
}

// operate does what an operator does about the replicas of the layout: those it
// does not name are marked as leaving; what leaves and has no vote is taken down
// with its disk, at once; what is named again is kept if it votes, and is a new
// replica otherwise.
func (w *world) operate() {
	for _, n := range w.replicas {
		wanted := slices.Contains(w.layout.Replicas, n.id)
		votes := slices.Contains(w.auth.record.Voters, n.id)
		switch leaving := w.auth.leaving[n.id]; {
		case !leaving && !wanted:
			w.auth.leaving[n.id] = true
			w.auth.version++ // of the object that the record is in
			w.trace("%s is to leave", n.id)
		case leaving && !votes && !n.taken:
			n.taken = true
			n.wipe()
		case leaving && wanted:
			delete(w.auth.leaving, n.id)
			w.auth.version++
			n.taken = false
			n.start()
			w.trace("%s stays", n.id)
		}
	}
	w.after(w.between(10*ms, 500*ms), w.operate)
}

// asLaidOut reports whether the newest target has brought the record to where
// it is wanted.
func (w *world) asLaidOut() bool {
	if w.layout == nil {
		return true
	}
	r := w.newest().core.Record()
	return r.Level == w.layout.Level && slices.Equal(r.Voters, slices.Sorted(slices.Values(w.layout.Replicas))) &&
		w.newest().core.Status().Change == ""
}

// inUse are the replicas that the newest target follows.
func (w *world) inUse() (ns []*node) {
	for _, s := range w.newest().core.Status().Replicas {
		for _, n := range w.replicas {
			if n.id == s.ID {
				ns = append(ns, n)
			}
		}
	}
	return ns
}
