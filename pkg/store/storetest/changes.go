package storetest

import (
	"sync"
	"testing"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/history"
	"github.com/cask-storage/cask/pkg/store"
)

const mib = 1 << 20

func wantIncludes(t *testing.T, ext []block.Extent, offs ...uint64) {
	t.Helper()
	for _, off := range offs {
		if !includes(ext, off) {
			t.Errorf("changed %v lacks byte %d", ext, off)
		}
	}
}

func testChanged(t *testing.T, f Factory) {
	s := f.Create(t)
	apply(t, s, write(1, 0, 64<<10, 1), write(2, 2*mib, 64<<10, 1), write(3, 4*mib, 64<<10, 1))
	s = f.Reopen(t, s)
	apply(t, s, write(4, mib, 512, 4))
	if ext := changed(t, s, 3); !includes(ext, mib) || includes(ext, 6*mib) {
		t.Errorf("changed %v: lacks what was written, or has what never was", ext)
	}
	apply(t, s, unmap(5, 2*mib, 64<<10))
	check := func() {
		t.Helper()
		wantIncludes(t, changed(t, s, 3), mib, 2*mib, 2*mib+60<<10)
		wantIncludes(t, changed(t, s, 4), 2*mib)
		wantIncludes(t, changed(t, s, 0), 0, mib, 4*mib)
	}
	check()
	s = f.Reopen(t, s)
	check()
	closeStore(t, s)
}

// testChangedSeqZero: what is written without a Seq counts as after the mark.
func testChangedSeqZero(t *testing.T, f Factory) {
	s := f.Create(t)
	apply(t, s, write(1, 0, 4096, 1), write(2, mib, 4096, 2))
	s = f.Reopen(t, s)
	apply(t, s, write(0, 2*mib, 4096, 3))
	wantIncludes(t, changed(t, s, 2), 2*mib)
	s = f.Reopen(t, s)
	apply(t, s, unmap(0, 0, 4096))
	s = f.Reopen(t, s)
	apply(t, s, write(3, 3*mib, 4096, 4))
	s = f.Reopen(t, s)
	defer closeStore(t, s)
	apply(t, s, write(4, 4*mib, 4096, 4))
	wantIncludes(t, changed(t, s, 1), 0, mib, 2*mib, 3*mib, 4*mib)
	wantIncludes(t, changed(t, s, 2), 0, 2*mib, 3*mib, 4*mib)
	wantIncludes(t, changed(t, s, 3), 4*mib)
}

func testRebaseForgets(t *testing.T, f Factory) {
	s := f.Create(t)
	apply(t, s, write(1, 0, 4096, 1))
	s = f.Reopen(t, s)
	apply(t, s, write(2, mib, 4096, 1))
	s = f.Reopen(t, s)
	apply(t, s, write(0, 2*mib, 4096, 1), rebase(100, 1))
	wantMark(t, s, 100)
	s = f.Reopen(t, s)
	wantMark(t, s, 100)
	apply(t, s, write(0, 5*mib, 4096, 1))
	s = f.Reopen(t, s)
	apply(t, s, write(101, 3*mib, 4096, 1))
	s = f.Reopen(t, s)
	defer closeStore(t, s)
	apply(t, s, write(102, 4*mib, 4096, 1))
	for _, since := range []history.Seq{1, 2, 50, 100} {
		wantIncludes(t, changed(t, s, since), mib, 2*mib, 3*mib, 4*mib, 5*mib)
	}
	wantIncludes(t, changed(t, s, 101), 4*mib)
	wantIncludes(t, changed(t, s, 0), 0)
}

func testRebaseDown(t *testing.T, f Factory) {
	s := f.Create(t)
	apply(t, s, write(5, 0, 4096, 1))
	s = f.Reopen(t, s)
	apply(t, s, write(6, mib, 4096, 1))
	s = f.Reopen(t, s)
	apply(t, s, write(7, 2*mib, 4096, 1))
	s = f.Reopen(t, s)
	apply(t, s, rebase(5, 5))
	wantMark(t, s, 5)
	wantIncludes(t, changed(t, s, 5), mib, 2*mib)
	wantIncludes(t, changed(t, s, 7), mib, 2*mib)
	s = f.Reopen(t, s)
	apply(t, s, write(6, 3*mib, 4096, 1))
	s = f.Reopen(t, s)
	apply(t, s, write(7, 4*mib, 4096, 1), rebase(0, 0))
	wantMark(t, s, 0)
	s = f.Reopen(t, s)
	defer closeStore(t, s)
	wantIncludes(t, changed(t, s, 0), 0, mib, 2*mib, 3*mib, 4*mib)
}

// run drives a store and its model side by side.
type run struct {
	t   *testing.T
	f   Factory
	gen Gen
	s   store.Store
	m   Model
}

func newRun(t *testing.T, f Factory) *run {
	s := f.Create(t)
	return &run{t: t, f: f, s: s, m: Model{Size: Size},
		gen: Gen{Rng: seed(t), Size: Size}}
}

// batch applies up to 8 operations at once.
func (r *run) batch() {
	r.t.Helper()
	ops := make([]store.Op, 1+r.gen.Rng.Intn(8))
	for i := range ops {
		ops[i] = r.gen.Op()
	}
	r.m.Ops = append(r.m.Ops, ops...)
	apply(r.t, r.s, ops...)
}

// checkAll compares content and mark with the model, and a Changed answer
// with the difference of two states of the model.
func (r *run) checkAll() {
	r.t.Helper()
	n := len(r.m.Ops)
	now, mark := r.m.At(n)
	wantContent(r.t, r.s, now)
	wantMark(r.t, r.s, mark)
	then, since := r.m.At(r.gen.Rng.Intn(n + 1))
	ext := changed(r.t, r.s, since)
	if off, ok := Covers(ext, then, now); !ok {
		r.t.Fatalf("changed since %d of %d lacks byte %d: %v", since, mark, off, ext)
	}
}

func testRandom(t *testing.T, f Factory) {
	r := newRun(t, f)
	for len(r.m.Ops) < f.Rounds {
		switch r.gen.Rng.Intn(40) {
		case 0:
			r.s = f.Reopen(t, r.s)
			r.checkAll()
		case 1, 2, 3:
			r.checkAll()
		case 4, 5, 6:
			flush(t, r.s)
		default:
			r.batch()
		}
	}
	r.checkAll()
	closeStore(t, r.s)
}

// testConcurrent: flushes and traversals beside the operations, which move an
// engine's transaction groups along, hide no change.
func testConcurrent(t *testing.T, f Factory) {
	r := newRun(t, f)
	stop := make(chan struct{})
	var beside sync.WaitGroup
	beside.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if err := r.s.Flush(); err != nil {
				t.Error(err)
				return
			}
			if _, err := r.s.Changed(r.s.Info().Mark); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for len(r.m.Ops) < 2*f.Rounds {
		r.batch()
		if r.gen.Rng.Intn(20) == 0 {
			r.gen.Seq++
			whole := unmap(r.gen.Seq, 0, Size)
			r.m.Ops = append(r.m.Ops, whole)
			apply(t, r.s, whole)
		}
	}
	close(stop)
	beside.Wait()
	for range 40 {
		r.checkAll()
	}
	closeStore(t, r.s)
}

// testCrash: after a crash the store is the result of a prefix of what was
// applied, at least what was flushed, and the mark says which.
func testCrash(t *testing.T, f Factory) {
	if f.Crash == nil {
		t.Skip("this store cannot crash within the test's process")
	}
	r := newRun(t, f)
	r.gen.Snapshots = 30
	stable := 0
	for len(r.m.Ops) < f.Rounds {
		switch r.gen.Rng.Intn(12) {
		case 0:
			flush(t, r.s)
			stable = len(r.m.Ops)
		case 1:
			if err := r.s.SetMeta([]byte{byte(len(r.m.Ops))}); err != nil {
				t.Fatal(err)
			}
			stable = len(r.m.Ops)
		case 2:
			r.s = f.Crash(t, r.s, r.gen.Rng)
			stable = r.checkPrefix(stable)
			r.checkAll()
			r.checkSnapshots()
		default:
			r.batch()
		}
	}
	closeStore(t, r.s)
}

// checkPrefix cuts the model to what survived the crash.
func (r *run) checkPrefix(stable int) int {
	r.t.Helper()
	mark := r.s.Info().Mark
	for n := stable; n <= len(r.m.Ops); n++ {
		if _, at := r.m.At(n); at == mark {
			r.m.Ops = r.m.Ops[:n]
			r.gen.Seq = mark
			r.gen.Live = seqs(r.m.Snapshots(n))
			return n
		}
	}
	_, least := r.m.At(stable)
	r.t.Fatalf("mark after the crash is %d: not that of a prefix beyond the flushed %d", mark, least)
	return 0
}
