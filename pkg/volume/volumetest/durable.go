package volumetest

import (
	"math"
	"slices"

	"github.com/cask-storage/cask/pkg/volume"
)

// A write that was acknowledged and then flushed, or done with FUA, is never
// undone: no read that begins later returns a value that was overwritten
// before that write began. Power cuts or not: a session in which a write was
// acknowledged that is lost afterwards gets no flush answered any more.

// durable is a write and when it became so.
type durable struct{ call, at volume.Time }

func (w *world) checkDurable() {
	writes := make([][]op, blocks)
	floors := make([][]durable, blocks)
	for _, o := range w.ops {
		if !o.write || len(o.calls) == 0 {
			continue
		}
		writes[o.block] = append(writes[o.block], o)
		if at := w.durableAt(o); at != 0 {
			floors[o.block] = append(floors[o.block], durable{o.calls[len(o.calls)-1], at})
		}
	}
	for _, f := range floors {
		slices.SortFunc(f, func(a, b durable) int { return int(a.at - b.at) })
		for i := 1; i < len(f); i++ {
			f[i].call = max(f[i].call, f[i-1].call)
		}
	}
	for _, o := range w.ops {
		if !o.write && o.ret != 0 {
			w.checkRead(o, writes[o.block], floors[o.block])
		}
	}
}

// durableAt is when o was known to be on stable storage, 0 if never: at a flush
// of the same session. Those of another say nothing: it may have begun after a
// loss.
func (w *world) durableAt(o op) volume.Time {
	if o.ret == 0 || o.fua {
		return o.ret
	}
	best := volume.Time(0)
	for _, f := range w.flushed {
		if f.call >= o.ret && f.session == o.session && (best == 0 || f.ret < best) {
			best = f.ret
		}
	}
	return best
}

func (w *world) checkRead(r op, writes []op, floors []durable) {
	n, _ := slices.BinarySearchFunc(floors, r.calls[0], func(d durable, t volume.Time) int { return int(d.at - t) })
	if n == 0 {
		return
	}
	floor := floors[n-1].call
	for _, o := range writes {
		ret := o.ret
		if ret == 0 {
			ret = math.MaxInt64
		}
		if o.value == r.value && ret >= floor && o.calls[0] <= r.ret {
			return
		}
	}
	w.fail(Durable, "block %d read %d, which a flushed write had replaced: %+v", r.block, r.value, r)
}
