package quorum

import "testing"

// TestIntersection enumerates all pairs of sets: whatever may be recovered
// from includes a member of whatever may have acknowledged.
func TestIntersection(t *testing.T) {
	all := []ReplicaID{"a", "b", "c", "d", "e", "f", "g"}
	for _, level := range []Level{One, Quorum, All} {
		for n := 1; n <= len(all); n++ {
			s, err := New(level, all[:n])
			if err != nil {
				t.Fatal(err)
			}
			in := func(set int) func(ReplicaID) bool {
				return func(id ReplicaID) bool { return set>>(id[0]-'a')&1 == 1 }
			}
			full := 1<<n - 1
			if !s.Write(in(full)) || !s.Recover(in(full)) || s.Write(in(0)) || s.Recover(in(0)) {
				t.Fatalf("%s of %d: all voters must do, and none must not", level, n)
			}
			for w := range full + 1 {
				for r := range full + 1 {
					if s.Write(in(w)) && s.Recover(in(r)) && w&r == 0 {
						t.Fatalf("%s of %d: write set %b and recovery set %b do not meet", level, n, w, r)
					}
				}
			}
		}
	}
}

func TestRefused(t *testing.T) {
	if _, err := New("two", []ReplicaID{"a"}); err == nil {
		t.Error("level two was taken")
	}
	if _, err := New(Quorum, nil); err == nil {
		t.Error("no voters were taken")
	}
}
