// Package quorum decides when enough replicas have an operation. A System
// says which sets of voters may acknowledge a write and which must be heard
// to recover; every recovery set meets every write set. Pure; the replication
// core knows no level by name.
package quorum

import "fmt"

// ReplicaID names a replica within its volume.
type ReplicaID string

// System is a quorum system over a fixed list of voters.
type System interface {
	// Write reports whether the voters for which has is true may
	// acknowledge a write.
	Write(has func(ReplicaID) bool) bool
	// Recover reports whether the voters for which heard is true include a
	// member of every write quorum.
	Recover(heard func(ReplicaID) bool) bool
}

// Level is a consistency level by its user-visible name.
type Level string

// The levels.
const (
	One    Level = "one"    // any one voter
	Quorum Level = "quorum" // more than half
	All    Level = "all"    // every voter
)

// New is the quorum system of a level over voters.
func New(l Level, voters []ReplicaID) (System, error) {
	n := len(voters)
	if n == 0 {
		return nil, fmt.Errorf("quorum system without voters")
	}
	switch l {
	case One:
		return threshold{voters, 1}, nil
	case Quorum:
		return threshold{voters, n/2 + 1}, nil
	case All:
		return threshold{voters, n}, nil
	}
	return nil, fmt.Errorf("unknown consistency level %q: use one, quorum or all", l)
}

// threshold needs w of its voters to write, so len(voters)-w+1 to recover.
type threshold struct {
	voters []ReplicaID
	w      int
}

func (t threshold) Write(has func(ReplicaID) bool) bool {
	return count(t.voters, has) >= t.w
}

func (t threshold) Recover(heard func(ReplicaID) bool) bool {
	return count(t.voters, heard) >= len(t.voters)-t.w+1
}

func count(voters []ReplicaID, f func(ReplicaID) bool) int {
	n := 0
	for _, v := range voters {
		if f(v) {
			n++
		}
	}
	return n
}
