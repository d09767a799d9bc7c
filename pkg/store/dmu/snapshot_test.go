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
