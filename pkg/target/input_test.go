package target

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/cask-storage/cask/pkg/block/blocktest"
	"github.com/cask-storage/cask/pkg/volume"
)

// restore overwrites the record, as somebody does who edits the Volume's status
// or restores it from a backup.
func (s *setup) restore(t *testing.T, rec volume.Record) {
	t.Helper()
	now, err := s.record.Load(t.Context())
	if err == nil {
		err = s.record.CompareAndSwap(t.Context(), now, rec)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestRestoredRecord: with a record older than what replicas have promised the
// target stops and says so; it never serves.
func TestRestoredRecord(t *testing.T) {
	for name, back := range map[string]uint64{"one target back": 1, "two targets back": 2} {
		s := newSetup(t, 3)
		first, err := s.record.Load(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for range back {
			tg, end := s.target(t, "t")
			serving(t, tg, 3)
			if err := blocktest.Write(tg.Device(0), 0, make([]byte, 4096)); err != nil {
				t.Fatal(err)
			}
			if err := end(); err != nil {
				t.Fatal(err)
			}
		}
		s.restore(t, first)
		tg, end := s.target(t, "late")
		for start := time.Now(); time.Since(start) < 2*time.Second; time.Sleep(10 * time.Millisecond) {
			if tg.Status().Serving {
				t.Fatalf("%s: it serves", name)
			}
		}
		if err := end(); !errors.Is(err, volume.ErrRecord) || !strings.Contains(err.Error(), "old backup") {
			t.Errorf("%s: the target ends with %v, status %+v", name, err, tg.Status())
		}
	}
}

// TestForeignReplica: where a replica of another volume answers, it is refused
// with a reason and the others serve.
func TestForeignReplica(t *testing.T) {
	s := newSetup(t, 3)
	s.replicas[2].stop()
	s.replicas[2].volume = "another"
	s.replicas[2].start()
	tg, _ := s.target(t, "t1")
	serving(t, tg, 2)
	if r := tg.Status().Replicas[2]; r.State != "Failed" || !strings.Contains(r.Message, "another") {
		t.Errorf("the replica of another volume: %+v", r)
	}
}
