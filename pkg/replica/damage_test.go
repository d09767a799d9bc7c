package replica

import (
	"bytes"
	"encoding/json"
	"math/rand"
	"slices"
	"testing"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/history"
	"github.com/cask-storage/cask/pkg/replication"
	"github.com/cask-storage/cask/pkg/store"
)

// rotten is a member whose block at 4096, operation 1, has rotted.
func rotten(t *testing.T) (*disk, *rig) {
	t.Helper()
	d := &disk{}
	r := member(t, d, 3)
	if !d.s.Rot(4096) {
		t.Fatal("nothing to rot")
	}
	return d, r
}

func read(off, n uint64) replication.Message {
	return replication.Message{Type: replication.Read, Epoch: 1, ID: 7, Extent: block.Extent{Off: off, Len: n}}
}

// wantDamage reads off and wants a medium error, with the damage told before it.
func (r *rig) wantDamage(off, n uint64, want block.Extent) {
	r.t.Helper()
	got, ok := r.say(1, read(off, n))
	if !ok || len(got) != 2 || got[0].Type != replication.Damage || got[1].Code != replication.ErrMedium {
		r.t.Fatalf("read of %d+%d: %v", off, n, got)
	}
	if es := got[0].Extents; len(es) != 1 || es[0] != want {
		r.t.Fatalf("read of %d+%d: damage at %v, want %v", off, n, es, want)
	}
}

func (r *rig) wantContent(off, n uint64, b byte) {
	r.t.Helper()
	if m := r.must(1, replication.Data, read(off, n)); m.Code != replication.OK || !bytes.Equal(m.Bufs[0], bytes.Repeat([]byte{b}, int(n))) {
		r.t.Fatalf("read of %d+%d: %v", off, n, m.Code)
	}
}

func sector(off uint64, b byte) replication.Message {
	m := apply(1, 4, b)
	m.Extent, m.Bufs = block.Extent{Off: off, Len: 512}, [][]byte{bytes.Repeat([]byte{b}, 512)}
	return m
}

func copyMessage(off, n uint64, b byte) replication.Message {
	return replication.Message{Type: replication.Copy, Epoch: 1, ID: 9, Extent: block.Extent{Off: off, Len: n},
		Bufs: [][]byte{bytes.Repeat([]byte{b}, int(n))}}
}

func TestDamageIsToldAndRepaired(t *testing.T) {
	_, r := rotten(t)
	r.wantDamage(4608, 512, block.Extent{Off: 4096, Len: 4096})
	r.must(1, replication.Done, copyMessage(4096, 4096, 1))
	r.wantContent(4096, 4096, 1)
	if es := r.Damage(); len(es) > 0 {
		t.Errorf("still damaged: %v", es)
	}
}

// TestRotUnderPartialWrite: the operation is done, the rest of the block is
// never served, also not by the next process, until it is written.
func TestRotUnderPartialWrite(t *testing.T) {
	d, r := rotten(t)
	got, ok := r.say(1, sector(4096+1024, 9))
	if !ok || len(got) != 2 || got[0].Type != replication.Damage || len(got[0].Extents) != 2 || got[1].Seq != 4 {
		t.Fatalf("a write to a part of a rotten block: %v", got)
	}
	r.wantContent(4096+1024, 512, 9)
	r.wantDamage(4096, 512, block.Extent{Off: 4096, Len: 512})
	r = newRig(t, d) // killed
	r.must(1, replication.State, hello(1))
	r.wantDamage(4096, 1024, block.Extent{Off: 4096, Len: 1024})
	r.must(1, replication.Done, copyMessage(4096, 1024, 1))
	r.wantContent(4096, 1024, 1)
	r.wantDamage(8192-512, 512, block.Extent{Off: 8192 - 512, Len: 512})
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	var rec struct {
		Version int
		Lost    block.Set
	}
	if err := json.Unmarshal(d.s.Meta(), &rec); err != nil {
		t.Fatal(err)
	}
	if want := (block.Extent{Off: 4096 + 1024, Len: 4096 - 1024}); len(rec.Lost) != 1 || rec.Lost[0] != want || rec.Version != 2 {
		t.Errorf("the record says %+v, want version 2 with %v", rec, want)
	}
}

// TestRecordNamesLossFirst: whatever a crash leaves of the overwriting,
// what was lost is not served.
func TestRecordNamesLossFirst(t *testing.T) {
	d, r := rotten(t)
	if got, _ := r.say(1, sector(4096, 9)); len(got) == 0 {
		t.Fatal("no answer")
	}
	crashed := &disk{s: d.s.Crash(rand.New(rand.NewSource(1)))}
	again := newRig(t, crashed)
	again.must(1, replication.State, hello(1))
	got, _ := again.say(1, read(4096+512, 512))
	if len(got) != 2 || got[1].Code != replication.ErrMedium {
		t.Errorf("after a crash the lost part reads as %v", got)
	}
}

// TestLostCopy: a rebuild says what no replica can read.
func TestLostCopy(t *testing.T) {
	r := member(t, &disk{}, 3)
	lost := copyMessage(4096, 512, 0)
	lost.Bufs, lost.Flags = nil, replication.FlagLost
	r.must(1, replication.Done, lost)
	r.wantDamage(4096, 4096, block.Extent{Off: 4096, Len: 512})
	r.wantContent(4096+512, 512, 1)
	got, _ := r.say(1, sector(4096, 5))
	if len(got) != 1 {
		t.Fatal(got)
	}
	r.wantContent(4096, 512, 5)
}

// TestTooMuchIsLost: a replica whose record cannot name all that is lost fails,
// and says why.
func TestTooMuchIsLost(t *testing.T) {
	r := member(t, &disk{}, 3)
	for i := range uint64(maxLost) + 1 {
		m := copyMessage(16384+i*8192, 512, 0)
		m.Bufs, m.Flags = nil, replication.FlagLost
		got, ok := r.say(1, m)
		if wants := i < maxLost; ok != wants || len(got) != 1 {
			t.Fatalf("loss %d: %v", i+1, got)
		}
		if !ok && (got[0].Type != replication.State || got[0].Code != replication.ErrMedium) {
			t.Errorf("it failed with %v", &got[0])
		}
	}
}

// TestRepairInPartLosesLittle: repairs of parts of rotten blocks do not take the
// places among what is lost that writes need; what they do not help is said.
func TestRepairInPartLosesLittle(t *testing.T) {
	d := &disk{}
	r := member(t, d, 2*maxLost)
	helped := 0
	for i := range uint64(2 * maxLost) {
		off := 4096 * (i + 1)
		if !d.s.Rot(off) {
			t.Fatal("nothing to rot")
		}
		if off/4096%2 == 0 {
			continue // not neighbours
		}
		got, ok := r.say(1, copyMessage(off, 512, 1))
		last := got[len(got)-1]
		if !ok || last.Type != replication.Done {
			t.Fatalf("repair of a part of block %d: %v", i, got)
		}
		if last.Code == replication.OK {
			helped++
		}
	}
	if helped != maxLost/2 {
		t.Errorf("%d repairs helped, want %d", helped, maxLost/2)
	}
}

// TestDamageIsToldAtBegin: a target that begins with a replica hears of it.
func TestDamageIsToldAtBegin(t *testing.T) {
	_, r := rotten(t)
	r.Damaged(block.SetOf(block.Extent{Off: 4096, Len: 4096}))
	r.must(2, replication.State, hello(2))
	h := r.rec.History
	got, _ := r.say(2, replication.Message{Type: replication.Begin, Epoch: 2, ID: 3, Seq: 3, History: append(h, history.Entry{Epoch: 2, First: 4})})
	if len(got) != 2 || got[0].Type != replication.Done || got[1].Type != replication.Damage || len(got[1].Extents) != 1 {
		t.Errorf("begin was answered by %v", got)
	}
}

// snapshotOf is operation seq, which takes a snapshot.
func snapshotOf(seq history.Seq, name string) replication.Message {
	return replication.Message{Type: replication.Apply, Epoch: 1, Seq: seq, Kind: uint8(store.Snapshot), Bufs: [][]byte{[]byte(name)}}
}

// TestLostInSnapshot: what is lost when a snapshot is taken is never served from
// it, also not after the head was repaired, nor by the next process; the record
// forgets it with the snapshot.
func TestLostInSnapshot(t *testing.T) {
	d, r := rotten(t)
	if got, ok := r.say(1, sector(4096+1024, 9), snapshotOf(5, "s")); !ok {
		t.Fatal(got)
	}
	r.must(1, replication.Done, copyMessage(4096, 4096, 1))
	r.wantContent(4096, 4096, 1)
	of := func(off, n uint64) replication.Message {
		m := read(off, n)
		m.Base = 5
		return m
	}
	for range 2 {
		if m := r.must(1, replication.Data, of(4096, 512)); m.Code != replication.ErrMedium {
			t.Errorf("what is lost in the snapshot reads as %v", m.Code)
		}
		if m := r.must(1, replication.Data, of(4096+1024, 512)); m.Code != replication.OK || m.Bufs[0][0] != 9 {
			t.Errorf("what was written over it reads as %v", m.Code)
		}
		r = newRig(t, d) // killed
		r.must(1, replication.State, hello(1))
	}
	if want := (block.Set{{Off: 4096, Len: 1024}, {Off: 4096 + 1536, Len: 4096 - 1536}}); !slices.Equal(r.LostIn(5), want) {
		t.Errorf("lost in the snapshot: %v, want %v", r.LostIn(5), want)
	}
	drop := replication.Message{Type: replication.Apply, Epoch: 1, Seq: 6, Base: 5, Kind: uint8(store.DropSnapshot)}
	r.must(1, replication.Applied, drop)
	r = newRig(t, d)
	if lost := r.LostIn(5); len(lost) > 0 || len(r.rec.LostIn) > 0 {
		t.Errorf("a snapshot that is gone still has lost %v", lost)
	}
}
