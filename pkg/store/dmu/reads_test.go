//go:build cgo && linux

package dmu_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/history"
	"github.com/cask-storage/cask/pkg/store"
	"github.com/cask-storage/cask/pkg/store/dmu"
)

const (
	versionSector = 4 << 10 // of versioned, written whole
	versionSize   = 128 * mib
)

// versioned is a volume whose sectors hold the number of the operation that wrote them
// last in each word, and zeroes once they are unmapped.
type versioned struct {
	s            *dmu.Store
	begun, ended [versionSize / versionSector]atomic.Uint64 // the last operation
	unmapped     [versionSize / versionSector]atomic.Uint64 // the last such one
	seq          history.Seq
}

// change applies some operations at random places.
func (v *versioned) change(rng *rand.Rand) error {
	var ops []store.Op
	for range 1 + rng.Intn(16) {
		v.seq++
		sectors := 1 << rng.Intn(6)
		kind := store.Write
		if rng.Intn(8) == 0 {
			kind = store.Unmap
		}
		ops = append(ops, v.op(kind, uint64(rng.Intn(len(v.begun)-sectors+1)), uint64(sectors)))
	}
	return v.apply(ops)
}

// op is operation v.seq, of some sectors from at on.
func (v *versioned) op(kind store.Kind, at, sectors uint64) store.Op {
	op := store.Op{Kind: kind, Seq: v.seq, Extent: block.Extent{Off: at * versionSector, Len: sectors * versionSector}}
	if kind == store.Write {
		op.Data = bytes.Repeat(binary.LittleEndian.AppendUint64(nil, uint64(v.seq)), int(op.Extent.Len/8))
	}
	return op
}

func (v *versioned) apply(ops []store.Op) error {
	each := func(do func(i uint64, o store.Op)) {
		for _, o := range ops {
			for i := o.Extent.Off; i < o.Extent.End(); i += versionSector {
				do(i/versionSector, o)
			}
		}
	}
	each(func(i uint64, o store.Op) {
		v.begun[i].Store(uint64(o.Seq))
		if o.Kind == store.Unmap {
			v.unmapped[i].Store(uint64(o.Seq))
		}
	})
	err := v.s.Apply(ops)
	if err == nil {
		each(func(i uint64, o store.Op) { v.ended[i].Store(uint64(o.Seq)) })
	}
	return err
}

// read reads at a random place.
func (v *versioned) read(rng *rand.Rand) error {
	sectors := 1 << rng.Intn(6)
	return v.readAt(rng.Intn(len(v.begun)-sectors+1), sectors)
}

// readAt reads some sectors from at on: each is whole, no older than what was applied
// when the read began, and no newer than what began until it ended.
func (v *versioned) readAt(at, sectors int) error {
	oldest := make([]uint64, sectors)
	for i := range oldest {
		oldest[i] = v.ended[at+i].Load()
	}
	p := make([]byte, sectors*versionSector)
	if err := v.s.ReadAt(p, uint64(at)*versionSector); err != nil {
		return err
	}
	for i, low := range oldest {
		sector := p[i*versionSector:][:versionSector]
		got := binary.LittleEndian.Uint64(sector)
		if !bytes.Equal(sector[8:], sector[:versionSector-8]) {
			return fmt.Errorf("sector %d is torn", at+i)
		}
		high, unmapped := v.begun[at+i].Load(), v.unmapped[at+i].Load()
		if got == 0 && (low == 0 || unmapped >= low) {
			continue
		}
		if got < low || got > high {
			return fmt.Errorf("sector %d is of operation %d, it was %d before the read and %d after it", at+i, got, low, high)
		}
	}
	return nil
}

// readers has n goroutines read until one fails or end is called, which waits for them.
func readers(t *testing.T, n int, read func(*rand.Rand) error) (end func()) {
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for i := range n {
		wg.Go(func() { // ends with stop
			for rng := rand.New(rand.NewSource(int64(i))); ; {
				select {
				case <-stop:
					return
				default:
				}
				if err := read(rng); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	return func() {
		close(stop)
		wg.Wait()
	}
}

// TestReadsBesideWrites: what several read at a time is what was written, while it
// is written, unmapped, synced, trimmed and dropped from the cache.
func TestReadsBesideWrites(t *testing.T) {
	for _, n := range []int{1, 2, 12} {
		t.Run(fmt.Sprint(n), func(t *testing.T) { readBesideWrites(t, n) })
	}
}

func readBesideWrites(t *testing.T, n int) {
	o := extent(t, versionSize)
	o.Memory = 192 * mib
	v := &versioned{s: create(t, o)}
	past, left := dmu.Reads()
	end := readers(t, n, v.read)
	rng := rand.New(rand.NewSource(0))
	for last := time.Now().Add(3 * time.Second); time.Now().Before(last) && !t.Failed(); {
		if err := v.change(rng); err != nil {
			t.Error(err)
		}
		switch rng.Intn(40) {
		case 0:
			if err := v.s.Uncache(); err != nil {
				t.Error(err)
			}
		case 1:
			if err := v.s.Flush(); err != nil {
				t.Error(err)
			}
		}
	}
	end()
	pastNow, leftNow := dmu.Reads()
	t.Logf("%d operations; %d reads past dbufs, %d left to them", v.seq, pastNow-past, leftNow-left)
	if pastNow == past || leftNow == left {
		t.Error("it did not test both")
	}
	if err := v.s.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestReadsBetweenLooks: a read sees no content that was gone when it began, though
// the block is unmapped and written again while the read looks for it.
func TestReadsBetweenLooks(t *testing.T) {
	v := &versioned{s: create(t, extent(t, versionSize))}
	dmu.SetFaults(dmu.FaultLooks)
	defer dmu.SetFaults(0)
	end := readers(t, 4, func(rng *rand.Rand) error { return v.readAt(rng.Intn(20), 1) })
	for last := time.Now().Add(2 * time.Second); time.Now().Before(last) && !t.Failed(); {
		for _, step := range []struct {
			kind    store.Kind
			sectors uint64 // of the two of a block
		}{{store.Write, 2}, {store.Unmap, 2}, {store.Write, 1}} {
			for i := range uint64(10) {
				v.seq++
				if err := v.apply([]store.Op{v.op(step.kind, 2*i, step.sectors)}); err != nil {
					t.Fatal(err)
				}
			}
			if step.kind == store.Write && step.sectors == 2 { // to the disk
				if err := v.s.Uncache(); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	end()
	if err := v.s.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestReadsOfRot: of many that read at a time, those that read a rotten block are told
// so, and no others.
func TestReadsOfRot(t *testing.T) {
	const blocks = 64
	o := extent(t, 64*mib)
	s := create(t, o)
	data := random(blocks * 8 << 10)
	mustApply(t, s, writeOp(1, 0, data))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	bad := func(i int) bool { return i%5 == 3 }
	for i := range blocks {
		if bad(i) {
			rot(t, o.Path, data[i*8<<10:][:8<<10])
		}
	}
	s = open(t, o)
	var wg sync.WaitGroup
	for i := range 4 * blocks {
		wg.Go(func() {
			i, p := i%blocks, make([]byte, 4096)
			err := s.ReadAt(p, uint64(i)*8<<10+4096)
			switch {
			case bad(i) != errors.Is(err, store.ErrCorrupt):
				t.Errorf("block %d, rotten: %v: %v", i, bad(i), err)
			case err == nil && !bytes.Equal(p, data[i*8<<10+4096:][:4096]):
				t.Errorf("block %d: not what was written", i)
			}
		})
	}
	wg.Wait()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestReadsFail: each of many reads of a disk that fails is told so.
func TestReadsFail(t *testing.T) {
	alone(t) // ZFS gives up a disk that fails
	o := extent(t, 64*mib)
	s := create(t, o)
	mustApply(t, s, writeOp(1, 0, random(4*mib)))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, o)
	dmu.SetFaults(dmu.FaultReads)
	var wg sync.WaitGroup
	for i := range uint64(64) {
		wg.Go(func() {
			if err := s.ReadAt(make([]byte, 4096), i*64<<10); !errors.Is(err, store.ErrIO) {
				t.Errorf("read of a disk that fails: %v", err)
			}
		})
	}
	wg.Wait()
}
