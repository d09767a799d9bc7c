package target

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/cask-storage/cask/pkg/block"
)

// TestRepair: what rots on a replica is answered by another, repaired, and told.
func TestRepair(t *testing.T) {
	setup := newSetup(t, 3)
	tg, end := setup.target(t, "t1")
	serving(t, tg, 3)
	data := bytes.Repeat([]byte("good"), 256<<10)
	if err := do(tg, block.OpWrite, 0, data); err != nil {
		t.Fatal(err)
	}
	setup.everywhere(t)
	for i := range uint64(5) {
		setup.replicas[0].s.Load().Rot(i * 80 << 10)
	}
	got := make([]byte, len(data))
	for range 500 {
		if err := do(tg, block.OpRead, 0, got); err != nil || !bytes.Equal(got, data) {
			t.Fatalf("read over rotten blocks: %v", err)
		}
		if r := tg.Status().Replicas[0]; r.Healed == 5*4096 && r.Found == r.Healed && r.Damaged == 0 && strings.Contains(r.Repair, "repaired from r") {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if r := tg.Status().Replicas[0]; r.Healed != 5*4096 || r.Found != r.Healed || r.Trouble != "" {
		t.Errorf("status: %+v", r)
	}
	if err := end(); err != nil {
		t.Fatal(err)
	}
	if left := setup.replicas[0].s.Load().Rotten(); len(left) > 0 {
		t.Errorf("not repaired: %v", left)
	}
}

// TestRotEverywhere: what no replica can read is a medium error, and told.
func TestRotEverywhere(t *testing.T) {
	setup := newSetup(t, 2)
	tg, _ := setup.target(t, "t1")
	serving(t, tg, 2)
	data := bytes.Repeat([]byte("good"), 4<<10)
	if err := do(tg, block.OpWrite, 0, data); err != nil {
		t.Fatal(err)
	}
	setup.everywhere(t)
	for _, r := range setup.replicas {
		r.s.Load().Rot(4096)
	}
	if err := do(tg, block.OpRead, 0, make([]byte, 8192)); !errors.Is(err, block.ErrMedium) {
		t.Fatalf("read of what rotted everywhere: %v", err)
	}
	if err := do(tg, block.OpRead, 0, make([]byte, 4096)); err != nil {
		t.Fatalf("read beside it: %v", err)
	}
	if err := do(tg, block.OpWrite, 4096, data[:4096]); err != nil {
		t.Fatal(err)
	}
	if err := do(tg, block.OpRead, 0, data); err != nil {
		t.Fatalf("after it was written anew: %v", err)
	}
}

// everywhere waits until every replica has the first operation.
func (s *setup) everywhere(t *testing.T) {
	t.Helper()
	for _, r := range s.replicas {
		for range 2000 {
			if r.s.Load().Info().Mark >= 1 {
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
		if r.s.Load().Info().Mark < 1 {
			t.Fatalf("%s has nothing", r.id)
		}
	}
}

// do carries out one request.
func do(tg *Target, op block.Op, off uint64, buf []byte) error {
	done := make(chan error, 1)
	tg.Device(0).Submit(&block.Request{Op: op, Extent: block.Extent{Off: off, Len: uint64(len(buf))}, Bufs: [][]byte{buf},
		Done: func(_ *block.Request, err error) { done <- err }})
	return <-done
}
