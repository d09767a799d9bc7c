package replica

import (
	"bytes"
	"net"
	"testing"
	"time"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/history"
	"github.com/cask-storage/cask/pkg/replication"
)

var epoch1 = history.History{{Epoch: 1, First: 1}}

// fetchOf asks for block n of r0.
func fetchOf(n uint64) replication.Message {
	return replication.Message{Type: replication.Fetch, Epoch: 1, ID: 5, Seq: 3, Volume: "vol", Replica: "r0", Extent: block.Extent{Off: 4096 * n, Len: 4096}}
}

// TestFetch: a replica gives content only as the target of that epoch counts on
// it, and fences nobody by it.
func TestFetch(t *testing.T) {
	r := member(t, &disk{}, 3)
	if m := r.must(9, replication.Data, fetchOf(2)); m.Code != replication.OK || len(m.Bufs) != 1 {
		t.Errorf("a written block: %v", &m)
	}
	if m := r.must(9, replication.Data, fetchOf(9)); m.Code != replication.OK || len(m.Bufs) != 0 {
		t.Errorf("a block of zeroes travels with %d bytes, %v", m.DataLen(), m.Code)
	}
	for name, change := range map[string]func(*replication.Message){
		"another epoch":          func(m *replication.Message) { m.Epoch = 2 },
		"what it does not have":  func(m *replication.Message) { m.Seq = 4 },
		"an epoch not begun yet": func(*replication.Message) { r.rec.History = history.History{{Epoch: 7, First: 1}} },
		"lost memory":            func(*replication.Message) { r.rec.Suspect = true },
		"rebuilding itself":      func(*replication.Message) { r.rec.Membership = replication.Rebuilding },
	} {
		m, rec := fetchOf(2), r.rec
		change(&m)
		if got := r.must(9, replication.Data, m); got.Code != replication.ErrRequest || got.DataLen() != 0 {
			t.Errorf("%s: %v", name, &got)
		}
		r.rec = rec
	}
	for name, change := range map[string]func(*replication.Message){
		"another replica":   func(m *replication.Message) { m.Replica = "r1" },
		"another volume":    func(m *replication.Message) { m.Volume = "other" },
		"beyond the volume": func(m *replication.Message) { m.Extent.Off = size },
		"too much":          func(m *replication.Message) { m.Extent = block.Extent{Len: replication.MaxData + 4096} },
	} {
		m := fetchOf(2)
		change(&m)
		if got, ok := r.say(9, m); ok || got[0].Type != replication.Refused {
			t.Errorf("%s: %v", name, got)
		}
	}
	r.must(1, replication.Pong, replication.Message{Type: replication.Ping, Epoch: 1})
}

// later is a Peers that answers when told to.
type later struct {
	done []func(replication.Message, error)
}

func (l *later) Fetch(_ string, _ replication.Message, done func(replication.Message, error)) {
	l.done = append(l.done, done)
}

// TestPullEndsWithItsConnection: what comes after the next Hello is not applied.
func TestPullEndsWithItsConnection(t *testing.T) {
	peer := &later{}
	r := member(t, &disk{}, 3)
	r.cfg.Peers = peer
	r.must(1, replication.Extents, replication.Message{Type: replication.Rebuild, Epoch: 1, ID: 5, Base: 2, Seq: 9, History: epoch1})
	e := block.Extent{Off: 8192, Len: 4096}
	data := func(fill byte) replication.Message {
		return replication.Message{Type: replication.Data, Extent: e, Bufs: [][]byte{bytes.Repeat([]byte{fill}, 4096)}}
	}
	read := func() byte {
		b := make([]byte, 1)
		if err := r.store.ReadAt(b, e.Off); err != nil {
			t.Fatal(err)
		}
		return b[0]
	}
	pull := replication.Message{Type: replication.Pull, Epoch: 1, ID: 6, Extent: e, Volume: "vol", Replica: "r1", Text: "r1:1"}
	r.say(1, pull, pull)
	if peer.done[0](data(77), nil); read() != 77 || len(r.got) != 1 || r.got[0].Type != replication.Done {
		t.Errorf("%d, %v", read(), r.got)
	}
	r.say(2, hello(1))
	if peer.done[1](data(88), nil); read() != 77 || len(r.got) != 1 {
		t.Errorf("after another Hello: %d, %v", read(), r.got)
	}
	for range maxPulls {
		r.say(2, pull)
	}
	if m := r.must(2, replication.Done, pull); m.Code != replication.ErrPeer {
		t.Errorf("beyond the bound: %v", &m)
	}
}

// TestPullOverTCP: two servers; one fetches from the other, and says so when it
// cannot.
func TestPullOverTCP(t *testing.T) {
	src := &disk{}
	r := member(t, src, 3)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	src.s = src.s.Clone()
	from := talk(t, serve(t, src))
	exchange(t, from, hello(2))
	h := append(epoch1, history.Entry{Epoch: 2, First: 4})
	exchange(t, from, replication.Message{Type: replication.Begin, Epoch: 2, Seq: 3, History: h})

	dst := &disk{}
	to := talk(t, serve(t, dst))
	exchange(t, to, hello(2))
	exchange(t, to, replication.Message{Type: replication.Format, Epoch: 2, Size: size})
	exchange(t, to, replication.Message{Type: replication.Rebuild, Epoch: 2, ID: 5, Seq: 3, History: h})
	pull := fetchOf(2)
	pull.Type, pull.Epoch, pull.Text = replication.Pull, 2, from.RemoteAddr().String()
	for range 3 { // the second one on the same connection
		if m := exchange(t, to, pull); m.Type != replication.Done || m.Code != replication.OK {
			t.Fatalf("pull: %v", &m)
		}
	}
	got, want := make([]byte, 4096), make([]byte, 4096)
	if err := dst.s.ReadAt(got, 8192); err != nil {
		t.Fatal(err)
	}
	if err := src.s.ReadAt(want, 8192); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) || want[0] == 0 {
		t.Errorf("%d was fetched, not %d", got[0], want[0])
	}
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	pull.Text = closed.Addr().String()
	began := time.Now()
	if m := exchange(t, to, pull); m.Type != replication.Done || m.Code != replication.ErrPeer {
		t.Errorf("from nobody: %v", &m)
	}
	if took := time.Since(began); took > 2*peerFetch {
		t.Errorf("it took %v to say so", took)
	}
}
