//go:build cgo && linux

package dmu_test

import (
	"bytes"
	"errors"
	"slices"
	"sync"
	"testing"

	"github.com/cask-storage/cask/pkg/history"
	"github.com/cask-storage/cask/pkg/store"
	"github.com/cask-storage/cask/pkg/store/dmu"
	"github.com/cask-storage/cask/pkg/store/storetest"
)

func snapshotOp(seq history.Seq, name string) store.Op {
	return store.Op{Kind: store.Snapshot, Seq: seq, Name: name}
}

func dropOp(seq, which history.Seq) store.Op {
	return store.Op{Kind: store.DropSnapshot, Seq: seq, Base: which}
}

func mustApply(t testing.TB, s *dmu.Store, ops ...store.Op) {
	t.Helper()
	if err := s.Apply(ops); err != nil {
		t.Fatal(err)
	}
}

// Wherever a crash cuts an operation on snapshots short, the mark says what is
// there; and the operation, or another with its Seq, can be done then.
func TestSnapshotCutShort(t *testing.T) {
	for _, c := range []struct {
		at   dmu.CrashPoint
		op   store.Op
		mark history.Seq
		left []history.Seq
	}{
		{dmu.Taken, snapshotOp(4, "b"), 3, []history.Seq{2}},
		{dmu.Doomed, dropOp(4, 2), 3, []history.Seq{2}},
		{dmu.DoomMoved, dropOp(4, 2), 4, nil},
	} {
		o := extent(t, 64*mib)
		s := create(t, o)
		mustApply(t, s, writeOp(1, 0, random(4096)), snapshotOp(2, "a"), writeOp(3, 0, random(4096)))
		if err := errors.Join(s.Half(c.at, c.op), s.Close()); err != nil {
			t.Fatal(err)
		}
		s = open(t, o)
		if got := seqs(s.Snapshots()); !slices.Equal(got, c.left) || s.Info().Mark != c.mark {
			t.Errorf("%+v cut short: snapshots %v at mark %d, want %v at %d", c.op, got, s.Info().Mark, c.left, c.mark)
		}
		// Another operation 4 than the one cut short: nothing of that comes back.
		mustApply(t, s, writeOp(5, 0, random(4096)), snapshotOp(6, "b"))
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = open(t, o)
		if got, want := seqs(s.Snapshots()), append(c.left, 6); !slices.Equal(got, want) {
			t.Errorf("%+v cut short, later: snapshots %v, want %v", c.op, got, want)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// More snapshots than are kept open, read at once while some are dropped.
func TestSnapshotsReadAtOnce(t *testing.T) {
	s := create(t, extent(t, 64*mib))
	const n = 9
	for i := range history.Seq(n) {
		mustApply(t, s, writeOp(2*i+1, 0, bytes.Repeat([]byte{byte(i + 1)}, 4096)), snapshotOp(2*i+2, string(rune('a'+i))))
	}
	var readers sync.WaitGroup
	for i := range history.Seq(n) {
		readers.Go(func() {
			p := make([]byte, 4096)
			for range 50 {
				err := s.ReadSnapshot(2*i+2, p, 0)
				if i < 3 && errors.Is(err, store.ErrNotFound) {
					continue
				}
				if err != nil || p[0] != byte(i+1) {
					t.Errorf("snapshot %d reads %d: %v", 2*i+2, p[0], err)
				}
			}
		})
	}
	mustApply(t, s, dropOp(100, 2), dropOp(101, 4), dropOp(102, 6))
	readers.Wait()
	if got := len(s.Snapshots()); got != n-3 {
		t.Errorf("%d snapshots, want %d", got, n-3)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// A suspended pool fails a snapshot, it does not hang.
func TestSnapshotSuspended(t *testing.T) {
	alone(t)
	s := create(t, extent(t, 64*mib))
	mustApply(t, s, writeOp(1, 0, random(4096)))
	dmu.SetFaults(dmu.FaultWrites)
	if err := s.Apply([]store.Op{snapshotOp(2, "a")}); !errors.Is(err, store.ErrSuspended) {
		t.Fatalf("snapshot on a failing extent: %v, want store.ErrSuspended", err)
	}
}

// Wherever a crash cuts a return to the kept state short, it can be done again;
// and what was kept is there until then, or is gone with all that it had.
func TestKeepCutShort(t *testing.T) {
	for _, steps := range []int{1, 2} {
		o := extent(t, 64*mib)
		s := create(t, o)
		was := random(4096)
		mustApply(t, s, writeOp(1, 0, was), snapshotOp(2, "a"), writeOp(3, 4096, was), snapshotOp(4, "b"), writeOp(6, 0, random(4096)), writeOp(7, 0, was))
		must(t, s.Keep())
		// Operation 5 of the other history drops a, 6 is snapshot b: both are
		// below the mark that is kept.
		mustApply(t, s, store.Op{Kind: store.Rebase, Seq: 3, Base: 3}, writeOp(4, 4096, random(4096)), dropOp(5, 2), snapshotOp(6, "b"), writeOp(0, 0, random(4096)))
		storetest.GiveBack(t, s)
		must(t, errors.Join(s.HalfReturn(steps), s.Close()))
		s = open(t, o)
		if k, ok := s.Kept(); !ok || k.Mark != 7 {
			t.Fatalf("after %d steps kept: %v, %+v", steps, ok, k)
		}
		must(t, s.Return())
		if got, want := seqs(s.Snapshots()), []history.Seq{2, 4}; !slices.Equal(got, want) || s.Info().Mark != 7 {
			t.Errorf("cut short after %d steps: snapshots %v at mark %d, want %v at 7", steps, got, s.Info().Mark, want)
		}
		mustApply(t, s, writeOp(8, 0, random(4096)))
		must(t, errors.Join(s.HalfDrop(), s.Close()))
		s = open(t, o)
		p := make([]byte, 4096)
		if err := s.ReadSnapshot(4, p, 4096); err != nil || !bytes.Equal(p, was) {
			t.Errorf("cut short after %d steps: snapshot b reads wrong: %v", steps, err)
		}
		if k, ok := s.Kept(); ok || len(s.Snapshots()) != 2 || s.Info().Mark != 8 {
			t.Errorf("kept %+v after its drop, snapshots %v at mark %d", k, s.Snapshots(), s.Info().Mark)
		}
		must(t, s.Close())
		if n := bytes.Count(zdb(t, o, "-d", o.Pool), []byte("@")); n != 2 {
			t.Errorf("cut short after %d steps: %d snapshots on the disk, want 2", steps, n)
		}
	}
}

// A drop that is cut short leaves nothing that only the kept state had.
func TestKeepDropCutShort(t *testing.T) {
	o := extent(t, 64*mib)
	s := create(t, o)
	mustApply(t, s, writeOp(1, 0, random(4096)), snapshotOp(2, "a"))
	must(t, s.Keep())
	mustApply(t, s, dropOp(3, 2))
	must(t, errors.Join(s.HalfDrop(), s.Close()))
	s = open(t, o)
	if _, ok := s.Kept(); ok || len(s.Snapshots()) != 0 {
		t.Errorf("kept %v, snapshots %v", ok, s.Snapshots())
	}
	must(t, s.Close())
	if out := zdb(t, o, "-d", o.Pool); bytes.Contains(out, []byte("@")) {
		t.Errorf("a snapshot is left: %s", out)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
