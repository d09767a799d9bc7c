package volume

import (
	"slices"
	"testing"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/history"
	"github.com/cask-storage/cask/pkg/replication"
)

const mib = 1 << 20

// TestResumption: where a rebuild that was broken off goes on, by what the
// replica says and the history.
func TestResumption(t *testing.T) {
	hist := history.History{{Epoch: 1, First: 1}, {Epoch: 5, First: 501}}
	old := history.History{{Epoch: 1, First: 1}, {Epoch: 3, First: 401}}
	for name, x := range map[string]struct {
		st   replication.Message
		want resumption
	}{
		"a member":           {replication.Message{Kind: uint8(replication.Member), Seq: 100, History: hist}, resumption{}},
		"nothing copied yet": {replication.Message{Kind: uint8(replication.Rebuilding), Seq: 100, Base: 100, History: hist}, resumption{}},
		"same history": {replication.Message{Kind: uint8(replication.Rebuilding), Seq: 100, History: hist, Extent: block.Extent{Len: mib}, Mark: 550, Floor: 550},
			resumption{copied: mib, floor: 550, common: 550}},
		"not made good yet": {replication.Message{Kind: uint8(replication.Rebuilding), Seq: 100, History: hist, Extent: block.Extent{Len: mib}, Mark: 550, Floor: 300},
			resumption{copied: mib, floor: 300, common: 550}},
		"diverged": {replication.Message{Kind: uint8(replication.Rebuilding), Seq: 100, History: old, Extent: block.Extent{Len: mib}, Mark: 450, Floor: 450},
			resumption{copied: mib, floor: 400, common: 400, diverged: true}},
		"more than the volume": {replication.Message{Kind: uint8(replication.Rebuilding), History: hist, Extent: block.Extent{Len: 99 * mib}, Mark: 550, Floor: 550}, resumption{}},
	} {
		c := New(Config{Size: 8 * mib})
		c.hist, c.last = hist, 600
		if got := c.resumption(&peer{state: heard, st: x.st}); got != x.want {
			t.Errorf("%s: %+v, want %+v", name, got, x.want)
		}
	}
}

// TestPlanMovesWhatIsLeft: below where it came a rebuild moves what changed
// meanwhile, beyond it what changed on either side since the common operation.
func TestPlanMovesWhatIsLeft(t *testing.T) {
	rb := rebuild{resume: resumption{copied: 4 * mib}}
	whole := []block.Extent{{Off: 0, Len: 16 * mib}}
	rb.lists[theirs].extents = whole
	rb.lists[mine].extents = []block.Extent{{Off: 3 * mib, Len: 2 * mib}}
	rb.lists[theirsLow].extents = []block.Extent{{Off: mib, Len: 8192}, {Off: 6 * mib, Len: 8192}}
	rb.lists[own].extents = []block.Extent{{Off: mib + 4096, Len: 8192}}
	rb.plan(8*mib, 256<<10)
	want := []block.Extent{{Off: mib, Len: 12288}, {Off: 4 * mib, Len: 4 * mib}}
	if !slices.Equal(rb.todo, want) || rb.total != 4*mib+12288 {
		t.Errorf("%v, %d bytes, want %v", rb.todo, rb.total, want)
	}
}
