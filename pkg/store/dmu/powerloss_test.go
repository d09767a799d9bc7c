//go:build cgo && linux

package dmu_test

import (
	"encoding/binary"
	"errors"
	"math/rand"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/cask-storage/cask/pkg/store/dmu"
)

const (
	journalEnv = "DMU_TEST_JOURNAL"
	sector     = 512
)

// keepJournal begins the journal of what a loss of power could undo.
func keepJournal(path string) {
	f, err := os.Create(path)
	if err != nil {
		victimFails(err)
	}
	dmu.SetJournal(f.Fd())
	journalFile = f
}

// journalFile is kept: the shim writes to its descriptor.
var journalFile *os.File

// unstable is a write that no flush has made stable.
type unstable struct {
	id   uint64
	off  int64
	old  []byte
	done bool // completed: the next flush covers it
}

// journalled reads the writes of a journal that are not stable, in the order
// in which they were submitted. A record cut off at the end is of a write that
// was never submitted.
func journalled(b []byte) (ws []unstable) {
	const head = 32
	covered := map[uint64][]uint64{} // writes by flush
	for len(b) >= head {
		word := func(i int) uint64 { return binary.NativeEndian.Uint64(b[8*i:]) }
		kind, id, off, n := word(0), word(1), word(2), int(word(3))
		if b = b[head:]; n > len(b) {
			break
		}
		switch kind {
		case 'w':
			ws = append(ws, unstable{id: id, off: int64(off), old: b[:n]})
		case 'c':
			if i := slices.IndexFunc(ws, func(w unstable) bool { return w.id == id }); i >= 0 {
				ws[i].done = true
			}
		case 'f':
			for _, w := range ws {
				if w.done {
					covered[id] = append(covered[id], w.id)
				}
			}
		case 'd':
			ws = slices.DeleteFunc(ws, func(w unstable) bool { return slices.Contains(covered[id], w.id) })
		}
		b = b[n:]
	}
	return ws
}

// losePower undoes some of the writes that are not stable, sector by sector:
// which ones depends on how the disk is thought to fail this time.
func losePower(t *testing.T, path string, ws []unstable, rng *rand.Rand) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		// Where the page cache has something to write yet, the kernel may fail the
		// next flush of who writes past it.
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			t.Error(err)
		}
	}()
	keepWrite, keepSector := []float64{0, 0.5, 1, 1}[rng.Intn(4)], []float64{0.5, 0.9, 1}[rng.Intn(3)]
	kept := map[int64]bool{} // sectors that have what a later write put there
	for _, w := range slices.Backward(ws) {
		keep := rng.Float64() < keepWrite
		for i := 0; i < len(w.old); i += sector {
			at := w.off + int64(i)
			switch {
			case kept[at]:
			case keep && rng.Float64() < keepSector:
				kept[at] = true
			default:
				if _, err := f.WriteAt(w.old[i:min(i+sector, len(w.old))], at); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
}

// TestPowerLoss: whatever writes since the last flush are lost or torn when the
// power goes, the store comes back as TestKill9 says.
func TestPowerLoss(t *testing.T) {
	c := newCrasher(t)
	c.life = 1200 // it is slower
	c.journal = filepath.Join(t.TempDir(), "journal")
	lost, rounds := 0, 0
	c.rounds(10, func() {
		// The kernel ends what a killed process has submitted a little later.
		time.Sleep(50 * time.Millisecond)
		b, err := os.ReadFile(c.journal)
		if err != nil {
			if os.IsNotExist(err) { // killed before it began
				return
			}
			t.Fatal(err)
		}
		ws := journalled(b)
		losePower(t, c.o.Path, ws, c.rng)
		if err := os.Remove(c.journal); err != nil {
			t.Fatal(err)
		}
		lost += len(ws)
		rounds++
	})
	t.Logf("%d writes were not stable in %d losses of power", lost, rounds)
	if rounds > 5 && lost == 0 {
		t.Error("no loss of power met an unstable write")
	}
}
