package volumetest

import (
	"fmt"
	"slices"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/volume"
)

// Replicas are compared again and again, whatever happens meanwhile: no
// difference is ever found. Once all has healed one is made, and found.

// verifyAlways asks for verifications.
func (w *world) verifyAlways() {
	if w.planted {
		return
	}
	w.checkVerified()
	w.verify()
	w.after(w.between(200*ms, 4000*ms), w.verifyAlways)
}

// verify asks the newest target for one, and returns what names it.
func (w *world) verify() string {
	w.asked++
	t, request := w.newest(), fmt.Sprint(w.asked)
	t.step(func() { t.core.Verify(t.now(), request) })
	return request
}

// checkVerified looks at what targets' verifications came to.
func (w *world) checkVerified() {
	for _, t := range w.targets {
		v := t.core.Status().Verified
		if len(v.Differ) > 0 {
			w.fail(Identical, "%s finds a difference at operation %d: %+v", t.name, v.Seq, v.Differ)
		}
		if v.Ended != t.verified && v.Failed == "" {
			w.verified++
		}
		t.verified = v.Ended
	}
}

// plant changes a block of one replica behind its back, and has the target find
// it.
func (w *world) plant() {
	ns := w.inUse()
	if len(ns) < 2 {
		return
	}
	n, at := ns[w.rng.IntN(len(ns))], w.rng.Uint64N(w.size.want/blockSize)*blockSize
	e := block.Extent{Off: at, Len: blockSize}
	if slices.ContainsFunc(ns, func(m *node) bool { return m.unreadable().Overlaps(e) }) {
		return
	}
	w.planted = true
	for w.newest().core.Status().Verifying && w.err == nil {
		w.runUntil(w.now + 10*ms)
	}
	w.checkVerified()
	n.store.Plant(at)
	w.trace("%s has %v changed behind its back", n.id, e)
	request := w.verify()
	var v volume.Verification
	for end := w.now + liveness; w.now < end && w.err == nil; {
		w.runUntil(w.now + 10*ms)
		if v = w.newest().core.Status().Verified; v.Request != request {
			continue
		}
		if v.Failed == "" && len(v.Of) == len(ns) {
			break
		}
		request = w.verify() // a connection was lost meanwhile
	}
	found := slices.ContainsFunc(v.Differ, func(d volume.Difference) bool { return d.ID == n.id && d.Extents.Overlaps(e) })
	wrong := slices.ContainsFunc(v.Differ, func(d volume.Difference) bool { return d.ID != n.id && len(ns) > 2 || d.Extents.Bytes() > blockSize })
	if !found || wrong {
		w.fail(Identical, "%v of %s was changed behind its back, and the verification says %+v", e, n.id, v)
	}
}
