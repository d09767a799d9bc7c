package zvol

import (
	"errors"
	"fmt"
	"math/rand"
	"slices"
	"testing"

	"github.com/cask-storage/cask/pkg/block"
	"github.com/cask-storage/cask/pkg/history"
	"github.com/cask-storage/cask/pkg/store"
	"github.com/cask-storage/cask/pkg/store/storetest"
)

const cutSize = 1 << 20

// script is a run of a store that a machine that stops cuts short somewhere.
type script struct {
	seed   int64
	m      storetest.Model
	stable int      // operations of m that must survive
	metas  [][]byte // that there may be: the last one that was set, or one being set
}

func (c *script) shape() shape { return shape{size: cutSize, blockSize: 16 << 10, ring: 2 << 20} }

// apply applies a batch and notes it, whether it fails or not.
func (c *script) apply(s *Store, ops ...store.Op) error {
	c.m.Ops = append(c.m.Ops, ops...)
	if err := s.Apply(ops); err != nil {
		return err
	}
	if k := ops[len(ops)-1].Kind; k != store.Write && k != store.Unmap {
		c.stable = len(c.m.Ops)
	}
	return nil
}

// run goes through every kind of operation, until something fails.
func (c *script) run(s *Store) error {
	gen := storetest.Gen{Rng: rand.New(rand.NewSource(c.seed)), Size: cutSize, Snapshots: 6, Grows: 8, MaxSize: cutSize + 1<<20}
	for i := range 30 {
		var err error
		switch i % 10 {
		case 3:
			if err = s.Flush(); err == nil {
				c.stable = len(c.m.Ops)
			}
		case 6:
			c.metas = append(c.metas, fmt.Append(nil, i))
			if err = s.SetMeta(c.metas[len(c.metas)-1]); err == nil {
				c.metas = c.metas[len(c.metas)-1:]
				c.stable = len(c.m.Ops)
			}
		case 9:
			err = c.rebase(s, &gen)
		default:
			ops := make([]store.Op, 1+gen.Rng.Intn(3))
			for i := range ops {
				ops[i] = gen.Op()
			}
			err = c.apply(s, ops...)
		}
		if err != nil {
			return err
		}
	}
	return s.Close()
}

// rebase gives up some of what came last, and now and then takes another size.
func (c *script) rebase(s *Store, gen *storetest.Gen) error {
	mark := s.Info().Mark
	gen.Seq += 2
	o := store.Op{Kind: store.Rebase, Seq: gen.Seq, Base: mark - min(mark, 3)}
	if gen.Rng.Intn(2) == 0 {
		gen.Size = cutSize
		if size := s.Info().Size; size > cutSize {
			if err := c.apply(s, store.Op{Kind: store.Unmap, Extent: block.Extent{Off: cutSize, Len: size - cutSize}}); err != nil {
				return err
			}
		}
		o.Extent.Len = cutSize
	}
	if err := c.apply(s, o); err != nil {
		return err
	}
	gen.Live = slices.DeleteFunc(gen.Live, func(q history.Seq) bool { return q > o.Base })
	return nil
}

// check: what is there is a prefix of the script, at least what was stable.
func (c *script) check(t *testing.T, s *Store) {
	t.Helper()
	mark := s.Info().Mark
	var worst string
	for n := c.stable; n <= len(c.m.Ops); n++ {
		content, at := c.m.At(n)
		if at != mark {
			continue
		}
		if worst = c.differs(t, s, n, content); worst == "" {
			return
		}
	}
	t.Fatalf("mark %d, at least %d of %d operations: no such prefix; %s", mark, c.stable, len(c.m.Ops), worst)
}

func (c *script) differs(t *testing.T, s *Store, n int, content []byte) string {
	t.Helper()
	if got := s.Info().Size; got != uint64(len(content)) {
		return fmt.Sprintf("size %d, want %d", got, len(content))
	}
	if at := storetest.FirstDiff(storetest.Content(t, s), content); at >= 0 {
		return fmt.Sprintf("content differs at %d", at)
	}
	want := c.m.Snapshots(n)
	if got := s.Snapshots(); !slices.Equal(got, want) {
		return fmt.Sprintf("snapshots %v, want %v", got, want)
	}
	for _, x := range want {
		if at := storetest.FirstDiff(storetest.SnapshotContent(t, s, x), c.m.Before(x.Seq)); at >= 0 {
			return fmt.Sprintf("snapshot %v differs at %d", x, at)
		}
	}
	if got := nodeOf(s).snaps; len(got) != len(want) {
		return fmt.Sprintf("%d snapshots on the node, want %d", len(got), len(want))
	}
	for _, m := range c.metas {
		if slices.Equal(s.Meta(), m) {
			return ""
		}
	}
	return fmt.Sprintf("record %q, want one of %q", s.Meta(), c.metas)
}

// reopen opens a node that stops up to three times while that is done.
func reopen(t *testing.T, f *fake, rng *rand.Rand) *Store {
	t.Helper()
	for range 3 {
		f.cut = 1 + rng.Intn(12)
		s, err := f.open()
		if err == nil {
			f.cut = 0
			return s
		}
		if !errors.Is(err, errStopped) {
			t.Fatal(err)
		}
		f = f.crash(rng)
	}
	return mustOpen(t, f)
}

// TestCutAnywhere: the machine stops in each change that a run makes of its devices,
// and again while the store is opened.
func TestCutAnywhere(t *testing.T) {
	for seed := range int64(3) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			for cut := 1; ; cut++ {
				c := &script{seed: seed, metas: [][]byte{nil}}
				c.m.Size = cutSize
				rng := rand.New(rand.NewSource(seed<<32 + int64(cut)))
				f := newFake(c.shape(), rng)
				f.cut = 0
				s := mustOpen(t, f)
				f.steps, f.cut = 0, cut
				err := c.run(s)
				if err == nil {
					t.Logf("%d places", cut-1)
					return
				}
				if !errors.Is(err, errStopped) {
					t.Fatalf("cut at %d: %v", cut, err)
				}
				s = reopen(t, f.crash(rng), rng)
				c.check(t, s)
				if t.Failed() {
					t.Fatalf("cut at %d", cut)
				}
				if err := s.Apply([]store.Op{{Kind: store.Write, Seq: s.Info().Mark + 1, Extent: block.Extent{Len: 512}, Data: make([]byte, 512)}}); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// TestStaleRecords: what a crash leaves in the log behind a record that is lost is
// never taken for what comes after the one that is written in its place.
func TestStaleRecords(t *testing.T) {
	lost := 0
	for seed := range int64(200) {
		rng := rand.New(rand.NewSource(seed))
		c := &script{m: storetest.Model{Size: cutSize}}
		f := newFake(c.shape(), rng)
		s := mustOpen(t, f)
		var ops []store.Op
		for i := range uint64(8) {
			ops = append(ops, put(history.Seq(i+1), i*4096, 4096, byte(i+1)))
		}
		if err := s.Apply(ops); err != nil {
			t.Fatal(err)
		}
		s = mustOpen(t, f.crash(rng))
		mark := s.Info().Mark
		if mark < 7 {
			lost++
		}
		c.m.Ops = append(ops[:mark:mark], put(mark+1, 512<<10, 4096, 99))
		if err := s.Apply(c.m.Ops[mark:]); err != nil {
			t.Fatal(err)
		}
		s = mustOpen(t, nodeOf(s).killed())
		c.stable, c.metas = len(c.m.Ops), [][]byte{nil}
		c.check(t, s)
	}
	if lost < 20 {
		t.Errorf("only %d crashes lost what others can come after", lost)
	}
}
