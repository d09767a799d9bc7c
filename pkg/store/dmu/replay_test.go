//go:build cgo && linux

package dmu_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"testing"

	"github.com/cask-storage/cask/pkg/store"
	"github.com/cask-storage/cask/pkg/store/dmu"
)

// crashed makes a volume whose log has what its content lacks: the extent was copied
// after a flush. The first flushed operation is in several records, and covers the
// block that rots in part.
type crashed struct {
	o             dmu.Options
	rots          []byte // content of that block
	last          []byte // of the last operation
	want          []byte
	lastOff, mark uint64
}

func crash(t *testing.T) crashed {
	t.Helper()
	for range 10 {
		if c, logged := copyOf(t); logged {
			return c
		}
	}
	t.Fatal("ZFS always synced before the extent was copied")
	return crashed{}
}

// copyOf reports whether the last operations were in the log only.
func copyOf(t *testing.T) (crashed, bool) {
	t.Helper()
	o := extent(t, 64*mib)
	c := crashed{o: o, lastOff: 512 << 10, mark: 4, want: make([]byte, mib)}
	write := func(s *dmu.Store, o store.Op) {
		mustApply(t, s, o)
		copy(c.want[o.Extent.Off:], o.Data)
	}
	s := create(t, o)
	first := random(256 << 10)
	c.rots = bytes.Clone(first[:8<<10])
	write(s, writeOp(1, 0, first))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s, err := dmu.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	write(s, writeOp(2, 600<<10, random(512)))
	if err := s.Flush(); err != nil { // the log's first block waits for a sync
		t.Fatal(err)
	}
	txg := s.TXG()
	write(s, writeOp(3, 4<<10, random(128<<10)))
	c.last = random(4 << 10)
	write(s, writeOp(4, c.lastOff, c.last))
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	c.o.Path += ".crashed"
	out, err := exec.Command("cp", "--sparse=always", o.Path, c.o.Path).CombinedOutput()
	logged := s.TXG() == txg
	if err = errors.Join(err, s.Close()); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return c, logged
}

// flip changes the bytes that begin as content does, wherever the extent has them,
// or changes them back.
func (c crashed) flip(t *testing.T, content []byte) {
	t.Helper()
	b, err := os.ReadFile(c.o.Path)
	if err != nil {
		t.Fatal(err)
	}
	found, rest := 0, content[8:2<<10] // a record may be split between blocks
	for at := 0; ; at++ {
		n := bytes.Index(b[at:], rest)
		if n < 0 {
			break
		}
		at += n
		b[at-1] ^= 0xff
		found++
	}
	if found == 0 {
		t.Fatal("the extent does not have it")
	}
	if err := os.WriteFile(c.o.Path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// whole opens the volume and finds all of it.
func (c crashed) whole(t *testing.T) {
	t.Helper()
	s, err := dmu.Open(c.o)
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(c.want))
	if err := s.ReadAt(got, 0); err != nil {
		t.Fatal(err)
	}
	if mark := uint64(s.Info().Mark); mark != c.mark || !bytes.Equal(got, c.want) {
		t.Errorf("mark %d, want %d; content is right: %v", mark, c.mark, bytes.Equal(got, c.want))
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// refused opens the volume as often as a pod that is restarted would.
func (c crashed) refused(t *testing.T, what string) {
	t.Helper()
	for try := range 3 {
		s, err := dmu.Open(c.o)
		if err == nil {
			t.Fatalf("%s: opened at try %d, with mark %d", what, try, s.Info().Mark)
		}
		if !errors.Is(err, store.ErrCorrupt) {
			t.Fatalf("%s: %v, want store.ErrCorrupt", what, err)
		}
		t.Logf("%s: %v", what, err)
	}
}

// A log that cannot be replayed stays, however often the volume is opened: ZFS
// drops it with the first try, and the next one finds an older mark and nothing
// wrong. Found by a review.
func TestReplayFails(t *testing.T) {
	t.Run("nothing is wrong", func(t *testing.T) { crash(t).whole(t) })
	t.Run("a block that is written in part has rotted", func(t *testing.T) {
		c := crash(t)
		c.flip(t, c.rots)
		c.refused(t, "rot under the first operation of the log")
		c.flip(t, c.rots)
		c.whole(t)
	})
	t.Run("the log has rotted since it was claimed", func(t *testing.T) {
		c := crash(t)
		c.flip(t, c.rots)
		c.refused(t, "rot under the first operation of the log")
		c.flip(t, c.rots)
		c.flip(t, c.last)
		c.refused(t, "rot in the log")
		c.flip(t, c.last)
		c.whole(t)
	})
}
