package replica

import (
	"bytes"
	"testing"

	"github.com/cask-storage/cask/pkg/block/buffer"
	"github.com/cask-storage/cask/pkg/history"
	"github.com/cask-storage/cask/pkg/store"
)

// TestTailMemory: what get returned stays as it was, although the memory of the
// operations is used again once the tail has dropped them.
func TestTailMemory(t *testing.T) {
	const size, keeps = 4 << 10, 4
	tl := tail{maxBytes: keeps * size, maxOps: 100}
	content := func(seq history.Seq) []byte { return bytes.Repeat([]byte{byte(seq)}, size) }
	got := map[history.Seq]store.Op{}
	for seq := history.Seq(1); seq <= 50; seq++ {
		b := buffer.Get(size)
		copy(b.B, content(seq))
		tl.push(store.Op{Kind: store.Write, Seq: seq, Data: b.B, Own: b})
		if tl.bytes > tl.maxBytes || len(tl.ops) != int(min(seq, keeps)) {
			t.Fatalf("after %d: %d operations of %d bytes", seq, len(tl.ops), tl.bytes)
		}
		op, ok := tl.get(seq)
		if !ok {
			t.Fatalf("operation %d is not there", seq)
		}
		got[seq] = op
	}
	if _, ok := tl.get(50 - keeps); ok {
		t.Errorf("operation %d is still there", 50-keeps)
	}
	tl.clear()
	if tl.bytes != 0 || len(tl.ops) != 0 {
		t.Errorf("cleared: %d operations, %d bytes", len(tl.ops), tl.bytes)
	}
	for seq, op := range got {
		if !bytes.Equal(op.Data, content(seq)) {
			t.Errorf("operation %d has changed", seq)
		}
	}
}
