package history

import (
	"math/rand/v2"
	"testing"
)

func TestAt(t *testing.T) {
	h := History{{1, 1}, {3, 10}, {4, 12}}
	for _, x := range []struct {
		seq  Seq
		last Epoch
	}{{0, 1}, {8, 1}, {9, 3}, {10, 3}, {11, 4}, {99, 4}} {
		if got := h.At(x.seq).Last(); got != x.last {
			t.Errorf("as of %d the last epoch is %d, want %d", x.seq, got, x.last)
		}
	}
}

func TestValid(t *testing.T) {
	for _, x := range []struct {
		h  History
		ok bool
	}{
		{nil, true}, {History{{1, 1}, {2, 1}}, true}, {History{{1, 1}, {1, 5}}, false},
		{History{{2, 5}, {3, 4}}, false}, {History{{0, 1}}, false}, {History{{1, 0}}, false},
	} {
		if x.h.Valid() != x.ok {
			t.Errorf("%v valid: %v", x.h, !x.ok)
		}
	}
}

// log is what a history stands for: the epoch of each operation.
func (h History) log(n Seq) []Epoch {
	var l []Epoch
	for s := Seq(1); s <= n; s++ {
		l = append(l, h.EpochOf(s))
	}
	return l
}

// TestCommon compares with the dumb way, on histories that grew from one.
func TestCommon(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	grow := func(h History, n Seq, e *Epoch) (History, Seq) {
		h = append(History{}, h...)
		for range rng.IntN(4) {
			*e += Epoch(1 + rng.IntN(2))
			h = append(h, Entry{*e, n + 1})
			n += Seq(rng.IntN(4))
		}
		return h, n
	}
	for range 20000 {
		epoch := Epoch(0)
		trunk, n := grow(nil, 0, &epoch)
		a, an := grow(trunk, n, &epoch)
		b, bn := grow(trunk, n, &epoch)
		la, lb := a.log(an), b.log(bn)
		want := Seq(0)
		for int(want) < min(len(la), len(lb)) && la[want] == lb[want] && la[want] != 0 {
			want++
		}
		if got := Common(a, an, b, bn); got != want {
			t.Fatalf("%v at %d and %v at %d have %d in common, not %d", a, an, b, bn, want, got)
		}
	}
}
