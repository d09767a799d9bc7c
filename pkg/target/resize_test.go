package target

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/block/blocktest"
	"github.com/cask-storage/cask/pkg/quorum"
	"github.com/cask-storage/cask/pkg/store"
)

// grow makes room, unless the disk is full.
func (c *copyOf) grow(store.Store, uint64) error {
	if c.full.Load() {
		return store.ErrNoSpace
	}
	return nil
}

// sizedAt are settings of all three replicas.
func (s *setup) sizedAt(size uint64) Settings {
	out := s.settings(quorum.Quorum, "r0", "r1", "r2")
	out.Size = size
	return out
}

// sized waits until hosts see a size.
func sized(t *testing.T, tg *Target, want uint64) {
	t.Helper()
	for deadline := time.After(20 * time.Second); ; {
		_, _, changed := tg.Session()
		if tg.Size() == want {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("size is %d, want %d: %+v", tg.Size(), want, tg.Status())
		}
	}
}

// TestResize: the volume grows while it is used once every replica has room, a
// replica without room leaves it as it is, one that was away takes the size when
// it comes back, and so does the next target.
func TestResize(t *testing.T) {
	const large = 2 * testSize
	s := newSetup(t, 3)
	tg, end := s.following(t, "a", s.sizedAt(testSize), nil)
	serving(t, tg, 3)
	sized(t, tg, testSize)
	d := tg.Device(0)
	data := bytes.Repeat([]byte{7}, 4096)
	last := block.Extent{Off: large - 4096, Len: 4096}
	write := func() error {
		return blocktest.Do(d, &block.Request{Op: block.OpWrite, Extent: last, Bufs: [][]byte{data}})
	}
	if err := write(); !errors.Is(err, block.ErrRange) {
		t.Fatalf("write beyond the end: %v", err)
	}
	s.replicas[2].full.Store(true)
	tg.Configure(s.sizedAt(large))
	for tg.Status().Resizing == "" || !strings.Contains(tg.Status().Resizing, "r2") {
		time.Sleep(10 * time.Millisecond)
	}
	if st := tg.Status(); st.Resize != "NoSpace" || st.Size != testSize || !st.Serving {
		t.Fatalf("a replica without room: %+v", st)
	}
	s.replicas[2].full.Store(false)
	sized(t, tg, large)
	if err := write(); err != nil {
		t.Fatal(err)
	}
	s.replicas[0].stop()
	tg.Configure(s.sizedAt(3 * testSize))
	for tg.Status().Resize != "WaitsForReplica" {
		time.Sleep(10 * time.Millisecond)
	}
	s.replicas[0].start()
	sized(t, tg, 3*testSize)
	if err := end(); err != nil {
		t.Fatal(err)
	}
	tg, end = s.following(t, "b", s.sizedAt(testSize), nil) // of an older view: it never shrinks
	serving(t, tg, 3)
	sized(t, tg, 3*testSize)
	if st := tg.Status(); st.Resize != "CannotShrink" {
		t.Errorf("told a smaller size: %+v", st)
	}
	got := make([]byte, 4096)
	d = tg.Device(0)
	if err := blocktest.Do(d, &block.Request{Op: block.OpRead, Extent: last, Bufs: [][]byte{got}}); err != nil || !bytes.Equal(got, data) {
		t.Fatalf("read of the new part: %v", err)
	}
	if err := end(); err != nil {
		t.Fatal(err)
	}
	for _, c := range s.replicas {
		if size := c.s.Load().Info().Size; size != 3*testSize {
			t.Errorf("replica %s has %d bytes", c.id, size)
		}
	}
}
