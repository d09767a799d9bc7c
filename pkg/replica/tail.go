package replica

import (
	"github.com/cask-storage/cask/pkg/history"
	"github.com/cask-storage/cask/pkg/store"
)

// The tail's bounds. A target drops a replica that lags further behind than
// volume.Backlog…, which are smaller: so between replicas that count, the one
// that has most always still holds what the others miss.
const (
	TailBytes = 32 << 20
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

func (t *tail) push(op store.Op) {
	t.ops = append(t.ops, op)
	t.bytes += len(op.Data)
	n := 0
	for t.bytes > t.maxBytes || len(t.ops)-n > t.maxOps {
		t.bytes -= len(t.ops[n].Data)
		t.ops[n].Data = nil
		n++
	}
	t.ops = t.ops[n:]
}

func (t *tail) clear() { t.ops, t.bytes = nil, 0 }

func (t *tail) get(seq history.Seq) (store.Op, bool) {
	if len(t.ops) == 0 || seq < t.ops[0].Seq || seq > t.ops[len(t.ops)-1].Seq {
		return store.Op{}, false
	}
	return t.ops[seq-t.ops[0].Seq], true
}

// first is the lowest operation held, next when there is none.
func (t *tail) first(next history.Seq) history.Seq {
	if len(t.ops) == 0 {
		return next
	}
	return t.ops[0].Seq
}
