package replica

import (
	"slices"

	"github.com/cask-storage/cask/pkg/history"
	"github.com/cask-storage/cask/pkg/store"
)

// The tail's bounds. A target drops a replica that lags further behind than
// volume.Backlog…, which are smaller: so between replicas that count, the one
// that has most always still holds what the others miss.
const (
	TailBytes = 24 << 20
	TailOps   = 8192
)

// tail holds the last operations applied, oldest first, without gaps.
type tail struct {
	ops      []store.Op
	bytes    int
	maxBytes int
	maxOps   int
}

func newTail(cfg Config) tail {
	t := tail{maxBytes: TailBytes, maxOps: TailOps}
	if cfg.TailBytes != 0 {
		t.maxBytes = cfg.TailBytes
	}
	if cfg.TailOps != 0 {
		t.maxOps = cfg.TailOps
	}
	return t
}

// push takes over op's Own.
func (t *tail) push(op store.Op) {
	t.ops = append(t.ops, op)
	t.bytes += len(op.Data)
	n := 0
	for t.bytes > t.maxBytes || len(t.ops)-n > t.maxOps {
		t.drop(&t.ops[n])
		n++
	}
	t.ops = t.ops[n:]
}

func (t *tail) drop(o *store.Op) {
	t.bytes -= len(o.Data)
	o.Own.Free()
	o.Data, o.Own = nil, nil
}

func (t *tail) clear() {
	for i := range t.ops {
		t.drop(&t.ops[i])
	}
	t.ops = nil
}

// get returns an operation with data of its own: what is held is used again.
func (t *tail) get(seq history.Seq) (store.Op, bool) {
	if len(t.ops) == 0 || seq < t.ops[0].Seq || seq > t.ops[len(t.ops)-1].Seq {
		return store.Op{}, false
	}
	op := t.ops[seq-t.ops[0].Seq]
	op.Data, op.Own = slices.Clone(op.Data), nil
	return op, true
}

// first is the lowest operation held, next when there is none.
func (t *tail) first(next history.Seq) history.Seq {
	if len(t.ops) == 0 {
		return next
	}
	return t.ops[0].Seq
}
