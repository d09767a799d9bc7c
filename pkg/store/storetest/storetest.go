// Package storetest is the conformance suite of store.Store: every
// implementation runs it from a test of its own.
//
//	storetest.Run(t, storetest.Factory{Create: …, Reopen: …, Crash: …})
//
// The random parts print their seed; STORETEST_SEED repeats a run.
package storetest

import (
	"math/rand"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/cask-storage/cask/pkg/store"
)

// Size is the size of the stores a Factory creates, in bytes.
const Size = 8 << 20

// Factory makes the stores under test. Each store made is closed by the suite
// or given back to Reopen or Crash, which end it.
type Factory struct {
	// Create makes an empty store of Size bytes.
	Create func(t *testing.T) store.Store
	// Reopen closes s, which must succeed, and opens it again.
	Reopen func(t *testing.T, s store.Store) store.Store
	// Crash loses s's memory without closing it and opens it again; rng
	// decides what of the unstable state survives. Nil when a store cannot
	// crash within a test's process.
	Crash func(t *testing.T, s store.Store, rng *rand.Rand) store.Store
	// Exact says that a snapshot is a place that Changed knows exactly.
	Exact bool
	// Rot makes the block at byte off unreadable, and leaves the others; the
	// store may be closed and opened again for that. Nil when there is no way.
	Rot func(t *testing.T, s store.Store, off uint64) store.Store
	// Rounds scales the random tests: operations per test, 400 when 0.
	Rounds int
}

// Run runs the suite against f's stores.
func Run(t *testing.T, f Factory) {
	if f.Rounds == 0 {
		f.Rounds = 400
	}
	for _, c := range []struct {
		name string
		run  func(*testing.T, Factory)
	}{
		{"Empty", testEmpty},
		{"WriteRead", testWriteRead},
		{"UnalignedBlocks", testUnaligned},
		{"UnmapReadsZero", testUnmap},
		{"OrderWithinApply", testOrder},
		{"Mark", testMark},
		{"BadOperations", testBadOperations},
		{"Meta", testMeta},
		{"Closed", testClosed},
		{"Changed", testChanged},
		{"ChangedSeqZero", testChangedSeqZero},
		{"RebaseForgets", testRebaseForgets},
		{"RebaseDown", testRebaseDown},
		{"Random", testRandom},
		{"Concurrent", testConcurrent},
		{"Crash", testCrash},
		{"Snapshot", testSnapshot},
		{"SnapshotNames", testSnapshotNames},
		{"SnapshotChanged", testSnapshotChanged},
		{"SnapshotRebase", testSnapshotRebase},
		{"SnapshotRandom", testSnapshotRandom},
		{"Frozen", testFrozen},
		{"Resize", testResize},
		{"ResizeRebase", testResizeRebase},
		{"ResizeRandom", testResizeRandom},
		{"Keep", testKeep},
		{"KeepNothing", testKeepNothing},
		{"RotIsSeen", testRotIsSeen},
		{"RotAndPartialChanges", testRotPartial},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, f) })
	}
}

// seed is the run's seed, from the environment or the clock, printed.
func seed(t *testing.T) *rand.Rand {
	t.Helper()
	n := time.Now().UnixNano()
	if s := os.Getenv("STORETEST_SEED"); s != "" {
		var err error
		if n, err = strconv.ParseInt(s, 10, 64); err != nil {
			t.Fatalf("STORETEST_SEED: %v", err)
		}
	}
	t.Logf("STORETEST_SEED=%d", n)
	return rand.New(rand.NewSource(n))
}
