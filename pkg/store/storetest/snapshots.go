package storetest

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/cask-storage/cask/pkg/history"
	"github.com/cask-storage/cask/pkg/store"
)

// SnapshotContent reads all of a snapshot.
func SnapshotContent(t *testing.T, s store.Store, x store.SnapshotInfo) []byte {
	t.Helper()
	p := make([]byte, x.Size)
	const step = 1 << 20
	for off := 0; off < len(p); off += step {
		if err := s.ReadSnapshot(x.Seq, p[off:min(off+step, len(p))], uint64(off)); err != nil {
			t.Fatalf("read of snapshot %d at %d: %v", x.Seq, off, err)
		}
	}
	return p
}

func seqs(have []store.SnapshotInfo) (out []history.Seq) {
	for _, s := range have {
		out = append(out, s.Seq)
	}
	return out
}

// checkSnapshots compares the snapshots with the model's, and one ChangedIn
// answer with the difference of two of its states.
func (r *run) checkSnapshots() {
	r.t.Helper()
	want := r.m.Snapshots(len(r.m.Ops))
	if got := r.s.Snapshots(); !slices.Equal(got, want) {
		r.t.Fatalf("snapshots %v, want %v", got, want)
	}
	for _, x := range want {
		content := r.m.Before(x.Seq)
		if at := FirstDiff(SnapshotContent(r.t, r.s, x), content); at >= 0 {
			r.t.Fatalf("snapshot %v differs from the model first at byte %d", x, at)
		}
		n := slices.IndexFunc(r.m.Ops, func(o store.Op) bool { return o.Seq == x.Seq })
		then, since := r.m.At(r.gen.Rng.Intn(n + 1))
		ext, err := r.s.ChangedIn(store.Span{Since: since, Snapshot: x.Seq})
		if err != nil {
			r.t.Fatal(err)
		}
		if off, ok := Covers(ext, then, content); !ok {
			r.t.Fatalf("changed since %d in snapshot %v lacks byte %d: %v", since, x, off, ext)
		}
	}
}

func testSnapshot(t *testing.T, f Factory) {
	r := newRun(t, f)
	do := func(ops ...store.Op) {
		r.m.Ops = append(r.m.Ops, ops...)
		apply(t, r.s, ops...)
	}
	do(write(1, 0, 64<<10, 1), write(2, mib, 4096, 2))
	do(snapshot(3, "first"))
	do(write(4, 512, 512, 4), unmap(5, mib, 4096), snapshot(6, "second"), write(7, 0, 64<<10, 7))
	for range 2 {
		wantMark(t, r.s, 7)
		r.checkAll()
		r.checkSnapshots()
		r.s = f.Reopen(t, r.s)
	}
	if err := r.s.ReadSnapshot(3, make([]byte, 512), Size); err == nil {
		t.Error("a read beyond the snapshot's end succeeds")
	}
	if err := r.s.ReadSnapshot(5, make([]byte, 512), 0); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("read of a snapshot that never was: %v, want store.ErrNotFound", err)
	}
	do(drop(8, 3), drop(9, 3), drop(0, 77), write(10, 0, 512, 9))
	for range 2 {
		wantMark(t, r.s, 10)
		r.checkSnapshots()
		if err := r.s.ReadSnapshot(3, make([]byte, 512), 0); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("read of a snapshot that was dropped: %v, want store.ErrNotFound", err)
		}
		if _, err := r.s.ChangedIn(store.Span{Snapshot: 3}); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("changed in a snapshot that was dropped: %v, want store.ErrNotFound", err)
		}
		r.s = f.Reopen(t, r.s)
	}
	do(drop(0, 6))
	wantMark(t, r.s, 10)
	r.checkSnapshots()
	closeStore(t, r.s)
}

// testSnapshotNames: a name that is taken is not taken twice, one that was
// dropped can be, and neither keeps the mark from moving.
func testSnapshotNames(t *testing.T, f Factory) {
	s := f.Create(t)
	apply(t, s, write(1, 0, 512, 1), snapshot(2, "a"), write(3, 0, 512, 3), snapshot(4, "a"))
	want := []store.SnapshotInfo{{Name: "a", Seq: 2, Size: Size}}
	if got := s.Snapshots(); !slices.Equal(got, want) {
		t.Errorf("snapshots %v, want %v", got, want)
	}
	wantMark(t, s, 4)
	apply(t, s, drop(5, 2), snapshot(6, "a"))
	s = f.Reopen(t, s)
	defer closeStore(t, s)
	want[0].Seq = 6
	if got := s.Snapshots(); !slices.Equal(got, want) {
		t.Errorf("snapshots %v, want %v", got, want)
	}
	p := make([]byte, 512)
	if err := s.ReadSnapshot(6, p, 0); err != nil || p[0] != 3 {
		t.Errorf("snapshot reads %d, %v, want 3", p[0], err)
	}
}

// testSnapshotChanged: between two snapshots the answer is no larger than it must be.
func testSnapshotChanged(t *testing.T, f Factory) {
	s := f.Create(t)
	apply(t, s, write(1, 0, 64<<10, 1), snapshot(2, "a"), write(3, mib, 4096, 1), snapshot(4, "b"), write(5, 2*mib, 4096, 1))
	for range 2 {
		ext, err := s.ChangedIn(store.Span{Since: 2, Snapshot: 4})
		if err != nil {
			t.Fatal(err)
		}
		wantIncludes(t, ext, mib)
		if includes(ext, 2*mib) {
			t.Errorf("changed %v has what was written after the snapshot", ext)
		}
		if f.Exact && includes(ext, 0) {
			t.Errorf("changed %v has what was written before the first snapshot", ext)
		}
		if ext = changed(t, s, 4); f.Exact && (includes(ext, mib) || !includes(ext, 2*mib)) {
			t.Errorf("changed %v is not what was written after the second snapshot", ext)
		}
		s = f.Reopen(t, s)
	}
	closeStore(t, s)
}

// testSnapshotRebase: a replica that gives up all after Base gives up the
// snapshots after it too.
func testSnapshotRebase(t *testing.T, f Factory) {
	s := f.Create(t)
	apply(t, s, write(1, 0, 512, 1), snapshot(2, "a"), write(3, 0, 512, 3), snapshot(4, "b"), write(5, mib, 512, 5))
	apply(t, s, rebase(3, 3))
	want := []store.SnapshotInfo{{Name: "a", Seq: 2, Size: Size}}
	if got := s.Snapshots(); !slices.Equal(got, want) {
		t.Errorf("snapshots %v, want %v", got, want)
	}
	wantMark(t, s, 3)
	apply(t, s, write(0, 0, 512, 7), snapshot(4, "b"))
	s = f.Reopen(t, s)
	defer closeStore(t, s)
	want = append(want, store.SnapshotInfo{Name: "b", Seq: 4, Size: Size})
	if got := s.Snapshots(); !slices.Equal(got, want) {
		t.Errorf("snapshots %v, want %v", got, want)
	}
	wantIncludes(t, changed(t, s, 3), 0, mib)
	p := make([]byte, 512)
	if err := s.ReadSnapshot(4, p, 0); err != nil || p[0] != 7 {
		t.Errorf("snapshot reads %d, %v, want 7", p[0], err)
	}
}

func testSnapshotRandom(t *testing.T, f Factory) {
	r := newRun(t, f)
	r.gen.Snapshots = 25
	for len(r.m.Ops) < f.Rounds {
		switch r.gen.Rng.Intn(40) {
		case 0:
			r.s = f.Reopen(t, r.s)
			r.checkSnapshots()
		case 1:
			r.checkAll()
			r.checkSnapshots()
		case 2, 3:
			flush(t, r.s)
		default:
			r.batch()
		}
	}
	r.checkAll()
	r.checkSnapshots()
	if n := len(r.s.Snapshots()); n > maxLive {
		t.Error(fmt.Sprint(n, " snapshots"))
	}
	closeStore(t, r.s)
}
