//go:build cgo && linux

package dmu_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand"
	"os"
	"testing"
	"time"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/store"
	"github.com/cask-storage/cask/pkg/store/dmu"
)

// scrub runs one scrub to its end and returns what was found.
func scrub(t *testing.T, s *dmu.Store) (block.Set, uint64) {
	t.Helper()
	before, err := s.Scrubbing()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.BeginScrub(); err != nil {
		t.Fatal(err)
	}
	var found block.Set
	var others uint64
	for range 6000 {
		st, err := s.Scrubbing()
		if err != nil {
			t.Fatal(err)
		}
		es, n, err := s.Rotten()
		if err != nil {
			t.Fatal(err)
		}
		found, others = found.With(es...), others+n
		if !st.Running && !st.Ended.IsZero() && st.Ended.After(before.Ended) || !st.Running && before.Ended.IsZero() && !st.Ended.IsZero() {
			return found, others
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("the scrub does not end")
	return nil, 0
}

// TestScrub: a scrub finds exactly the blocks that rotted, which writing them
// anew repairs; the next one, and zdb, find nothing.
func TestScrub(t *testing.T) {
	o := extent(t, 64*mib)
	o.Compression = "off"
	data := random(4 * mib)
	s := create(t, o)
	if err := s.Apply([]store.Op{writeOp(1, 0, data)}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	const bs = dmu.DefaultBlockSize
	var want block.Set
	rng := rand.New(rand.NewSource(1))
	for range 10 {
		off := uint64(rng.Intn(len(data)/bs)) * bs
		if !want.Overlaps(block.Extent{Off: off, Len: bs}) {
			rot(t, o.Path, data[off:][:bs])
		}
		want = want.With(block.Extent{Off: off, Len: bs})
	}
	s = open(t, o)
	found, others := scrub(t, s)
	if len(found) != len(want) || found.Bytes() != want.Bytes() || found.With(want...).Bytes() != want.Bytes() || others != 0 {
		t.Errorf("found %v and %d others, want %v", found, others, want)
	}
	for _, e := range want {
		if err := s.Apply([]store.Op{{Kind: store.Write, Extent: e, Data: data[e.Off:e.End()]}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, o)
	time.Sleep(1100 * time.Millisecond) // ends of scrubs are told in seconds
	if found, others := scrub(t, s); len(found) > 0 || others > 0 {
		t.Errorf("after the repair: %v and %d others", found, others)
	}
	got := make([]byte, len(data))
	if err := s.ReadAt(got, 0); err != nil || !bytes.Equal(got, data) {
		t.Errorf("after the repair: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	zdb(t, o, "-bcc", o.Pool)
}

// TestFoundElsewhere: what was found in a pool that was closed, and not asked for, is
// no other pool's, wherever that lies in memory.
func TestFoundElsewhere(t *testing.T) {
	rotten, sound := extent(t, 64*mib), extent(t, 64*mib)
	rotten.Compression = "off"
	data := random(mib)
	s := create(t, rotten)
	if err := s.Apply([]store.Op{writeOp(1, 0, data)}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	rot(t, rotten.Path, data[512<<10:][:dmu.DefaultBlockSize])
	if err := create(t, sound).Close(); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		s := open(t, rotten)
		if err := s.ReadAt(make([]byte, 4096), 512<<10); !errors.Is(err, store.ErrCorrupt) {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		s = open(t, sound)
		if found, others, err := s.Rotten(); err != nil || len(found) > 0 || others > 0 {
			t.Errorf("found %v and %d others, %v", found, others, err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestRottenIndirectBlock: below it nothing can be read or changed, whatever is
// tried says so, and the rest goes on.
func TestRottenIndirectBlock(t *testing.T) {
	alone(t)
	o := extent(t, 64*mib)
	data := random(2 * mib)
	s := create(t, o)
	if err := s.Apply([]store.Op{writeOp(1, 0, data)}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	spoilIndirect(t, o)
	s = open(t, o)
	p := make([]byte, 4096)
	bad, good := -1, -1
	for off := 0; off < len(data); off += 512 << 10 {
		err := s.ReadAt(p, uint64(off))
		if err == nil {
			good = off
		} else if errors.Is(err, store.ErrCorrupt) {
			bad = off
		} else {
			t.Fatal(err)
		}
	}
	if bad < 0 || good < 0 {
		t.Fatalf("unreadable: %d, readable: %d", bad, good)
	}
	var rotten *store.CorruptError
	err := s.Apply([]store.Op{writeOp(2, uint64(bad), data[bad:][:dmu.DefaultBlockSize])})
	if !errors.As(err, &rotten) || len(rotten.Blocks) > 0 || rotten.Done != 0 {
		t.Fatalf("write below it: %v", err)
	}
	unmap := store.Op{Kind: store.Unmap, Seq: 2, Extent: block.Extent{Off: uint64(bad) + 512, Len: 64 << 10}}
	if err := s.Apply([]store.Op{unmap}); !errors.As(err, &rotten) {
		t.Fatalf("unmap below it: %v", err)
	}
	if err := s.Apply([]store.Op{writeOp(2, uint64(good), random(8192))}); err != nil {
		t.Fatalf("write elsewhere: %v", err)
	}
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// spoilIndirect overwrites a level-1 block of the volume's content.
func spoilIndirect(t *testing.T, o dmu.Options) {
	t.Helper()
	out := zdb(t, o, "-ddddd", o.Pool+"/vol", "1")
	for _, line := range bytes.Split(out, []byte("\n")) {
		f := bytes.Fields(line)
		if len(f) < 3 || string(f[1]) != "L1" {
			continue
		}
		var vdev, off uint64
		if _, err := fmt.Sscanf(string(f[2]), "%d:%x:", &vdev, &off); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		file, err := os.OpenFile(o.Path, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		if _, err := file.WriteAt(random(512), int64(off+(4<<20))); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Fatalf("zdb names no level-1 block: %s", out)
}
