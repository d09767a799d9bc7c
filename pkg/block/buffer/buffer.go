// Package buffer keeps memory for the data of commands: frontends take a
// buffer for each transfer and give it back when the answer was written, so
// that a connection in its steady state allocates nothing.
//
// All may be called from any goroutine. A Buffer has one owner, and more after Hold.
package buffer

import (
	"math/bits"
	"sync"
	"sync/atomic"
	"unsafe"
)

// Buffer is memory for one transfer.
type Buffer struct {
	B      []byte
	class  int
	owners atomic.Int32
}

// Sizes of buffers, powers of two.
const (
	minShift = 9
	maxShift = 30
	// Max is the largest buffer, bytes.
	Max = 1 << maxShift
)

// pools holds free buffers by size.
var pools [maxShift - minShift + 1]sync.Pool

// Get returns a buffer of n bytes, 1 to Max; its content is undefined. The
// caller has checked n against its own bound.
func Get(n int) *Buffer {
	class := max(bits.Len(uint(n-1)), minShift) - minShift
	b, _ := pools[class].Get().(*Buffer)
	if b == nil {
		b = &Buffer{B: make([]byte, n, 1<<(class+minShift)), class: class}
	}
	b.B = b.B[:n]
	b.owners.Store(1)
	return b
}

// Hold makes the caller one more owner of b, whose content does not change any more.
func (b *Buffer) Hold() { b.owners.Add(1) }

// Has reports whether p, which is not empty, lies in b's memory.
func (b *Buffer) Has(p []byte) bool {
	at, first := uintptr(unsafe.Pointer(&p[0])), uintptr(unsafe.Pointer(&b.B[0]))
	return at >= first && at+uintptr(len(p)) <= first+uintptr(len(b.B))
}

// Free gives b back once every owner has called it; nil is nothing.
func (b *Buffer) Free() {
	if b != nil && b.owners.Add(-1) == 0 {
		pools[b.class].Put(b)
	}
}
