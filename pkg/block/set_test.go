package block_test

import (
	"math/rand/v2"
	"testing"

	"github.com/cask-storage/cask/pkg/block"
)

const span = 40

// bits is the dumb form of a set.
type bits [span]bool

func bitsOf(s block.Set) (b bits) {
	for _, e := range s {
		for i := e.Off; i < e.End(); i++ {
			b[i] = true
		}
	}
	return b
}

func wellFormed(s block.Set) bool {
	for i, e := range s {
		if e.Len == 0 || i > 0 && e.Off <= s[i-1].End() {
			return false
		}
	}
	return true
}

func someExtent(rng *rand.Rand) block.Extent {
	off := rng.Uint64N(span)
	return block.Extent{Off: off, Len: rng.Uint64N(min(span-off+1, 9))}
}

// TestSet compares every method with an array of bits.
func TestSet(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for range 5000 {
		var es []block.Extent
		for range rng.IntN(6) {
			es = append(es, someExtent(rng))
		}
		s, e := block.SetOf(es...), someExtent(rng)
		b := bitsOf(s)
		o := block.SetOf(someExtent(rng), someExtent(rng), someExtent(rng))
		ob := bitsOf(o)
		want := map[string]*bits{"of": {}, "with": {}, "without": {}, "within": {}, "common": {}}
		overlaps, count := false, uint64(0)
		for i := range uint64(span) {
			in := i >= e.Off && i < e.End()
			for _, x := range es {
				want["of"][i] = want["of"][i] || i >= x.Off && i < x.End()
			}
			want["with"][i], want["without"][i], want["within"][i] = b[i] || in, b[i] && !in, b[i] && in
			want["common"][i] = b[i] && ob[i]
			overlaps = overlaps || b[i] && in
			if b[i] {
				count++
			}
		}
		for name, got := range map[string]block.Set{"of": s, "with": s.With(e), "without": s.Without(e), "within": s.Within(e), "common": s.Common(o)} {
			if bitsOf(got) != *want[name] || !wellFormed(got) {
				t.Fatalf("%v %s %v or %v is %v", s, name, e, o, got)
			}
		}
		if s.Overlaps(e) != overlaps || s.Bytes() != count {
			t.Fatalf("%v: overlaps %v: %v, bytes %d", s, e, s.Overlaps(e), s.Bytes())
		}
		coarse := s.Coarse(2)
		if len(coarse) > 2 || !wellFormed(coarse) || len(coarse.With(s...)) != len(coarse) || coarse.With(s...).Bytes() != coarse.Bytes() {
			t.Fatalf("%v coarse is %v", s, coarse)
		}
	}
}
