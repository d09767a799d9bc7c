package volume

import (
	"slices"
	"testing"

	"github.com/cask-storage/cask/pkg/block"
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
