package replica

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/history"
	"github.com/cask-storage/cask/pkg/replication"
	"github.com/cask-storage/cask/pkg/store"
	"github.com/cask-storage/cask/pkg/store/memstore"
)

// disk is a Backing in memory.
type disk struct {
	s   *memstore.Store
	err error
}

func (d *disk) Open() (store.Store, error) {
	if d.err != nil {
		return nil, d.err
	}
	if d.s == nil {
		return nil, store.ErrNotFound
	}
	return d.s, nil
}

func (d *disk) Create(size uint64) (store.Store, error) {
	d.s = memstore.New(memstore.Options{Size: size})
	return d.s, nil
}

const size = 1 << 20

type rig struct {
	t *testing.T
	*Core
	got []replication.Message
}

func newRig(t *testing.T, d *disk) *rig {
	return &rig{t: t, Core: Open(Config{Identity: Identity{"vol", "r0"}, Backing: d, Run: func(f func()) { f() }})}
}

// say sends messages on a connection and returns the answers.
func (r *rig) say(conn ConnID, ms ...replication.Message) ([]replication.Message, bool) {
	r.got = nil
	ok := r.Handle(conn, ms, func(m replication.Message) { r.got = append(r.got, m) })
	return r.got, ok
}

// must wants one answer of a type.
func (r *rig) must(conn ConnID, want replication.Type, m replication.Message) replication.Message {
	r.t.Helper()
	got, _ := r.say(conn, m)
	if len(got) != 1 || got[0].Type != want {
		r.t.Fatalf("%v was answered by %v, want %v", &m, got, want)
	}
	return got[0]
}

func hello(e history.Epoch) replication.Message {
	return replication.Message{Type: replication.Hello, Epoch: e, Volume: "vol", Replica: "r0", Size: size}
}

func apply(e history.Epoch, seq history.Seq, fill byte) replication.Message {
	return replication.Message{Type: replication.Apply, Epoch: e, Seq: seq, Kind: uint8(store.Write),
		Extent: block.Extent{Off: 4096 * uint64(seq), Len: 4096}, Bufs: [][]byte{bytes.Repeat([]byte{fill}, 4096)}}
}

// member brings a replica to be a member at epoch 1 with n operations.
func member(t *testing.T, d *disk, n history.Seq) *rig {
	t.Helper()
	r := newRig(t, d)
	r.must(1, replication.State, hello(1))
	r.must(1, replication.State, replication.Message{Type: replication.Format, Epoch: 1, Size: size})
	h := history.History{{Epoch: 1, First: 1}}
	r.must(1, replication.Done, replication.Message{Type: replication.Adopt, Epoch: 1, ID: 1, History: h})
	r.must(1, replication.Done, replication.Message{Type: replication.Begin, Epoch: 1, ID: 2, History: h})
	for s := history.Seq(1); s <= n; s++ {
		r.must(1, replication.Applied, apply(1, s, byte(s)))
	}
	return r
}

func TestOldEpochIsRefused(t *testing.T) {
	r := member(t, &disk{}, 3)
	r.must(2, replication.State, hello(5))
	for _, m := range []replication.Message{apply(1, 4, 4), {Type: replication.Flush, Epoch: 1, ID: 9}, {Type: replication.Ping, Epoch: 1, ID: 9},
		{Type: replication.Read, Epoch: 1, ID: 9, Extent: block.Extent{Len: 4096}}, apply(5, 4, 4)} {
		if got := r.must(1, replication.Refused, m); got.Promised != 5 {
			t.Errorf("refusal of %v names epoch %d", &m, got.Promised)
		}
	}
	if got := r.must(3, replication.Refused, hello(4)); got.Promised != 5 || !strings.Contains(got.Text, "superseded") {
		t.Errorf("a lower epoch was refused with %v", &got)
	}
	r.must(2, replication.Pong, replication.Message{Type: replication.Ping, Epoch: 5, ID: 1})
}

func TestPromiseSurvivesKill(t *testing.T) {
	d := &disk{}
	member(t, d, 3).must(2, replication.State, hello(7))
	r := newRig(t, d) // as after kill -9: not closed
	if got := r.must(1, replication.Refused, hello(6)); got.Promised != 7 {
		t.Errorf("after a kill epoch %d is promised, not 7", got.Promised)
	}
}

func TestSuspectAfterKillOnly(t *testing.T) {
	d := &disk{}
	r := member(t, d, 3)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	d.s = d.s.Clone()
	r = newRig(t, d)
	if st := r.must(1, replication.State, hello(2)); st.Flags&replication.FlagSuspect != 0 || st.Seq != 3 {
		t.Errorf("after a clean stop: %v", &st)
	}
	r = newRig(t, d)
	if st := r.must(1, replication.State, hello(3)); st.Flags&replication.FlagSuspect == 0 {
		t.Errorf("after a kill: %v", &st)
	}
}

func TestOutOfOrderIsRefused(t *testing.T) {
	for name, m := range map[string]replication.Message{
		"gap":       apply(1, 5, 0),
		"again":     apply(1, 3, 0),
		"beyond":    {Type: replication.Apply, Epoch: 1, Seq: 4, Kind: uint8(store.Unmap), Extent: block.Extent{Off: size, Len: 4096}},
		"unaligned": {Type: replication.Apply, Epoch: 1, Seq: 4, Kind: uint8(store.Unmap), Extent: block.Extent{Off: 100, Len: 512}},
		"no data":   {Type: replication.Apply, Epoch: 1, Seq: 4, Kind: uint8(store.Write), Extent: block.Extent{Len: 4096}},
		"kind":      {Type: replication.Apply, Epoch: 1, Seq: 4, Kind: 9, Extent: block.Extent{Len: 4096}},
		"copy":      {Type: replication.Copy, Epoch: 1, Extent: block.Extent{Off: size, Len: 4096}},
		"reply":     {Type: replication.Pong, Epoch: 1},
		"far read":  {Type: replication.Read, Epoch: 1, Extent: block.Extent{Off: size - 512, Len: 4096}},
		"begin":     {Type: replication.Begin, Epoch: 1, Seq: 2, History: history.History{{Epoch: 1, First: 1}}},
		"adopt":     {Type: replication.Adopt, Epoch: 1, History: history.History{{Epoch: 1, First: 1}, {Epoch: 2, First: 2}}},
		"rebuild":   {Type: replication.Rebuild, Epoch: 1, Base: 4, Seq: 9, History: history.History{{Epoch: 1, First: 1}}},
		"resume":    {Type: replication.Rebuild, Epoch: 1, Base: 3, Seq: 9, History: history.History{{Epoch: 1, First: 1}}, Extent: block.Extent{Len: 4096}},
		"copied":    {Type: replication.Copied, Epoch: 1, Extent: block.Extent{Len: 4096}},
	} {
		r := member(t, &disk{}, 3)
		got, ok := r.say(1, m)
		if ok || len(got) != 1 || got[0].Type != replication.Refused {
			t.Errorf("%s: answered by %v, connection stays: %v", name, got, ok)
		}
		if mark := r.store.Info().Mark; mark != 3 {
			t.Errorf("%s: the mark moved to %d", name, mark)
		}
	}
}

func TestRebuildDoesNotCountUntilBegin(t *testing.T) {
	d := &disk{}
	r := member(t, d, 3)
	r.must(1, replication.Extents, replication.Message{Type: replication.Rebuild, Epoch: 1, ID: 5, Base: 2, Seq: 9, History: history.History{{Epoch: 1, First: 1}}})
	r.must(1, replication.Applied, apply(1, 10, 7))
	r = newRig(t, d)
	st := r.must(1, replication.State, hello(2))
	if replication.Membership(st.Kind) != replication.Rebuilding || st.Seq != 2 {
		t.Fatalf("a rebuild that was cut short: %v", &st)
	}
	if got, ok := r.say(1, replication.Message{Type: replication.Read, Epoch: 2, Extent: block.Extent{Len: 4096}}); ok {
		t.Errorf("a read was answered during the rebuild: %v", got)
	}
}

func TestForeignOrBrokenExtent(t *testing.T) {
	other, rotten, forked := &disk{}, &disk{}, &disk{}
	member(t, other, 1)
	for d, meta := range map[*disk]string{
		rotten: "\x00{",
		forked: `{"version":1,"volume":"vol","replica":"r0","membership":2,"history":[{"Epoch":3,"First":1},{"Epoch":2,"First":9}]}`,
	} {
		member(t, d, 1)
		if err := d.s.SetMeta([]byte(meta)); err != nil {
			t.Fatal(err)
		}
	}
	for name, x := range map[string]struct {
		d    *disk
		id   Identity
		code replication.Code
	}{
		"another volume's":              {other, Identity{"vol2", "r0"}, replication.ErrForeign},
		"another replica's":             {other, Identity{"vol", "r1"}, replication.ErrForeign},
		"missing":                       {&disk{err: ErrMissing}, Identity{"vol", "r0"}, replication.ErrMissing},
		"truncated":                     {&disk{err: store.ErrTruncated}, Identity{"vol", "r0"}, replication.ErrShort},
		"newer":                         {&disk{err: store.ErrFormat}, Identity{"vol", "r0"}, replication.ErrForeign},
		"with a rotten mark":            {&disk{err: store.ErrCorrupt}, Identity{"vol", "r0"}, replication.ErrMedium},
		"with a rotten record":          {rotten, Identity{"vol", "r0"}, replication.ErrMedium},
		"with a history that goes back": {forked, Identity{"vol", "r0"}, replication.ErrMedium},
		"broken":                        {&disk{err: errors.New("?")}, Identity{"vol", "r0"}, replication.ErrIO},
	} {
		c := Open(Config{Identity: x.id, Backing: x.d, Run: func(f func()) { f() }})
		st := c.Describe()
		if replication.Membership(st.Kind) != replication.Failed || st.Code != x.code || st.Text == "" || c.Err() == nil {
			t.Errorf("%s extent: %v", name, &st)
		}
	}
}

func TestNewerRecordIsRefused(t *testing.T) {
	d := &disk{}
	member(t, d, 1)
	if err := d.s.SetMeta([]byte(`{"version":4,"volume":"vol","replica":"r0","membership":2}`)); err != nil {
		t.Fatal(err)
	}
	if st := newRig(t, d).Describe(); st.Code != replication.ErrForeign || !strings.Contains(st.Text, "newer") {
		t.Errorf("a record of version 4: %v", &st)
	}
}

func FuzzRecord(f *testing.F) {
	b, err := record{Version: 1, Volume: "vol", Replica: "r0", Membership: replication.Member, History: history.History{{Epoch: 1, First: 1}}}.marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := unmarshalRecord(b, Identity{"vol", "r0"})
		if err != nil {
			return
		}
		again, err := r.marshal()
		if err != nil {
			return
		}
		if _, err := unmarshalRecord(again, Identity{"vol", "r0"}); err != nil {
			t.Fatalf("%s was taken, %s was not: %v", b, again, err)
		}
	})
}

// TestLongestHistory: a volume that was failed over often must not outgrow its
// replicas' records.
func TestLongestHistory(t *testing.T) {
	r := record{Version: recordVersion, Volume: strings.Repeat("v", 63), Replica: "r0", Promised: 1 << 63}
	for i := range replication.MaxHistory {
		r.History = append(r.History, history.Entry{Epoch: 1<<63 + history.Epoch(i), First: 1 << 63})
	}
	for i := range maxLost {
		r.Lost = append(r.Lost, block.Extent{Off: 1<<63 + uint64(i)*1024, Len: 512})
	}
	if _, err := r.marshal(); err != nil {
		t.Fatal(err)
	}
}

// TestRebuildIsBrokenOff: a replica that comes back says how far it was
// brought, as of which operation, and goes on from there only.
func TestRebuildIsBrokenOff(t *testing.T) {
	d := &disk{}
	r := member(t, d, 3)
	h := history.History{{Epoch: 1, First: 1}}
	r.must(1, replication.Extents, replication.Message{Type: replication.Rebuild, Epoch: 1, ID: 5, Base: 2, Seq: 9, History: h})
	r.must(1, replication.Done, replication.Message{Type: replication.Copied, Epoch: 1, ID: 6, Extent: block.Extent{Len: 8192}})
	r.must(1, replication.Applied, apply(1, 10, 7))
	d.s = d.s.Clone()
	r = newRig(t, d)
	st := r.must(1, replication.State, hello(2))
	if st.Extent.Len != 8192 || st.Mark != 10 || st.Floor != 10 || st.Seq != 2 {
		t.Fatalf("after it was broken off: %+v", st)
	}
	h = append(h, history.Entry{Epoch: 2, First: 11})
	again := replication.Message{Type: replication.Rebuild, Epoch: 2, ID: 5, Base: 2, Seq: 20, History: h, Extent: block.Extent{Len: 8192}, Floor: 10}
	for _, bad := range []replication.Message{{Extent: block.Extent{Len: 12288}, Floor: 10}, {Extent: block.Extent{Len: 8192}, Floor: 11}} {
		m := again
		m.Extent, m.Floor = bad.Extent, bad.Floor
		r.must(1, replication.Refused, m)
	}
	r.must(1, replication.Extents, again)
	r.must(1, replication.Applied, apply(2, 21, 7))
	d.s = d.s.Clone()
	r = newRig(t, d)
	if st := r.must(1, replication.State, hello(3)); st.Extent.Len != 8192 || st.Mark != 21 || st.Floor != 10 {
		t.Fatalf("broken off before what changed was copied again: %+v", st)
	}
}

// oneTurn is a host with room for one rebuild.
type oneTurn struct{ taken bool }

func (o *oneTurn) Take() (func(), bool, error) {
	if o.taken {
		return nil, false, nil
	}
	o.taken = true
	return func() { o.taken = false }, true, nil
}

// TestTurn: a replica is rebuilt when its host has room or I/O waits for it, and
// gives its turn back when the rebuild or its connection ends.
func TestTurn(t *testing.T) {
	host := &oneTurn{taken: true}
	r := member(t, &disk{}, 3)
	r.cfg.Turns = host
	ask := func(flags uint8) replication.Code {
		t.Helper()
		return r.must(1, replication.Done, replication.Message{Type: replication.Turn, Epoch: 1, ID: 7, Flags: flags}).Code
	}
	if code := ask(0); code != replication.ErrTurn {
		t.Errorf("a busy host: %v", code)
	}
	if code := ask(replication.FlagUrgent); code != replication.OK {
		t.Errorf("a busy host, urgent: %v", code)
	}
	r.Ended(1)
	if !host.taken {
		t.Error("it gave back a turn that it did not have")
	}
	for name, end := range map[string]func(){
		"connection over": func() { r.Ended(1) },
		"another target":  func() { r.must(1, replication.State, hello(1)) },
		"rebuilt": func() {
			r.must(1, replication.Done, replication.Message{Type: replication.Begin, Epoch: 1, Seq: 3, History: history.History{{Epoch: 1, First: 1}}})
		},
	} {
		host.taken = false
		if a, b := ask(0), ask(0); a != replication.OK || b != replication.OK || !host.taken {
			t.Errorf("%s: %v, %v", name, a, b)
		}
		if r.Ended(9); !host.taken {
			t.Errorf("%s: the end of an old connection gave the turn back", name)
		}
		if end(); host.taken {
			t.Errorf("%s: the turn is still taken", name)
		}
	}
}

// A replica whose disk was full when it started tells targets so, and its
// record is what it was when there is room again. (Simulator, full disks.)
func TestFailedStartLeavesTheRecord(t *testing.T) {
	d := &disk{}
	if err := member(t, d, 3).Close(); err != nil {
		t.Fatal(err)
	}
	d.s = d.s.Clone()
	d.s.Inject(memstore.SetMeta, 1, store.ErrNoSpace)
	st := newRig(t, d).must(1, replication.State, hello(2))
	if replication.Membership(st.Kind) != replication.Failed || st.Code != replication.ErrNoSpace {
		t.Fatalf("a replica with a full disk says %v", &st)
	}
	d.s = d.s.Clone()
	if st = newRig(t, d).must(1, replication.State, hello(3)); replication.Membership(st.Kind) != replication.Member || st.Seq != 3 {
		t.Fatalf("with room again it says %v", &st)
	}
}

// TestEmptyRead: a read of nothing, or of more than a frame holds, is refused.
func TestEmptyRead(t *testing.T) {
	r := member(t, &disk{}, 1)
	for _, n := range []uint64{0, replication.MaxData + 512} {
		m := r.must(1, replication.Refused, replication.Message{Type: replication.Read, Epoch: 1, ID: 9, Extent: block.Extent{Len: n}})
		if m.Code != replication.ErrRequest {
			t.Errorf("a read of %d bytes: %v", n, &m)
		}
	}
}
