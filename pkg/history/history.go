// Package history holds the words in which replicas compare what they have:
// epochs, sequence numbers, and the list of where each epoch began. It is a
// leaf, pure, and safe to copy.
package history

// Epoch is the fencing generation of a volume: each target acquires one, and
// a replica refuses those lower than the highest it has promised.
type Epoch uint64

// Seq is an operation's place in the volume's one order, from 1 on. Zero is
// the state of a new, empty volume.
type Seq uint64

// Entry says that the operations from First on were ordered by the target of
// Epoch (until the next entry's First).
type Entry struct {
	Epoch Epoch
	First Seq
}

// History is a replica's list of entries, both fields ascending: Epoch
// strictly, First not strictly.
type History []Entry

// Position is how far a replica has got, comparable as in Raft: first by the
// last epoch, then by Seq.
type Position struct {
	Epoch Epoch
	Seq   Seq
}

// Less orders positions: the longest history is the greatest position.
func (p Position) Less(o Position) bool {
	if p.Epoch != o.Epoch {
		return p.Epoch < o.Epoch
	}
	return p.Seq < o.Seq
}

// At returns h as it stands for a replica that has applied operations up to
// seq: an entry whose epoch begins beyond seq+1 says nothing about it yet.
func (h History) At(seq Seq) History {
	n := len(h)
	for n > 0 && h[n-1].First > seq+1 {
		n--
	}
	return h[:n:n]
}

// Last is the epoch of h's last entry, zero when there is none.
func (h History) Last() Epoch {
	if len(h) == 0 {
		return 0
	}
	return h[len(h)-1].Epoch
}

// EpochOf is the epoch that ordered seq, zero when h does not say.
func (h History) EpochOf(seq Seq) Epoch {
	var e Epoch
	for _, x := range h {
		if x.First > seq {
			break
		}
		e = x.Epoch
	}
	return e
}

// Valid reports whether h is ascending as a History must be.
func (h History) Valid() bool {
	for i, x := range h {
		if x.Epoch == 0 || x.First == 0 {
			return false
		}
		if i > 0 && (x.Epoch <= h[i-1].Epoch || x.First < h[i-1].First) {
			return false
		}
	}
	return true
}

// Common is the last Seq at which the two histories agree: the operations up
// to it are the same ones on both sides, those after it are not. a and b are
// the sides' histories, as and bs how far each has applied.
func Common(a History, as Seq, b History, bs Seq) Seq {
	lo, hi := Seq(0), min(as, bs)
	// Agreement is a prefix: two replicas that hold an operation of one
	// epoch and Seq hold the same operations before it.
	for lo < hi {
		mid := hi - (hi-lo)/2
		if ea := a.EpochOf(mid); ea != 0 && ea == b.EpochOf(mid) {
			lo = mid
		} else {
			hi = mid - 1
		}
	}
	return lo
}
