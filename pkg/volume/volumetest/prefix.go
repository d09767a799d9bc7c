package volumetest

import (
	"encoding/binary"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/history"
	"github.com/cask-storage/cask/pkg/replication"
	"github.com/cask-storage/cask/pkg/store"
)

// A replica that calls itself a member holds exactly the result of the
// operations that its history names. The operations are noted as targets send
// them, so this depends on nothing that the replica's code remembers.

// number is what an operation is called.
type number struct {
	epoch history.Epoch
	seq   history.Seq
}

// numbered is what it does.
type numbered struct {
	block, n int
	from, to uint64 // sizes of a Resize
	value    uint64
	kind     store.Kind
	base     history.Seq
	name     string
}

func numberedOf(m *replication.Message) numbered {
	o := m.Op()
	n := numbered{kind: o.Kind, base: o.Base, name: o.Name, block: int(o.Extent.Off) / blockSize, n: int(o.Extent.Len) / blockSize}
	if o.Kind == store.Write {
		n.value = binary.LittleEndian.Uint64(o.Data)
	}
	if o.Kind == store.Resize {
		n.from, n.to, n.n = o.Extent.Off, o.Extent.End(), 0
	}
	return n
}

// note learns from a message of a target's.
func (w *world) note(m *replication.Message) {
	switch m.Type {
	case replication.Adopt, replication.Begin:
		if len(m.History) == 0 {
			return
		}
		last := m.History[len(m.History)-1]
		if first, ok := w.starts[last.Epoch]; ok && first != last.First {
			w.fail(Prefix, "epoch %d begins at %d and at %d", last.Epoch, first, last.First)
		}
		w.starts[last.Epoch] = last.First
	case replication.Apply:
		if first, ok := w.starts[m.Epoch]; !ok || m.Seq < first {
			return
		}
		key, op := number{m.Epoch, m.Seq}, numberedOf(m)
		if was, ok := w.numbered[key]; ok && was != op {
			w.fail(Prefix, "operation %d of epoch %d is two: %+v and %+v", m.Seq, m.Epoch, was, op)
		}
		w.numbered[key] = op
	}
}

// shadow is what a replica should hold.
type shadow struct {
	number
	content content
	size    uint64 // 0: as at first
	snaps   []shadowSnap
}

// content is the value in each block.
type content [blocks]uint64

func decode(buf []byte) (c content) {
	for b := range c {
		c[b] = binary.LittleEndian.Uint64(buf[b*blockSize:])
	}
	return c
}

// apply is what operation o, as number seq, does.
func (s *shadow) apply(o numbered) {
	for i := range o.n {
		s.content[o.block+i] = o.value
	}
	s.applySnapshot(o)
	s.size = max(s.size, o.to)
}

func (w *world) watchPrefixes() {
	var next func()
	next = func() {
		for _, n := range w.replicas {
			w.checkPrefix(n)
		}
		w.after(w.between(100*ms, 500*ms), next)
	}
	w.after(0, next)
}

func (w *world) checkPrefix(n *node) {
	if !n.up || n.store == nil || n.failing || w.planted {
		return
	}
	d := n.core.Describe()
	if d.Promised < n.promised {
		w.fail(Protocol, "%s had promised epoch %d and says %d", n.id, n.promised, d.Promised)
	}
	n.promised = d.Promised
	if replication.Membership(d.Kind) != replication.Member {
		return
	}
	s := &n.shadow
	if s.seq > d.Seq || d.History.EpochOf(s.seq) != s.epoch {
		*s = shadow{}
	}
	for s.seq < d.Seq {
		s.seq++
		s.epoch = d.History.EpochOf(s.seq)
		op, ok := w.numbered[s.number]
		if !ok {
			w.fail(Prefix, "%s has operation %d of epoch %d, which nobody numbered", n.id, s.seq, s.epoch)
			return
		}
		if op.from != 0 && s.size == 0 {
			w.noteBase(n, op.from)
		}
		s.apply(op)
	}
	w.checkSize(n)
	got, lost := n.content(), n.core.Lost()
	for b, want := range s.content {
		if lost.Overlaps(block.Extent{Off: uint64(b) * blockSize, Len: blockSize}) { //nolint:gosec // not negative
			continue
		}
		if got[b] != want {
			w.fail(Prefix, "%s at operation %d of epoch %d has %d in block %d, not %d", n.id, s.seq, s.epoch, got[b], b, want)
			return
		}
	}
	w.checkSnapshots(n)
}
