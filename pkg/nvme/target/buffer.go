package target

import (
	"math/bits"
	"sync"
)

// buffer is pooled memory for the data of one command.
type buffer struct {
	b     []byte
	class int
}

const (
	minBufferShift = 9
	maxBufferShift = 30
)

// pools holds free buffers by size class: powers of two.
var pools [maxBufferShift - minBufferShift + 1]sync.Pool

// getBuffer returns a buffer of n bytes, n at most 1 GiB, content undefined.
func getBuffer(n int) *buffer {
	class := max(bits.Len(uint(n-1)), minBufferShift) - minBufferShift
	if v := pools[class].Get(); v != nil {
		buf := v.(*buffer)
		buf.b = buf.b[:n]
		return buf
	}
	return &buffer{b: make([]byte, n, 1<<(class+minBufferShift)), class: class}
}

func (b *buffer) free() { pools[b.class].Put(b) }
