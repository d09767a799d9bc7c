//go:build cgo && linux

package main

import (
	"bytes"
	"context"
	"fmt"
	"math/rand"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/quorum"
	"github.com/cask-storage/cask/pkg/replica"
	"github.com/cask-storage/cask/pkg/store"
	"github.com/cask-storage/cask/pkg/store/dmu"
	"github.com/cask-storage/cask/pkg/target"
	"github.com/cask-storage/cask/pkg/volume"
)

const (
	rotVolume = 32 << 20 // bytes
	rotData   = 4 << 20  // of them in use
	rotPart   = 4 << 10  // bytes of one operation
	rotRounds = 15       // bytes spoiled
	rotLabels = 4 << 20  // bytes before and after which an extent holds labels
)

// onExtent is a replica's backing: a pool of its own on a file.
type onExtent struct {
	o dmu.Options
	s *dmu.Store
}

func (x *onExtent) Open() (store.Store, error) { return nil, store.ErrNotFound }

func (x *onExtent) Create(size uint64) (_ store.Store, err error) {
	x.o.Size = size
	x.s, err = dmu.Create(x.o)
	return x.s, err
}

// rotSetup is a volume of three real replicas, in this process.
type rotSetup struct {
	t       *testing.T
	extents []*onExtent
	tg      *target.Target
	want    []byte
	rng     *rand.Rand
	last    store.ScrubStatus
}

func newRotSetup(t *testing.T) *rotSetup {
	t.Helper()
	s := &rotSetup{t: t, want: make([]byte, rotData), rng: rand.New(rand.NewSource(1))}
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	t.Cleanup(func() { cancel(); wg.Wait() })
	addrs, rec := map[quorum.ReplicaID]string{}, volume.Record{}
	for i := range 3 {
		id := fmt.Sprintf("r%d", i)
		x := &onExtent{o: dmu.Options{Path: filepath.Join(dir, id), Pool: "rot" + id, Compression: "off"}}
		if err := os.WriteFile(x.o.Path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(x.o.Path, int64(replica.ExtentSize(rotVolume))); err != nil {
			t.Fatal(err)
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		srv := replica.NewServer(replica.Config{Identity: replica.Identity{Volume: "vol", Replica: id}, Backing: x, Logf: t.Logf,
			Scrub: replica.ScrubConfig{Every: 1000 * time.Hour}})
		wg.Go(func() { // ends with ctx
			if err := srv.Serve(ctx, l); err != nil {
				t.Errorf("replica %s: %v", id, err)
			}
		})
		s.extents = append(s.extents, x)
		addrs[quorum.ReplicaID(id)] = l.Addr().String()
		rec.Voters = append(rec.Voters, quorum.ReplicaID(id))
	}
	record := target.FileAuthority{Path: filepath.Join(dir, "record.json")}
	if err := record.CreateRecord(rec); err != nil {
		t.Fatal(err)
	}
	s.tg = target.New(target.Config{Volume: volume.Config{Instance: "t", Level: quorum.Quorum, Replicas: rec.Voters, Size: rotVolume,
		Volume: "vol", Timing: volume.DefaultTiming()}, Addresses: addrs, Authority: record, Logf: t.Logf})
	wg.Go(func() { // ends with ctx
		if err := s.tg.Run(ctx); err != nil {
			t.Errorf("target: %v", err)
		}
	})
	s.await("every replica in sync", func() bool { st := s.tg.Status(); return st.Serving && st.InSync() == 3 })
	return s
}

func (s *rotSetup) await(what string, f func() bool) {
	s.t.Helper()
	for range 6000 {
		if f() {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	s.t.Fatalf("%s: never; status %+v", what, s.tg.Status())
}

func (s *rotSetup) do(op block.Op, off uint64, buf []byte) {
	s.t.Helper()
	done := make(chan error, 1)
	r := &block.Request{Op: op, Done: func(_ *block.Request, err error) { done <- err }}
	if op != block.OpFlush {
		r.Extent, r.Bufs = block.Extent{Off: off, Len: uint64(len(buf))}, [][]byte{buf}
	}
	s.tg.Device(0).Submit(r)
	if err := <-done; err != nil {
		s.t.Fatalf("%v at %d: %v", op, off, err)
	}
}

// write overwrites a random part with random bytes.
func (s *rotSetup) write() {
	off := s.rng.Intn(rotData/rotPart) * rotPart
	s.rng.Read(s.want[off:][:rotPart])
	s.do(block.OpWrite, uint64(off), s.want[off:][:rotPart])
}

// spoil changes a random byte of the volume's content on the extent of r0: where
// a random part of it lies on the disk now, if it still does.
func (s *rotSetup) spoil() bool {
	path := s.extents[0].o.Path
	all, err := os.ReadFile(path)
	if err != nil {
		s.t.Fatal(err)
	}
	part := s.want[s.rng.Intn(rotData/rotPart)*rotPart:][:rotPart]
	at := bytes.LastIndex(all[:len(all)-rotLabels], part)
	if at < rotLabels {
		return false
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		s.t.Fatal(err)
	}
	defer f.Close()
	at += s.rng.Intn(rotPart)
	if _, err := f.WriteAt([]byte{all[at] ^ 0x40}, int64(at)); err != nil {
		s.t.Fatal(err)
	}
	return true
}

func (s *rotSetup) r0() target.ReplicaStatus { return s.tg.Status().Replicas[0] }

// TestRot: any byte of the content of one of three replicas' extents rots while the
// volume is written and read: the host sees nothing but what it wrote, and after a
// scrub the pool is clean.
func TestRot(t *testing.T) {
	s := newRotSetup(t)
	s.rng.Read(s.want)
	for off := 0; off < rotData; off += 1 << 20 {
		s.do(block.OpWrite, uint64(off), s.want[off:][:1<<20])
	}
	spoiled, served, reads := 0, 0, 0
	for range rotRounds {
		s.do(block.OpFlush, 0, nil)
		if s.spoil() {
			spoiled++
		}
		for range 8 {
			s.write()
			off := s.rng.Intn(rotData/rotPart) * rotPart
			got := make([]byte, rotPart)
			s.do(block.OpRead, uint64(off), got)
			reads++
			if !bytes.Equal(got, s.want[off:][:rotPart]) {
				served++
			}
		}
	}
	for range 2 {
		s.scrub()
	}
	got := make([]byte, 1<<20)
	for off := 0; off < rotData; off += len(got) {
		s.do(block.OpRead, uint64(off), got)
		if !bytes.Equal(got, s.want[off:][:len(got)]) {
			served++
		}
	}
	t.Logf("bytes spoiled %d, reads %d, served rotten %d, found %d bytes, healed %d bytes", spoiled, reads, served, s.r0().Found, s.r0().Healed)
	if served > 0 || s.last.Errors > 0 || spoiled < rotRounds/3 || s.r0().Found == 0 || s.r0().Damaged != 0 {
		t.Errorf("served %d, status %+v", served, s.r0())
	}
}

// scrub scrubs r0 and waits until what was found is repaired.
func (s *rotSetup) scrub() {
	x := s.extents[0].s
	before, err := x.Scrubbing()
	if err == nil {
		time.Sleep(1100 * time.Millisecond) // ends are told in seconds
		err = x.BeginScrub()
	}
	if err != nil {
		s.t.Fatal(err)
	}
	var st store.ScrubStatus
	s.await("the end of the scrub", func() bool {
		st, err = x.Scrubbing()
		return err == nil && !st.Running && st.Ended.After(before.Ended)
	})
	s.await("repairs", func() bool { return s.r0().Damaged == 0 })
	time.Sleep(2 * time.Second) // the replica looks every second
	s.await("repairs", func() bool { return s.r0().Damaged == 0 })
	s.t.Logf("scrub: %+v", st)
	s.last = st
}
