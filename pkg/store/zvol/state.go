package zvol

import (
	"fmt"
	"slices"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/history"
	"github.com/cask-storage/cask/pkg/store"
)

// state is all of a volume but its content: what the records up to some place in
// the log lead to.
type state struct {
	size  uint64
	mark  history.Seq
	meta  []byte // nil: none was set
	table table
	snaps []snapshot // ascending by Seq; a slice that is never changed in place
	kept  *kept      // nil: nothing
}

// snapshot is one that is there. It is known by the number of its record: another
// history can take one of the same name at the same Seq.
type snapshot struct {
	store.SnapshotInfo
	id   uint64
	slot uint32 // of the table as it was then
}

// kept is the state that is kept. It never changes.
type kept struct {
	store.Kept
	id    uint64
	slot  uint32
	snaps []snapshot
}

// tables reads the table in a slot.
type tables func(slot uint32) (slotTable, error)

// apply brings st to where the record leaves it. It may have to read the table of
// what is kept.
func (st *state) apply(r *record, read tables) error {
	switch r.kind {
	case kind(store.Write), kind(store.Unmap):
		if end := r.extent.End(); end > st.size {
			return fmt.Errorf("record %d is of %v in a volume of %d bytes: %w", r.number, r.extent, st.size, store.ErrFormat)
		}
		seq := r.seq
		if seq == 0 {
			seq = st.mark + 1
		}
		st.table.raise(r.extent, seq)
	case kind(store.Rebase):
		base := min(r.base, r.seq)
		st.table.rebase(base, r.seq)
		st.snaps = without(st.snaps, func(x snapshot) bool { return x.Seq > base })
	case kind(store.Snapshot):
		if r.taken {
			st.snaps = append(slices.Clone(st.snaps), snapshot{
				SnapshotInfo: store.SnapshotInfo{Name: string(r.payload), Seq: r.seq, Size: st.size}, id: r.number, slot: r.slot})
		}
	case kind(store.DropSnapshot):
		st.snaps = without(st.snaps, func(x snapshot) bool { return x.Seq == r.base })
	case kindMeta:
		st.meta = append([]byte{}, r.payload...)
	case kindKeep:
		st.kept = &kept{Kept: store.Kept{Mark: st.mark, Size: st.size, Meta: st.meta}, id: r.number, slot: r.slot, snaps: st.snaps}
		clear(st.table.away)
	case kindReturn:
		return st.comeBack(read)
	case kindDropKept:
		st.kept = nil
	}
	if r.kind < kindPad {
		o := r.op()
		st.resize(o.Resized(st.size))
		if r.seq != 0 || o.Kind == store.Rebase {
			st.mark = r.seq
		}
	}
	return nil
}

func (st *state) resize(size uint64) {
	st.size = size
	st.table.fit(size)
}

// comeBack makes st what is kept, but for the record. What was changed meanwhile was
// written anew: who asks is told.
func (st *state) comeBack(read tables) error {
	k := st.kept
	if k == nil {
		return fmt.Errorf("return to what is not kept: %w", store.ErrFormat)
	}
	was, err := read(k.slot)
	if err != nil {
		return err
	}
	t := was.table
	t.coarsen(st.table.shift)
	st.table.coarsen(t.shift)
	t.fit(uint64(len(st.table.seqs)) << t.shift)
	clear(t.away)
	for i, away := range st.table.away {
		if away {
			t.seqs[i], t.away[i] = max(t.seqs[i], k.Mark+1), true
		}
	}
	st.mark, st.snaps, st.table = k.Mark, k.snaps, t
	st.resize(k.Size)
	return nil
}

// find is the snapshot of operation seq.
func (st *state) find(seq history.Seq) (snapshot, bool) {
	for _, x := range st.snaps {
		if x.Seq == seq {
			return x, true
		}
	}
	return snapshot{}, false
}

// infos describes the snapshots.
func (st *state) infos() (out []store.SnapshotInfo) {
	for _, x := range st.snaps {
		out = append(out, x.SnapshotInfo)
	}
	return out
}

// freeSlot is a slot that holds no table that is needed.
func (st *state) freeSlot() uint32 {
	used := map[uint32]bool{}
	for _, x := range st.snaps {
		used[x.slot] = true
	}
	if st.kept != nil {
		used[st.kept.slot] = true
		for _, x := range st.kept.snaps {
			used[x.slot] = true
		}
	}
	slot := uint32(0)
	for used[slot] {
		slot++
	}
	return slot
}

// changedSinceKeep lists what is not as what is kept, as far as is known.
func (st *state) changedSinceKeep() []block.Extent {
	return st.table.extents(st.size, func(i int) bool { return st.table.away[i] })
}

// without is a copy of xs but for those that drop names.
func without(xs []snapshot, drop func(snapshot) bool) []snapshot {
	return slices.DeleteFunc(slices.Clone(xs), drop)
}
