package volume

import (
	"slices"
	"testing"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/replication"
	"github.com/cask-storage/cask/pkg/store"
)

// The second piece of a damaged extent gets its turn though the first one cannot
// be repaired.
func TestPiecesTakeTurns(t *testing.T) {
	c := &Core{cfg: Config{Bounds: Bounds{CopyChunk: 4096}}}
	s := block.SetOf(block.Extent{Off: 3584, Len: 1536}, block.Extent{Off: 16384, Len: 512})
	one, two, three := block.Extent{Off: 3584, Len: 512}, block.Extent{Off: 4096, Len: 1024}, block.Extent{Off: 16384, Len: 512}
	for _, x := range []struct {
		first uint64
		want  []block.Extent
	}{
		{0, []block.Extent{one, two, three}},
		{one.End(), []block.Extent{two, three, one}},
		{two.End(), []block.Extent{three, one, two}},
		{three.End(), []block.Extent{one, two, three}},
	} {
		if got := c.pieces(s, x.first); !slices.Equal(got, x.want) {
			t.Errorf("from %d: %v, want %v", x.first, got, x.want)
		}
	}
	if n := len(c.pieces(block.SetOf(block.Extent{Len: 1 << 40}), 0)); n != maxPieces {
		t.Errorf("%d pieces of a great extent", n)
	}
}

// TestHalve: what the source cannot read of a snapshot is found sector by sector;
// the rest is copied, and that alone is not to be readable on the rebuilt replica.
func TestHalve(t *testing.T) {
	c := New(Config{Size: 1 << 20, Bounds: Bounds{CopyChunk: 4096}})
	from, to := c.peer("a"), c.peer("b")
	from.state, from.conn, to.state, to.conn = synced, 1, backfilling, 2
	rotten := block.Extent{Off: 8192 + 1536, Len: 512}
	rb := &rebuild{to: to, from: from, leg: leg{to: store.SnapshotInfo{Name: "s", Seq: 5}}, planned: true, chunk: 4096}
	c.rebuild, rb.chunks = rb, []*chunk{{extent: block.Extent{Off: 8192, Len: 4096}}}
	var lost, good block.Set
	for range 100 {
		for _, k := range slices.Clone(rb.chunks) {
			if k.state == draining {
				c.move(rb, k)
			}
		}
		said := c.Take()
		for _, a := range said {
			switch m := a.Msg; {
			case m.Type == replication.Read && m.Base == 5 && m.Extent.Overlaps(rotten):
				c.chunkRead(from, replication.Message{Type: replication.Data, ID: m.ID, Code: replication.ErrMedium})
			case m.Type == replication.Read && m.Base == 5:
				c.chunkRead(from, replication.Message{Type: replication.Data, ID: m.ID, Bufs: [][]byte{make([]byte, m.Extent.Len)}})
			case m.Type == replication.Copy && m.Flags == replication.FlagLost:
				lost = lost.With(m.Extent)
				c.copied(replication.Message{ID: m.ID})
			case m.Type == replication.Copy:
				good = good.With(m.Extent)
				c.copied(replication.Message{ID: m.ID})
			default:
				t.Fatalf("%s is asked for %v", a.To, &m)
			}
		}
	}
	if len(rb.chunks) > 0 || !slices.Equal(lost, block.SetOf(rotten)) || !slices.Equal(good, block.SetOf(block.Extent{Off: 8192, Len: 4096}).Without(rotten)) {
		t.Errorf("lost %v, copied %v, %d chunks left", lost, good, len(rb.chunks))
	}
}

// TestRepairInPart: of a record that two replicas cannot read whole, each gets what
// the other can.
func TestRepairInPart(t *testing.T) {
	c := New(Config{Size: 1 << 20, Bounds: Bounds{CopyChunk: 4096}})
	a, b := c.peer("a"), c.peer("b")
	c.peers = []*peer{a, b}
	a.state, a.conn, b.state, b.conn = synced, 1, synced, 2
	a.damage.known = block.SetOf(block.Extent{Off: 2560, Len: 512})
	b.damage.known = block.SetOf(block.Extent{Off: 2048, Len: 1024})
	if !c.startRepair(b) || c.repairs[0].from != a || c.repairs[0].extent != (block.Extent{Off: 2048, Len: 512}) {
		t.Fatalf("repairs: %+v", c.repairs)
	}
	if want := block.SetOf(block.Extent{Off: 2560, Len: 512}); !slices.Equal(b.damage.known, want) {
		t.Errorf("left: %v, want %v", b.damage.known, want)
	}
}
