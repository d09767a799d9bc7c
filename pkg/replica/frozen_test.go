package replica

import (
	"testing"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/replication"
	"github.com/cask-storage/cask/pkg/store"
)

// TestFrozen: what is frozen is the content of one place of the history; what
// was lost there is not read; it is given up when asked to, by a Hello, and at
// the connection's end.
func TestFrozen(t *testing.T) {
	_, r := rotten(t)
	r.say(1, sector(4096+1024, 9)) // the rest of the block is lost
	freeze := replication.Message{Type: replication.Freeze, Epoch: 1, ID: 5, Seq: 4}
	digest := replication.Message{Type: replication.Digest, Epoch: 1, ID: 6, Extent: block.Extent{Len: 64 << 10}, Size: 16 << 10}
	frozenRead := read(4096+1024, 512)
	frozenRead.Flags = replication.FlagFrozen
	digests := func() []store.Digest {
		t.Helper()
		m := r.must(1, replication.Digests, digest)
		ds, err := m.DigestList(4)
		if err != nil {
			t.Fatal(m.Code, m.Text, err)
		}
		return ds
	}
	if m := r.must(1, replication.Digests, digest); m.Code == replication.OK {
		t.Error("digests of nothing")
	}
	r.must(1, replication.Done, freeze)
	before := digests()
	r.must(1, replication.Done, copyMessage(4096, 4096, 1))
	if got := digests(); got[0] != before[0] || got[3] != before[3] {
		t.Errorf("what is frozen changed: %v, before %v", got, before)
	}
	if m := r.must(1, replication.Data, frozenRead); m.Code != replication.OK || m.Bufs[0][0] != 9 {
		t.Errorf("frozen content reads as %v", &m)
	}
	frozenRead.Extent = block.Extent{Off: 4096, Len: 512}
	if m := r.must(1, replication.Data, frozenRead); m.Code != replication.ErrMedium {
		t.Errorf("what was lost reads as %v", &m)
	}
	for name, end := range map[string]func(){
		"thaw":  func() { r.must(1, replication.Done, replication.Message{Type: replication.Thaw, Epoch: 1, ID: 8}) },
		"hello": func() { r.must(1, replication.State, hello(1)) },
		"end":   func() { r.Ended(1) },
	} {
		r.must(1, replication.Done, freeze)
		digests()
		end()
		if m := r.must(1, replication.Digests, digest); m.Code == replication.OK {
			t.Errorf("%s: it is still frozen", name)
		}
	}
	freeze.Seq = 3
	if got, ok := r.say(1, freeze); ok || got[0].Type != replication.Refused {
		t.Errorf("freeze at another place: %v", got)
	}
}
