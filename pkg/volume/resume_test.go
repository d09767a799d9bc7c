package volume

import (
	"slices"
	"testing"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/history"
	"github.com/cask-storage/cask/pkg/quorum"
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
		c.hist, c.last, c.size.last = hist, 600, 8*mib
		if got := c.resumption(&peer{state: heard, st: x.st}); got != x.want {
			t.Errorf("%s: %+v, want %+v", name, got, x.want)
		}
	}
}

// TestPlanMovesWhatIsLeft: below where it came a rebuild moves what changed
// meanwhile, beyond it what changed on either side since the common operation.
func TestPlanMovesWhatIsLeft(t *testing.T) {
	rb := rebuild{size: 8 * mib, resume: resumption{copied: 4 * mib}}
	whole := []block.Extent{{Off: 0, Len: 16 * mib}}
	rb.lists[theirs].extents = whole
	rb.lists[mine].extents = []block.Extent{{Off: 3 * mib, Len: 2 * mib}}
	rb.lists[theirsLow].extents = []block.Extent{{Off: mib, Len: 8192}, {Off: 6 * mib, Len: 8192}}
	rb.lists[own].extents = []block.Extent{{Off: mib + 4096, Len: 8192}}
	rb.plan(256 << 10)
	want := []block.Extent{{Off: mib, Len: 12288}, {Off: 4 * mib, Len: 4 * mib}}
	if !slices.Equal(rb.todo, want) || rb.total != 4*mib+12288 {
		t.Errorf("%v, %d bytes, want %v", rb.todo, rb.total, want)
	}
}

// TestListsInCommon: of what the replicas in sync list, what all of them list
// is moved; one that has not all of the history is not asked, and one that
// fails or does not answer in time is left out.
func TestListsInCommon(t *testing.T) {
	all, some := []block.Extent{{Len: 8 * mib}}, []block.Extent{{Off: mib, Len: mib}}
	for name, x := range map[string]struct {
		first, second []block.Extent
		code          replication.Code // of the second
		acked         history.Seq      // by the second, of 9
		asked         int
		late          bool
		want          uint64 // bytes
	}{
		"both":            {first: all, second: some, acked: 9, asked: 2, want: mib},
		"nothing":         {first: all, acked: 9, asked: 2, want: 0},
		"behind":          {first: all, acked: 8, asked: 1, want: 8 * mib},
		"fails":           {first: all, acked: 9, asked: 2, code: replication.ErrMedium, want: 8 * mib},
		"not in time":     {first: all, acked: 9, asked: 2, late: true, want: 8 * mib},
		"the other order": {first: some, second: all, acked: 9, asked: 2, want: mib},
	} {
		c := New(Config{Size: 8 * mib, Timing: DefaultTiming()})
		c.phase = Serving
		c.sys, _ = quorum.New(quorum.Quorum, []quorum.ReplicaID{"a", "b", "c"})
		a, b, to := c.peer("a"), c.peer("b"), c.peer("c")
		a.state, a.acked, b.state, b.acked, to.state = synced, 9, synced, x.acked, rebuilding
		c.peers = c.all
		rb := &rebuild{to: to, from: a, start: 9, lists: [listKinds]list{mine: {have: true}, own: {have: true}}}
		c.rebuild = rb
		c.askTheirs(rb)
		c.askTheirs(rb)
		asked := c.Take()
		if len(asked) != x.asked {
			t.Fatalf("%s: %d were asked, want %d", name, len(asked), x.asked)
		}
		c.onExtents(a, replication.Message{ID: asked[0].Msg.ID, Extents: x.first})
		if c.listed(rb) != (x.asked == 1) {
			t.Errorf("%s: goes on before the second has answered: %v", name, c.listed(rb))
		}
		if x.late {
			c.now += c.cfg.Timing.Retry + 1
		} else if x.asked == 2 {
			c.onExtents(b, replication.Message{ID: asked[1].Msg.ID, Extents: x.second, Code: x.code})
		}
		if !c.listed(rb) {
			t.Errorf("%s: goes not on", name)
		}
		rb.size = c.cfg.Size
		if rb.plan(mib); rb.total != x.want {
			t.Errorf("%s: %d bytes are moved, want %d", name, rb.total, x.want)
		}
	}
}
