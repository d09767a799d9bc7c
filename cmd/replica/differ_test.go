//go:build cgo && linux

package main

import (
	"testing"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/store"
	"github.com/cask-storage/cask/pkg/target"
)

// verified has the replicas compared.
func (s *rotSetup) verified(request string) *target.Verification {
	s.t.Helper()
	s.tg.Verify(request)
	s.await("the comparison "+request, func() bool { v := s.tg.Status().Verified; return v != nil && v.Request == request })
	return s.tg.Status().Verified
}

// TestDiffer: what one of three replicas' pools holds is changed behind the
// replica's back, with checksums that are right, which no scrub finds: a comparison
// does, says where, and changes nothing.
func TestDiffer(t *testing.T) {
	s := newRotSetup(t)
	s.rng.Read(s.want)
	for off := 0; off < rotData; off += 1 << 20 {
		s.do(block.OpWrite, uint64(off), s.want[off:][:1<<20])
	}
	s.do(block.OpFlush, 0, nil)
	s.await("every replica in sync", func() bool { return s.tg.Status().InSync() == 3 })
	v := s.verified("before")
	t.Log(v.Text())
	if v.Failed != "" || len(v.Differ) > 0 || len(v.Replicas) != 3 || v.Held < 3*rotData || v.Compared != 0 {
		t.Fatalf("of replicas that are the same: %+v", v)
	}
	x := s.extents[2].s
	where := block.Extent{Off: 3<<20 + 512, Len: 512}
	if err := x.Apply([]store.Op{{Kind: store.Write, Extent: where, Data: make([]byte, where.Len)}}); err != nil {
		t.Fatal(err)
	}
	if err := x.Flush(); err != nil {
		t.Fatal(err)
	}
	for _, request := range []string{"after", "again"} {
		v := s.verified(request)
		t.Log(v.Text())
		if len(v.Differ) != 1 || v.Differ[0].Replica != "r2" || len(v.Differ[0].Extents) != 1 || v.Differ[0].Extents[0] != where || v.Compared == 0 {
			t.Fatalf("of replicas that differ: %+v, want %v of r2", v, where)
		}
	}
}
