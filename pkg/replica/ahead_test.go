package replica

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/history"
	"github.com/cask-storage/cask/pkg/replication"
	"github.com/cask-storage/cask/pkg/store"
	"github.com/cask-storage/cask/pkg/store/memstore"
)

// aheadOf is a member that acknowledged n operations which the store does not have.
func aheadOf(t *testing.T, d *disk, n history.Seq) (*rig, *int) {
	t.Helper()
	soon := 0
	r := member(t, d, 0)
	r.cfg.Soon = func(bool) { soon++ }
	for s := history.Seq(1); s <= n; s++ {
		if got := r.must(1, replication.Applied, apply(1, s, byte(s))); got.Seq != s {
			t.Fatalf("operation %d: %v", s, &got)
		}
	}
	if mark := d.s.Info().Mark; mark != 0 {
		t.Fatalf("the store is at %d already", mark)
	}
	return r, &soon
}

// TestFlushIsExpected: what is acknowledged right after a flush is to be applied now.
func TestFlushIsExpected(t *testing.T) {
	r, _ := aheadOf(t, &disk{}, 0)
	var asked []bool
	r.cfg.Soon = func(now bool) { asked = append(asked, now) }
	seq := history.Seq(0)
	write := func() {
		seq++
		r.must(1, replication.Applied, apply(1, seq, byte(seq)))
	}
	flush := func() { r.must(1, replication.Done, replication.Message{Type: replication.Flush, Epoch: 1, ID: 7}) }
	write()
	write() // together with the one before it
	flush()
	write()
	flush()
	write()
	r.CatchUp()
	write() // there was none
	if want := []bool{false, true, true, false}; !slices.Equal(asked, want) {
		t.Errorf("asked to catch up now: %v, want %v", asked, want)
	}
}

func TestAcknowledgedBeforeApplied(t *testing.T) {
	d := &disk{}
	r, soon := aheadOf(t, d, 3)
	if *soon != 1 {
		t.Errorf("asked %d times to catch up, want once", *soon)
	}
	r.CatchUp()
	if d.s.Info().Mark != 3 || r.tail.first(0) != 1 {
		t.Errorf("caught up to %d, tail from %d", d.s.Info().Mark, r.tail.first(0))
	}
	r.must(1, replication.Applied, apply(1, 4, 4))
	if *soon != 2 {
		t.Errorf("asked %d times to catch up, want twice", *soon)
	}
}

// TestNothingIsAhead: whatever is no plain change finds applied what was
// acknowledged.
func TestNothingIsAhead(t *testing.T) {
	at := block.Extent{Off: 3 * 4096, Len: 4096}
	for _, m := range []replication.Message{
		{Type: replication.Flush, Epoch: 1, ID: 1},
		{Type: replication.Read, Epoch: 1, ID: 1, Extent: at},
		{Type: replication.Freeze, Epoch: 1, ID: 1, Seq: 3},
		{Type: replication.Snapshots, Epoch: 1, ID: 1},
		{Type: replication.Tail, Epoch: 1, ID: 1, Seq: 3},
		{Type: replication.Ping, Epoch: 1, ID: 1},
		{Type: replication.Copy, Epoch: 1, ID: 1, Extent: at, Bufs: [][]byte{make([]byte, at.Len)}},
		{Type: replication.Fetch, Epoch: 1, ID: 1, Volume: "vol", Replica: "r0", Seq: 3, Extent: at},
		{Type: replication.Apply, Epoch: 1, Seq: 4, Kind: uint8(store.Snapshot), Bufs: [][]byte{[]byte("s")}},
		hello(2),
	} {
		d := &disk{}
		r, _ := aheadOf(t, d, 3)
		got, ok := r.say(1, m)
		if !ok || len(got) != 1 || got[0].Code != replication.OK {
			t.Errorf("%v: %v", &m, got)
			continue
		}
		if mark := d.s.Info().Mark; mark < 3 {
			t.Errorf("%v found the store at %d", &m, mark)
		}
		if m.Type == replication.Read && !bytes.Equal(got[0].Bufs[0], bytes.Repeat([]byte{3}, 4096)) {
			t.Errorf("a read shows %x…", got[0].Bufs[0][:8])
		}
	}
}

func TestAheadIsBounded(t *testing.T) {
	d := &disk{}
	r, _ := aheadOf(t, d, maxAhead)
	r.must(1, replication.Applied, apply(1, maxAhead+1, 1))
	if mark := d.s.Info().Mark; mark != maxAhead {
		t.Errorf("beyond the bound the store is at %d, want %d", mark, maxAhead)
	}
	large := apply(1, maxAhead+2, 2)
	large.Extent, large.Bufs = block.Extent{Len: maxAheadBytes}, [][]byte{make([]byte, maxAheadBytes)}
	r.must(1, replication.Applied, large)
	if mark := d.s.Info().Mark; mark != maxAhead+1 {
		t.Errorf("beyond the bytes the store is at %d, want %d", mark, maxAhead+1)
	}
}

// TestRunIsBounded: a run that is larger than the bounds goes in parts.
func TestRunIsBounded(t *testing.T) {
	d := &disk{}
	r, _ := aheadOf(t, d, 0)
	var run []replication.Message
	for s := history.Seq(1); s <= 2*maxAhead+1; s++ {
		run = append(run, apply(1, s, byte(s)))
	}
	got, ok := r.say(1, run...)
	if !ok || len(got) != 3 || got[2].Seq != 2*maxAhead+1 {
		t.Errorf("answered by %v", got)
	}
	if mark := d.s.Info().Mark; mark != 2*maxAhead {
		t.Errorf("the store is at %d, want %d", mark, 2*maxAhead)
	}
}

// TestAheadAtTheEnd: a stop in good order leaves nothing out; a kill does, and the
// replica is suspect then.
func TestAheadAtTheEnd(t *testing.T) {
	d := &disk{}
	r, _ := aheadOf(t, d, 3)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	d.s = d.s.Clone()
	if got := newRig(t, d).Describe(); got.Seq != 3 || got.Flags&replication.FlagSuspect != 0 {
		t.Errorf("after a stop: %v", &got)
	}
	d = &disk{}
	aheadOf(t, d, 3)
	if got := newRig(t, d).Describe(); got.Seq != 0 || got.Flags&replication.FlagSuspect == 0 {
		t.Errorf("after a kill: %v", &got)
	}
}

// TestAheadFails: a store that cannot take what was acknowledged is a replica that
// failed, whoever finds out.
func TestAheadFails(t *testing.T) {
	for _, later := range []bool{false, true} {
		d := &disk{}
		r, _ := aheadOf(t, d, 3)
		d.s.Inject(memstore.Apply, 1, store.ErrNoSpace)
		if later {
			r.CatchUp()
			if !errors.Is(r.Err(), store.ErrNoSpace) {
				t.Errorf("caught up: %v", r.Err())
			}
		}
		got, ok := r.say(1, replication.Message{Type: replication.Flush, Epoch: 1, ID: 1})
		if ok || len(got) != 1 || got[0].Type != replication.State || got[0].Code != replication.ErrNoSpace {
			t.Errorf("after a failure a flush is answered by %v", got)
		}
		if got, ok := r.say(1, apply(1, 4, 4)); ok || got[0].Type != replication.State {
			t.Errorf("after a failure an operation is answered by %v", got)
		}
		if got := r.must(2, replication.State, hello(2)); replication.Membership(got.Kind) != replication.Failed {
			t.Errorf("after a failure the replica is %v", &got)
		}
	}
}

// TestNothingAfterAFailure: what comes when the bounds are reached, and the store
// fails, is not acknowledged; and the end says why.
func TestNothingAfterAFailure(t *testing.T) {
	d := &disk{}
	r, _ := aheadOf(t, d, maxAhead)
	d.s.Inject(memstore.Apply, 1, store.ErrNoSpace)
	got, ok := r.say(1, apply(1, maxAhead+1, 1))
	if ok || len(got) != 1 || got[0].Type != replication.State || got[0].Code != replication.ErrNoSpace {
		t.Errorf("after a failure an operation is answered by %v", got)
	}
	if err := r.Close(); !errors.Is(err, store.ErrNoSpace) {
		t.Errorf("it closed with %v", err)
	}
}

// shown calls seen when operations can be read that Apply has not returned from.
type shown struct {
	store.Store
	seen func()
}

func (s shown) Apply(ops []store.Op) error {
	err := s.Store.Apply(ops)
	if slices.ContainsFunc(ops, func(o store.Op) bool { return o.Seq != 0 }) {
		s.seen()
	}
	return err
}

// TestReadSaysWhatItMayShow: a read beside an Apply may show its operations, and
// says so: the target must not answer before they are settled.
func TestReadSaysWhatItMayShow(t *testing.T) {
	r := member(t, &disk{}, 3)
	var reads []func()
	r.cfg.Run = func(f func()) { reads = append(reads, f) }
	r.say(1, replication.Message{Type: replication.Read, Epoch: 1, ID: 1, Extent: block.Extent{Off: 4 * 4096, Len: 4096}})
	var got []replication.Message
	r.store = shown{r.store, func() {
		for _, f := range reads {
			f()
		}
		reads, got = nil, slices.Clone(r.got)
	}}
	r.say(1, apply(1, 4, 4))
	if len(got) != 1 || got[0].Type != replication.Data || got[0].Bufs[0][0] != 4 || got[0].Seq < 4 {
		t.Errorf("a read that shows operation 4 says %v", got)
	}
}
