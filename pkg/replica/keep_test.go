package replica

import (
	"bytes"
	"testing"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/history"
	"github.com/cask-storage/cask/pkg/replication"
	"github.com/cask-storage/cask/pkg/store"
	"github.com/cask-storage/cask/pkg/store/memstore"
)

// rebuildFrom2 is the Rebuild of a target of epoch 4, whose epoch began after
// operation 2.
var rebuildFrom2 = replication.Message{Type: replication.Rebuild, Epoch: 4, ID: 5, Base: 2, Seq: 9, History: history.History{{Epoch: 1, First: 1}, {Epoch: 4, First: 3}}}

// givenUp is a member with 5 operations of which 2 are common, half rebuilt.
func givenUp(t *testing.T, d *disk) *rig {
	t.Helper()
	r := member(t, d, 5)
	r.must(1, replication.State, hello(4))
	r.must(1, replication.Extents, rebuildFrom2)
	r.must(1, replication.Applied, apply(4, 10, 77))
	r.must(1, replication.Done, replication.Message{Type: replication.Copy, Epoch: 4, ID: 6, Extent: block.Extent{Off: 4096 * 4, Len: 4096}})
	r.must(1, replication.Done, replication.Message{Type: replication.Copied, Epoch: 4, ID: 7, Extent: block.Extent{Len: 4096}})
	return r
}

// back has the target of epoch e ask until the replica is what it was.
func (r *rig) back(e history.Epoch) replication.Message {
	r.t.Helper()
	for range 1000 {
		got, _ := r.say(1, replication.Message{Type: replication.Return, Epoch: e, ID: 8})
		if len(got) != 1 || got[0].Type != replication.Done || got[0].Code != replication.OK {
			return got[0]
		}
	}
	r.t.Fatal("the return does not end")
	return replication.Message{}
}

// wantPrefix wants what member makes of n operations.
func (r *rig) wantPrefix(n history.Seq) {
	r.t.Helper()
	p := make([]byte, 4096)
	for s := history.Seq(1); s < 12; s++ {
		want := byte(s)
		if s > n {
			want = 0
		}
		if err := r.store.ReadAt(p, 4096*uint64(s)); err != nil || !bytes.Equal(p, bytes.Repeat([]byte{want}, 4096)) {
			r.t.Errorf("operation %d reads %d, want %d: %v", s, p[0], want, err)
		}
	}
	if mark := r.store.Info().Mark; mark != n {
		r.t.Errorf("the mark is %d, want %d", mark, n)
	}
}

func TestReturn(t *testing.T) {
	d := &disk{}
	r := givenUp(t, d)
	for range 2 { // killed in between or not
		st := r.must(1, replication.State, hello(6))
		if st.Flags != replication.FlagKept || st.Base != 5 || st.Epoch != 1 || st.Extent.Len == 0 {
			t.Fatalf("half rebuilt it says %v, kept %d of epoch %d", &st, st.Base, st.Epoch)
		}
		r = newRig(t, d)
	}
	r.must(1, replication.State, hello(6))
	st := r.back(6)
	if replication.Membership(st.Kind) != replication.Member || st.Seq != 5 || st.Promised != 6 || st.Flags != 0 || st.History.Last() != 1 {
		t.Fatalf("it went back to %v", &st)
	}
	r.wantPrefix(5)
	if _, ok := d.s.Kept(); ok {
		t.Error("what it went back to is still kept")
	}
	r = newRig(t, d)
	r.must(2, replication.Refused, hello(5))
	r.must(2, replication.State, hello(6))
	r.wantPrefix(5)
}

// The size is that of what was kept, whether the rebuild made the volume larger
// or smaller, and nothing is beyond it.
func TestReturnOfSize(t *testing.T) {
	for _, grown := range []uint64{0, 8 * 4096} {
		d := &disk{}
		r := member(t, d, 5)
		was, m := uint64(size), apply(1, 6, 0)
		m.Kind, m.Extent, m.Bufs = uint8(store.Resize), block.Extent{Off: was, Len: grown}, nil
		r.must(1, replication.Applied, m)
		m = apply(1, 7, 7)
		m.Extent.Off = was + grown - 4096
		r.must(1, replication.Applied, m)
		r.must(1, replication.State, hello(4))
		to := rebuildFrom2
		to.Size = was + 4*4096
		r.must(1, replication.Extents, to)
		m.Type, m.Epoch, m.Extent.Off = replication.Copy, 4, to.Size-4096
		r.must(1, replication.Done, m)
		st := r.back(4)
		if st.Seq != 7 || st.Size != was+grown {
			t.Fatalf("it went back to %v, size %d, want %d", &st, st.Size, was+grown)
		}
		if r = newRig(t, d); r.store.Info().Size != was+grown {
			t.Errorf("a restart makes the size %d, want %d", r.store.Info().Size, was+grown)
		}
		p := make([]byte, 4096)
		for off := was - 4096; off < was+grown; off += 4096 {
			want := byte(0)
			if off == was+grown-4096 {
				want = 7
			}
			if err := r.store.ReadAt(p, off); err != nil || p[0] != want {
				t.Errorf("grown by %d, at %d it reads %d, want %d: %v", grown, off, p[0], want, err)
			}
		}
		r.must(1, replication.State, hello(5))
		r.must(1, replication.Done, replication.Message{Type: replication.Adopt, Epoch: 5, ID: 1, History: history.History{{Epoch: 1, First: 1}, {Epoch: 5, First: 8}}})
		again := apply(5, 8, 0)
		again.Kind, again.Extent, again.Bufs = uint8(store.Resize), block.Extent{Off: was + grown, Len: 8 * 4096}, nil
		r.must(1, replication.Applied, again)
		if err := r.store.ReadAt(p, to.Size-4096); grown == 0 && (err != nil || p[0] != 0) {
			t.Errorf("larger again, it reads %d of what was beyond: %v", p[0], err)
		}
	}
}

// A return that is broken off by another rebuild leaves nothing of the first.
func TestReturnBrokenOff(t *testing.T) {
	for name, between := range map[string]func(*rig, *disk) *rig{
		"killed":    func(_ *rig, d *disk) *rig { return newRig(t, d) },
		"connected": func(r *rig, _ *disk) *rig { return r },
	} {
		d := &disk{}
		r := givenUp(t, d)
		r.must(1, replication.State, hello(6))
		r.must(1, replication.Done, replication.Message{Type: replication.Return, Epoch: 6, ID: 8})
		r = between(r, d)
		st := r.must(2, replication.State, hello(7))
		if st.Extent.Len != 0 || st.Seq != 2 || st.Flags&replication.FlagKept == 0 {
			t.Fatalf("%s: broken off it says %v", name, &st)
		}
		again := rebuildFrom2
		again.Epoch, again.History = 7, history.History{{Epoch: 1, First: 1}, {Epoch: 7, First: 2}}
		again.Base = 1
		r.must(2, replication.Extents, again)
		r.must(2, replication.Done, replication.Message{Type: replication.Copy, Epoch: 7, ID: 9, Extent: block.Extent{Off: 4096, Len: 4096}})
	}
}

// What is kept is that of the first rebuild, until one ends; what it had lost
// memory before is said.
func TestKeptUntilBegin(t *testing.T) {
	d := &disk{}
	givenUp(t, d)
	r := newRig(t, d)
	r.must(1, replication.State, hello(6))
	again := rebuildFrom2
	again.Epoch, again.Base, again.History = 6, 1, history.History{{Epoch: 1, First: 1}, {Epoch: 6, First: 2}}
	r.must(1, replication.Extents, again)
	if k, _ := d.s.Kept(); k.Mark != 5 {
		t.Errorf("the second rebuild keeps %d", k.Mark)
	}
	r.must(1, replication.Done, replication.Message{Type: replication.Begin, Epoch: 6, Seq: 9, History: again.History})
	if k, ok := d.s.Kept(); ok {
		t.Errorf("rebuilt, it keeps %d", k.Mark)
	}
	if got, ok := r.say(1, replication.Message{Type: replication.Return, Epoch: 6, ID: 8}); ok {
		t.Errorf("a member goes back: %v", got)
	}
	r = newRig(t, d) // killed: it may miss what it acknowledged
	r.must(1, replication.State, hello(7))
	again.Epoch, again.Base, again.History = 7, 9, append(again.History, history.Entry{Epoch: 7, First: 10})
	r.must(1, replication.Extents, again)
	if st := r.must(2, replication.State, hello(7)); st.Flags != replication.FlagKept|replication.FlagSuspect || st.Base != 9 || st.Epoch != 6 {
		t.Errorf("suspect, it says %v, kept %d of epoch %d", &st, st.Base, st.Epoch)
	}
}

// A rebuild that has no space drops what is kept and goes on; a return does not.
func TestNoSpaceForKept(t *testing.T) {
	d := &disk{}
	r := givenUp(t, d)
	d.s.Inject(memstore.Apply, 1, store.ErrNoSpace)
	r.must(1, replication.State, apply(4, 11, 1))
	d.s = d.s.Clone()
	r = newRig(t, d)
	if st := r.must(1, replication.State, hello(6)); st.Flags&replication.FlagKept != 0 || replication.Membership(st.Kind) != replication.Rebuilding {
		t.Errorf("without space it still says %v", &st)
	}
	d = &disk{}
	r = givenUp(t, d)
	r.must(1, replication.State, hello(6))
	r.must(1, replication.Done, replication.Message{Type: replication.Return, Epoch: 6, ID: 8})
	d.s.Inject(memstore.Apply, 1, store.ErrNoSpace)
	if st := r.back(6); st.Code != replication.ErrNoSpace {
		t.Errorf("a return without space: %v", &st)
	}
	d.s = d.s.Clone()
	r = newRig(t, d)
	r.must(1, replication.State, hello(6))
	r.back(6)
	r.wantPrefix(5)
}

// What of the kept state cannot be read is lost, and said to be.
func TestReturnOfRot(t *testing.T) {
	d := &disk{}
	r := member(t, d, 5)
	d.s.Rot(4 * 4096)
	r.must(1, replication.State, hello(4))
	r.must(1, replication.Extents, rebuildFrom2)
	r.must(1, replication.Done, replication.Message{Type: replication.Copy, Epoch: 4, ID: 6, Extent: block.Extent{Off: 4096 * 3, Len: 2 * 4096}})
	r.back(4)
	bad := block.Extent{Off: 4 * 4096, Len: 4096}
	if lost := r.Lost(); len(lost) != 1 || lost[0] != bad || !r.Damage().Overlaps(bad) {
		t.Errorf("lost %v, damaged %v, want %v", lost, r.Damage(), bad)
	}
	p := make([]byte, 4096)
	if err := r.store.ReadAt(p, 3*4096); err != nil || p[0] != 3 {
		t.Errorf("beside it %d is read: %v", p[0], err)
	}
	if r = newRig(t, d); len(r.Lost()) != 1 {
		t.Error("a restart forgets what is lost")
	}
}
