// Package buffer keeps memory for the data of commands: frontends take a
// buffer for each transfer and give it back when the answer was written, so
// that a connection in its steady state allocates nothing.
//
// Get and Free may be called from any goroutine; a Buffer has one owner.
package buffer

import (
	"math/bits"
	"sync"
)

// Buffer is memory for one transfer.
type Buffer struct {
	B     []byte
	class int
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
	if v := pools[class].Get(); v != nil {
		b := v.(*Buffer)
		b.B = b.B[:n]
		return b
	}
	return &Buffer{B: make([]byte, n, 1<<(class+minShift)), class: class}
}

// Free gives b back; nil is nothing.
func (b *Buffer) Free() {
	if b != nil {
		pools[b.class].Put(b)
	}
}
